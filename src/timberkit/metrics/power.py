"""How many rollouts or problems would tell two models apart.

The variance of a paired difference of Pass@k over P problems with n rollouts each is::

    (between + within_first(n) + within_second(n)) / P

``between`` is how much the true difference varies from problem to problem; no number of rollouts
lowers it. ``within`` is the noise of the rollouts. A pilot run gives both, without simulation::

    pilot = difference_variance(n, c_timber, n, c_instruct, k=16)
    pilot.resolvable()                     # the difference this run can see, 0.031 = 3.1 points
    pilot.rollouts_needed(0.01)            # None: not on so few problems, however often asked
    pilot.problems_needed(0.01, rollouts=64)

For the question "on these very problems" (a fixed set, see ``rollout_interval``) there is no
``between``: use ``dataclasses.replace(pilot, between=0.0)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from timberkit.metrics.counts import checked_counts, checked_ks, pass_at_k
from timberkit.metrics.intervals import checked_confidence
from timberkit.metrics.rollout_noise import sum_of_within_variances, within_variance

MOST_ROLLOUTS = 1_000_000
"""Nobody draws more of a problem; a larger answer is given as None."""


@dataclass(frozen=True, slots=True)
class DifferenceVariance:
    """The parts of the variance of a paired difference, for one problem.

    Attributes:
        k: of Pass@k.
        problems: of the pilot.
        rollouts: of the pilot, the fewest of any problem.
        difference: mean of first minus second in the pilot.
        between: variance of the true difference over problems, >= 0.
        first, second: (k + 1,), Pass@m of each model for m = k … 2k, which give ``within``.
    """

    k: int
    problems: int
    rollouts: int
    difference: float
    between: float
    first: tuple[float, ...]
    second: tuple[float, ...]

    def within(self, rollouts: int) -> float:
        """Noise of both models' rollouts, if each problem has this many of each; ValueError < k."""
        return sum(
            max(0.0, float(within_variance(np.array([model]), rollouts, self.k)[0]))
            for model in (self.first, self.second)
        )

    def standard_error(self, *, problems: int | None = None, rollouts: int | None = None) -> float:
        """Of the mean difference; the pilot's own numbers where none are given."""
        return sqrt(
            (self.between + self.within(self.rollouts if rollouts is None else rollouts))
            / self._problems(problems)
        )

    def resolvable(
        self,
        *,
        problems: int | None = None,
        rollouts: int | None = None,
        confidence: float = 0.95,
        power: float = 0.8,
    ) -> float:
        """The true difference whose interval excludes zero with chance ``power``.

        ``(z_{(1 + confidence) / 2} + z_power) * standard_error``; a share, 0.01 is one point.
        """
        error = self.standard_error(problems=problems, rollouts=rollouts)
        return _quantiles(confidence, power) * error

    def problems_needed(
        self,
        difference: float,
        *,
        rollouts: int | None = None,
        confidence: float = 0.95,
        power: float = 0.8,
    ) -> int:
        """Problems that make ``difference`` (a share, not 0) resolvable; at least 2."""
        variance = self.standard_error(problems=1, rollouts=rollouts) ** 2
        return max(2, ceil(variance / _target(difference, confidence, power) ** 2 * (1 - 1e-12)))

    def rollouts_needed(
        self,
        difference: float,
        *,
        problems: int | None = None,
        confidence: float = 0.95,
        power: float = 0.8,
    ) -> int | None:
        """Fewest rollouts of each problem and model that make ``difference`` resolvable, >= k.

        None if no number up to ``MOST_ROLLOUTS`` does: then it takes more problems.
        """
        allowed = _target(difference, confidence, power) ** 2 * self._problems(problems)
        allowed -= self.between
        too_few, enough = self.k - 1, self.k
        while self.within(enough) > allowed:
            if enough >= MOST_ROLLOUTS:
                return None
            too_few, enough = enough, min(2 * enough, MOST_ROLLOUTS)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            if self.within(middle) > allowed:
                too_few = middle
            else:
                enough = middle
        return enough

    def _problems(self, problems: int | None) -> int:
        found = self.problems if problems is None else problems
        if found < 1:
            raise ValueError(f"problems: found {found}, expected at least 1")
        return found


def difference_variance(
    n_first: ArrayLike, c_first: ArrayLike, n_second: ArrayLike, c_second: ArrayLike, k: int = 1
) -> DifferenceVariance:
    """Split the variance of a paired Pass@k difference into between and within problems.

    ``within`` is the unbiased ``rollout_noise.within_variance``, for any number of rollouts; no
    model of the chances p is needed. ``between`` is the sample variance of the differences less the
    pilot's own ``within``, or 0 where rollout noise explains all of it.

    Args:
        n_first, c_first: counts of the first model, as in ``pass_at_k``.
        n_second, c_second: of the second on the same problems.
        k: at most half the rollouts of every problem.

    Returns:
        A ``DifferenceVariance``; ask it.

    Raises:
        ValueError: fewer than 2 problems or 2k rollouts, counts that do not pair up.

    The formula takes the mean difference as normal: with fewer than some 30 problems, or scores
    almost all 0 or 1, it is optimistic. A pilot's ``between`` is itself uncertain, by about
    ``sqrt(2 / problems)`` of the whole variance.
    Cost: O(k * (n + problems)). Sources: Hoeffding 1948 (variance of a U-statistic); Miller 2024,
    Adding Error Bars to Evals (arXiv 2411.00640), for k = 1.

    >>> pilot = difference_variance(4, [4, 2, 1, 0], 4, [2, 0, 1, 0])
    >>> pilot.difference
    0.25
    """
    (k,) = checked_ks([k])
    counts = [checked_counts(n_first, c_first), checked_counts(n_second, c_second)]
    if counts[0][1].shape != counts[1][1].shape or counts[0][1].size < 2:
        raise ValueError(
            f"found {counts[0][1].size} and {counts[1][1].size} problems, expected equally many,"
            " at least 2"
        )
    fewest = min(int(n.min()) for n, _ in counts)
    if fewest < 2 * k:
        raise ValueError(
            f"k: found {k} with {fewest} rollouts of a problem, expected at least 2k = {2 * k}"
            " rollouts; the noise of Pass@k shows only in more than one subset of k: ask a smaller"
            " k, or draw more rollouts"
        )
    tables = [pass_at_k(n, c, range(k, 2 * k + 1)) for n, c in counts]
    observed = tables[0][:, 0] - tables[1][:, 0]
    noise = sum(
        sum_of_within_variances(table, n, k) / len(table)
        for (n, _), table in zip(counts, tables, strict=True)
    )
    means = [tuple(table.mean(axis=0).tolist()) for table in tables]
    return DifferenceVariance(
        k=k,
        problems=len(observed),
        rollouts=fewest,
        difference=float(observed.mean()),
        between=max(0.0, float(observed.var(ddof=1)) - noise),
        first=means[0],
        second=means[1],
    )


def _target(difference: float, confidence: float, power: float) -> float:
    if not abs(difference) > 0:
        raise ValueError(f"difference: found {difference}, expected a share other than 0")
    return abs(difference) / _quantiles(confidence, power)


def _quantiles(confidence: float, power: float) -> float:
    if not 0.5 <= power < 1:
        raise ValueError(f"power: found {power}, expected in [0.5, 1)")
    normal = NormalDist()
    return normal.inv_cdf(0.5 + checked_confidence(confidence) / 2) + normal.inv_cdf(power)
