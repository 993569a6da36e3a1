"""Which functions of timberkit make up which stage, and the work that a call of each must do.

A table, read by ``stages.py``; there is nothing to run here. Functions are named where they are
looked up when called (``from a import f`` in b: probe b). A probe whose function is gone is
reported and left out, so this table follows the code and not the other way round.

Operations are those of the textbook algorithm from the shapes in the arguments, bytes the least
that must be read and written once. Where a routine is made of scalar recurrences (``sterf``,
``stemr``) no rate of a matrix product applies, and only bytes are counted.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

Arguments: TypeAlias = tuple[Any, ...]
Measure: TypeAlias = Callable[[Arguments, Mapping[str, Any], Any], "Work"]


@dataclass(frozen=True, slots=True)
class Work:
    """What a call cannot do without."""

    float32_flops: float = 0.0
    float64_flops: float = 0.0
    moved_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Probe:
    """``owner`` is a module, or ``module:Class``."""

    stage: str
    owner: str
    attribute: str
    work: Measure | None = None

    def find_owner(self) -> Any:
        """The module or class; None where it is gone."""
        module, _, name = self.owner.partition(":")
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            return None
        return getattr(found, name, None) if name else found


def _work(array: Any, flops: float, moved_bytes: float = 0.0) -> Work:
    """Operations in the precision of an array."""
    single = array.dtype in (np.float32, torch.float32)
    return Work(flops if single else 0.0, 0.0 if single else flops, moved_bytes)


def _read(args: Arguments, _: Mapping[str, Any], __: Any) -> Work:
    return Work(moved_bytes=2.0 * args[2])


def _delta(args: Arguments, _: Mapping[str, Any], __: Any) -> Work:
    delta = args[0]
    size = float(np.prod(delta.shape))
    flops = size if delta.dtype == np.float32 else 0.0
    return Work(flops, size - flops, size * (2 + 2 + delta.dtype.itemsize))


def _image(args: Arguments, _: Mapping[str, Any], __: Any) -> Work:
    matrix, vectors = args[0], args[1]
    return _work(matrix, 2.0 * matrix.size * vectors.shape[1], float(matrix.nbytes))


def _lowering(args: Arguments, _: Mapping[str, Any], result: Any) -> Work:
    return _work(result, result.size * args[0].count, 2.0 * result.nbytes)


def _rank_update(args: Arguments, _: Mapping[str, Any], result: Any) -> Work:
    factor, side = args[1], result.shape[0]
    return _work(result, (side + 1.0) * factor.size, factor.nbytes + result.nbytes)


def _reduction(args: Arguments, _: Mapping[str, Any], __: Any) -> Work:
    matrix = args[0]
    return _work(matrix, 4.0 / 3.0 * matrix.shape[0] ** 3, 2.0 * matrix.nbytes)


def _eigen_solve(args: Arguments, _: Mapping[str, Any], __: Any) -> Work:
    matrix = args[0]
    # Reduction, then as much again at the least to turn all vectors back: 2 r^3.
    return _work(matrix, (4.0 / 3.0 + 2.0) * matrix.shape[-1] ** 3, 2.0 * matrix.nbytes)


def _eigenvalues(args: Arguments, _: Mapping[str, Any], __: Any) -> Work:
    return Work(moved_bytes=float(sum(np.asarray(array).nbytes for array in args[:2])))


def _tridiagonal_vectors(_: Arguments, __: Mapping[str, Any], result: Any) -> Work:
    vectors = result[1] if isinstance(result, tuple) else result
    return Work(moved_bytes=0.0 if vectors is None else float(np.asarray(vectors).nbytes))


def _reflectors(args: Arguments, _: Mapping[str, Any], __: Any) -> Work:
    """``ormqr`` from the left: k reflectors of length n on n x c."""
    reflectors, target = args[2], args[4]
    return _reflected(reflectors, target)


def _torch_reflectors(args: Arguments, _: Mapping[str, Any], __: Any) -> Work:
    reflectors, target = args[0], args[2]
    return _reflected(reflectors, target)


def _reflected(reflectors: Any, target: Any) -> Work:
    n, k = reflectors.shape[-2:]
    flops = (4.0 * n * k - 2.0 * k * k) * target.shape[-1]
    return _work(target, flops, reflectors.nbytes + 2.0 * target.nbytes)


def _image_of_wide(args: Arguments, _: Mapping[str, Any], __: Any) -> Work:
    """``delta^T V`` for all bands, once."""
    return _product(args[0], args[0]._delta.shape[0], first=True)


def _projection(args: Arguments, _: Mapping[str, Any], result: Any) -> Work:
    """A block of rows of every band: ``delta V`` if tall, then times the vectors."""
    projector = args[0]
    rows = result[0].shape[0] if result else 0
    work = _product(projector, rows, first=False)
    if not projector._tall:
        return work
    image = _product(projector, rows, first=True)
    return Work(
        work.float32_flops + image.float32_flops,
        work.float64_flops + image.float64_flops,
        work.moved_bytes + image.moved_bytes,
    )


def _product(projector: Any, rows: int, *, first: bool) -> Work:
    directions = projector._stacked.shape[1] if first else sum(projector._widths)
    columns = projector._delta.shape[1]
    flops = 2.0 * rows * columns * directions
    moved = float(rows * columns * projector._stacked.itemsize)
    single = projector._dtype == np.float32
    return Work(flops if single else 0.0, 0.0 if single else flops, moved)


def _rounding(args: Arguments, _: Mapping[str, Any], __: Any) -> Work:
    values = args[0]
    return _work(values, values.size, values.nbytes + 2.0 * values.size)


def _full_svd(args: Arguments, _: Mapping[str, Any], __: Any) -> Work:
    matrix = args[0]
    return _work(matrix, 6.0 * matrix.size * min(matrix.shape), 3.0 * matrix.nbytes)


def _write(args: Arguments, _: Mapping[str, Any], __: Any) -> Work:
    return Work(moved_bytes=2.0 * memoryview(args[2]).nbytes)


def _copy(args: Arguments, _: Mapping[str, Any], __: Any) -> Work:
    return Work(moved_bytes=2.0 * args[4])


def _hash(args: Arguments, _: Mapping[str, Any], __: Any) -> Work:
    return Work(moved_bytes=float(Path(args[0]).stat().st_size))


_JOB, _REFINE = "timberkit.engine.job", "timberkit.spectral.refine"
_LADDER, _ASSEMBLE = "timberkit.spectral.ladder", "timberkit.spectral.assemble"
_DELTA, _VALUES = "timberkit.spectral.delta", "timberkit.spectral.values"
_DECOMPOSE, _DEFLATE = "timberkit.spectral.decompose", "timberkit.spectral.deflate"
_LAPACK, _BLAS = "scipy.linalg.lapack", "scipy.linalg.blas"

PROBES = (
    Probe("read", _JOB, "read_range", _read),
    Probe("read", "timberkit.checkpoint.reader", "read_range", _read),
    Probe("delta", f"{_DELTA}:PairDelta", "__init__", _delta),
    Probe("delta", f"{_DELTA}:PairDelta", "_computed"),
    Probe("deflate", _DECOMPOSE, "leading_directions"),
    Probe("deflate", _DEFLATE, "_image", _image),
    Probe("deflate", f"{_DEFLATE}:Leading", "move", _lowering),
    Probe("gram", _DECOMPOSE, "gram_matrix"),
    Probe("gram", _BLAS, "ssyrk", _rank_update),
    Probe("gram", _BLAS, "dsyrk", _rank_update),
    Probe("tridiagonal", _LAPACK, "ssytrd", _reduction),
    Probe("tridiagonal", _LAPACK, "dsytrd", _reduction),
    Probe("eigenvalues", _LAPACK, "dsterf", _eigenvalues),
    Probe("eigenvalues", _VALUES, "eigenvalues"),
    Probe("eigenvectors", _DECOMPOSE, "eigenvectors", _tridiagonal_vectors),
    Probe("eigenvectors", "scipy.linalg", "eigh_tridiagonal", _tridiagonal_vectors),
    Probe("eigen-solve", "torch.linalg", "eigh", _eigen_solve),
    Probe("eigen-solve", "scipy.linalg", "eigh", _eigen_solve),
    Probe("back-transformation", _LAPACK, "sormqr", _reflectors),
    Probe("back-transformation", _LAPACK, "dormqr", _reflectors),
    Probe("back-transformation", "torch", "ormqr", _torch_reflectors),
    Probe("full svd", _DECOMPOSE, "singular_value_decomposition", _full_svd),
    Probe("vectors in shape", f"{_DECOMPOSE}:_LapackGram", "vectors"),
    Probe("checks", _DECOMPOSE, "check_orthonormal"),
    Probe("checks", _DECOMPOSE, "orthogonality_defect"),
    Probe("checks", _LADDER, "_mixing_error"),
    Probe("checks", _LADDER, "_flips_per_error"),
    Probe("checks", _LADDER, "gains"),
    Probe("project", f"{_ASSEMBLE}:_Projector", "__init__"),
    Probe("project", f"{_ASSEMBLE}:_Projector", "_image_of_wide", _image_of_wide),
    Probe("project", f"{_ASSEMBLE}:_Projector", "__call__", _projection),
    Probe("blend", _REFINE, "blended"),
    Probe("round", _ASSEMBLE, "_rounded", _rounding),
    Probe("round", _REFINE, "filtered"),
    Probe("allocate", "timberkit.engine.run", "create_shard"),
    Probe("write", _JOB, "write_at", _write),
    Probe("write", "timberkit.checkpoint.writer", "write_at", _write),
    Probe("copy", _JOB, "copy_range", _copy),
    Probe("sync", "timberkit.checkpoint.stage:Stage", "commit"),
    Probe("sync", "timberkit.checkpoint.stage:Stage", "publish"),
    Probe("hash", _JOB, "hash_file", _hash),
)
