"""The noise of rollouts alone: how Pass@k on these very problems would vary, sampled again.

``rollout_interval`` is for a fixed set of problems; whoever means "on problems of this kind" wants
``intervals.pass_intervals``, which is wider and holds this noise already. ``within_variance`` is
what ``power`` builds on.

The variance is estimated without bias from the counts, not by drawing the n rollouts again. In 300
simulations each, with 30 problems and k = n / 4 (chances Beta(0.5, 1) with n = 32, Beta(0.1, 1.9)
with n = 64), 95 % intervals held the truth in 93 % and 89 %, resampled ones in 93 % and 83 %; with
200 problems (Beta(0.5, 1), n = 64) in 95 %.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timberkit.metrics.counts import checked_counts, checked_ks, pass_at_k
from timberkit.metrics.distributions import hypergeometric
from timberkit.metrics.intervals import Interval, checked_confidence

ROLLOUTS_PER_K = 4
"""Below 4 rollouts for each of the k, a problem with few successes hides its own noise."""


def rollout_interval(n: ArrayLike, c: ArrayLike, k: int, *, confidence: float = 0.95) -> Interval:
    """Pass@k on these very problems, with an interval for the noise of the rollouts alone.

    ``mean ± z sqrt(sum_i v_i) / problems`` with ``v_i`` the ``within_variance`` of problem i, cut
    to [0, 1]. Says nothing about other problems; where all counts are 0 or n it is a point.

    Args:
        n, c: as in ``pass_at_k``.
        k: at most n / 4 for every problem. Above, the counts say too little of how k fresh
            rollouts would vary: at k = n / 2 the first of the settings above falls to 85 %.
        confidence: in (0, 1).

    Returns:
        An ``Interval`` within [0, 1].

    Raises:
        ValueError: k above n / 4, naming the largest k allowed; impossible counts.

    Cost: O(k * (n + problems)). Source: Hoeffding 1948 (Pass@k is a U-statistic); the limit on k
    was set by simulation.

    >>> found = rollout_interval(8, [4, 4], 1)
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (0.5, 0.238, 0.762)
    """
    rollouts, right = checked_counts(n, c)
    (k,) = checked_ks([k])
    fewest = int(rollouts.min())
    if ROLLOUTS_PER_K * k > fewest:
        raise ValueError(
            f"k: found {k} with {fewest} rollouts of a problem, expected k <= n / {ROLLOUTS_PER_K}"
            f" = {fewest // ROLLOUTS_PER_K}; their noise does not show for larger k: draw"
            f" {ROLLOUTS_PER_K * k} rollouts, or take the interval over problems (pass_intervals)"
        )
    table = pass_at_k(rollouts, right, range(k, 2 * k + 1))
    error = max(0.0, sum_of_within_variances(table, rollouts, k)) ** 0.5 / right.size
    half = NormalDist().inv_cdf(0.5 + checked_confidence(confidence) / 2) * error
    value = float(table[:, 0].mean())
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def within_variance(table: NDArray[np.float64], rollouts: int, k: int) -> NDArray[np.float64]:
    """Variance of Pass@k of each problem, were it estimated from ``rollouts`` rollouts.

    ``P(2k) - sum_j h(j) P(2k - j)`` with ``h(j)`` the chance that two subsets of k among the
    rollouts share j. Unbiased where ``P`` is.

    ``table``: (problems, k + 1), Pass@m for m = k … 2k, which takes 2k rollouts to estimate.
    Returns (problems,); an estimate may be below zero. ValueError for rollouts < k. O(problems k).

    >>> within_variance(np.array([[0.5, 0.75]]), 1, 1).tolist()  # p (1 - p) for one rollout
    [0.25]
    """
    if rollouts < k:
        raise ValueError(f"rollouts: found {rollouts}, expected at least k = {k}")
    return np.asarray(table[:, -1] - table @ hypergeometric(rollouts, k, k)[::-1])


def sum_of_within_variances(
    table: NDArray[np.float64], rollouts: NDArray[np.int64], k: int
) -> float:
    """Sum over problems of ``within_variance``, each with its own number of rollouts."""
    return sum(
        float(within_variance(table[rollouts == total], total, k).sum())
        for total in np.unique(rollouts).tolist()
    )
