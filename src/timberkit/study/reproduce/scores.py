"""Probabilities or counts -> one score for each problem and k: what all statistics begin with.

Exact probabilities and counted rollouts become the same thing, a table of Pass@k with a row for
each problem. Means, intervals and paired differences are taken of such tables alone, so that a
study of the embedded pair and one of a large model differ only in where the table comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timberkit.metrics import exact_pass_at_k, pass_at_k
from timberkit.study.rollout_counts import TaskCounts
from timberkit.study.task_scores import power_of_two

Table = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scores:
    """One model on one benchmark.

    Attributes:
        problems: their keys; the rows of every table.
        p: (problems,), chances that one answer is right; None where rollouts were counted.
        n, c: (problems,), rollouts and right ones; None where chances are known.
    """

    problems: tuple[str, ...]
    p: NDArray[np.float64] | None = None
    n: NDArray[np.int64] | None = None
    c: NDArray[np.int64] | None = None

    @classmethod
    def counted(cls, counts: TaskCounts) -> Scores:
        """Of rollouts."""
        return cls(counts.problems, None, counts.n, counts.c)

    @property
    def largest_k(self) -> int | None:
        """Pass@k is known up to it; None where for every k."""
        return None if self.n is None else int(self.n.min())

    def table(self, ks: Sequence[int]) -> Table:
        """Pass@k of every problem, (problems, ks): ``1 - (1 - p)^k``, or unbiased from counts.

        k beyond ``largest_k`` gives NaN.
        """
        if self.p is not None:
            return np.column_stack([exact_pass_at_k(self.p, k) for k in ks])
        assert self.n is not None
        assert self.c is not None
        return np.asarray(pass_at_k(self.n, self.c, list(ks)))

    def on(self, problems: Sequence[str]) -> Scores:
        """The same on some of the problems, in their order; KeyError for one that is not there."""
        places = {problem: i for i, problem in enumerate(self.problems)}
        rows = np.array([places[problem] for problem in problems], dtype=np.intp)
        p, n, c = (None if each is None else each[rows] for each in (self.p, self.n, self.c))
        return Scores(tuple(problems), p, n, c)  # type: ignore[arg-type]


def shared_problems(scores: Sequence[Scores]) -> tuple[str, ...]:
    """Problems that all of them have, in the order of the first."""
    common = set(scores[0].problems).intersection(*(each.problems for each in scores[1:]))
    return tuple(problem for problem in scores[0].problems if problem in common)


def aligned(scores: Sequence[Scores]) -> list[Scores]:
    """All of them on the problems that they share."""
    problems = shared_problems(scores)
    return [each if each.problems == problems else each.on(problems) for each in scores]


def shown_ks(scores: Sequence[Scores], exact: Sequence[int]) -> tuple[int, ...]:
    """k at which Pass@k is shown: powers of two, and the most that all of them allow.

    ``exact``: where all chances are known.
    """
    limits = [each.largest_k for each in scores if each.largest_k is not None]
    if not limits:
        return tuple(exact)
    most = min(limits)
    return tuple(sorted({1 << i for i in range(most.bit_length())} | {most}))


def high_k(ks: Sequence[int]) -> int:
    """The k that stands for exploration: the largest power of two at most a quarter of the largest.

    At the very largest k of n rollouts Pass@k is a mere "was it ever solved", and most noisy.

    >>> high_k((1, 2, 4, 8, 16, 32, 64, 128, 256))
    64
    >>> high_k((1, 3))
    3
    """
    return power_of_two(max(ks) // 4) if max(ks) >= 8 else max(ks)
