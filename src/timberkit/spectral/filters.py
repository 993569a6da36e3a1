"""Singular values -> gains: every method that timberkit edits with, one function each.

A refined weight is ``W_base + U diag(g * s) V^T`` where ``U diag(s) V^T`` is the delta. A method is
therefore nothing but a rule that turns ``s`` into gains ``g`` (docs/methods.md has the reasons):

| method            | gains                                                                   |
|-------------------|-------------------------------------------------------------------------|
| `timber`          | 1 for i < K, `lam` after, with K = ceil(eRank)                          |
| `timber-l`        | 1 for i < K, 0 after                                                    |
| `rank-cut`        | 1 for i < ceil(`scale` eRank), `lam` after                              |
| `mp-cut`          | 1 above the Marchenko-Pastur edge, `lam` below                          |
| `shrink`          | optimal shrinkage above that edge, 0 below (`denoise`)                  |
| `truncate-rank`   | 1 for i < ceil(ratio * r), 0 after                                      |
| `truncate-energy` | 1 up to the first i where the cumulated s^2 reaches `energy`, 0 after   |
| `rank-one`        | 1 for i = 0, 0 after                                                    |
| `leading`         | `gain` for i < `count`, or ceil(`share` r), 1 after                     |
| `band`            | `gain` for `start` r <= i < `stop` r, 1 elsewhere                       |
| `linear`          | `first` + (`last` - `first`) i / (r - 1)                                |
| `steps`           | `gains[0]` for i < `edges[0]`, `gains[1]` for i < `edges[1]`, …         |
| `merge`           | `mu` everywhere (needs no decomposition)                                |
| `matched-merge`   | 1 - norm(correction of `of`) / norm(delta) everywhere                   |
| `noise`           | 1, and noise of the norm of the correction of `of` is added             |

A rule with a threshold also says whether the threshold is *certain*: the same for every spectrum
within the given errors; a rule whose gains move with the values bounds what that does to the
weight. ``refine`` solves again, more precisely, until neither shows. ``base-subspace`` is no such
rule: see ``base_subspace``.
A new method is its parameters in ``timberkit.edits``, one function here, and one test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import singledispatch

import numpy as np
from numpy.typing import NDArray

from timberkit.edits import (
    Band,
    BaseSubspace,
    Leading,
    Linear,
    Merge,
    MpCut,
    RankCut,
    RankOne,
    Shrink,
    Steps,
    Timber,
    TimberL,
    TruncateEnergy,
    TruncateRank,
)
from timberkit.methods import (
    AnyVariant,
    Edit,
    MatchedMerge,
    Noise,
)
from timberkit.spectral.denoise import (
    NoiseLevel,
    count_above_edge,
    noise_level,
    shrinkage,
    shrinkage_error,
)
from timberkit.spectral.rank import (
    ceil_within_tolerance,
    effective_rank,
    effective_rank_error,
)

ENERGY_TOLERANCE = 1e-12
"""Cumulated energy this close below the threshold (of a total of 1) has reached it."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Singular values, descending (r,), and a bound on the error of each (r,).

    ``shape`` is that of the matrix, min(shape) = r; only what compares with noise asks for it.
    """

    singular_values: NDArray[np.float64]
    errors: NDArray[np.float64]
    shape: tuple[int, int] | None = None

    @property
    def r(self) -> int:
        """Number of singular values, ``min(m, n)``."""
        return int(self.singular_values.size)

    @classmethod
    def exact(
        cls, singular_values: NDArray[np.float64], shape: tuple[int, int] | None = None
    ) -> Spectrum:
        """A spectrum taken at its word: all errors zero."""
        return cls(singular_values, np.zeros_like(singular_values), shape)


@dataclass(frozen=True, slots=True)
class Gains:
    """Gains (r,) and whether every spectrum within the errors gives the same.

    Attributes:
        values: (r,).
        certain: whether every threshold is the same for every spectrum within the errors.
        error: bound on the Frobenius norm by which spectra within the errors, thresholds being
            equal, move the weight; in the unit of the singular values.
        noise: Frobenius norm of the noise to be added, in that unit.
    """

    values: NDArray[np.float64]
    certain: bool = True
    error: float = 0.0
    noise: float = 0.0

    @property
    def constant(self) -> float | None:
        """The gain when all are equal, else None. No gains at all count as 1."""
        if self.values.size == 0:
            return 1.0
        first = float(self.values[0])
        return first if bool((self.values == first).all()) else None


def head_and_tail(r: int, head: int, tail_gain: float, *, certain: bool = True) -> Gains:
    """Gain 1 on the first ``head`` of ``r`` directions, ``tail_gain`` on the others."""
    values = np.ones(r)
    values[head:] = tail_gain
    return Gains(values, certain)


@singledispatch
def gains(variant: AnyVariant, spectrum: Spectrum) -> Gains:
    """Gains of a method on a spectrum.

    Args:
        variant: the method with its parameters.
        spectrum: singular values of the delta, descending, with error bounds.

    Returns:
        Gains, one for each singular value: in [0, 1] but where parameters say otherwise.

    Raises:
        ValueError: a method that compares with noise, for a spectrum without a shape.

    Cost: O(r).

    >>> from timberkit.config import Timber
    >>> gains(Timber(lam=0.5), Spectrum.exact(np.array([4.0, 1.0, 0.1]))).values.tolist()
    [1.0, 1.0, 0.5]
    """
    raise TypeError(f"no filter for {type(variant).__name__}")


def _effective_rank_head(spectrum: Spectrum, tail_gain: float, scale: float = 1.0) -> Gains:
    value = effective_rank(spectrum.singular_values)
    error = effective_rank_error(spectrum.singular_values, spectrum.errors)

    def head(rank: float) -> int:
        fewest = 1 if value > 0 else 0
        return min(max(ceil_within_tolerance(scale * rank, spectrum.r), fewest), spectrum.r)

    certain = math.isfinite(error) and head(value - error) == head(value + error)
    return head_and_tail(spectrum.r, head(value), tail_gain, certain=certain)


@gains.register
def timber(variant: Timber, spectrum: Spectrum) -> Gains:
    """1 for i < K = ceil(eRank), ``lam`` after: eq. 4 of arXiv 2509.23595."""
    return _effective_rank_head(spectrum, variant.lam)


@gains.register
def timber_l(variant: TimberL, spectrum: Spectrum) -> Gains:
    """1 for i < K = ceil(eRank), 0 after: Timber-L of arXiv 2509.23595."""
    return _effective_rank_head(spectrum, 0.0)


@gains.register
def rank_cut(variant: RankCut, spectrum: Spectrum) -> Gains:
    """1 for i < ceil(``scale`` eRank), between 1 and r, ``lam`` after: Timber at ``scale`` 1."""
    return _effective_rank_head(spectrum, variant.lam, variant.scale)


def cut_is_certain(spectrum: Spectrum) -> bool:
    """Whether every spectrum within the errors gives the same K = ceil(eRank). O(r)."""
    return _effective_rank_head(spectrum, 0.0).certain


def _level(spectrum: Spectrum) -> NoiseLevel:
    if spectrum.shape is None:
        raise ValueError("found a spectrum without a shape, expected that of its matrix")
    return noise_level(spectrum.singular_values, spectrum.errors, spectrum.shape)


@gains.register
def mp_cut(variant: MpCut, spectrum: Spectrum) -> Gains:
    """1 above the upper edge of noise with the delta's median, ``lam`` below: see ``denoise``.

    A delta that is nothing but noise is multiplied by ``lam`` as a whole, one without noise (half
    of its singular values vanish) kept.
    """
    values, errors = spectrum.singular_values, spectrum.errors
    if values[0] == 0:
        return Gains(np.ones(spectrum.r), certain=not errors.any())
    head, certain = count_above_edge(values, errors, _level(spectrum))
    return head_and_tail(spectrum.r, head, variant.lam, certain=certain)


@gains.register
def shrink(variant: Shrink, spectrum: Spectrum) -> Gains:
    """Optimal shrinkage for Frobenius loss: Gavish & Donoho 2017, see ``denoise``."""
    values, errors = spectrum.singular_values, spectrum.errors
    if values[0] == 0:
        return Gains(np.ones(spectrum.r), certain=not errors.any())
    level = _level(spectrum)
    error = shrinkage_error(values, errors, level)
    return Gains(shrinkage(values, level), level.certain, error)


@gains.register
def truncate_rank(variant: TruncateRank, spectrum: Spectrum) -> Gains:
    """1 for i < ceil(ratio * r), 0 after: Truncate-R of arXiv 2509.23595, table 3."""
    return head_and_tail(spectrum.r, _share_of(variant.ratio, spectrum.r), 0.0)


def _share_of(share: float, r: int) -> int:
    """``ceil(share * r)``, at least 1."""
    return max(ceil_within_tolerance(share * r, 1), 1)


@gains.register
def truncate_energy(variant: TruncateEnergy, spectrum: Spectrum) -> Gains:
    """1 up to the first i where cumulated s^2 reaches ``energy``: Truncate-E, table 3.

    ``energy = 1`` keeps everything, whatever rounding says of the last directions.
    """
    largest = spectrum.singular_values[0]
    if variant.energy == 1.0 or largest == 0:
        return head_and_tail(spectrum.r, spectrum.r, 0.0)
    values, errors = spectrum.singular_values / largest, spectrum.errors / largest
    squares = np.square(values)
    total = squares.sum()
    reached = np.cumsum(squares) / total
    head = int(np.searchsorted(reached, variant.energy - ENERGY_TOLERANCE)) + 1
    doubt = errors * (2 * values + errors)
    margin = (np.cumsum(doubt) + reached * doubt.sum()) / total
    distance = np.abs(reached - (variant.energy - ENERGY_TOLERANCE))
    nearest = slice(max(head - 2, 0), head)
    certain = bool((distance[nearest] > margin[nearest]).all()) or not spectrum.errors.any()
    return head_and_tail(spectrum.r, min(head, spectrum.r), 0.0, certain=certain)


@gains.register
def rank_one(variant: RankOne, spectrum: Spectrum) -> Gains:
    """1 for the leading direction, 0 for the others."""
    return head_and_tail(spectrum.r, 1, 0.0)


@gains.register
def leading(variant: Leading, spectrum: Spectrum) -> Gains:
    """``gain`` for i < ``count``, or ``ceil(share * r)``, 1 after."""
    return _with_band(spectrum.r, 0, variant.count or _share_of(variant.share or 0.0, spectrum.r),
                      variant.gain)  # fmt: skip


@gains.register
def band(variant: Band, spectrum: Spectrum) -> Gains:
    """``gain`` for ``start * r <= i < stop * r``, 1 elsewhere; the band may hold no direction."""
    start, stop = (ceil_within_tolerance(edge * spectrum.r, 1)
                   for edge in (variant.start, variant.stop))  # fmt: skip
    return _with_band(spectrum.r, start, stop, variant.gain)


def _with_band(r: int, start: int, stop: int, gain: float) -> Gains:
    values = np.ones(r)
    values[start:stop] = gain
    return Gains(values)


@gains.register
def linear(variant: Linear, spectrum: Spectrum) -> Gains:
    """``first + (last - first) i / (r - 1)``; ``first`` where r is 1."""
    return Gains(np.linspace(variant.first, variant.last, spectrum.r))


@gains.register
def steps(variant: Steps, spectrum: Spectrum) -> Gains:
    """``gains[j]`` for ``edges[j - 1] <= i < edges[j]``; edges beyond r do nothing."""
    edges = np.array(variant.edges, dtype=np.int64)
    place = np.searchsorted(edges, np.arange(spectrum.r), side="right")
    return Gains(np.array(variant.gains)[place])


@gains.register
def base_subspace(variant: BaseSubspace, spectrum: Spectrum) -> Gains:
    """The same everywhere, where inside and outside are; else no filter of the delta at all."""
    gain = constant_gain(variant)
    if gain is None:
        raise ValueError("found base-subspace, expected a method that is a filter of the delta")
    return Gains(np.full(spectrum.r, gain))


@gains.register
def merge(variant: Merge, spectrum: Spectrum) -> Gains:
    """``mu`` everywhere: plain interpolation, figure 6 of arXiv 2509.23595."""
    return Gains(np.full(spectrum.r, variant.mu))


def _correction(edit: Edit, spectrum: Spectrum) -> tuple[Gains, float, float]:
    """Gains of an edit, the norm of what it changes, and a bound on the error of that norm."""
    found = gains(edit, spectrum)
    removed = 1.0 - found.values
    norm = float(np.linalg.norm(removed * spectrum.singular_values))
    return found, norm, float(np.linalg.norm(removed * spectrum.errors)) + found.error


@gains.register
def matched_merge(variant: MatchedMerge, spectrum: Spectrum) -> Gains:
    """``mu = 1 - ||correction|| / ||delta||`` everywhere: a merge that moves the weight as far.

    Below 0, where the edit moves it further than Base is away.
    """
    found, norm, error = _correction(variant.of, spectrum)
    if found.constant is not None:  # itself a merge
        matched = matched_gain(found.constant)
        return Gains(np.full(spectrum.r, matched), found.certain, found.error)
    whole = float(np.linalg.norm(spectrum.singular_values))
    share = norm / whole if whole else 0.0
    error += share * float(np.linalg.norm(spectrum.errors))
    return Gains(np.full(spectrum.r, 1.0 - share), found.certain, error)


@gains.register
def noise(variant: Noise, spectrum: Spectrum) -> Gains:
    """1 everywhere, and noise of the norm of the correction of ``of`` (``noise``)."""
    found, norm, error = _correction(variant.of, spectrum)
    return Gains(np.ones(spectrum.r), found.certain, error, noise=norm)


def matched_gain(gain: float) -> float:
    """The gain of the merge that moves a weight as far as one with this gain, towards Base.

    >>> matched_gain(0.75), matched_gain(1.5)
    (0.75, 0.5)
    """
    return gain if gain <= 1.0 else 2.0 - gain


def constant_gain(variant: AnyVariant) -> float | None:
    """The gain of a method that is the same for every spectrum, else None."""
    match variant:
        case MatchedMerge():
            gain = constant_gain(variant.of)
            return None if gain is None else matched_gain(gain)
        case Merge():
            return variant.mu
        case Steps():
            return variant.gains[0] if len(set(variant.gains)) == 1 else None
        case BaseSubspace():
            return variant.inside if variant.inside == variant.outside else None
        case _:
            return None


def in_base_subspace(variant: AnyVariant) -> BaseSubspace | None:
    """The edit in Base's singular subspaces that a method is, or is a control of, if it is one."""
    edit = variant.of if isinstance(variant, MatchedMerge | Noise) else variant
    return edit if isinstance(edit, BaseSubspace) and constant_gain(edit) is None else None


def needs_decomposition(variant: AnyVariant) -> bool:
    """Whether a method has to see the singular values of the delta.

    All but constant gains, what lies in subspaces of Base, and controls of these.
    """
    constant = constant_gain(variant.of if isinstance(variant, Noise) else variant)
    return constant is None and in_base_subspace(variant) is None
