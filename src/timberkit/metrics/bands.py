"""Whether counts of rollouts agree with known chances: one test over all problems and all k.

An exact evaluator says that problem i is solved with chance p_i; a sampler then solves it c_i of n
times. If both are right, c_i is Binomial(n, p_i)::

    band = binomial_band(n, p, level=0.999)
    band.holds(c)       # False by chance in at most 1 of 1000 runs, whatever the number of problems
    band.outside(c)     # which problems

Pass@k is a rising function of c, so the band holds for every k at once:
``pass_at_k(n, band.low, ks)`` and ``pass_at_k(n, band.high, ks)`` are its ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timberkit.metrics.counts import checked_counts
from timberkit.metrics.distributions import binomial, sum_of_binomials
from timberkit.metrics.exact import checked_probabilities


@dataclass(frozen=True, slots=True)
class BinomialBand:
    """Counts that agree with the chances given, ends included.

    ``low``, ``high``: (problems,), for each problem; ``total_low``, ``total_high`` for their sum,
    which sees a small bias that all problems share.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    total_low: int
    total_high: int
    level: float

    def outside(self, c: ArrayLike) -> list[int]:
        """Problems whose count lies outside, ascending; ValueError for another number of them."""
        right = np.asarray(c)
        if right.shape != self.low.shape:
            raise ValueError(f"c: found shape {right.shape}, expected {self.low.shape}")
        return [int(i) for i in np.flatnonzero((right < self.low) | (right > self.high))]

    def holds(self, c: ArrayLike) -> bool:
        """Whether every problem and the sum lie inside."""
        inside = not self.outside(c)
        return inside and self.total_low <= int(np.sum(c)) <= self.total_high


def binomial_band(n: ArrayLike, probabilities: ArrayLike, *, level: float = 0.999) -> BinomialBand:
    """Simultaneous acceptance region of c_i ~ Binomial(n_i, p_i), independent, over all problems.

    Half of the error ``1 - level`` goes to the problems, shared by Sidak's rule, and half to their
    sum; each half is split evenly between both sides. Counts are whole numbers, so the true level
    is higher.

    Args:
        n: rollouts, an int or (problems,), >= 0.
        probabilities: (problems,), in [0, 1]. With 0 the count must be 0, with 1 it must be n.
        level: overall, in (0, 1): the least chance that all counts lie inside.

    Returns:
        A ``BinomialBand``.

    Raises:
        ValueError: shapes that do not pair up, chances outside [0, 1], a level outside (0, 1).

    Cost: O(problems * n). Source: Sidak 1967, J. Am. Stat. Assoc. 62.

    >>> band = binomial_band(10, [0.0, 0.5, 1.0], level=0.9)
    >>> band.low.tolist(), band.high.tolist()
    ([0, 1, 10], [0, 9, 10])
    """
    p = checked_probabilities(probabilities)
    if not 0 < level < 1:
        raise ValueError(f"level: found {level}, expected between 0 and 1")
    rollouts, _ = checked_counts(n, np.zeros(p.shape, dtype=np.int64))
    error = (1 - level) / 2
    side = -np.expm1(np.log1p(-error) / p.size) / 2
    pairs = zip(rollouts.tolist(), p.tolist(), strict=True)
    ends = np.array([_ends(binomial(*pair), side) for pair in pairs], dtype=np.int64)
    start, chances = sum_of_binomials(rollouts, p)
    total_low, total_high = _ends(chances, error / 2)
    return BinomialBand(
        low=ends[:, 0],
        high=ends[:, 1],
        total_low=start + total_low,
        total_high=start + total_high,
        level=level,
    )


def _ends(chances: NDArray[np.float64], side: float) -> tuple[int, int]:
    """First and last count to keep: what is cut off holds at most ``side`` at either end."""
    below, above = np.cumsum(chances), np.cumsum(chances[::-1])
    return int(np.argmax(below > side)), len(chances) - 1 - int(np.argmax(above > side))
