"""Effective rank, its rounding error, and the cut that Timber makes at it.

Not covered here: which gains follow from a cut (``filters``) and where singular values come from
(``decompose``; ``oracle`` for the slow truth).

    >>> effective_rank([3.0, 3.0, 0.0])
    2.0
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timberkit.errors import SpectrumError

INTEGER_TOLERANCE = 1e-9
"""An effective rank within this times r of an integer is taken as that integer."""
VANISHING = 1e-7
"""Of the largest singular value: smaller ones may be rounding of a float64 Gram matrix."""


def _checked(singular_values: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(singular_values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise SpectrumError(
            f"singular values: found shape {values.shape}, expected (r,) with r >= 1"
        )
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if wrong.size:
        raise SpectrumError(
            f"singular value {wrong[0]}: found {values[wrong[0]]}, expected finite and >= 0"
        )
    return values


def _entropy(values: NDArray[np.float64]) -> float:
    positive = values[values > 0]
    if positive.size == 0:
        return -math.inf
    # Dividing by the largest first keeps the sum of huge or subnormal values representable.
    shares = positive / positive.max()
    shares /= shares.sum()
    with np.errstate(under="ignore"):
        return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())


def effective_rank(singular_values: ArrayLike) -> float:
    """Entropy-based rank: ``exp(-sum_i p_i ln p_i)`` with ``p_i = s_i / sum_j s_j``.

    Args:
        singular_values: (r,), finite and >= 0, in any order and any unit; summed in float64.

    Returns:
        A number in [1, r]; 0.0 when all values are zero. ``0 ln 0 := 0``, no epsilon: scaling or
        permuting the values changes nothing, appending zeros neither.

    Raises:
        SpectrumError: empty, negative or non-finite input, naming the index.

    Cost: O(r). Source: Roy & Vetterli, EUSIPCO 2007; eq. 1 of arXiv 2509.23595.

    >>> effective_rank([1.0, 1.0, 1.0, 1.0])
    4.0
    """
    values = _checked(singular_values)
    return min(math.exp(_entropy(values)), float(values.size))


def effective_rank_error(singular_values: ArrayLike, errors: ArrayLike) -> float:
    """Bound on the error of the effective rank, given one on every singular value.

    With ``H = ln eRank``, ``S = sum s_i`` and ``rho = sum e_i / S``:
    ``dH = (1 + 2 rho) sum_i (|ln p_i + H| + c_i) e_i / S + rho^2``, every error taken with its
    worst sign, and ``d eRank = eRank (exp(dH) - 1)``. The curvature ``c_i = min(1, e_i / s_i)`` and
    ``p_i >= e_i / S`` inside the logarithm cover values near zero, where ``p ln p`` bends.

    Args:
        singular_values: (r,), as for ``effective_rank``.
        errors: (r,), >= 0: ``|computed s_i - true s_i| <= e_i``.

    Returns:
        The bound, >= 0; infinite when all singular values are zero but their errors are not.

    Cost: O(r).

    >>> effective_rank_error([1.0, 1.0], [0.0, 0.0])
    0.0
    """
    values, error = _checked(singular_values), np.asarray(errors, dtype=np.float64)
    largest = values.max()
    if largest == 0:
        return math.inf if error.any() else 0.0
    values, error = values / largest, error / largest  # the sum of huge values is infinite
    total = values.sum()
    entropy = _entropy(values)
    floor = np.finfo(np.float64).tiny
    shares = np.maximum(np.maximum(values, error) / total, floor)
    curvature = np.minimum(error / np.maximum(values, floor), 1.0)
    spread = float(error.sum() / total)
    first_order = float(((np.abs(np.log(shares) + entropy) + curvature) * error).sum() / total)
    entropy_error = (1.0 + 2.0 * spread) * first_order + spread**2
    return math.exp(entropy) * math.expm1(min(entropy_error, 50.0))


def ceil_within_tolerance(value: float, r: int) -> int:
    """``ceil(value)``, with a value at most ``1e-9 * r`` above an integer taken as that integer.

    Rounding alone must not turn a rank-one delta's 1.0000000001 into a cut of 2.

    >>> ceil_within_tolerance(1.0000000001, 10), ceil_within_tolerance(1.1, 10)
    (1, 2)
    """
    return math.ceil(value - INTEGER_TOLERANCE * r)


def effective_rank_cut(singular_values: ArrayLike) -> int:
    """Number of directions in Timber's head, ``K = ceil(eRank)`` (eq. 3 of arXiv 2509.23595).

    Integers are recognised within ``1e-9 * r`` (``ceil_within_tolerance``). Returns 0 for an
    all-zero spectrum, else 1 to r. Raises as ``effective_rank``. Cost: O(r).

    >>> effective_rank_cut([2.0, 0.0, 0.0])
    1
    """
    values = _checked(singular_values)
    return ceil_within_tolerance(effective_rank(values), values.size)


def energy_share(singular_values: ArrayLike, head: int) -> float:
    """Share of the energy, ``sum_{i < head} s_i^2 / sum_i s_i^2``, in [0, 1].

    ``singular_values`` in descending order; 1.0 for an all-zero spectrum. Cost: O(r).

    >>> energy_share([2.0, 1.0, 1.0, 1.0, 1.0], 1)
    0.5
    """
    values = _checked(singular_values)
    largest = values.max()
    if largest == 0:
        return 1.0
    squares = np.square(values / largest)
    return min(float(squares[:head].sum() / squares.sum()), 1.0)


def leading_count(singular_values: NDArray[np.float64], share: float) -> int:
    """Number of leading directions, ``ceil(share * r)``, of those that a weight has at all.

    Directions with less than ``VANISHING`` of the largest singular value are rounding: a weight
    has none there. 0 for a weight of zeros. ``share`` in (0, 1]. O(r).

    >>> leading_count(np.array([2.0, 1.0, 1.0, 0.0]), 0.5), leading_count(np.array([2.0, 0.0]), 1.0)
    (2, 1)
    """
    present = int((singular_values > VANISHING * singular_values[0]).sum())
    return min(max(ceil_within_tolerance(share * singular_values.size, 1), 1), present)
