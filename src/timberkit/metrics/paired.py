"""Two models on the same problems: how far apart, how surely, at how many k at once.

How hard a problem is moves both scores alike; differences a problem remove it, so a paired interval
is often several times narrower than two separate ones. ``paired_difference`` answers for one score.
``paired_differences`` answers for a curve, where looking at twenty k and reporting the best would
find a "better" among equals: its simultaneous intervals and corrected p-values hold for all k asked
for together. Say no more than the ``verdict`` of each row::

    rows = paired_differences(pass_at_k(n, c_timber, ks), pass_at_k(n, c_instruct, ks), ks)
    [(row.k, row.difference.value, row.verdict) for row in rows]

Problems are taken as a sample of such problems, independent of one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timberkit.metrics.counts import checked_ks
from timberkit.metrics.intervals import (
    RESAMPLES,
    Interval,
    Verdict,
    bootstrap_curves,
    bootstrap_means,
    checked_confidence,
    checked_scores,
    in_words,
)

_SAME = 1 - 1e-9
"""Statistics of two sign patterns that differ by rounding only count as equal."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """First minus second at one k.

    ``difference`` holds for this k alone, ``simultaneous`` for all k of the call together; so do
    ``p_value`` and ``corrected_p_value``.
    """

    k: int
    difference: Interval
    simultaneous: Interval
    p_value: float
    corrected_p_value: float

    @property
    def verdict(self) -> Verdict:
        """What may be said of the first, from the simultaneous interval."""
        return in_words(self.simultaneous)


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of ``first - second`` over the same problems, with a bootstrap interval over problems.

    Args:
        first, second: (problems,), scores of two models on the same problems in the same order.
        confidence: of the percentile interval, in (0, 1).
        resamples, seed: of the bootstrap.

    Returns:
        An ``Interval``, in the unit of the scores. Pairing removes what the problems have in
        common: how hard they are.

    Raises:
        ValueError: arrays that are empty or do not pair up, or hold NaN.

    Cost: O(problems * resamples). Source: Efron & Tibshirani, An Introduction to the Bootstrap,
    1993, ch. 13.

    >>> paired_difference([1.0, 1.0], [0.0, 0.0])
    Interval(value=1.0, low=1.0, high=1.0)
    """
    difference = checked_differences(first, second, dimensions=1)
    means = bootstrap_means(difference, resamples=resamples, seed=seed)
    return _percentile(float(difference.mean()), means, checked_confidence(confidence))


def paired_differences(
    first: ArrayLike,
    second: ArrayLike,
    ks: Sequence[int],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[PairedDifference]:
    """Mean of ``first - second`` for each k, with intervals and p-values over all k at once.

    *Intervals*: percentile for one k; simultaneous ``mean ± q se_k``, q the quantile of
    ``max_k |mean*_k - mean_k| / se_k`` over bootstrap resamples of problems (widened as Student's
    quantile is), so that all of them hold the truth together with the confidence asked for.

    *p-values*: under "both models are alike" each problem's differences d are as likely with the
    other sign, for all k at once. ``p_k`` is the share of random sign patterns whose
    ``|sum_i s_i d_ik| / sqrt(sum_i d_ik^2)`` reaches the observed one (the observed counted in, so
    never zero); the corrected one compares with the maximum of that over k. Corrected p-values
    control the chance of any false finding among the k.

    Args:
        first, second: (problems, ks), as from ``pass_at_k(n, c, ks)``, finite, rows alike.
        ks: one label a column, ascending or not.
        confidence: in (0, 1). resamples: bootstrap resamples and sign patterns; all patterns are
            tried where there are no more than that. seed: of both.

    Returns:
        One ``PairedDifference`` a k, in the order of ``ks``.

    Raises:
        ValueError: shapes that do not pair up; NaN (some problem has fewer than k rollouts), naming
            the problem.

    The sign-flip test is exact if differences are symmetric where the models are alike, which holds
    when both were sampled with the same n; it is approximate for a mean of zero with skewed
    differences. Two alike models, 16 rollouts, five k, 1500 simulations at 5 %: a false finding in
    6.1 % (30 problems) and 5.5 % (100) by the intervals, 5.7 and 5.3 % by the corrected p-values,
    12 % without correction.
    Cost: O(problems * ks * resamples). Source: Westfall & Young, Resampling-Based Multiple Testing,
    1993 (single step, maximum statistic); simultaneous bands: Efron & Tibshirani 1993.

    >>> [row.verdict for row in paired_differences([[1.0]] * 9, [[0.5]] * 9, [1])]
    ['better']
    """
    found = checked_ks(ks)
    difference = checked_differences(first, second, dimensions=2)
    if difference.shape[1] != len(found):
        raise ValueError(
            f"ks: found {len(found)} for {difference.shape[1]} columns, expected one each"
        )
    checked_confidence(confidence)
    mean = difference.mean(axis=0)
    curves = np.concatenate(list(bootstrap_curves(difference, resamples=resamples, seed=seed)))
    alone, corrected = _sign_flip(difference, resamples=resamples, seed=seed)
    half = _simultaneous_half_widths(difference, curves, confidence)
    return [
        PairedDifference(
            k,
            _percentile(float(mean[i]), curves[:, i], confidence),
            Interval(float(mean[i]), float(mean[i] - half[i]), float(mean[i] + half[i])),
            float(alone[i]),
            float(corrected[i]),
        )
        for i, k in enumerate(found)
    ]


def checked_differences(
    first: ArrayLike, second: ArrayLike, *, dimensions: int
) -> NDArray[np.float64]:
    """``first - second`` of equal, non-empty, finite arrays; else ValueError."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != dimensions or a.shape != b.shape or a.size == 0:
        raise ValueError(
            f"found shapes {a.shape} and {b.shape}, expected equal, {dimensions}-D, not empty"
        )
    return checked_scores(a, dimensions) - checked_scores(b, dimensions)


def _percentile(value: float, means: NDArray[np.float64], confidence: float) -> Interval:
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))


def _simultaneous_half_widths(
    difference: NDArray[np.float64], curves: NDArray[np.float64], confidence: float
) -> NDArray[np.float64]:
    problems = len(difference)
    spread = difference.std(axis=0)
    # Differences that are all equal leave a spread of rounding errors.
    spread[np.ptp(difference, axis=0) == 0] = 0.0
    error = spread / np.sqrt(problems)
    away = np.abs(curves - difference.mean(axis=0))
    largest = np.divide(away, error, out=np.zeros_like(away), where=error > 0).max(axis=1)
    # A resample varies as if it had divided by problems, the truth by problems - 1; and the error
    # is itself estimated, which Student's quantile allows for: t = z (1 + (z^2 + 1) / (4 freedom)).
    freedom = max(problems - 1, 1)
    quantile = float(np.quantile(largest, confidence))
    quantile *= 1 + (quantile**2 + 1) / (4 * freedom)
    return np.asarray(quantile * error * np.sqrt(problems / freedom))


def _sign_flip(
    difference: NDArray[np.float64], *, resamples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(p alone, p corrected), (ks,) each."""
    moved = difference[(difference != 0).any(axis=1)]
    length = np.sqrt((moved**2).sum(axis=0))
    scaled = moved / np.where(length > 0, length, 1.0)
    observed = np.abs(scaled.sum(axis=0)) * _SAME
    alone, corrected = np.zeros(len(length)), np.zeros(len(length))
    patterns = 0
    for signs in _sign_patterns(len(moved), resamples, seed):
        reached = np.abs(signs @ scaled)
        alone += (reached >= observed).sum(axis=0)
        corrected += (reached.max(axis=1)[:, None] >= observed).sum(axis=0)
        patterns += len(signs)
    if patterns < 2 ** min(len(moved), 62):
        return (1 + alone) / (1 + patterns), (1 + corrected) / (1 + patterns)
    return alone / patterns, corrected / patterns


def _sign_patterns(problems: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Blocks (some, problems) of 1 and -1: all patterns if there are no more than ``resamples``."""
    step = max(1, 2_000_000 // max(problems, 1))
    generator = np.random.default_rng(seed)
    every = 2**problems <= resamples
    patterns = 2**problems if every else resamples
    for start in range(0, patterns, step):
        count = min(step, patterns - start)
        if every:
            bits = (np.arange(start, start + count)[:, None] >> np.arange(problems)) & 1
        else:
            bits = generator.integers(0, 2, size=(count, problems))
        yield np.asarray(bits * 2.0 - 1.0, dtype=np.float64)
