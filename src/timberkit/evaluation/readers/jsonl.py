"""Rollouts as JSON lines: the format for whoever has grades from a program that is not known here.

One line is one rollout. ``model``, ``task``, ``problem`` (a text or a number) and ``correct`` (true
or false, 1 or 0) are needed; every other field of ``timberkit.rollouts.Rollout`` may stand beside
them, and what else there is is left alone::

    {"model": "instruct", "task": "aime24", "problem": 60, "correct": true, "answer": "204"}

Without ``rollout`` the lines of a problem count as its rollouts in the order of the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from timberkit.errors import InputError
from timberkit.evaluation.readers.json_lines import read_json_lines
from timberkit.evaluation.readers.source import Source
from timberkit.rollouts import TEXTS, Rollout, problem_in, storable

NEEDED = ("model", "task", "problem", "correct")
_EXPECTED = "a rollout with model, task, problem and correct"
_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "int": (int,),
    "int | None": (int, type(None)),
    "float | None": (float, int, type(None)),
}
_LARGEST = 2**63 - 1


def is_jsonl(first: Mapping[str, Any]) -> bool:
    """Whether a file whose first line is this object is in this format."""
    return all(name in first for name in NEEDED)


def open_jsonl(path: Path) -> Source:
    """The rollouts of a file; reading them raises InputError, naming file, line and field."""
    return Source(path, "rollouts as JSON lines", _rollouts(path))


def _rollouts(path: Path) -> Iterator[Rollout]:
    counted: Counter[tuple[str, str, str, str]] = Counter()
    for number, line in read_json_lines(path, expected=_EXPECTED):
        where = f"{path}: line {number}"
        missing = [name for name in NEEDED if name not in line]
        if missing:
            raise InputError(f"{where}: {missing[0]}: is missing, expected {_EXPECTED}")
        values = _values(where, line)
        key = tuple(str(values.get(name, "")) for name in ("model", "task", "setting", "problem"))
        counted[key] += 1  # type: ignore[index]
        defaults = {"setting": "", "answer": None, "rollout": counted[key]}  # type: ignore[index]
        rollout = Rollout(**(defaults | values))
        wrong = problem_in(rollout)
        if wrong:
            raise InputError(f"{where}: {wrong}")
        yield rollout


def _values(where: str, line: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a rollout that a line has, each of its type, but for long texts."""
    values: dict[str, Any] = {}
    for field in fields(Rollout):
        name = field.name
        if name not in line or name in TEXTS:
            continue
        value = line[name]
        if name == "correct":
            if not (value is True or value is False or (type(value) is int and value in (0, 1))):
                raise InputError(f"{where}: correct: found {value!r:.60}, expected true or false")
            value = bool(value)
        elif name == "problem" and type(value) is int:
            value = str(value)
        elif not isinstance(value, _KINDS[str(field.type)]) or isinstance(value, bool):
            raise InputError(f"{where}: {name}: found {value!r:.60}, expected {field.type}")
        elif isinstance(value, int) and abs(value) > _LARGEST:
            raise InputError(f"{where}: {name}: found {len(str(value))} digits, expected up to 18")
        values[name] = storable(value) if isinstance(value, str) else value
    return values
