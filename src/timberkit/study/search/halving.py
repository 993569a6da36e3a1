"""Successive halving: all candidates with little effort, the better part of them with more.

    ranked = halve(candidates, value, rungs=(Effort(0.25), FULL), keep=0.25)

A quarter of the rollouts tells a bad candidate; only those that are still in the running are asked
the rest, and asking more of a candidate asks only what is new.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from timberkit.study.search.candidates import Candidate
from timberkit.study.search.evaluators import Effort


def halve(
    candidates: Sequence[Candidate],
    value: Callable[[Candidate, Effort], float],
    *,
    rungs: Sequence[Effort],
    keep: float,
) -> list[tuple[Candidate, float]]:
    """Candidates that reached the last rung, best first, with their values there.

    Args:
        candidates: equal ones count once. value: of a candidate at an effort, higher is better.
        rungs: efforts, from little to much. keep: share of a rung that goes on, in (0, 1]; at
            least one does. Ties keep the order given.

    Cost: ``len(candidates) * sum_i rungs[i].share keep^i`` full evaluations.
    """
    left = list({candidate.key: candidate for candidate in candidates}.values())
    ranked: list[tuple[Candidate, float]] = []
    for place, effort in enumerate(rungs):
        if place:
            left = [candidate for candidate, _ in ranked[: math.ceil(keep * len(ranked))]]
        ranked = [(candidate, value(candidate, effort)) for candidate in left]
        ranked.sort(key=lambda pair: -pair[1])
    return ranked


def halving_cost(count: int, rungs: Sequence[Effort], keep: float) -> int:
    """Evaluations that ``halve`` makes of so many different candidates.

    >>> halving_cost(80, (Effort(0.25), Effort(1.0)), 0.25)
    100
    """
    made = 0
    for place in range(len(rungs)):
        count = math.ceil(keep * count) if place else count
        made += count
    return made
