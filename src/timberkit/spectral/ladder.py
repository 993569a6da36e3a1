"""How precisely a delta has to be solved: the ladder from float32 to a full SVD.

A route is good enough when every threshold of every method is certain (``filters``), and when the
directions on both sides of every cut are told apart so well that at most ``FLIPPED_SHARE`` of the
output's elements would round differently. Both are known from the eigenvalues alone, before any
vector is computed; otherwise the next route is taken (``decompose``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from timberkit.config import AnyVariant
from timberkit.errors import SpectrumError
from timberkit.spectral.decompose import Decomposition, Matrix, Route, decompose
from timberkit.spectral.deflate import Leading
from timberkit.spectral.filters import Gains, Spectrum, gains

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
SIXTEEN_BIT = (torch.bfloat16, torch.float16)


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

    route: Route
    spectrum: Spectrum
    gains: tuple[Gains, ...]
    bands: tuple[Band, ...]
    widest: Band
    delta: Matrix
    leading: Leading | None
    vectors: tuple[Matrix, ...]
    working: torch.dtype
    unique: bool


def solve(
    delta: Matrix,
    exact: Callable[[Matrix], Matrix],
    scale: float,
    instruct: torch.Tensor,
    variants: Sequence[AnyVariant],
    out_dtype: torch.dtype,
    device: str,
) -> Solved:
    """Climb the ladder of routes until thresholds are certain and cuts are clean.

    ``delta`` (m, n) may be rounded to float32, which its bounds allow for; ``exact`` gives the true
    one for the finer routes. ``scale`` times either is in the unit of the weights.
    """
    narrow = _single_precision_pays(delta, out_dtype)
    ladder: tuple[Route, ...] = ("float32", "float64", "svd") if narrow else ("float64", "svd")
    for route in ladder:
        if route != "float32":
            delta = exact(delta)
        try:
            solved = _solve_by(route, delta, scale, instruct, variants, out_dtype, device)
        except SpectrumError:
            if route == "svd":
                raise
            continue
        if solved is not None:
            return solved
    raise AssertionError("the last route accepts whatever it finds")


def _single_precision_pays(delta: Matrix, out_dtype: torch.dtype) -> bool:
    """Whether float32 may show in the output at all, and saves time worth the risk of a flip."""
    return (
        out_dtype in SIXTEEN_BIT
        and delta.dtype == np.float32
        and min(delta.shape) >= SINGLE_PRECISION_SIDE
    )


def _solve_by(
    route: Route,
    delta: Matrix,
    scale: float,
    instruct: torch.Tensor,
    variants: Sequence[AnyVariant],
    out_dtype: torch.dtype,
    device: str,
) -> Solved | None:
    """Solve by one route; None where it is not good enough, before any vector is computed."""
    decomposition = decompose(delta, route, device=device)
    found = tuple(gains(variant, decomposition.spectrum) for variant in variants)
    filtered = [gain for gain in found if gain.constant is None]
    norm = float(np.linalg.norm(decomposition.spectrum.singular_values))
    # What an error of Frobenius norm 1 means in the output, and how much of that is allowed.
    narrow = out_dtype in SIXTEEN_BIT
    weight = scale * _flips_per_error(instruct, out_dtype) if narrow else 1.0 / norm
    limit = FLIPPED_SHARE if narrow else FULL_PRECISION_ERROR
    clean = all(_mixing_error(decomposition, gain) * weight <= limit for gain in filtered)
    if route != "svd" and not (clean and all(gain.certain for gain in found)):
        return None
    bands = tuple(equal_gain_bands(filtered)) if filtered else ()
    leading = decomposition.leading
    deflated = 0 if leading is None else leading.count
    widest = max(bands, key=lambda band: band.width, default=Band(0, 0, ()))
    others = [band for band in bands if band is not widest]
    projected = sum(band.width for band in others)
    if any(band.start < deflated for band in others):
        # In the deflated matrix they are a step above the rest, not far above: their vectors are
        # good enough to be removed, but not to carry the largest part of the delta.
        return None
    # Vectors rounded to float32 leak the leading directions into every projection, unless these
    # were taken out of the matrix before.
    present = decomposition.spectrum.singular_values[deflated:]
    share = math.sqrt(projected / decomposition.spectrum.r)
    leak = 4 * 2.0**-24 * float(np.linalg.norm(present)) * share * weight
    single = _single_precision_pays(delta, out_dtype) and leak <= FLIPPED_SHARE / 8
    return Solved(
        route=route,
        spectrum=decomposition.spectrum,
        gains=found,
        bands=bands,
        widest=widest,
        delta=delta,
        leading=leading,
        vectors=tuple(decomposition.vectors(band.start, band.stop) for band in others),
        working=torch.float32 if single else torch.float64,
        unique=clean,
    )


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


def _flips_per_error(instruct: torch.Tensor, dtype: torch.dtype) -> float:
    """Share of elements expected to round otherwise, per unit of the error's Frobenius norm.

    An error of mean size ``a`` moves an element across a rounding boundary with probability
    ``a / ulp``; a Gaussian error has mean size 0.8 times its root mean square. The mean of
    ``1 / ulp`` is taken over about 65,536 elements of the weight.
    """
    flat = instruct.reshape(-1)
    sample = flat[:: max(1, flat.numel() // 65536)].to(torch.float64).abs()
    largest = float(sample.max())
    if largest == 0.0:
        return 0.0
    info = torch.finfo(dtype)
    # Elements far below the typical size cannot matter: an error there is under the tolerance.
    sample = sample.clamp(min=max(largest * 2.0**-12, float(info.tiny)))
    ulp = torch.exp2(torch.floor(torch.log2(sample))) * info.eps
    return 0.8 * float((1.0 / ulp).mean()) / float(np.sqrt(flat.numel()))


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
