"""What every reader of rollouts gives: who is read, the rollouts one by one, and what to tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from timberkit.errors import UsageError
from timberkit.rollouts import Rollout


@dataclass(slots=True)
class Source:
    """A file or folder of rollouts, recognised and opened.

    Attributes:
        path: as the user named it.
        kind: in words, such as ``lm-eval samples``.
        rollouts: without texts; may be read once.
        notices: what the user should know; complete when all rollouts have been read.
        answers_recorded: whether a rollout without an answer says that the model gave none; else
            the log may just not keep answers.
        table: the Parquet file the rollouts come from, where their texts can be read, too.
    """

    path: Path
    kind: str
    rollouts: Iterator[Rollout]
    notices: list[str] = field(default_factory=list)
    answers_recorded: bool = False
    table: Path | None = None


def choose_scorer(path: Path, candidates: Sequence[str], wanted: Sequence[str]) -> str:
    """The one scorer of a log to count: the only one, or the one that is wanted.

    ``wanted``: names given by the user, whole or one of the parts between commas and slashes; empty
    where none was. Raises UsageError where that leaves none or several.
    """
    shown = ", ".join(repr(name)[:80] for name in candidates)
    found = [
        name
        for name in candidates
        if not wanted or name in wanted or set(name.replace("/", ",").split(",")) & set(wanted)
    ]
    # A whole name beats a part of another.
    exact = [name for name in found if name in wanted]
    found = exact or found
    if len(found) == 1:
        return found[0]
    if wanted and not found:
        raise UsageError(
            f"{path}: found the scorers {shown}, but not {', '.join(wanted)}; name one of them:"
            " --scorer NAME"
        )
    raise UsageError(f"{path}: found several scorers: {shown}; say which one counts: --scorer NAME")
