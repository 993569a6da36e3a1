"""Singular values -> gains: every method that timberkit edits with, one function each.

A refined weight is ``W_base + U diag(g * s) V^T`` where ``U diag(s) V^T`` is the delta. A method is
therefore nothing but a rule that turns ``s`` into gains ``g``:

| method            | gains                                                                   |
|-------------------|-------------------------------------------------------------------------|
| `timber`          | 1 for i < K, `lam` after, with K = ceil(eRank)                          |
| `timber-l`        | 1 for i < K, 0 after                                                    |
| `truncate-rank`   | 1 for i < ceil(ratio * r), 0 after                                      |
| `truncate-energy` | 1 up to the first i where the cumulated s^2 reaches `energy`, 0 after   |
| `merge`           | `mu` everywhere (needs no decomposition)                                |

A rule with a threshold also says whether the threshold is *certain*: the same for every spectrum
within the given errors. ``refine`` solves again, more precisely, until all are.
A new method is its parameters in ``timberkit.config``, one function here, and one test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import singledispatch

import numpy as np
from numpy.typing import NDArray

from timberkit.config import AnyVariant, Merge, Timber, TimberL, TruncateEnergy, TruncateRank
from timberkit.spectral.rank import (
    ceil_within_tolerance,
    effective_rank,
    effective_rank_error,
)

ENERGY_TOLERANCE = 1e-12
"""Cumulated energy this close below the threshold (of a total of 1) has reached it."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Singular values, descending (r,), and a bound on the error of each (r,)."""

    singular_values: NDArray[np.float64]
    errors: NDArray[np.float64]

    @property
    def r(self) -> int:
        """Number of singular values, ``min(m, n)``."""
        return int(self.singular_values.size)

    @classmethod
    def exact(cls, singular_values: NDArray[np.float64]) -> Spectrum:
        """A spectrum taken at its word: all errors zero."""
        return cls(singular_values, np.zeros_like(singular_values))


@dataclass(frozen=True, slots=True)
class Gains:
    """Gains (r,) and whether every spectrum within the errors gives the same."""

    values: NDArray[np.float64]
    certain: bool = True

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
        Gains in [0, 1], one for each singular value. Cost: O(r).

    >>> from timberkit.config import Timber
    >>> gains(Timber(lam=0.5), Spectrum.exact(np.array([4.0, 1.0, 0.1]))).values.tolist()
    [1.0, 1.0, 0.5]
    """
    raise TypeError(f"no filter for {type(variant).__name__}")


def _effective_rank_head(spectrum: Spectrum, tail_gain: float) -> Gains:
    value = effective_rank(spectrum.singular_values)
    error = effective_rank_error(spectrum.singular_values, spectrum.errors)
    certain = math.isfinite(error) and (
        ceil_within_tolerance(value - error, spectrum.r)
        == ceil_within_tolerance(min(value + error, spectrum.r), spectrum.r)
    )
    head = ceil_within_tolerance(value, spectrum.r)
    return head_and_tail(spectrum.r, head, tail_gain, certain=certain)


@gains.register
def timber(variant: Timber, spectrum: Spectrum) -> Gains:
    """1 for i < K = ceil(eRank), ``lam`` after: eq. 4 of arXiv 2509.23595."""
    return _effective_rank_head(spectrum, variant.lam)


@gains.register
def timber_l(variant: TimberL, spectrum: Spectrum) -> Gains:
    """1 for i < K = ceil(eRank), 0 after: Timber-L of arXiv 2509.23595."""
    return _effective_rank_head(spectrum, 0.0)


@gains.register
def truncate_rank(variant: TruncateRank, spectrum: Spectrum) -> Gains:
    """1 for i < ceil(ratio * r), 0 after: Truncate-R of arXiv 2509.23595, table 3."""
    head = max(ceil_within_tolerance(variant.ratio * spectrum.r, 1), 1)
    return head_and_tail(spectrum.r, head, 0.0)


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
def merge(variant: Merge, spectrum: Spectrum) -> Gains:
    """``mu`` everywhere: plain interpolation, figure 6 of arXiv 2509.23595."""
    return Gains(np.full(spectrum.r, variant.mu))


def constant_gain(variant: AnyVariant) -> float | None:
    """The gain of a method that is the same for every spectrum, else None.

    Methods with a constant gain need no decomposition.
    """
    return variant.mu if isinstance(variant, Merge) else None
