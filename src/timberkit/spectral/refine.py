"""One weight: (base, instruct, methods) -> refined weights, as exact as the output dtype can show.

How precisely the delta is solved for that is decided in ``ladder``, how the weights are put
together in ``assemble``. Weights come and go by blocks of rows, so that a matrix may lie in files
as well as in memory: ``refine_matrix`` takes and gives tensors, ``refine_rows`` whatever yields and
takes rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from timberkit.config import AnyVariant, variant_name
from timberkit.dtypes import FLOATING, Raw, raw_dtype
from timberkit.records import ChangeRecord, MatrixRecord
from timberkit.spectral.assemble import Norms, Sink, Written, blended, filtered
from timberkit.spectral.delta import PairDelta, Rows
from timberkit.spectral.filters import constant_gain
from timberkit.spectral.ladder import Solved, asked_for, solve
from timberkit.spectral.rank import (
    effective_rank,
    effective_rank_cut,
    effective_rank_error,
    energy_share,
)
from timberkit.spectral.values import singular_values

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Refinement:
    """Refined weights, one for each method in the order given, and what is known of them."""

    weights: tuple[torch.Tensor, ...]
    record: MatrixRecord


def refine_matrix(
    base: torch.Tensor,
    instruct: torch.Tensor,
    variants: Sequence[AnyVariant],
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> Refinement:
    """Refine one weight with several methods: ``W_base + U diag(g(s) * s) V^T`` for each.

    Args:
        base, instruct: (m, n) on the CPU, floating (bfloat16, float16, float32 or float64).
        variants: the methods, at least one.
        dtype: of the results; Instruct's when None. Rounded once, from the working precision.
        device: ``cpu``, or a torch device that takes the eigen-solve.

    Returns:
        The weights, (m, n) each, and a record of spectrum, route, and size of every change. A
        delta of zeros gives copies of Instruct.

    Raises:
        SpectrumError: NaN or Inf in a weight.
        InputError: a result that overflows another ``dtype``.
        ValueError: shapes that differ or are not 2-D, another dtype.

    Cost: ``m n r`` flops for the Gram matrix, ``4/3 r^3`` for its reduction, ``4 m n k`` for the
    projection on the ``k`` directions outside the widest band; memory 4 bytes an element for the
    delta besides inputs and outputs (8 when a weight has 32 bits or more), and two r x r matrices.

    Source: eqs. 1 to 4 of arXiv 2509.23595; the solve is described in ``decompose``.
    """
    import torch

    _check_shapes(tuple(base.shape), tuple(instruct.shape))
    out_dtype = str(instruct.dtype if dtype is None else dtype).removeprefix("torch.")
    first, second = StoredMatrix.of_tensor(base), StoredMatrix.of_tensor(instruct)
    _check_arguments(first, second, variants, out_dtype)
    weights = [np.empty(second.shape, dtype=raw_dtype(out_dtype)) for _ in variants]
    record = refine_rows(first, second, variants, weights, dtype=out_dtype, device=device)
    tensors = (torch.from_numpy(weight) for weight in weights)
    return Refinement(tuple(tensor.view(getattr(torch, out_dtype)) for tensor in tensors), record)


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix in memory as ``Rows``: raw values, (m, n), and the name of their dtype."""

    raw: Raw
    dtype: str

    @classmethod
    def of_tensor(cls, tensor: torch.Tensor) -> StoredMatrix:
        """A 2-D tensor on the CPU, which shares its memory where contiguous; ValueError as said."""
        import torch

        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in FLOATING:
            raise ValueError(f"found {dtype}, expected a floating dtype of 16 bits or more")
        whole = tensor.detach().contiguous()
        raw = whole.view(torch.int16).numpy() if dtype == "bfloat16" else whole.numpy()
        return cls(raw.view(np.uint16) if dtype == "bfloat16" else raw, dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.raw.shape
        return rows, columns

    def __getitem__(self, rows: slice) -> Raw:
        return self.raw[rows]


def refine_rows(
    base: Rows,
    instruct: Rows,
    variants: Sequence[AnyVariant],
    sinks: Sequence[Sink],
    *,
    dtype: str | None = None,
    device: str = "cpu",
) -> MatrixRecord:
    """``refine_matrix`` on anything that gives raw blocks of rows, into anything that takes them.

    Blocks are read once for each pass that needs them: to check and measure, to write, and for the
    Gram matrix and the projection where the delta is not held. Each block of a result is written
    once; one sink a method.
    Memory: as ``refine_matrix``, without inputs and outputs; a tall weight of more than
    ``delta.HELD_ELEMENTS`` elements is never whole in memory. Where it raises, sinks may have been
    written to.
    """
    out_dtype = instruct.dtype if dtype is None else dtype
    _check_arguments(base, instruct, variants, out_dtype)
    if all(constant_gain(variant) is not None for variant in variants):
        return _refine_by_constants(base, instruct, variants, sinks, out_dtype)
    delta = PairDelta(base, instruct)
    if delta.scale == 0.0:
        written, norms = blended(base, instruct, [1.0] * len(variants), sinks, out_dtype)
        changes = [
            _change(variant, None, 0.0, result, norms)
            for variant, result in zip(variants, written, strict=True)
        ]
        return _record(norms, "zero delta", 0.0, changes)
    found = solve(delta, asked_for(variants, instruct, out_dtype, delta.scale, device))
    changes = _write(base, instruct, delta, found, variants, sinks, out_dtype)
    return _decomposed(_record(delta, found.route, _delta_norm(delta, found), changes), found)


def spectrum(base: torch.Tensor, instruct: torch.Tensor) -> NDArray[np.float64]:
    """Singular values of ``instruct - base``, descending, (min(m, n),) float64.

    Float64 Gram matrix, values only; errors of about ``1e-8 s_1`` near zero, ``1e-15 s_1`` above.
    Arguments and errors as in ``refine_matrix``. Cost: ``m n r + 4/3 r^3`` flops.
    """
    _check_shapes(tuple(base.shape), tuple(instruct.shape))
    first, second = StoredMatrix.of_tensor(base), StoredMatrix.of_tensor(instruct)
    delta = PairDelta(first, second)
    if delta.scale == 0.0:
        return np.zeros(min(delta.shape))
    return singular_values(delta) * delta.scale


def _check_shapes(base: tuple[int, ...], instruct: tuple[int, ...]) -> None:
    if len(base) != 2 or base != instruct or 0 in base:
        raise ValueError(f"found shapes {base} and {instruct}, expected two equal, 2-D")


def _check_arguments(
    base: Rows, instruct: Rows, variants: Sequence[object], out_dtype: str
) -> None:
    _check_shapes(base.shape, instruct.shape)
    for dtype in (base.dtype, instruct.dtype, out_dtype):
        if dtype not in FLOATING:
            raise ValueError(f"found {dtype}, expected a floating dtype of 16 bits or more")
    if not variants:
        raise ValueError("name at least one variant")


def _refine_by_constants(
    base: Rows,
    instruct: Rows,
    variants: Sequence[AnyVariant],
    sinks: Sequence[Sink],
    dtype: str,
) -> MatrixRecord:
    """Merges alone: one pass over the rows, no decomposition."""
    gains = [gain for variant in variants if (gain := constant_gain(variant)) is not None]
    written, norms = blended(base, instruct, gains, sinks, dtype)
    changes = [
        _change(variant, None, (1.0 - gain) * norms.delta_norm, result, norms)
        for variant, gain, result in zip(variants, gains, written, strict=True)
    ]
    route = "no decomposition" if norms.delta_norm else "zero delta"
    return _record(norms, route, norms.delta_norm, changes)


def _write(
    base: Rows,
    instruct: Rows,
    delta: PairDelta,
    found: Solved,
    variants: Sequence[AnyVariant],
    sinks: Sequence[Sink],
    dtype: str,
) -> list[ChangeRecord]:
    """Write every method's weight: those with one gain for all directions, then the others."""
    results: dict[int, tuple[Written, int | None, float]] = {}
    constants = [i for i, gain in enumerate(found.gains) if gain.constant is not None]
    if constants:
        gains = [float(found.gains[i].constant or 0.0) for i in constants]
        written, _ = blended(base, instruct, gains, [sinks[i] for i in constants], dtype)
        for i, gain, result in zip(constants, gains, written, strict=True):
            # A filter that was found to keep every direction says so.
            kept = found.spectrum.r if constant_gain(variants[i]) is None else None
            results[i] = result, kept, (1.0 - gain) * _delta_norm(delta, found)
    others = [i for i in range(len(variants)) if i not in results]
    if others:
        places = range(len(others))
        chosen = [sinks[i] for i in others]
        written = filtered(base, instruct, delta, found, places, chosen, dtype)
        for place, (i, result) in enumerate(zip(others, written, strict=True)):
            kept = sum(band.width for band in found.bands if band.gains[place] == 1.0)
            results[i] = result, kept, _correction(delta, found, found.gains[i].values)
    return [
        _change(variant, kept, correction, result, delta)
        for variant, (result, kept, correction) in zip(
            variants, (results[i] for i in range(len(variants))), strict=True
        )
    ]


def _delta_norm(delta: PairDelta, found: Solved) -> float:
    return float(np.linalg.norm(found.spectrum.singular_values)) * delta.scale


def _correction(delta: PairDelta, found: Solved, gains: NDArray[np.float64]) -> float:
    """``||refined - instruct||_F``, by the singular values: no pass over the weights."""
    return float(np.linalg.norm((1.0 - gains) * found.spectrum.singular_values)) * delta.scale


def _change(
    variant: AnyVariant,
    kept: int | None,
    correction: float,
    written: Written,
    norms: PairDelta | Norms,
) -> ChangeRecord:
    rows, columns = norms.shape
    return ChangeRecord(
        variant=variant_name(variant),
        kept=kept,
        correction=_ratio(correction, norms.instruct_norm),
        rounding=_ratio(written.rounding, correction),
        changed=written.changed / (rows * columns),
    )


def _record(
    norms: PairDelta | Norms, route: str, delta_norm: float, changes: Sequence[ChangeRecord]
) -> MatrixRecord:
    rows, columns = norms.shape
    return MatrixRecord(
        rows=rows,
        columns=columns,
        route=route,
        delta_norm=delta_norm,
        instruct_norm=norms.instruct_norm,
        changes=tuple(changes),
    )


def _decomposed(record: MatrixRecord, found: Solved) -> MatrixRecord:
    values, errors = found.spectrum.singular_values, found.spectrum.errors
    cut = effective_rank_cut(values)
    return replace(
        record,
        effective_rank=effective_rank(values),
        effective_rank_error=effective_rank_error(values, errors),
        cut=cut,
        head_energy=energy_share(values, cut),
        unique=found.unique,
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
