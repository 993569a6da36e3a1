"""How precisely a delta has to be solved: the ladder from float32 to a full SVD.

A route is good enough when every threshold of every method is certain (``filters``), and when the
directions on both sides of every cut are told apart so well that at most ``FLIPPED_SHARE`` of the
output's elements would round differently. Both are known from the eigenvalues alone, before any
vector is computed; otherwise the next route is taken:

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
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np

from timberkit.config import AnyVariant
from timberkit.dtypes import EPSILON, SIXTEEN_BIT, SMALLEST_NORMAL, Matrix, Working, widen
from timberkit.errors import SpectrumError
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
MIXING_WINDOW = 512
"""Directions on each side of a cut that the mixing estimate looks at; farther pairs add little."""
SINGLE_PRECISION_SIDE = 256
"""Smaller matrices take milliseconds in float64; there one flipped element is a larger share."""


@dataclass(frozen=True, slots=True)
class Band:
    """Directions ``start <= i < stop``, on each of which every method has one gain."""

    start: int
    stop: int
    gains: tuple[float, ...]

    @property
    def width(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Solved:
    """A decomposition good enough for all methods: their gains on it, the vectors they need.

    ``bands`` are all bands of equal gains; ``vectors`` those of every band but ``widest``;
    ``leading`` are directions that lie in none of these bands, if such are known;
    ``working`` is the precision of the projections, ``unique`` as in ``MatrixRecord``.
    """

    route: Rung
    spectrum: Spectrum
    gains: tuple[Gains, ...]
    bands: tuple[Band, ...]
    widest: Band
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
    flips: float | None
    device: str


def asked_for(
    variants: Sequence[AnyVariant],
    instruct: Rows,
    out_dtype: str,
    scale: float,
    device: str,
) -> Asked:
    """What is asked of a solve whose delta is in units of ``scale``."""
    flips = scale * _flips_per_error(instruct, out_dtype) if out_dtype in SIXTEEN_BIT else None
    return Asked(tuple(variants), flips, device)


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
    found = tuple(gains(variant, spectrum) for variant in asked.variants)
    clean = _is_clean(decomposition, found, asked)
    if route == "float32" and clean and not all(gain.certain for gain in found):
        rung, spectrum = _sharpened(delta, decomposition, found, asked)
        found = tuple(gains(variant, spectrum) for variant in asked.variants)
        clean = _is_clean(decomposition, found, asked)
    if route != "svd" and not (clean and all(gain.certain for gain in found)):
        return None
    filtered = [gain for gain in found if gain.constant is None]
    bands = tuple(equal_gain_bands(filtered)) if filtered else ()
    widest = max(bands, key=lambda band: band.width, default=Band(0, 0, ()))
    others = [band for band in bands if band is not widest]
    leading = decomposition.leading
    if leading is not None and any(band.start < leading.count for band in others):
        # In the deflated matrix they are a step above the rest, not far above: their vectors are
        # good enough to be removed, but not to carry the largest part of the delta.
        return None
    return Solved(
        route=rung,
        spectrum=spectrum,
        gains=found,
        bands=bands,
        widest=widest,
        leading=leading,
        vectors=tuple(decomposition.vectors(band.start, band.stop) for band in others),
        working=_working_precision(delta, decomposition, others, asked),
        unique=clean,
    )


def _sharpened(
    delta: Delta, decomposition: Decomposition, found: Sequence[Gains], asked: Asked
) -> tuple[Rung, Spectrum]:
    """Finer singular values for thresholds in doubt: the trailing ones if that is enough, or all.

    Vectors behind the cut, which these need, are mostly those that the projection will need.
    """
    known = decomposition.spectrum
    cuts = [np.flatnonzero(np.diff(gain.values)) + 1 for gain in found if not gain.certain]
    start = min((int(cut[0]) for cut in cuts if cut.size), default=known.r)
    leads = 0 if decomposition.leading is None else decomposition.leading.count

    def settles(spectrum: Spectrum) -> bool:
        return all(gains(variant, spectrum).certain for variant in asked.variants)

    if max(known.r // 2, leads) <= start < known.r:
        hoped = known.errors.copy()
        hoped[start:] = 0.0
        if settles(Spectrum(known.singular_values, hoped)):
            spectrum = with_ritz_values(delta, decomposition, start)
            if settles(spectrum):
                return "ritz", spectrum
    return "mixed", spectrum_of(delta)


def _is_clean(decomposition: Decomposition, found: Sequence[Gains], asked: Asked) -> bool:
    """Whether the directions on both sides of every cut are told apart well enough."""
    if asked.flips is not None:
        weight, limit = asked.flips, FLIPPED_SHARE
    else:
        norm = float(np.linalg.norm(decomposition.spectrum.singular_values))
        weight, limit = 1.0 / norm, FULL_PRECISION_ERROR
    return all(
        _mixing_error(decomposition, gain) * weight <= limit
        for gain in found
        if gain.constant is None
    )


def _working_precision(
    delta: Delta, decomposition: Decomposition, others: Sequence[Band], asked: Asked
) -> Working:
    """Float32 for the projections unless that could show.

    Vectors rounded to float32 leak the leading directions into every projection, unless these were
    found before and are taken out of it again.
    """
    if asked.flips is None or not _single_precision_pays(delta, asked):
        return np.float64
    leading = decomposition.leading
    present = decomposition.spectrum.singular_values[0 if leading is None else leading.count :]
    share = math.sqrt(sum(band.width for band in others) / decomposition.spectrum.r)
    leak = 4 * 2.0**-24 * float(np.linalg.norm(present)) * share * asked.flips
    return np.float32 if leak <= FLIPPED_SHARE / 8 else np.float64


def _mixing_error(decomposition: Decomposition, gain: Gains) -> float:
    """Frobenius norm of the first-order error of ``delta V diag(g) V^T`` from mixed directions.

    ``sum over pairs of (e / (x_i - x_j))^2 (s_i^2 + s_j^2)`` across each cut, for gains that differ
    by 1 there (the most they can, and so the same for all variants with one cut), taken over the
    pairs within ``MIXING_WINDOW`` of it. Infinite when a cut goes through a tie.
    """
    values, levels = decomposition.spectrum.singular_values, decomposition.levels()
    squares, coupling = np.square(values), decomposition.coupling()
    total = 0.0
    for cut in np.flatnonzero(np.diff(gain.values)) + 1:
        head = slice(max(cut - MIXING_WINDOW, 0), cut)
        tail = slice(cut, min(cut + MIXING_WINDOW, values.size))
        gap = levels[head, None] - levels[None, tail]
        weight = squares[head, None] + squares[None, tail]
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(weight > 0, weight / np.square(gap), 0.0)
        total += float(terms.sum())
    return coupling * float(np.sqrt(total))


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


def equal_gain_bands(found: Sequence[Gains]) -> list[Band]:
    """Cut 0..r where the gain of any method changes."""
    r = found[0].values.size
    cuts = {0, r}
    for gain in found:
        cuts.update(int(i) for i in np.flatnonzero(np.diff(gain.values)) + 1)
    edges = sorted(cuts)
    return [
        Band(start, stop, tuple(float(gain.values[start]) for gain in found))
        for start, stop in pairwise(edges)
    ]
