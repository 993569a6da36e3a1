"""Where the rollouts of one unit are kept: finished ones in logs, the newest in the journal.

    store = UnitStore.open(unit, logs=run / "logs", journal=run / "journal")
    store.open_segment().append([generation])      # by whoever asks, in a thread
    store.note_generation(segment, generation)
    store.note_grade(generation.key, grade)        # counts from here on
    for segment in store.packable(): ...           # all of it judged: to be written as a log

A generation goes into the journal's last segment. A segment that is full is closed; when all of it
is judged, it becomes the log of the same number, and its file goes. So nothing is ever rewritten, a
kill at any point leaves each rollout in one place or, for a moment, in both, and memory holds one
segment's texts while it is packed. A request that failed for good is kept like a text, until a
later run gets an answer: the last word on a rollout counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from timberkit.errors import ResourceError
from timberkit.evaluation.inspect_log import Judged, LoggedRollout, read_logged, write_log
from timberkit.evaluation.journal import Generation, Key, Segment
from timberkit.evaluation.reasoning import Response
from timberkit.evaluation.task import Grade
from timberkit.evaluation.units import Unit

MOST_TOGETHER = 1_000
"""Rollouts in a segment, and so in a log: inspect_ai's writer slows down with their square."""
MOST_CHARACTERS = 32 << 20
"""Characters in a segment before it is closed: what packing holds in memory."""

Judging: TypeAlias = Callable[[Generation, Grade], Judged]
"""Makes what a log keeps of a generation and its grade."""


@dataclass(slots=True)
class Tally:
    """Counts over the rollouts of a unit. ``correct`` and the others count the last word only."""

    rollouts: int = 0
    correct: int = 0
    truncated: int = 0
    failed: int = 0
    output_tokens: int = 0

    def count(self, rollout: LoggedRollout, times: int = 1) -> None:
        """Count one more, or one less with ``times`` -1."""
        self.rollouts += times
        self.correct += times * rollout.correct
        self.truncated += times * rollout.truncated
        self.failed += times * rollout.failed
        self.output_tokens += times * rollout.output_tokens


@dataclass(slots=True)
class UnitStore:
    """The rollouts of one unit. Made by ``UnitStore.open``; one thread may use it at a time.

    ``tally`` counts those that are judged, ``logs`` maps numbers to files.
    """

    unit: Unit
    logs_folder: Path
    journal_folder: Path
    logs: dict[int, Path] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    _places: dict[Key, int] = field(default_factory=dict)
    _failed: dict[Key, LoggedRollout] = field(default_factory=dict)
    _segments: dict[int, Segment] = field(default_factory=dict)
    _grades: dict[int, dict[Key, Grade]] = field(default_factory=dict)
    _packing: set[int] = field(default_factory=set)

    @classmethod
    def open(cls, unit: Unit, *, logs: Path, journal: Path) -> UnitStore:
        """Find what is there. Cost: a few milliseconds for each hundred rollouts.

        Raises StageConflictError for a journal of other settings, InputError for files that cannot
        be read.
        """
        store = cls(unit, logs / unit.folder, journal / unit.folder)
        store.logs = _numbered(store.logs_folder, unit.stem, ".eval")
        for number, path in store.logs.items():
            for rollout in read_logged(path, unit.digest):
                store._place(rollout, number)
        for number, path in _numbered(store.journal_folder, unit.stem, ".jsonl").items():
            if number in store.logs:  # a kill came between writing the log and this
                path.unlink()
                continue
            store._adopt(Segment(path, number=number, digest=unit.digest))
        return store

    @staticmethod
    def look(unit: Unit, *, logs: Path) -> dict[Key, int]:
        """Answered rollouts in the logs and their tokens, without opening anything for writing."""
        found: dict[Key, int] = {}
        for path in _numbered(logs / unit.folder, unit.stem, ".eval").values():
            for rollout in read_logged(path, unit.digest):
                if not rollout.failed:
                    found[rollout.key] = rollout.output_tokens
        return found

    def is_done(self, key: Key) -> bool:
        """Whether this rollout has an answer; a request that failed is to be sent again."""
        if any(segment.answers(key) for segment in self._segments.values()):
            return True
        return key in self._places and key not in self._failed

    @property
    def has_segments(self) -> bool:
        """Whether the journal holds anything."""
        return any(len(segment) for segment in self._segments.values())

    def keys(self) -> dict[Key, int]:
        """Every judged rollout and the number of the log that has the last word on it.

        Complete once everything is packed.
        """
        return self._places

    def unjudged(self) -> Iterator[tuple[Segment, Generation]]:
        """Generations that an earlier run left in the journal without their grades."""
        for number, segment in list(self._segments.items()):
            for generation in segment.generations():
                if generation.key not in self._grades[number]:
                    yield segment, generation

    def open_segment(self) -> Segment:
        """The segment that takes the next generations."""
        if self._segments:
            last = self._segments[max(self._segments)]
            if not _is_full(last) and last.number not in self._packing:
                return last
        number = max([0, *self.logs, *self._segments]) + 1
        path = self.journal_folder / f"{self.unit.stem}_{number:04d}.jsonl"
        segment = Segment(path, number=number, digest=self.unit.digest)
        self._segments[number] = segment
        self._grades[number] = {}
        return segment

    def note_grade(
        self, segment: Segment, generation: Generation, response: Response, grade: Grade
    ) -> None:
        """Count a rollout that is in the journal as judged."""
        self._grades[segment.number][generation.key] = grade
        rollout = LoggedRollout(
            key=generation.key,
            correct=grade.correct,
            has_answer=grade.answer is not None,
            truncated=response.truncated,
            failed=generation.error is not None,
            output_tokens=generation.output_tokens or 0,
        )
        self._place(rollout, segment.number)

    def packable(self, *, whole: bool) -> list[Segment]:
        """Segments that can become logs now: judged and full; with ``whole``, the last one too."""
        return [
            segment
            for number, segment in self._segments.items()
            if number not in self._packing
            and len(self._grades[number]) == len(segment)
            and len(segment)
            and (whole or _is_full(segment))
        ]

    def begin_packing(self, segment: Segment) -> Callable[[Judging], None]:
        """Promise that a segment takes no more; what is returned writes its log, in any thread."""
        self._packing.add(segment.number)
        path = self.logs_folder / f"{self.unit.stem}_{segment.number:04d}.eval"
        grades = self._grades[segment.number]

        def write(judged: Judging) -> None:
            write_log(
                path,
                self.unit,
                (judged(each, grades[each.key]) for each in segment.generations()),
            )

        return write

    def end_packing(self, segment: Segment) -> None:
        """Its log is on the disk: the journal's file goes."""
        number = segment.number
        self.logs[number] = self.logs_folder / f"{self.unit.stem}_{number:04d}.eval"
        segment.remove()
        del self._segments[number], self._grades[number]
        self._packing.discard(number)

    def close(self) -> None:
        """Close the files; everything stays for the next run."""
        for segment in self._segments.values():
            segment.close()

    def _adopt(self, segment: Segment) -> None:
        self._segments[segment.number] = segment
        self._grades[segment.number] = {}

    def _place(self, rollout: LoggedRollout, number: int) -> None:
        key = rollout.key
        if key in self._places and key not in self._failed:
            return  # the same one twice, in a log that was copied: the first word counts
        before = self._failed.pop(key, None)
        if before is not None:
            self.tally.count(before, times=-1)
        if rollout.failed:
            self._failed[key] = rollout
        self._places[key] = number
        self.tally.count(rollout)


def _is_full(segment: Segment) -> bool:
    return len(segment) >= MOST_TOGETHER or segment.characters >= MOST_CHARACTERS


def _numbered(folder: Path, stem: str, suffix: str) -> dict[int, Path]:
    """Files ``STEM_0001SUFFIX`` by their number, in order."""
    pattern = re.compile(rf"{re.escape(stem)}_(\d{{4,}}){re.escape(suffix)}")
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ResourceError(f"{folder}: cannot be listed: {error.strerror}") from None
    matches: Mapping[str, re.Match[str] | None] = {name: pattern.fullmatch(name) for name in names}
    found = {int(match[1]): folder / name for name, match in matches.items() if match}
    return dict(sorted(found.items()))
