"""How precisely a delta has to be solved: the ladder from float32 to a full SVD.

A route is good enough when every threshold of every method is certain (``filters``), when gains
that follow the singular values are known well enough, and when directions of different gains are
told apart so well that at most ``FLIPPED_SHARE`` of the output's elements would round differently.
All are known from the eigenvalues alone, before any vector is computed; otherwise the next route is
taken:

| route     | singular values | vectors                                                      |
|-----------|-----------------|--------------------------------------------------------------|
| `float32` | float32         | float32                                                      |
| `ritz`    | trailing float64| float32: a threshold was in doubt for errors of small values |
| `mixed`   | float64         | float32: only a threshold was in doubt, not the directions   |
| `float64` | float64         | float64                                                      |
| `svd`     | full SVD        | full SVD                                                     |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from timberkit.config import AnyVariant, MatchedMerge, Noise
from timberkit.dtypes import EPSILON, SIXTEEN_BIT, SMALLEST_NORMAL, Matrix, Working, widen
from timberkit.errors import SpectrumError
from timberkit.spectral.blocks import Block, Partition, is_stepped, partition, steps
from timberkit.spectral.decompose import Decomposition, Route, decompose
from timberkit.spectral.deflate import Leading
from timberkit.spectral.delta import Delta, Rows, row_blocks
from timberkit.spectral.filters import Gains, Spectrum, gains
from timberkit.spectral.ritz import with_ritz_values
from timberkit.spectral.values import spectrum_of

Rung: TypeAlias = Route | Literal["ritz", "mixed"]

FLIPPED_SHARE = 1e-3
"""Predicted share of 16-bit elements that may round otherwise before a finer route is taken.

What is promised of the result; the prediction is at least three times what was ever measured.
"""
FULL_PRECISION_ERROR = 1e-9
"""Predicted error relative to the delta's norm that 32- and 64-bit outputs may have."""
SETTLED_SHARE = 0.5
"""Part of these limits that gains and noise may move the output by, for errors of their values."""
MIXING_WINDOW = 512
"""Directions on each side of a cut that the mixing estimate looks at; farther pairs add little."""
PAIR_ELEMENTS = 1 << 18
"""Pairs of directions looked at together."""
SINGLE_PRECISION_SIDE = 256
"""Smaller matrices take milliseconds in float64; there one flipped element is a larger share."""


@dataclass(frozen=True, slots=True)
class Solved:
    """A decomposition good enough for all methods: their gains on it, the vectors they need.

    ``blocks`` are the directions that are projected, ``vectors`` theirs; on all others each method
    that is not constant has its gain of ``reference``, and their order is that of both;
    ``leading`` are directions that lie in none of the blocks, if such are known;
    ``working`` is the precision of the projections, ``unique`` as in ``MatrixRecord``.
    """

    route: Rung
    spectrum: Spectrum
    gains: tuple[Gains, ...]
    blocks: tuple[Block, ...]
    reference: tuple[float, ...]
    leading: Leading | None
    vectors: tuple[Matrix, ...]
    working: Working
    unique: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What a solve is for: the methods, and how finely the output shows an error.

    ``flips`` is the share of elements that would round otherwise per unit of the Frobenius norm of
    an error of the scaled delta's projection, None where the output has 32 bits or more.
    """

    variants: tuple[AnyVariant, ...]
    shape: tuple[int, int]
    flips: float | None
    device: str

    def gains(self, spectrum: Spectrum) -> tuple[Gains, ...]:
        """Of every method, on a spectrum of this matrix."""
        shaped = replace(spectrum, shape=self.shape)
        return tuple(gains(variant, shaped) for variant in self.variants)

    def shows(self, error: float, spectrum: Spectrum) -> float:
        """How much of an error in the scaled weight shows, 1 being as much as may."""
        if self.flips is not None:
            return error * self.flips / FLIPPED_SHARE
        return error / float(np.linalg.norm(spectrum.singular_values)) / FULL_PRECISION_ERROR

    def settled(self, found: Sequence[Gains], spectrum: Spectrum) -> bool:
        """Whether no spectrum within the errors gives thresholds, gains or noise that show."""
        return all(
            gain.certain and self.shows(gain.error, spectrum) <= SETTLED_SHARE for gain in found
        )


def asked_for(
    variants: Sequence[AnyVariant],
    instruct: Rows,
    out_dtype: str,
    scale: float,
    device: str,
) -> Asked:
    """What is asked of a solve whose delta is in units of ``scale``."""
    flips = scale * _flips_per_error(instruct, out_dtype) if out_dtype in SIXTEEN_BIT else None
    return Asked(tuple(variants), instruct.shape, flips, device)


def solve(delta: Delta, asked: Asked) -> Solved:
    """Climb the ladder of routes until thresholds are certain and cuts are clean.

    The float32 blocks of ``delta`` may be rounded, which the bounds allow for; the float64 ones of
    the finer routes are exact.
    """
    ladder: tuple[Route, ...] = ("float64", "svd")
    if _single_precision_pays(delta, asked):
        ladder = ("float32", *ladder)
    for route in ladder:
        try:
            solved = _solve_by(route, delta, asked)
        except SpectrumError:
            if route == "svd":
                raise
            continue
        if solved is not None:
            return solved
    raise AssertionError("the last route accepts whatever it finds")


def _single_precision_pays(delta: Delta, asked: Asked) -> bool:
    """Whether float32 may show in the output at all, and saves time worth the risk of a flip."""
    return (
        asked.flips is not None
        and delta.dtype == np.float32
        and min(delta.shape) >= SINGLE_PRECISION_SIDE
    )


def _solve_by(route: Route, delta: Delta, asked: Asked) -> Solved | None:
    """Solve by one route; None where it is not good enough, before any vector is computed."""
    rung: Rung = route
    decomposition = decompose(delta, route, device=asked.device)
    spectrum = decomposition.spectrum
    found = asked.gains(spectrum)
    clean = _is_clean(decomposition, found, asked)
    if route == "float32" and clean and not asked.settled(found, spectrum):
        rung, spectrum = _sharpened(delta, decomposition, found, asked)
        found = asked.gains(spectrum)
        clean = _is_clean(decomposition, found, asked)
    if route != "svd" and not (clean and asked.settled(found, spectrum)):
        return None
    parts = partition([gain.values for gain in found if gain.constant is None])
    leading = decomposition.leading
    if leading is not None and any(block.start < leading.count for block in parts.blocks):
        # In the deflated matrix they are a step above the rest, not far above: their vectors are
        # good enough to be removed, but not to carry the largest part of the delta.
        return None
    return Solved(
        route=rung,
        spectrum=spectrum,
        gains=found,
        blocks=parts.blocks,
        reference=parts.reference,
        leading=leading,
        vectors=tuple(decomposition.vectors(block.start, block.stop) for block in parts.blocks),
        working=_working_precision(delta, decomposition, parts, asked),
        unique=clean,
    )


def _sharpened(
    delta: Delta, decomposition: Decomposition, found: Sequence[Gains], asked: Asked
) -> tuple[Rung, Spectrum]:
    """Finer singular values for thresholds in doubt: the trailing ones if that is enough, or all.

    Vectors behind the cut, which these need, are mostly those that the projection will need.
    """
    known = decomposition.spectrum
    doubted = (v for v, gain in zip(asked.variants, found, strict=True)
               if not asked.settled([gain], known))  # fmt: skip
    edits = tuple(v.of if isinstance(v, MatchedMerge | Noise) else v for v in doubted)
    cuts = [steps(gain.values) for gain in replace(asked, variants=edits).gains(known)]
    start = min((int(cut[0]) for cut in cuts if cut.size), default=known.r)
    leads = 0 if decomposition.leading is None else decomposition.leading.count

    def settles(spectrum: Spectrum) -> bool:
        return asked.settled(asked.gains(spectrum), spectrum)

    if max(known.r // 2, leads) <= start < known.r:
        hoped = known.errors.copy()
        hoped[start:] = 0.0
        if settles(Spectrum(known.singular_values, hoped)):
            spectrum = with_ritz_values(delta, decomposition, start)
            if settles(spectrum):
                return "ritz", spectrum
    return "mixed", spectrum_of(delta)


def _is_clean(decomposition: Decomposition, found: Sequence[Gains], asked: Asked) -> bool:
    """Whether directions of different gains are told apart well enough."""
    return all(
        asked.shows(_mixing_error(decomposition, gain), decomposition.spectrum) <= 1.0
        for gain in found
        if gain.constant is None
    )


def _working_precision(
    delta: Delta, decomposition: Decomposition, parts: Partition, asked: Asked
) -> Working:
    """Float32 for the projections unless that could show.

    Vectors rounded to float32 leak the leading directions into every projection, unless these were
    found before and are taken out of it again; and each is a little off itself.
    """
    if asked.flips is None or not _single_precision_pays(delta, asked):
        return np.float64
    leading, values = decomposition.leading, decomposition.spectrum.singular_values
    present = values[0 if leading is None else leading.count :]
    share = math.sqrt(sum(block.width for block in parts.blocks) / values.size)
    projected = [float(np.linalg.norm(values[block.start : block.stop])) for block in parts.blocks]
    size = max(float(np.linalg.norm(present)) * share, math.hypot(*projected))
    leak = 4 * 2.0**-24 * size * _largest_excess(parts) * asked.flips
    return np.float32 if leak <= FLIPPED_SHARE / 8 else np.float64


def _largest_excess(parts: Partition) -> float:
    """Largest distance of a gain from its reference, at least 1.

    For gains in [0, 1] it is 1, so that of variants with one cut none depends on the others.
    """
    reference = np.array(parts.reference)[:, None]
    return max([1.0, *(float(np.abs(block.gains - reference).max()) for block in parts.blocks)])


def _mixing_error(decomposition: Decomposition, gain: Gains) -> float:
    """Frobenius norm of the first-order error of ``delta V diag(g) V^T`` from mixed directions.

    ``sum over pairs of (g_i - g_j)^2 (e / (x_i - x_j))^2 (s_i^2 + s_j^2)``.
    """
    values, levels = decomposition.spectrum.singular_values, decomposition.levels()
    if is_stepped(gain.values):
        return decomposition.coupling() * _error_across_steps(values, levels, gain.values)
    return _error_of_pairs(values, levels, gain.values, decomposition.coupling())


def _error_across_steps(
    values: NDArray[np.float64], levels: NDArray[np.float64], found: NDArray[np.float64]
) -> float:
    """The mixing error per unit of coupling, of gains that change in few places.

    Over pairs within ``MIXING_WINDOW`` of a step. Gains that differ by less than 1 count as if they
    differed by 1, so that it is the same for all variants with one cut. Infinite when a cut goes
    through a tie.
    """
    squares, total = np.square(values), 0.0
    for cut in steps(found):
        head = slice(max(cut - MIXING_WINDOW, 0), cut)
        tail = slice(cut, min(cut + MIXING_WINDOW, values.size))
        gap = levels[head, None] - levels[None, tail]
        weight = squares[head, None] + squares[None, tail]
        weight *= np.square(np.maximum(np.abs(found[head, None] - found[None, tail]), 1.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(weight > 0, weight / np.square(gap), 0.0)
        total += float(terms.sum())
    return float(np.sqrt(total))


def _error_of_pairs(
    values: NDArray[np.float64],
    levels: NDArray[np.float64],
    found: NDArray[np.float64],
    coupling: float,
) -> float:
    """The mixing error of gains that change gradually: over all pairs, none turned beyond 1.

    A tie costs no more than exchanging its directions, which have about the same gains.
    """
    squares, total, r = np.square(values), 0.0, values.size
    height = max(1, PAIR_ELEMENTS // r)
    for start in range(0, r, height):
        rows = slice(start, min(start + height, r))
        gap = np.abs(levels[rows, None] - levels[None, start:])
        weight = np.square(found[rows, None] - found[None, start:])
        weight *= squares[rows, None] + squares[None, start:]
        angle = coupling / np.maximum(gap, coupling) if coupling else np.zeros_like(gap)
        weight *= np.square(angle)
        # Of a pair inside the block of rows both orders are seen.
        inside = weight[:, : rows.stop - rows.start]
        total += float(weight.sum()) - float(inside.sum()) / 2
    return math.sqrt(total)


def _flips_per_error(instruct: Rows, dtype: str) -> float:
    """Share of elements expected to round otherwise, per unit of the error's Frobenius norm.

    An error of mean size ``a`` moves an element across a rounding boundary with probability
    ``a / ulp``; a Gaussian error has mean size 0.8 times its root mean square. The mean of
    ``1 / ulp`` is taken over about 65,536 elements of the weight.
    """
    rows, columns = instruct.shape
    count = rows * columns
    step = max(1, count // 65536)
    sample = np.concatenate(
        [
            np.abs(widen(instruct[part].reshape(-1)[::step], instruct.dtype, np.float64))
            for part in row_blocks(instruct.shape)
        ]
    )
    largest = float(sample.max())
    if largest == 0.0:
        return 0.0
    # Elements far below the typical size cannot matter: an error there is under the tolerance.
    sample = np.maximum(sample, max(largest * 2.0**-12, SMALLEST_NORMAL[dtype]))
    ulp = np.exp2(np.floor(np.log2(sample))) * EPSILON[dtype]
    return 0.8 * float((1.0 / ulp).mean()) / float(np.sqrt(count))
