"""One model against another on the problems that both have answered.

matched = match(counts["timber", "aime24"], counts["instruct", "aime24"])
pair = compare_pair(matched, (scores_timber, scores_instruct), plan, options)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timberkit.errors import UsageError
from timberkit.metrics import (
    Interval,
    crossing_point,
    difference_variance,
    paired_difference,
    paired_differences,
    pass_at_k,
)
from timberkit.study.comparison import CompareOptions, Overtaking, Pair, Power
from timberkit.study.rollout_counts import TaskCounts
from timberkit.study.task_scores import MAY_LACK, Scores, TaskPlan, power_of_two

MOST_DRAWN = 20_000_000
"""Bootstrap draws for one interval: fewer resamples where a task has many problems."""
FEWEST_RESAMPLES, MOST_RESAMPLES = 2_000, 10_000
MOST_CROSSING_WORK = 2_000_000_000
"""Problems times k times resamples of one crossing point; beyond it, k is thinned out."""


@dataclass(frozen=True, slots=True)
class Matched:
    """Two models on the problems that both have; ``rows``: where these stand in each."""

    first: TaskCounts
    second: TaskCounts
    rows: tuple[NDArray[np.intp], NDArray[np.intp]]

    def counts(self, which: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(n, c) of the first (0) or the second (1)."""
        side, rows = (self.first, self.second)[which], self.rows[which]
        return side.n[rows], side.c[rows]

    @property
    def problems(self) -> int:
        """How many both have."""
        return len(self.rows[0])

    @property
    def fewest(self) -> int:
        """Rollouts that both have of every such problem."""
        return min(int(self.counts(which)[0].min()) for which in (0, 1))

    @property
    def left_out(self) -> int:
        """Problems that only one of them has."""
        return len(self.first.problems) + len(self.second.problems) - 2 * self.problems


def match(first: TaskCounts, second: TaskCounts) -> Matched:
    """Pair two models by their problems; UsageError where they have none in common."""
    places = {problem: i for i, problem in enumerate(second.problems)}
    rows = [(i, places[name]) for i, name in enumerate(first.problems) if name in places]
    if not rows:
        raise UsageError(
            f"{first.task[:80]}: {first.model[:80]!r} and {second.model[:80]!r} have no problem in"
            f" common (such as {first.problems[0][:60]!r} and {second.problems[0][:60]!r}); a"
            " difference can only be told on the same problems: were they asked from the same data?"
        )
    left, right = zip(*rows, strict=True)
    return Matched(first, second, (np.array(left), np.array(right)))


def drawing_for(problems: int, options: CompareOptions) -> dict[str, Any]:
    """Confidence, seed and resamples of the bootstrap on so many problems."""
    resamples = min(MOST_RESAMPLES, max(FEWEST_RESAMPLES, MOST_DRAWN // problems))
    return {"confidence": options.confidence, "seed": options.seed, "resamples": resamples}


def compare_pair(
    matched: Matched,
    scores: tuple[Mapping[str, Scores], Mapping[str, Scores]],
    plan: TaskPlan,
    options: CompareOptions,
) -> Pair:
    """The first minus the second, in every score that both have.

    ``scores``: of each model, by name, over all of its problems (``task_scores``). Some tenths of
    a second for 200 problems with 256 rollouts.
    """
    drawing = drawing_for(matched.problems, options)
    ks = [k for k in plan.ks if k <= matched.fewest]
    tables = [pass_at_k(*matched.counts(which), ks) for which in (0, 1)] if ks else []
    return Pair(
        matched.first.task,
        matched.first.model,
        matched.second.model,
        matched.problems,
        matched.left_out,
        tuple(paired_differences(tables[0], tables[1], ks, **drawing)) if ks else (),
        _other_differences(matched, scores, plan, drawing),
        _overtaking(matched, drawing),
        _power(matched, options),
    )


def _other_differences(
    matched: Matched,
    scores: tuple[Mapping[str, Scores], Mapping[str, Scores]],
    plan: TaskPlan,
    drawing: Mapping[str, Any],
) -> dict[str, Interval]:
    found = {}
    for name in scores[0]:
        if name.startswith("pass@") or name not in scores[1]:
            continue
        # Both depend on the number of rollouts: they say nothing where it differs.
        if not plan.equal and name.startswith(("cover@", "entropy")):
            continue
        first, second = (scores[which][name][matched.rows[which]] for which in (0, 1))
        known = ~(np.isnan(first) | np.isnan(second))
        if known.all() or (name in MAY_LACK and known.any()):
            found[name] = paired_difference(first[known], second[known], **drawing)
    return found


def _overtaking(matched: Matched, drawing: Mapping[str, Any]) -> Overtaking | None:
    if matched.fewest < 2:
        return None
    most = MOST_CROSSING_WORK // (matched.problems * int(drawing["resamples"]))
    ks = thinned(matched.fewest, max(16, most))
    first, second = (pass_at_k(*matched.counts(which), ks) for which in (0, 1))
    names = matched.first.model, matched.second.model
    if first[:, 0].mean() > second[:, 0].mean():
        first, second, names = second, first, (names[1], names[0])
    return Overtaking(*names, crossing_point(first, second, ks, **drawing))


def thinned(largest: int, most: int) -> list[int]:
    """1 … largest, or about ``most`` of them, evenly apart on a logarithmic scale."""
    if largest <= most:
        return list(range(1, largest + 1))
    return sorted({round(largest ** (i / (most - 1))) for i in range(most)})


def _power(matched: Matched, options: CompareOptions) -> tuple[Power, ...]:
    if matched.problems < 2:
        return ()
    allowed = [k for k in (1, power_of_two(max(matched.fewest // 2, 1))) if 2 * k <= matched.fewest]
    found = [_power_at(matched, k, options) for k in sorted(set(allowed))]
    # Both did the same on every problem: nothing varies, and nothing can be said.
    return tuple(power for power in found if power.resolvable > 1e-6)


def _power_at(matched: Matched, k: int, options: CompareOptions) -> Power:
    pilot = difference_variance(*matched.counts(0), *matched.counts(1), k)
    first, second = (pass_at_k(*matched.counts(which), k) for which in (0, 1))
    observed = float((first - second).var(ddof=1))
    noise = pilot.within(pilot.rollouts)
    # A sample variance is off by a share of sqrt(2 / problems); three of those are no chance.
    coupled = observed < noise * (1 - 3 * sqrt(2 / matched.problems))
    if coupled:
        pilot = replace(pilot, between=observed, first=(1.0,) * (k + 1), second=(1.0,) * (k + 1))
    share, confidence = options.points / 100, options.confidence
    return Power(
        k,
        pilot.resolvable(confidence=confidence),
        options.points,
        None if coupled else pilot.rollouts_needed(share, confidence=confidence),
        pilot.problems_needed(share, confidence=confidence),
        coupled,
    )
