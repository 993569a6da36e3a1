"""Every evaluation is kept, and none is made twice: the journal of a search and who may open what.

A search is a program that gives the same result whenever it runs; what costs time in it are the
evaluations. So a search that was killed is simply run again, and finds in the book what it did.
The book also guards the confirm split: it is opened once, for one list of candidates, and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from timberkit.checkpoint.journal import Journal
from timberkit.errors import UsageError
from timberkit.study.search.candidates import Candidate
from timberkit.study.search.evaluators import (
    FULL,
    Effort,
    Evaluator,
    Outcome,
    Scores,
    Split,
    chances,
    scores,
)

Key: TypeAlias = tuple[str, str, float, int]


@dataclass(frozen=True, slots=True)
class SearchProgress:
    """How far a search is.

    ``doing``: in words; ``done`` of ``total`` evaluations, those of earlier runs counted in;
    ``seconds``: time that the evaluations of this run took, ``asked`` how many these were.
    """

    doing: str
    done: int
    total: int
    asked: int
    seconds: float

    @property
    def seconds_left(self) -> float | None:
        """By the mean so far; None before the first evaluation."""
        if not self.asked:
            return None
        return self.seconds / self.asked * max(self.total - self.done, 0)


ProgressCallback: TypeAlias = Callable[[SearchProgress], None]


class Book:
    """Judges candidates by an evaluator, or from its journal.

    ``total``: evaluations that the whole search is expected to take, for the progress.
    """

    def __init__(
        self,
        path: Path,
        evaluator: Evaluator,
        ks: tuple[int, int],
        *,
        total: int = 0,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        self._journal = Journal(path)
        self._evaluator = evaluator
        self._ks = ks
        self._total, self._on_progress = total, on_progress
        self._doing, self._used = "", set[Key]()
        self._asked, self._seconds = 0, 0.0
        self._outcomes: dict[Key, Outcome] = {}
        self.openings: list[dict[str, Any]] = []
        self._opened: frozenset[str] = frozenset()
        for entry in self._journal.entries():
            if entry["kind"] == "evaluation":
                key = (entry["candidate"], entry["split"], entry["share"], entry["block"])
                self._outcomes[key] = entry["outcome"]
            else:
                self.openings.append(entry)

    @property
    def known(self) -> int:
        """Evaluations that are kept, of this run and earlier ones."""
        return len(self._outcomes)

    @property
    def asked(self) -> int:
        """Evaluations that this run made itself."""
        return self._asked

    def begin(self, doing: str) -> None:
        """Say what comes now."""
        self._doing = doing
        self._tell()

    def scores(self, candidate: Candidate, split: Split, effort: Effort = FULL) -> Scores:
        """Pass@k per problem, (problems, 2), at the two k of the search.

        Raises UsageError for the confirm split before ``open_confirm``, or for a candidate that
        was not named there.
        """
        return scores(self._outcome(candidate, split, effort), self._ks)

    def chances(self, candidate: Candidate, split: Split, effort: Effort = FULL) -> Scores:
        """Chance of one answer to be right, (problems,); see ``evaluators.chances``."""
        return chances(self._outcome(candidate, split, effort))

    def _outcome(self, candidate: Candidate, split: Split, effort: Effort) -> Outcome:
        if split == "confirm" and candidate.key not in self._opened:
            raise UsageError(
                f"confirm split: asked for {candidate.label!r} without having been opened for it;"
                " it is opened once, at the end, for the final edit"
            )
        planned = self._evaluator.plan(effort)
        key = (candidate.key, split, planned.share, planned.block)
        if key not in self._outcomes:
            started = time.perf_counter()
            outcome = self._evaluator.outcome(candidate, split, planned)
            self._seconds += time.perf_counter() - started
            self._asked += 1
            self._journal.append([_entry(candidate, key, outcome)])
            self._outcomes[key] = outcome
        if key not in self._used:
            self._used.add(key)
            self._tell()
        return self._outcomes[key]

    def open_confirm(self, candidates: Sequence[Candidate], *, again: bool = False) -> None:
        """Open the confirm split for a final edit, the first of ``candidates``, and what it is
        compared with; the opening is noted before anything is asked.

        A search that goes on after its own opening may look at the same list again. Raises
        UsageError where it was opened for another final edit and ``again`` does not ask for it.
        """
        keys = [candidate.key for candidate in candidates]
        earlier = [opening["candidates"] for opening in self.openings]
        if keys not in earlier:
            if earlier and not again:
                raise UsageError(
                    f"{self._journal.path}: the confirm split was opened on"
                    f" {self.openings[0]['at']} for {self.openings[0]['label']!r}, and this is"
                    " another final edit; what was looked at once confirms nothing any more. Give"
                    " the settings from before, search in a folder of its own, or add --open-again,"
                    " which the results will tell"
                )
            opening = {
                "kind": "opening",
                "split": "confirm",
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "label": candidates[0].label,
                "candidate": candidates[0].key,
                "candidates": keys,
            }
            self._journal.append([opening])
            self.openings.append(opening)
        self._opened = frozenset(keys)

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def _tell(self) -> None:
        if self._on_progress is not None:
            done = len(self._used)
            self._on_progress(
                SearchProgress(
                    self._doing, done, max(self._total, done), self._asked, self._seconds
                )
            )


def _entry(candidate: Candidate, key: Key, outcome: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": "evaluation",
        "label": candidate.label,
        "candidate": key[0],
        "edges": list(candidate.edges),
        "gains": {name: list(levels) for name, levels in candidate.gains.items()},
        "split": key[1],
        "share": key[2],
        "block": key[3],
        "outcome": dict(outcome),
    }
