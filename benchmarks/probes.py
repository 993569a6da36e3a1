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


def _delta(args: Arguments, _: Mapping[str, Any], result: Any) -> Work:
    base, instruct, delta = args[0], args[1], result[0]
    return _work(delta, delta.size, base.nbytes + instruct.nbytes + delta.nbytes)


def _image(args: Arguments, _: Mapping[str, Any], __: Any) -> Work:
    matrix, vectors = args[0], args[1]
    return _work(matrix, 2.0 * matrix.size * vectors.shape[1], float(matrix.nbytes))


def _without_leading(args: Arguments, _: Mapping[str, Any], result: Any) -> Work:
    return _work(result, 2.0 * result.numel() * args[0].count, 2.0 * result.nbytes)


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
    return Work(moved_bytes=float(np.asarray(result[1]).nbytes))


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


def _factors(_: Arguments, __: Mapping[str, Any], result: Any) -> Work:
    """One of the two factors is the delta times the vectors."""
    left, right = result
    flops = 2.0 * left.shape[0] * left.shape[1] * right.shape[1]
    return _work(left, flops, left.nbytes + right.nbytes)


def _assembly(args: Arguments, _: Mapping[str, Any], result: Any) -> Work:
    """The product of both factors, of every band but one."""
    base, instruct = args[0], args[1]
    solved = next(value for value in args if hasattr(value, "vectors"))
    directions = sum(vectors.shape[1] for vectors in solved.vectors)
    flops = 2.0 * base.numel() * directions
    moved = base.nbytes + instruct.nbytes + sum(item.weight.nbytes for item in result)
    single = solved.working == torch.float32
    return Work(flops if single else 0.0, 0.0 if single else flops, moved)


def _rounding(args: Arguments, _: Mapping[str, Any], __: Any) -> Work:
    values = args[2]
    return _work(values, values.numel(), values.nbytes + 2.0 * values.numel())


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
_LADDER = "timberkit.spectral.ladder"
_DECOMPOSE, _DEFLATE = "timberkit.spectral.decompose", "timberkit.spectral.deflate"
_LAPACK, _BLAS = "scipy.linalg.lapack", "scipy.linalg.blas"

PROBES = (
    Probe("read", _JOB, "read_range", _read),
    Probe("delta", _REFINE, "_scaled_delta", _delta),
    Probe("deflate", _DECOMPOSE, "leading_directions"),
    Probe("deflate", _DEFLATE, "_image", _image),
    Probe("deflate", f"{_DEFLATE}:Leading", "without", _without_leading),
    Probe("gram", _DECOMPOSE, "gram_matrix"),
    Probe("gram", _BLAS, "ssyrk", _rank_update),
    Probe("gram", _BLAS, "dsyrk", _rank_update),
    Probe("tridiagonal", _LAPACK, "ssytrd", _reduction),
    Probe("tridiagonal", _LAPACK, "dsytrd", _reduction),
    Probe("eigenvalues", _LAPACK, "dsterf", _eigenvalues),
    Probe("eigenvectors", "scipy.linalg", "eigh_tridiagonal", _tridiagonal_vectors),
    Probe("eigen-solve", "torch.linalg", "eigh", _eigen_solve),
    Probe("eigen-solve", "scipy.linalg", "eigh", _eigen_solve),
    Probe("back-transformation", _LAPACK, "sormqr", _reflectors),
    Probe("back-transformation", _LAPACK, "dormqr", _reflectors),
    Probe("back-transformation", "torch", "ormqr", _torch_reflectors),
    Probe("full svd", _DECOMPOSE, "singular_value_decomposition", _full_svd),
    Probe("vectors in shape", f"{_DECOMPOSE}:_LapackGram", "vectors"),
    Probe("checks", _DECOMPOSE, "check_orthonormal"),
    Probe("checks", _LADDER, "_mixing_error"),
    Probe("checks", _LADDER, "_flips_per_error"),
    Probe("checks", _LADDER, "gains"),
    Probe("project", _REFINE, "_factors", _factors),
    Probe("project", _REFINE, "_assemble", _assembly),
    Probe("blend", _REFINE, "_blend"),
    Probe("round", f"{_REFINE}:_Result", "put", _rounding),
    Probe("record", _REFINE, "_record"),
    Probe("allocate", "timberkit.engine.run", "create_shard"),
    Probe("write", _JOB, "write_at", _write),
    Probe("copy", _JOB, "copy_range", _copy),
    Probe("sync", "timberkit.checkpoint.stage:Stage", "commit"),
    Probe("sync", "timberkit.checkpoint.stage:Stage", "publish"),
    Probe("hash", _JOB, "hash_file", _hash),
)
