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

from timberkit.config import AnyVariant, BaseSubspace, MatchedMerge, Noise, variant_name
from timberkit.dtypes import FLOATING, Raw, raw_dtype
from timberkit.placing import depends_on_place
from timberkit.records import ChangeRecord, MatrixRecord
from timberkit.spectral.assemble import Norms, Sink, Written, blended, filtered, noised
from timberkit.spectral.base_subspace import base_subspaces, write_inside
from timberkit.spectral.delta import PairDelta, Rows
from timberkit.spectral.filters import (
    Gains,
    Spectrum,
    constant_gain,
    cut_is_certain,
    in_base_subspace,
    matched_gain,
    needs_decomposition,
)
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
        variants: the methods, at least one; what depends on where a matrix stands (``within``,
            ``ramp``, ``free``) as it is there: ``config.at``.
        dtype: of the results; Instruct's when None. Rounded once, from the working precision.
        device: ``cpu``, or a torch device that takes the eigen-solve.
        name: of the tensor, which decides what ``noise`` draws; other methods need none.

    Returns:
        The weights, (m, n) each, and a record of spectrum, route, and size of every change. A
        delta of zeros gives copies of Instruct.

    Raises:
        SpectrumError: NaN or Inf in a weight.
        InputError: a result that overflows another ``dtype``.
        ValueError: shapes that differ or are not 2-D, another dtype, noise without a name, a method
            that depends on the place.

    Cost: ``m n r`` flops for the Gram matrix, ``4/3 r^3`` for its reduction, ``4 m n k`` for the
    projection on the ``k`` directions whose gains are not the commonest (``blocks``); memory 4
    bytes an element for the delta besides inputs and outputs (8 when a weight has 32 bits or more),
    and two r x r matrices, or six for the many directions of ``linear``. For ``base-subspace`` see
    the module of its name.

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
    settled = _settle(output, device)
    others = {i: variant for i, variant in enumerate(variants) if i not in settled}
    if not others:
        return _refine_settled(output, settled)
    delta = PairDelta(base, instruct)
    if delta.scale == 0.0:
        return _refine_settled(output, {i: _Settled(1.0) for i in range(len(variants))})
    asked = asked_for([*others.values()], instruct, out_dtype, delta.scale, device)
    found = solve(delta, asked)
    changes = _write(output, delta, found, settled)
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
    base: Rows, instruct: Rows, variants: Sequence[AnyVariant], out_dtype: str
) -> None:
    _check_shapes(base.shape, instruct.shape)
    for dtype in (base.dtype, instruct.dtype, out_dtype):
        if dtype not in FLOATING:
            raise ValueError(f"found {dtype}, expected a floating dtype of 16 bits or more")
    if not variants:
        raise ValueError("name at least one variant")
    placed = [variant for variant in variants if depends_on_place(variant)]
    if placed:
        raise ValueError(
            f"found {variant_name(placed[0])}, which depends on where a matrix stands, expected"
            " what it is there: timberkit.config.at(variant, Position(…)) says it"
        )


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


@dataclass(frozen=True, slots=True)
class _Settled:
    """A method for which the delta need not be decomposed, and what it does to the weight.

    With a ``gain`` it is the merge of that gain, or noise as large as what that changes; else
    ``norm`` is that of its correction, and ``written`` what was written of it, if it is no noise.
    """

    gain: float | None = None
    norm: float = 0.0
    written: Written | None = None

    def correction(self, delta_norm: float) -> float:
        """``||refined - instruct||_F``."""
        return self.norm if self.gain is None else abs(1.0 - self.gain) * delta_norm


def _settle(output: _Output, device: str) -> dict[int, _Settled]:
    """What needs no decomposition of the delta, by places; in Base's subspaces it is written."""
    settled: dict[int, _Settled] = {}
    edits: dict[int, BaseSubspace] = {}
    for i, variant in enumerate(output.variants):
        edit = in_base_subspace(variant)
        if edit is not None:
            edits[i] = edit
        elif not needs_decomposition(variant):
            settled[i] = _Settled(
                constant_gain(variant.of if isinstance(variant, Noise) else variant)
            )
    return settled | (_settle_in_subspaces(output, edits, device) if edits else {})


def _settle_in_subspaces(
    output: _Output, edits: Mapping[int, BaseSubspace], device: str
) -> dict[int, _Settled]:
    """Write the edits in Base's subspaces among these, and say what their controls are."""
    delta_norm = output.blend({})[1].delta_norm
    if delta_norm == 0.0:
        return {i: _Settled(1.0) for i in edits}
    shares = list(dict.fromkeys(edit.share for edit in edits.values()))
    found = base_subspaces(output.base, output.instruct, shares, device)
    settled: dict[int, _Settled] = {}
    for i, edit in edits.items():
        gain, norm = found.constant_gain(edit), found.correction(edit, delta_norm)
        if isinstance(output.variants[i], MatchedMerge):
            gain = 1.0 - norm / delta_norm if gain is None else matched_gain(gain)
        settled[i] = _Settled(gain, norm)
    left = [i for i, v in enumerate(output.variants) if i in edits and settled[i].gain is None
            and not isinstance(v, Noise)]  # fmt: skip
    written = write_inside(
        output.base, output.instruct, found, [edits[i] for i in left],
        [output.sinks[i] for i in left], output.dtype,
    )  # fmt: skip
    return settled | {
        i: replace(settled[i], written=result) for i, result in zip(left, written, strict=True)
    }


def _refine_settled(output: _Output, settled: Mapping[int, _Settled]) -> MatrixRecord:
    """Without a decomposition of the delta: one pass over the rows, and what noise needs."""
    written, norms = output.blend(_blends(output, settled))
    corrections = {i: found.correction(norms.delta_norm) for i, found in settled.items()}
    written |= _written(settled)
    written |= output.add_noise({i: corrections[i] for i in settled if i not in written})
    changes = [
        _change(variant, None, corrections[i], written[i], norms)
        for i, variant in enumerate(output.variants)
    ]
    route = "no decomposition" if norms.delta_norm else "zero delta"
    return _record(norms, route, norms.delta_norm, changes)


def _blends(output: _Output, settled: Mapping[int, _Settled]) -> dict[int, float]:
    return {i: found.gain for i, found in settled.items() if found.gain is not None
            and not isinstance(output.variants[i], Noise)}  # fmt: skip


def _written(settled: Mapping[int, _Settled]) -> dict[int, Written]:
    return {i: found.written for i, found in settled.items() if found.written is not None}


def _write(
    output: _Output, delta: PairDelta, found: Solved, settled: Mapping[int, _Settled]
) -> list[ChangeRecord]:
    """Write every method's weight: those with one gain for all directions, noise, the others."""
    solved = [i for i in range(len(output.variants)) if i not in settled]
    gains = dict(zip(solved, found.gains, strict=True))
    whole = _delta_norm(delta, found)
    corrections = {i: known.correction(whole) for i, known in settled.items()}
    corrections |= {i: _correction(gain, found.spectrum) * delta.scale for i, gain in gains.items()}
    written = _written(settled)
    noisy = {i: corrections[i] for i, v in enumerate(output.variants) if isinstance(v, Noise)}
    written |= output.add_noise(noisy)
    constants = _blends(output, settled)
    constants |= {i: gain.constant for i, gain in gains.items() if gain.constant is not None
                  and i not in noisy}  # fmt: skip
    if constants:
        written |= output.blend(constants)[0]
    others = [i for i in solved if i not in written]
    if others:
        places, sinks = range(len(others)), [output.sinks[i] for i in others]
        results = filtered(output.base, output.instruct, delta, found, places, sinks, output.dtype)
        written |= zip(others, results, strict=True)
    return [
        _change(variant, _kept(gains.get(i)), corrections[i], written[i], delta)
        for i, variant in enumerate(output.variants)
    ]


def _kept(found: Gains | None) -> int | None:
    return None if found is None else int((found.values == 1.0).sum())


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
    # A route that was fine enough for other methods may not tell on which side of an integer the
    # effective rank lies; a cut that Timber itself might not make is not reported.
    known = found.route == "svd" or cut_is_certain(found.spectrum)
    cut = effective_rank_cut(values) if known else None
    return replace(
        record,
        effective_rank=effective_rank(values),
        effective_rank_error=effective_rank_error(values, errors),
        cut=cut,
        head_energy=None if cut is None else energy_share(values, cut),
        unique=found.unique,
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
