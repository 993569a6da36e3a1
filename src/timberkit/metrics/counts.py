"""Scores from counts: of n rollouts of a problem, c were right.

Every function gives one value a problem; the score of a benchmark is their mean over problems.
Values stay apart because intervals and paired tests resample problems (``intervals``, ``paired``).

======================  =================================================================
``mean_at_k``           share of rollouts that are right
``pass_at_k``           chance that at least one of k rollouts is right, unbiased
``g_pass_at_k``         chance that at least a share tau of k rollouts is right, unbiased
``cover_at_tau``        whether at least a share tau of all rollouts was right (1 or 0)
======================  =================================================================

A problem with fewer than k rollouts has no Pass@k: its value is NaN, never a guess, and the
interval functions refuse it by name. Rollouts that were cut off or not understood count as wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timberkit.metrics.distributions import hypergeometric

Counts = NDArray[np.int64]
Scores = NDArray[np.float64]


def mean_at_k(n: ArrayLike, c: ArrayLike) -> Scores:
    """Share of rollouts that are right, ``c / n``: Mean@k with k = n, and Pass@1.

    ``n``: an int or (problems,); ``c``: (problems,). Returns (problems,), NaN where n = 0.
    ValueError as in ``checked_counts``. O(problems).

    >>> mean_at_k(4, [0, 1, 4]).tolist()
    [0.0, 0.25, 1.0]
    """
    rollouts, right = checked_counts(n, c)
    return np.where(rollouts > 0, right / np.maximum(rollouts, 1), np.nan)


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int | Sequence[int]) -> Scores:
    """Unbiased estimate of the chance that at least one of k rollouts is right, per problem.

    ``1 - C(n - c, k) / C(n, k)``: the share of the subsets of k among the n rollouts that hold a
    right one. If c is Binomial(n, p), its expectation is ``1 - (1 - p)^k``; ``1 - (1 - c/n)^k`` is
    too low.

    Args:
        n: rollouts, an int or (problems,), >= 0.
        c: right ones, (problems,), 0 <= c <= n.
        k: one k >= 1, or several.

    Returns:
        (problems,) for one k, (problems, ks) for several; in [0, 1], and NaN where n < k.
        Non-decreasing in c and k, also after rounding.

    Raises:
        ValueError: impossible counts, naming the problem; a k below 1.

    Relative error below 1e-12 up to n = 10,000: the logarithm of the ratio is the sum of
    ``log1p(-k / i)`` for i from n - c + 1 to n, terms of one sign; no factorial, no difference of
    large logarithms. Cost: O(ks * max c) for each different n, and O(problems * ks).
    Source: Chen et al. 2021, Evaluating Large Language Models Trained on Code (arXiv 2107.03374),
    eq. 1.

    >>> pass_at_k(4, [0, 1, 4], 2).round(12).tolist()
    [0.0, 0.5, 1.0]
    """

    def scores(total: int, right: Counts, k: int) -> Scores:
        i = np.maximum(np.arange(total, total - int(right.max()), -1), k)
        with np.errstate(divide="ignore"):
            logs = np.cumsum(np.log1p(-k / i))
        return np.concatenate([[0.0], -np.expm1(logs)])[right]

    return _for_each_k(n, c, k, scores)


def g_pass_at_k(n: ArrayLike, c: ArrayLike, k: int | Sequence[int], tau: float) -> Scores:
    """Unbiased estimate of the chance that at least ``ceil(tau k)`` of k rollouts are right.

    ``sum_{j >= ceil(tau k)} C(c, j) C(n - c, k - j) / C(n, k)``, the upper tail of a
    hypergeometric distribution. With ``ceil(tau k) = 1`` it is Pass@k, with tau = 1 the chance
    that all k are right.

    Args:
        n, c, k: as in ``pass_at_k``.
        tau: share, in (0, 1]. ``ceil(tau k)`` is the first j with ``j / k >= tau``, so that
            tau = 0.07 and k = 100 mean 7.

    Returns:
        As ``pass_at_k``: NaN where n < k.

    Raises:
        ValueError: as ``pass_at_k``; a tau outside (0, 1].

    Tails are sums of positive terms relative to the largest, so small ones keep their digits.
    Cost: O(k) for each k and each different (n, c). Source: Liu et al. 2024, Are Your LLMs Capable
    of Stable Reasoning? (arXiv 2412.13147).

    >>> g_pass_at_k(4, [2], 2, 1.0).round(12).tolist()
    [0.166666666667]
    """
    share = _checked_share(tau)

    def scores(total: int, right: Counts, k: int) -> Scores:
        wanted = int(np.argmax(np.arange(1, k + 1) / k >= share)) + 1
        different, place = np.unique(right, return_inverse=True)
        tails = [hypergeometric(total, good, k)[wanted:].sum() for good in different.tolist()]
        return np.array(tails, dtype=np.float64)[place]

    return _for_each_k(n, c, k, scores)


def cover_at_tau(n: ArrayLike, c: ArrayLike, tau: float) -> Scores:
    """Whether a problem is solved with at least a share tau of its rollouts: 1.0 or 0.0.

    The mean over problems is Cover@tau, the share of problems solved that reliably. It takes c / n
    for the chance p; with few rollouts, problems with p near tau fall on either side, so compare
    models at equal n only.

    ``n``, ``c``: as in ``pass_at_k``; ``tau`` in (0, 1]. Returns (problems,), NaN where n = 0.
    ValueError for impossible counts or tau. O(problems). Source: Dragoi et al. 2025, Beyond Pass@k:
    Breadth-Depth Metrics for Reasoning Boundaries (arXiv 2510.08325).

    >>> cover_at_tau(100, [6, 7, 8], 0.07).tolist()
    [0.0, 1.0, 1.0]
    """
    share = _checked_share(tau)
    mean = mean_at_k(n, c)
    return np.where(np.isnan(mean), np.nan, (mean >= share).astype(np.float64))


def checked_counts(n: ArrayLike, c: ArrayLike) -> tuple[Counts, Counts]:
    """(n, c) as int64 arrays of one shape (problems,), n repeated where it is one number.

    ValueError, naming the problem, unless 0 <= c <= n; for anything that is not a whole number
    (floats too, so that a share is never taken for a count) or not 1-D, or no problem at all.
    """
    right, rollouts = np.asarray(c), np.asarray(n)
    if right.ndim != 1 or right.size == 0 or rollouts.shape not in ((), right.shape):
        raise ValueError(
            f"n, c: found shapes {rollouts.shape} and {right.shape}, expected a non-empty 1-D c"
            " and an n that is one number or of the same shape"
        )
    if right.dtype.kind not in "biu" or rollouts.dtype.kind not in "iu":
        raise ValueError(f"n, c: found {rollouts.dtype} and {right.dtype}, expected whole numbers")
    right = right.astype(np.int64)
    rollouts = np.broadcast_to(rollouts.astype(np.int64), right.shape)
    broken = np.flatnonzero((right < 0) | (right > rollouts))
    if broken.size:
        i = int(broken[0])
        raise ValueError(
            f"problem {i}: found c = {right[i]} right of n = {rollouts[i]}, expected 0 <= c <= n"
        )
    return rollouts, right


def checked_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """As a tuple of ints; ValueError for none at all or one below 1."""
    found = tuple(int(k) for k in ks)
    if not found or min(found) < 1:
        raise ValueError(f"k: found {list(found)}, expected one or more, each at least 1")
    return found


def _for_each_k(
    n: ArrayLike,
    c: ArrayLike,
    k: int | Sequence[int],
    scores: Callable[[int, Counts, int], Scores],
) -> Scores:
    """``scores(n, c, k)`` of problems with equal n >= k, put together; see ``pass_at_k``."""
    rollouts, right = checked_counts(n, c)
    ks = checked_ks([int(k)] if isinstance(k, int | np.integer) else k)
    found = np.full((right.size, len(ks)), np.nan)
    for total in np.unique(rollouts).tolist():
        here = rollouts == total
        for column, wanted in enumerate(ks):
            if wanted <= total:
                found[here, column] = scores(total, right[here], wanted)
    return found[:, 0] if isinstance(k, int | np.integer) else found


def _checked_share(tau: float) -> float:
    if isnan(tau) or not 0 < tau <= 1:
        raise ValueError(f"tau: found {tau}, expected a share in (0, 1]")
    return float(tau)
