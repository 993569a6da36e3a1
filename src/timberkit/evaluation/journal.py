"""Finished generations that are not safe in a log yet: a journal in segments, one file each.

    segment = Segment(path, number=3, digest=unit.digest)
    segment.append([generation])           # on the disk when this returns
    for generation in segment.generations(): ...

An answer may have taken an hour of a GPU, so it is written down before it counts as finished. Logs
are written whole, many answers at a time; until then a killed run finds its answers here. The first
entry says which unit the segment belongs to; a torn last line is dropped
(``timberkit.checkpoint.journal``). In memory stands where an answer is, never its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from timberkit.checkpoint.journal import Journal
from timberkit.errors import InputError, ResourceError, StageConflictError
from timberkit.rollouts import STOPS

Key = tuple[str, int]
"""Problem and rollout."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Generation:
    """What came of one request: a text, or an error for good.

    ``rollout`` counts from 1; ``stop`` is one of ``timberkit.rollouts.STOPS``; what was not
    reported is None. A lone surrogate, which no file can hold, becomes U+FFFD.
    """

    problem: str
    rollout: int
    seed: int
    text: str = ""
    stop: str = "unknown"
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        for name in ("text", "error"):
            value = getattr(self, name)
            if value and not value.isascii():
                object.__setattr__(self, name, _LONE_SURROGATE.sub("\ufffd", value))

    @property
    def key(self) -> Key:
        """Problem and rollout."""
        return (self.problem, self.rollout)


class Segment:
    """One file of the journal, open for appending; made if missing.

    Only one process may have it open. Raises StageConflictError for one that belongs to a unit of
    other settings, InputError for one with entries that are none, ResourceError for one that cannot
    be opened.
    """

    def __init__(self, path: Path, *, number: int, digest: str) -> None:
        self.path = path
        self.number = number
        self.characters = 0
        self._last: dict[Key, int] = {}
        self._failed: set[Key] = set()
        self._entries = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(path)
        except OSError as error:
            raise ResourceError(
                f"{path}: cannot be opened: {error.strerror}; look at its permissions"
            ) from None
        try:
            self._index(digest)
        except BaseException:
            self.close()
            raise
        if self._journal.is_empty:
            self._journal.append([{"unit": digest}])

    def __len__(self) -> int:
        """How many rollouts it holds."""
        return len(self._last)

    def answers(self, key: Key) -> bool:
        """Whether it holds this rollout, and not as a request that failed."""
        return key in self._last and key not in self._failed

    def append(self, generations: Sequence[Generation]) -> None:
        """Write generations and sync them; one of a key that is there already takes its place.

        Raises InterruptedRunError when the disk is full or fails; then none of them counts.
        """
        self._journal.append(asdict(generation) for generation in generations)
        for generation in generations:
            self._note(generation)

    def generations(self) -> Iterator[Generation]:
        """All of them, oldest first, read from the file one by one."""
        for place, generation in self._read():
            if self._last[generation.key] == place:
                yield generation

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._journal.close()

    def remove(self) -> None:
        """Close and delete the file: its rollouts are safe elsewhere."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _index(self, digest: str) -> None:
        header = next(self._journal.entries(), None)
        if header is None:
            return
        if header.get("unit") != digest:
            raise StageConflictError(
                f"{self.path}: holds rollouts of other settings; give the run a folder of its own"
            )
        for _, generation in self._read():
            self._note(generation)

    def _read(self) -> Iterator[tuple[int, Generation]]:
        entries = self._journal.entries()
        next(entries, None)
        for place, entry in enumerate(entries):
            yield place, _generation(self.path, entry)

    def _note(self, generation: Generation) -> None:
        self._last[generation.key] = self._entries
        self._entries += 1
        self.characters += len(generation.text)
        (self._failed.add if generation.error is not None else self._failed.discard)(generation.key)


_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "int | None": (int, type(None)),
    "float | None": (float, int, type(None)),
    "str | None": (str, type(None)),
}
_FIELDS = {field.name: _KINDS[str(field.type)] for field in fields(Generation)}


def _generation(path: Path, entry: Mapping[str, Any]) -> Generation:
    good = entry.keys() == _FIELDS.keys() and all(
        isinstance(entry[name], kinds) and not isinstance(entry[name], bool)
        for name, kinds in _FIELDS.items()
    )
    if not good or entry["stop"] not in STOPS or entry["rollout"] < 1:
        raise InputError(
            f"{path}: holds a line that is no generation; another program or another version of"
            " timberkit wrote it; use that version, or give the run a folder of its own"
        )
    return Generation(**entry)
