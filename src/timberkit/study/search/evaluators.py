"""What a search asks of a candidate: how many of the problems of a split it solves.

Two evaluators with one face. ``exact`` sums probabilities and knows no noise but that of the
problems; ``sampled`` writes a checkpoint and lets ``timberkit eval`` ask it. An *outcome* is plain
JSON, which the journal of the run keeps; ``scores`` turns it into Pass@k problem by problem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from timberkit.metrics import exact_pass_at_k, pass_at_k
from timberkit.study.search.candidates import Candidate

Split = Literal["search", "constraint", "confirm"]
Outcome: TypeAlias = Mapping[str, Any]
Scores: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much of a split is asked.

    ``share`` in (0, 1]: of the problems where chances are known exactly, of the rollouts of every
    problem where they are sampled. ``block``: which of the ``1 / share`` parts of the problems;
    rollouts have no parts, the first ones are asked whatever the block.
    """

    share: float = 1.0
    block: int = 0


FULL = Effort()


class Evaluator(Protocol):
    """Something that can judge candidates."""

    def sizes(self) -> Mapping[Split, int]:
        """How many problems each split has."""

    def plan(self, effort: Effort) -> Effort:
        """The same effort under the one name that it has in the journal."""

    def outcome(self, candidate: Candidate, split: Split, effort: Effort) -> dict[str, Any]:
        """Judge a candidate: ``{"p": [...]}`` with the chance of one answer to be right, or
        ``{"n": [...], "c": [...]}`` with rollouts and right ones, problem by problem.

        Of equal arguments always the same. Raises what reading, writing and asking raise.
        """

    def close(self) -> None:
        """Give back what is held open or lies on the disk for the time of the search."""


def scores(outcome: Outcome, ks: Sequence[int]) -> Scores:
    """Pass@k per problem and k, (problems, ks), in [0, 1].

    Of counts with fewer rollouts than k the largest k there is stands in for it: a first look at a
    candidate with a quarter of the rollouts ranks by Pass@16 where Pass@64 is asked.
    """
    if "p" in outcome:
        p = np.array(outcome["p"], dtype=np.float64)
        return np.stack([exact_pass_at_k(p, k) for k in ks], axis=1)
    n, c = (np.array(outcome[name], dtype=np.int64) for name in ("n", "c"))
    return pass_at_k(n, c, [min(k, int(n.min())) for k in ks])


def chances(outcome: Outcome) -> Scores:
    """Chance that one answer is right, (problems,): known, or ``(c + 1/2) / (n + 1)``."""
    if "p" in outcome:
        return np.array(outcome["p"], dtype=np.float64)
    n, c = (np.array(outcome[name], dtype=np.float64) for name in ("n", "c"))
    return np.asarray((c + 0.5) / (n + 1.0))
