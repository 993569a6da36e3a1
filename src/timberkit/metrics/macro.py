"""Averages over benchmarks: the mean of means, each benchmark counting the same.

The benchmarks are taken as given; the problems of each are a sample, drawn apart from the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from timberkit.metrics.intervals import (
    RESAMPLES,
    Interval,
    bootstrap_means,
    checked_confidence,
    checked_scores,
)


def macro_mean(
    tasks: Sequence[ArrayLike],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean over benchmarks of their mean over problems, with an interval over the problems.

    ``1/T sum_t mean_i d_ti``, percentile interval of the same with the problems of each benchmark
    resampled within it.

    Args:
        tasks: one array (problems,) a benchmark, finite: scores of a model, or paired differences.
        confidence: in (0, 1). resamples, seed: of the bootstrap.

    Returns:
        An ``Interval`` in the unit of the values.

    Raises:
        ValueError: no benchmark, one without problems, NaN.

    A small benchmark weighs as much as a large one, and brings most of the noise: 30 problems of
    AIME beside 10,042 of HellaSwag. Cost: O(problems * resamples). Source: stratified bootstrap,
    Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 8.

    >>> macro_mean([[1.0, 1.0], [0.0, 0.0, 0.0]])
    Interval(value=0.5, low=0.5, high=0.5)
    """
    scores = [checked_scores(values) for values in tasks]
    if not scores:
        raise ValueError("tasks: found none, expected at least one")
    value = float(np.mean([task.mean() for task in scores]))
    drawn = [
        bootstrap_means(task, resamples=resamples, seed=seed + place)
        for place, task in enumerate(scores)
    ]
    tail = (1 - checked_confidence(confidence)) / 2
    low, high = np.quantile(np.mean(drawn, axis=0), [tail, 1 - tail])
    return Interval(value, float(low), float(high))
