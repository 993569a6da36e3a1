"""Pass@k where the chance ``p`` that one rollout solves a problem is known, not counted.

An exact evaluator gives such chances; nothing is sampled, so the only uncertainty left is which
problems were asked: put the scores of two models into ``paired_difference``. Where rollouts were
sampled, use ``counts.pass_at_k``; its mean over samples is the value given here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
    p = checked_probabilities(probabilities)
    if k < 1:
        raise ValueError(f"k: found {k}, expected at least 1")
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(k * np.log1p(-p)))


def pass_curve(probabilities: ArrayLike, ks: Sequence[int]) -> dict[int, float]:
    """Pass@k for several k: ``mean(1 - (1 - p)^k)``.

    >>> pass_curve([0.5, 1.0], [1, 2])
    {1: 0.75, 2: 0.875}
    """
    return {k: float(exact_pass_at_k(probabilities, k).mean()) for k in ks}


def checked_probabilities(probabilities: ArrayLike) -> NDArray[np.float64]:
    """As a float64 array, (problems,); ValueError for empty input or a value outside [0, 1]."""
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 1 or p.size == 0 or not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError("probabilities: expected a non-empty 1-D array of values in [0, 1]")
    return p
