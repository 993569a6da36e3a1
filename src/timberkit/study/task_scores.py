"""All scores of one model on one task, one value a problem, under names that tables show.

=====================  ======================================================================
``mean``               share of rollouts that are right (Mean@k, Pass@1)
``pass@8``             Pass@k
``cover@0.5``          share of problems solved by at least half of their rollouts
``g-pass@16/0.5``      G-Pass@k: at least half of 16 rollouts right
``majority@64``        the most frequent answer of 64 rollouts is right
``distinct@64``        different answers among 64 rollouts
``entropy``            of the answers, in nats
``truncated``          share of rollouts cut off at the token limit
``no_answer``          share that ended but hold no answer that could be read
``failed``             share of requests that failed for good
``output_tokens``      mean length of a rollout; ``input_tokens`` of its prompt
=====================  ======================================================================

NaN is a problem without a value: too few rollouts for a k, nothing recorded. The numbers after the
@ are the same for all models on a task, so that what stands in one row can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timberkit.metrics import (
    answer_entropy,
    cover_at_tau,
    distinct_answers,
    format_failure_rate,
    g_pass_at_k,
    majority_vote,
    mean_at_k,
    pass_at_k,
    truncation_rate,
)
from timberkit.study.rollout_counts import TaskCounts

Scores = NDArray[np.float64]
COVER_TAUS = (0.1, 0.25, 0.5, 0.75, 0.9)
G_PASS_TAUS = (0.5, 1.0)
MOST_G_PASS = 16
MOST_VOTERS = 16
"""Where the numbers of rollouts differ, votes are taken over subsets of up to so many."""
MAY_LACK = frozenset({"entropy", "input_tokens", "output_tokens"})
"""Scores whose mean leaves out problems without a value; of others no mean is given then."""


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """Which scores are taken on a task.

    Attributes:
        ks: of Pass@k.
        common: rollouts that every model has of every problem.
        equal: whether no model has more of any.
    """

    ks: tuple[int, ...]
    common: int
    equal: bool

    @property
    def voters(self) -> int:
        """Rollouts that vote: all where all have equally many, else a power of two."""
        return self.common if self.equal else min(MOST_VOTERS, power_of_two(self.common))

    @property
    def g_pass(self) -> int:
        """k of G-Pass@k."""
        return min(MOST_G_PASS, power_of_two(self.common))


def plan_task(models: Sequence[TaskCounts], ks: Sequence[int] | None = None) -> TaskPlan:
    """What to score on a task that some models have answered.

    ``ks``: of Pass@k; None for 1, 2, 4, … and the most rollouts that all problems of some model
    have. At least one model.
    """
    common = min(counts.fewest for counts in models)
    largest = max(counts.fewest for counts in models)
    doubling = {1 << i for i in range(largest.bit_length())}
    chosen = doubling | {common, largest} if ks is None else set(ks)
    equal = all(counts.most == common for counts in models)
    return TaskPlan(tuple(sorted(chosen)), common, equal)


def power_of_two(most: int) -> int:
    """The largest that is at most ``most`` >= 1.

    >>> power_of_two(100)
    64
    """
    return int(1 << (most.bit_length() - 1))


def task_scores(counts: TaskCounts, plan: TaskPlan) -> dict[str, Scores]:
    """Scores by name, (problems,) each; names without any recorded value are left out.

    Cost: milliseconds; votes over subsets about 2 ms a problem.
    """
    scores = {"mean": mean_at_k(counts.n, counts.c)}
    passed = pass_at_k(counts.n, counts.c, plan.ks)
    scores |= {f"pass@{k}": passed[:, i] for i, k in enumerate(plan.ks)}
    if plan.common > 1:
        scores |= {f"cover@{tau:g}": cover_at_tau(counts.n, counts.c, tau) for tau in COVER_TAUS}
        scores |= {
            f"g-pass@{plan.g_pass}/{tau:g}": g_pass_at_k(counts.n, counts.c, plan.g_pass, tau)
            for tau in G_PASS_TAUS
        }
    scores |= _answer_scores(counts, plan)
    scores["failed"] = np.array([sum(row) / len(row) for row in counts.failed])
    for name in ("output_tokens", "input_tokens"):
        tokens: Scores = getattr(counts, name)
        if not np.isnan(tokens).all():
            scores[name] = tokens
    return scores


def _answer_scores(counts: TaskCounts, plan: TaskPlan) -> dict[str, Scores]:
    scores: dict[str, Scores] = {}
    answers = counts.answers
    if answers is not None:
        if plan.common > 1:
            voters = None if plan.equal else plan.voters
            voted = majority_vote(answers, counts.right, voters)
            scores[f"majority@{plan.voters}"] = voted
            scores[f"distinct@{plan.common}"] = distinct_answers(answers, plan.common)
            entropy = answer_entropy(answers)
            if not np.isnan(entropy).all():
                scores["entropy"] = entropy
        cut = counts.truncated or tuple((False,) * len(row) for row in counts.right)
        silent = [
            tuple(a or b for a, b in zip(*rows, strict=True))
            for rows in zip(cut, counts.failed, strict=True)
        ]
        scores["no_answer"] = format_failure_rate(answers, silent)
    if counts.truncated is not None:
        scores["truncated"] = truncation_rate(counts.truncated)
    return scores
