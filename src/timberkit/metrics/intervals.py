"""Intervals for a mean over problems, and the words that may be said of one.

=====================  ==========================================================================
``pass_intervals``     Pass@k of one model, as it would be on other problems of this kind; the
                       noise of the rollouts is in it already. The usual choice.
``mean_interval``      the same for any score of one value a problem
``in_words``           "better", "worse" or "not distinguishable", from the interval of a difference
=====================  ==========================================================================

For two models on the same problems, never compare two of these intervals: see ``paired``. For the
noise of the rollouts on a fixed set of problems see ``rollout_noise``.

Scores of one model pile up at 0 and 1, so intervals over problems are BCa (bias-corrected and
accelerated), which follows that skewness. With 30 problems of mean 0.05 (Beta(0.1, 1.9), k = 1) a
nominal 95 % interval held the truth in 88 % of simulations against 84 % of the plain percentile,
at mean 0.98 in 81 % against 76 %; with 198 problems both did in 93 %. No bootstrap can see what no
problem shows: if all scores are equal, the interval is that point. Differences are close to
symmetric and keep the percentile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timberkit.metrics.counts import checked_ks, pass_at_k

RESAMPLES = 10_000
"""Bootstrap resamples: the ends of a 95 % interval are then good to about 1 % of its width."""

Verdict = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its interval; ``contains_zero`` reads as "not told apart"."""

    value: float
    low: float
    high: float

    @property
    def contains_zero(self) -> bool:
        """Whether zero lies inside, ends included."""
        return self.low <= 0.0 <= self.high


def in_words(difference: Interval) -> Verdict:
    """What an interval of a difference (first minus second) lets one say of the first.

    "better" if all of it lies above zero, "worse" if all below, else "not distinguishable"; an
    interval that ends at zero holds it. ValueError for ends that are NaN.

    >>> in_words(Interval(0.02, -0.01, 0.05))
    'not distinguishable'
    """
    if np.isnan([difference.low, difference.high]).any():
        raise ValueError(f"found {difference}, expected an interval with both ends")
    if difference.contains_zero:
        return "not distinguishable"
    return "better" if difference.low > 0 else "worse"


def mean_interval(
    values: ArrayLike, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean of one score a problem, with a BCa bootstrap interval over problems.

    The ends are the quantiles ``Phi(z0 + (z0 + z) / (1 - a (z0 + z)))`` of the resampled means,
    ``z0`` from the share of them below the mean, ``a = sum d^3 / (6 (sum d^2)^(3/2))`` from the
    deviations ``d`` of the values.

    Args:
        values: (problems,), finite.
        confidence: in (0, 1).
        resamples, seed: of the bootstrap.

    Returns:
        An ``Interval`` in the unit of the values; a point if they are all equal.

    Raises:
        ValueError: no values; NaN, which is how Pass@k says that there are too few rollouts;
            a confidence outside (0, 1).

    Cost: O(problems * resamples). Source: Efron & Tibshirani, An Introduction to the Bootstrap,
    1993, ch. 14.

    >>> mean_interval([0.5, 0.5, 0.5])
    Interval(value=0.5, low=0.5, high=0.5)
    """
    scores = checked_scores(values)
    normal = NormalDist()
    z = normal.inv_cdf(0.5 + checked_confidence(confidence) / 2)
    value = float(scores.mean())
    if np.ptp(scores) == 0:
        return Interval(value, value, value)
    means = bootstrap_means(scores, resamples=resamples, seed=seed)
    # A mean of the same scores in another order may differ by rounding: it counts as a tie.
    side = np.sign(means - value) * (np.abs(means - value) > 1e-12 * np.ptp(scores))
    shift = normal.inv_cdf((0.5 + float((1 - side).sum()) / 2) / (resamples + 1))
    deviations = scores - value
    lean = float((deviations**3).sum()) / (6 * float((deviations**2).sum()) ** 1.5)
    ends = [
        normal.cdf(shift + (shift + end) / max(1 - lean * (shift + end), 1e-9)) for end in (-z, z)
    ]
    low, high = np.quantile(means, ends)
    return Interval(value, float(low), float(high))


def pass_intervals(
    n: ArrayLike,
    c: ArrayLike,
    ks: Sequence[int],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[int, Interval]:
    """Pass@k from counts with ``mean_interval`` for each k: each at ``confidence``, not jointly.

    ``n``, ``c``: as in ``pass_at_k``. ValueError also where a problem has fewer than k rollouts.
    O(ks * problems * resamples). The same problems are drawn for every k.

    >>> pass_intervals(4, [2, 2, 2], [1, 4])[4]
    Interval(value=1.0, low=1.0, high=1.0)
    """
    scores = pass_at_k(n, c, list(ks))
    return {
        k: mean_interval(column, confidence=confidence, resamples=resamples, seed=seed)
        for k, column in zip(checked_ks(ks), scores.T, strict=True)
    }


def bootstrap_means(
    values: NDArray[np.float64], *, resamples: int, seed: int
) -> NDArray[np.float64]:
    """Means of ``resamples`` samples drawn with replacement, (resamples,), in bounded memory."""
    generator = np.random.default_rng(seed)
    step = max(1, 2_000_000 // values.size)
    parts = []
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = generator.integers(0, values.size, size=(count, values.size))
        parts.append(values[drawn].mean(axis=1))
    return np.concatenate(parts)


def bootstrap_curves(
    values: NDArray[np.float64], *, resamples: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    """Blocks (some, ks) of the means over resampled problems of ``values``, (problems, ks).

    All columns of a row are of the same problems, which ``bootstrap_means`` also draws from this
    seed. In bounded memory, ``resamples`` rows together.
    """
    generator = np.random.default_rng(seed)
    problems = len(values)
    step = max(1, 2_000_000 // max(values.shape))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = generator.integers(0, problems, size=(count, problems))
        drawn += problems * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * problems).reshape(count, problems)
        yield (times @ values) / problems


def checked_scores(values: ArrayLike, dimensions: int = 1) -> NDArray[np.float64]:
    """As float64, problems first; ValueError if empty, or for NaN, infinity, other dimensions."""
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != dimensions or scores.size == 0:
        raise ValueError(
            f"scores: found shape {scores.shape}, expected {dimensions}-D and not empty"
        )
    broken = np.argwhere(~np.isfinite(scores))
    if broken.size:
        raise ValueError(
            f"scores: problem {broken[0][0]} has no value"
            f" ({len(np.unique(broken[:, 0]))} of {len(scores)} problems); Pass@k needs at least k"
            " rollouts of every problem: ask a smaller k, or draw more rollouts"
        )
    return scores


def checked_confidence(confidence: float) -> float:
    """ValueError unless in (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: found {confidence}, expected between 0 and 1")
    return confidence
