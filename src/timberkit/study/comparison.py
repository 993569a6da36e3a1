"""What a comparison holds: options, scores of each model, differences of each pair (no torch).

Scores and differences are shares, not percent, but for tokens, entropy and distinct answers, which
have their own units (``task_scores``). Made by ``compare``; shown by ``compare_tables``,
``compare_words`` and the command; kept by ``compare_files``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timberkit.metrics import Crossing, Interval, PairedDifference
from timberkit.metrics.intervals import Verdict
from timberkit.study.task_scores import TaskPlan


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How models are compared.

    Attributes:
        reference: the model the others are set against; None for the one that is named instruct,
            else the first.
        ks: of Pass@k; None for powers of two up to the number of rollouts.
        confidence: of all intervals, in (0, 1).
        seed: of bootstraps and sign flips.
        points: a difference, in points of percent, for which the effort needed is told.
    """

    reference: str | None = None
    ks: tuple[int, ...] | None = None
    confidence: float = 0.95
    seed: int = 0
    points: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelScores:
    """One model on one task. ``scores``: by name; None where problems lack a value.

    ``fewest``, ``most``: rollouts of a problem; ``rollouts`` of all.
    """

    model: str
    task: str
    problems: int
    rollouts: int
    fewest: int
    most: int
    scores: Mapping[str, Interval | None]


@dataclass(frozen=True, slots=True)
class Overtaking:
    """From which k the model that is behind at first leads: ``behind`` passes ``ahead``."""

    behind: str
    ahead: str
    crossing: Crossing


@dataclass(frozen=True, slots=True)
class Power:
    """What a pair's run could see at one k, with power 0.8.

    Attributes:
        k: of Pass@k.
        resolvable: the smallest true difference that is told from zero, a share.
        points: a difference in points, for which the rest is.
        rollouts_needed: of each problem; None where no number does on so few problems, and where
            the rollouts are coupled.
        problems_needed: with as many rollouts as now.
        coupled: whether the two models differ by less than independent rollouts of one and the same
            model would: they were drawn with the same seeds, and are nearly the same. All this is
            then from the differences seen, not from a model of the noise.
    """

    k: int
    resolvable: float
    points: float
    rollouts_needed: int | None
    problems_needed: int
    coupled: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """A model against the reference on one task, both on ``problems`` problems that both have.

    Attributes:
        left_out: problems that only one of them has.
        pass_at_k: model minus reference for each k, shares.
        others: model minus reference for the other scores, each interval for itself.
        overtaking: None with one rollout a problem.
        power: at k = 1 and at the largest k that allows it; empty with one rollout a problem, or
            where both models did the same on every problem.
    """

    task: str
    model: str
    reference: str
    problems: int
    left_out: int
    pass_at_k: tuple[PairedDifference, ...]
    others: Mapping[str, Interval]
    overtaking: Overtaking | None
    power: tuple[Power, ...]


@dataclass(frozen=True, slots=True)
class Average:
    """The mean over tasks of a model's ``mean``, and its difference to the reference's.

    ``difference`` and ``verdict`` are None for the reference itself.
    """

    model: str
    mean: Interval
    difference: Interval | None
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All of it. ``average_over``: tasks that every model has; no averages below two of them."""

    options: CompareOptions
    reference: str
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    plans: Mapping[str, TaskPlan]
    results: tuple[ModelScores, ...]
    pairs: tuple[Pair, ...]
    average_over: tuple[str, ...]
    averages: tuple[Average, ...]
    sources: tuple[Mapping[str, Any], ...]
    notices: tuple[str, ...]
