"""The other sequential search: a linear model of every problem, and steps that trust it nearby.

For each problem i the log-odds that one answer is right are taken as linear in the numbers g::

    l_i(g) = l_i(c) + B_i (g - c),      p_i = 1 / (1 + exp(-l_i))

around a centre c that was judged. Each round begins with a sweep, in which every number is moved
once: that is ``B``. From the model follows the objective, a smooth function of g with a known
gradient, which SciPy's L-BFGS-B maximises within a box around the centre (the *trust*). The
proposal is judged and the model told what it got wrong; where it is better it becomes the centre,
else the box shrinks.

Every evaluation says something of every number and every problem, so a few hundred are enough
(docs/log.md; no comparison with CMA-ES at equal effort was run to its end). It asks for chances
that are known well: with few rollouts a problem's log-odds are mostly noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from timberkit.study.search.candidates import DIGITS, Candidate, Space, Vector
from timberkit.study.search.objective import SLOPE, Objective

Chances = Callable[[Candidate], NDArray[np.float64]]
"""Chance of one answer to be right, (problems,), of a candidate."""

FEWEST_CHANCE = 1e-7
"""Chances are cut here and at one minus it: log-odds of 0 and 1 are infinite."""
FIRST_SWEEP, LATER_SWEEP = 0.4, 0.2
"""How far each number is moved once, up and down in turn."""
FIRST_TRUST, LEAST_TRUST, FRESH_TRUST, MOST_TRUST = 0.35, 0.03, 0.15, 0.6
STEPS = 8
"""Proposals of a round, at most."""


@dataclass(frozen=True, slots=True)
class Trust:
    """How the search is run. ``low`` and ``high`` bound every gain."""

    rounds: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Goal:
    """The objective as a function of log-odds, with its gradient.

    ``ks``: the k that is held and the k that is raised; ``held``: Instruct's mean of the first, in
    percent.
    """

    objective: Objective
    ks: tuple[int, int]
    held: float

    def value(self, log_odds: NDArray[np.float64]) -> float:
        """In points, as ``Objective.value``."""
        return self.with_slopes(log_odds)[0]

    def with_slopes(self, log_odds: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """The value, and its derivative by each problem's log-odds, (problems,)."""
        p = 1 / (1 + np.exp(-log_odds))
        (low, low_slope), (high, high_slope) = (_pass_at(p, k) for k in self.ks)
        lack = (self.held + self.objective.margin - low) / SLOPE
        penalty = self.objective.penalty
        value = high - penalty * SLOPE * float(np.logaddexp(0.0, lack))
        return value, high_slope + penalty * low_slope / (1 + np.exp(-lack))


def _pass_at(p: NDArray[np.float64], k: int) -> tuple[float, NDArray[np.float64]]:
    """Mean Pass@k in percent, and its derivative by each problem's log-odds: ``k p q^k / n``."""
    missed = (1 - p) ** k
    return 100 * float((1 - missed).mean()), 100 * k * p * missed / len(p)


def model_cost(size: int, rounds: int) -> int:
    """Evaluations at most: the start, and in every round a sweep and proposals.

    >>> model_cost(42, 1), model_cost(42, 3)
    (51, 151)
    """
    return 1 + rounds * (size + STEPS) if rounds else 0


def search_by_model(
    space: Space, start: Vector, how: Trust, chances: Chances, goal: Goal
) -> list[tuple[str, Vector]]:
    """Rounds of a sweep and proposals.

    Args:
        space: what the numbers mean; start: the first centre (size,). how: see ``Trust``.
        chances: judges a candidate. goal: the objective on those problems.

    Returns:
        The centre after each round with a label, the last one best by the objective.

    Cost: ``model_cost`` evaluations at most, and seconds of arithmetic.
    """
    if how.rounds < 1:
        return []
    search = _ModelSearch(space, np.round(start, DIGITS), how, chances, goal)
    found = []
    for number in range(1, how.rounds + 1):
        search.sweep()
        search.climb()
        found.append((f"model, round {number}", search.centre))
    return found


class _ModelSearch:
    """The state of a search: the centre, what is known there, the model and its trust."""

    def __init__(
        self, space: Space, start: Vector, how: Trust, chances: Chances, goal: Goal
    ) -> None:
        self._space, self._how, self._chances, self._goal = space, how, chances, goal
        self._judged = 0
        self.centre = start
        self._log_odds = self._judge(start)
        self._value = goal.value(self._log_odds)
        self._slopes = np.zeros((space.size, self._log_odds.size))
        self._trust, self._sweeps = 0.0, 0

    def sweep(self) -> None:
        """Learn the slopes (size, problems) from one move of each number; 0 where it cannot move.

        Those that went up last time go down now.
        """
        distance = LATER_SWEEP if self._sweeps else FIRST_SWEEP
        self._trust = max(self._trust, FRESH_TRUST) if self._sweeps else FIRST_TRUST
        for place in range(self._space.size):
            moved = self.centre.copy()
            moved[place] += distance if (place + self._sweeps) % 2 else -distance
            moved = self._bounded(moved)
            moves = moved[place] - self.centre[place]
            self._slopes[place] = (self._judge(moved) - self._log_odds) / moves if moves else 0.0
        self._sweeps += 1

    def climb(self) -> None:
        """Propose, judge, and move, until the model is trusted no more."""
        for _ in range(STEPS):
            proposal, promised = self._propose()
            move = proposal - self.centre
            if not move.any():
                return
            log_odds = self._judge(proposal)
            # The model is told what it got wrong, in the direction that was tried (Broyden).
            wrong = log_odds - self._log_odds - move @ self._slopes
            self._slopes += np.outer(move, wrong) / (move @ move)
            value = self._goal.value(log_odds)
            if value > self._value:
                if value - self._value > 0.5 * (promised - self._value):
                    self._trust = min(1.2 * self._trust, MOST_TRUST)
                self.centre, self._log_odds, self._value = proposal, log_odds, value
            else:
                self._trust *= 0.5
            if self._trust < LEAST_TRUST:
                return

    def _propose(self) -> tuple[Vector, float]:
        """The best vector within the trust by the model, and what it promises."""

        def loss(vector: Vector) -> tuple[float, Vector]:
            log_odds = self._log_odds + (vector - self.centre) @ self._slopes
            value, slope = self._goal.with_slopes(log_odds)
            return -value, -(self._slopes @ slope)

        box = [
            (max(gain - self._trust, self._how.low), min(gain + self._trust, self._how.high))
            for gain in self.centre
        ]
        found = scipy.optimize.minimize(
            loss, self.centre, jac=True, method="L-BFGS-B", bounds=box, options={"maxiter": 200}
        )
        return self._bounded(found.x), -float(found.fun)

    def _bounded(self, vector: Vector) -> Vector:
        return np.asarray(np.round(np.clip(vector, self._how.low, self._how.high), DIGITS))

    def _judge(self, vector: Vector) -> NDArray[np.float64]:
        candidate = self._space.candidate(f"model {self._judged}", vector)
        self._judged += 1
        p = np.clip(self._chances(candidate), FEWEST_CHANCE, 1 - FEWEST_CHANCE)
        return np.asarray(np.log(p / (1 - p)))
