"""Pass@k from success probabilities, and honest intervals for it (NumPy only).

``exact_pass_at_k`` needs the probability ``p`` that one rollout solves a problem, which an exact
evaluator gives; nothing is sampled, so the only uncertainty left is which problems were asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
"""Bootstrap resamples: the ends of a 95 % interval are then good to about 1 % of its width."""


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


def exact_pass_at_k(probabilities: ArrayLike, k: int) -> NDArray[np.float64]:
    """Chance that at least one of k rollouts solves a problem, ``1 - (1 - p)^k``, per problem.

    Args:
        probabilities: (problems,), in [0, 1].
        k: number of rollouts, >= 1.

    Returns:
        (problems,), in [0, 1]; their mean is Pass@k. Accurate for tiny p: ``-expm1(k log1p(-p))``.

    Raises:
        ValueError: an empty array, a value outside [0, 1] or NaN, or k < 1.

    >>> float(exact_pass_at_k([0.5], 2)[0])
    0.75
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 1 or p.size == 0 or not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError("probabilities: expected a non-empty 1-D array of values in [0, 1]")
    if k < 1:
        raise ValueError(f"k: found {k}, expected at least 1")
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(k * np.log1p(-p)))


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
        ValueError: arrays that are empty or do not pair up.

    Cost: O(problems * resamples). Source: Efron & Tibshirani, An Introduction to the Bootstrap,
    1993, ch. 13.

    >>> paired_difference([1.0, 1.0], [0.0, 0.0])
    Interval(value=1.0, low=1.0, high=1.0)
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise ValueError(f"found shapes {a.shape} and {b.shape}, expected equal, 1-D, not empty")
    difference = a - b
    means = bootstrap_means(difference, resamples=resamples, seed=seed)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(difference.mean()), float(low), float(high))


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


def pass_curve(probabilities: ArrayLike, ks: Sequence[int]) -> dict[int, float]:
    """Pass@k for several k: ``mean(1 - (1 - p)^k)``.

    >>> pass_curve([0.5, 1.0], [1, 2])
    {1: 0.75, 2: 0.875}
    """
    return {k: float(exact_pass_at_k(probabilities, k).mean()) for k in ks}
