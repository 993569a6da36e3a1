"""One weight: (base, instruct, methods) -> refined weights, as exact as the output dtype can show.

How precisely the delta is solved for that is decided in ``ladder``, how the weights are put
together in ``assemble``. Weights come and go by blocks of rows, so that a matrix may lie in files
as well as in memory: ``refine_matrix`` takes and gives tensors, ``refine_rows`` whatever yields and
takes rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from timberkit.config import AnyVariant, Noise, variant_name
from timberkit.dtypes import FLOATING, Raw, raw_dtype
from timberkit.records import ChangeRecord, MatrixRecord
from timberkit.spectral.assemble import Norms, Sink, Written, blended, filtered, noised
from timberkit.spectral.delta import PairDelta, Rows
from timberkit.spectral.filters import Gains, Spectrum, constant_gain, needs_decomposition
from timberkit.spectral.ladder import Solved, asked_for, solve
from timberkit.spectral.noise import NamedNoise
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
    name: str | None = None,
) -> Refinement:
    """Refine one weight with several methods: ``W_base + U diag(g(s) * s) V^T`` for each.

    Args:
        base, instruct: (m, n) on the CPU, floating (bfloat16, float16, float32 or float64).
        variants: the methods, at least one.
        dtype: of the results; Instruct's when None. Rounded once, from the working precision.
        device: ``cpu``, or a torch device that takes the eigen-solve.
        name: of the tensor, which decides what ``noise`` draws; other methods need none.

    Returns:
        The weights, (m, n) each, and a record of spectrum, route, and size of every change. A
        delta of zeros gives copies of Instruct.

    Raises:
        SpectrumError: NaN or Inf in a weight.
        InputError: a result that overflows another ``dtype``.
        ValueError: shapes that differ or are not 2-D, another dtype, noise without a name.

    Cost: ``m n r`` flops for the Gram matrix, ``4/3 r^3`` for its reduction, ``4 m n k`` for the
    projection on the ``k`` directions whose gains are not the commonest (``blocks``); memory 4
    bytes an element for the delta besides inputs and outputs (8 when a weight has 32 bits or more),
    and two r x r matrices, or six for the many directions of ``linear``.

    Source: eqs. 1 to 4 of arXiv 2509.23595; the solve is described in ``decompose``.
    """
    import torch

    _check_shapes(tuple(base.shape), tuple(instruct.shape))
    out_dtype = str(instruct.dtype if dtype is None else dtype).removeprefix("torch.")
    first, second = StoredMatrix.of_tensor(base), StoredMatrix.of_tensor(instruct)
    _check_arguments(first, second, variants, out_dtype)
    weights = [np.empty(second.shape, dtype=raw_dtype(out_dtype)) for _ in variants]
    record = refine_rows(
        first, second, variants, weights, dtype=out_dtype, device=device, name=name
    )
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
    name: str | None = None,
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
    if name is None and any(isinstance(variant, Noise) for variant in variants):
        raise ValueError("noise needs the name of the tensor")
    output = _Output(base, instruct, tuple(variants), tuple(sinks), out_dtype, name or "")
    if not any(map(needs_decomposition, variants)):
        return _refine_by_constants(output)
    delta = PairDelta(base, instruct)
    if delta.scale == 0.0:
        written, norms = blended(base, instruct, [1.0] * len(variants), sinks, out_dtype)
        changes = [
            _change(variant, None, 0.0, result, norms)
            for variant, result in zip(variants, written, strict=True)
        ]
        return _record(norms, "zero delta", 0.0, changes)
    found = solve(delta, asked_for(variants, instruct, out_dtype, delta.scale, device))
    changes = _write(output, delta, found)
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


@dataclass(frozen=True, slots=True)
class _Output:
    """What is written: the pair, each method with its sink, dtype and name of the result."""

    base: Rows
    instruct: Rows
    variants: tuple[AnyVariant, ...]
    sinks: tuple[Sink, ...]
    dtype: str
    name: str

    def blend(self, gains: Mapping[int, float]) -> tuple[dict[int, Written], Norms]:
        """Write those that have one gain for all directions, by their places."""
        sinks = [self.sinks[i] for i in gains]
        written, norms = blended(self.base, self.instruct, [*gains.values()], sinks, self.dtype)
        return dict(zip(gains, written, strict=True)), norms

    def add_noise(self, norms: Mapping[int, float]) -> dict[int, Written]:
        """Write Instruct plus noise of these norms, by their places."""
        results: dict[int, Written] = {}
        seeds = {i: variant.seed for i, variant in enumerate(self.variants) if i in norms
                 and isinstance(variant, Noise)}  # fmt: skip
        for seed in sorted(set(seeds.values())):
            places = [i for i in norms if seeds[i] == seed]
            noise = NamedNoise(seed, self.name, self.instruct.shape)
            sizes, sinks = [norms[i] for i in places], [self.sinks[i] for i in places]
            written = noised(self.instruct, noise, sizes, sinks, self.dtype)
            results |= zip(places, written, strict=True)
        return results


def _refine_by_constants(output: _Output) -> MatrixRecord:
    """Merges and what is made of them alone: one pass over the rows, no decomposition."""
    gains: dict[int, float] = {}
    noisy: dict[int, float] = {}
    for i, variant in enumerate(output.variants):
        edit = variant.of if isinstance(variant, Noise) else variant
        chosen = noisy if isinstance(variant, Noise) else gains
        chosen[i] = 1.0 if (gain := constant_gain(edit)) is None else gain
    written, norms = output.blend(gains)
    corrections = {i: (1.0 - gain) * norms.delta_norm for i, gain in (gains | noisy).items()}
    written |= output.add_noise({i: corrections[i] for i in noisy})
    changes = [
        _change(variant, None, corrections[i], written[i], norms)
        for i, variant in enumerate(output.variants)
    ]
    route = "no decomposition" if norms.delta_norm else "zero delta"
    return _record(norms, route, norms.delta_norm, changes)


def _write(output: _Output, delta: PairDelta, found: Solved) -> list[ChangeRecord]:
    """Write every method's weight: those with one gain for all directions, noise, the others."""
    corrections = [_correction(gain, found.spectrum) * delta.scale for gain in found.gains]
    noisy = {i: corrections[i] for i, v in enumerate(output.variants) if isinstance(v, Noise)}
    constants = {
        i: gain.constant
        for i, gain in enumerate(found.gains)
        if gain.constant is not None and i not in noisy
    }
    written = output.add_noise(noisy)
    if constants:
        written |= output.blend(constants)[0]
    others = [i for i in range(len(found.gains)) if i not in written]
    if others:
        places, sinks = range(len(others)), [output.sinks[i] for i in others]
        results = filtered(output.base, output.instruct, delta, found, places, sinks, output.dtype)
        written |= zip(others, results, strict=True)
    return [
        _change(variant, _kept(variant, found.gains[i]), corrections[i], written[i], delta)
        for i, variant in enumerate(output.variants)
    ]


def _kept(variant: AnyVariant, found: Gains) -> int | None:
    return int((found.values == 1.0).sum()) if needs_decomposition(variant) else None


def _delta_norm(delta: PairDelta, found: Solved) -> float:
    return float(np.linalg.norm(found.spectrum.singular_values)) * delta.scale


def _correction(found: Gains, spectrum: Spectrum) -> float:
    """``||refined - instruct||_F``, by the singular values: no pass over the weights."""
    removed = float(np.linalg.norm((1.0 - found.values) * spectrum.singular_values))
    return removed + found.noise  # one of the two is 0


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
