"""The files beside the weights of two checkpoints: which differ, JSON by its fields.

Configuration, tokenizer, chat template, model code, licence: what ``sidecars`` copies. Model cards,
manifests and indices are left alone, because they tell of weights, and hidden files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from timberkit.checkpoint.header import json_object, shown
from timberkit.checkpoint.manifest import hash_file
from timberkit.checkpoint.reader import read_range
from timberkit.checkpoint.sidecars import sidecar_files
from timberkit.errors import CheckpointError

LARGEST_JSON_BYTES = 50_000_000
"""A larger JSON file is compared by its hash alone."""
MOST_FIELDS = 100
"""Fields told of one file; the rest is counted."""
DEEPEST = 4
"""Objects in objects are taken apart so far; deeper ones are compared whole."""

FileVerdict: TypeAlias = Literal[
    "bytes", "fields", "layout", "only in A", "only in B", "not compared"
]
"""``layout``: JSON of other bytes, but equal fields, which counts as equal."""


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """A field of a JSON file (``rope_scaling.factor``) and its values, shortened; None: absent."""

    field: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class FileDifference:
    """A file that differs: ``fields`` for JSON, ``MOST_FIELDS`` at most of ``field_count``.

    ``reason`` says why it was not compared, where it was not; such a file counts as differing.
    """

    name: str
    verdict: FileVerdict
    fields: tuple[FieldDifference, ...] = ()
    field_count: int = 0
    reason: str = ""

    @property
    def equal(self) -> bool:
        """Whether it says the same."""
        return self.verdict == "layout"


def compare_files(a: Path, b: Path) -> tuple[FileDifference, ...]:
    """What differs beside the weights of two checkpoint folders, by name.

    Nothing is opened that a link leads to outside its folder (but for the hub's cache), nor what is
    no plain file: that is reported as not compared. Raises CheckpointError for what cannot be
    read. Cost: every such file once, those of 50 MB and less once more where they differ.
    """
    first, second = sidecar_files(a), sidecar_files(b)
    found = []
    for name in sorted(first.keys() | second.keys()):
        if name not in first or name not in second:
            found.append(FileDifference(name, "only in B" if name not in first else "only in A"))
        elif reason := first[name] or second[name]:
            found.append(FileDifference(name, "not compared", reason=reason))
        elif _hash(a / name) != _hash(b / name):
            found.append(_compare(a / name, b / name, name))
    return tuple(found)


def _hash(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read: {error.strerror}; check its permissions, or compare the"
            " weights alone"
        ) from None


def _compare(a: Path, b: Path, name: str) -> FileDifference:
    """Two files of other bytes: by field where both are JSON objects of a readable size."""
    objects = [_json(path) for path in (a, b)]
    if objects[0] is None or objects[1] is None:
        return FileDifference(name, "bytes")
    try:
        fields = list(_fields(objects[0], objects[1], "", DEEPEST))
    except RecursionError:
        return FileDifference(name, "bytes")
    if not fields:
        return FileDifference(name, "layout")
    return FileDifference(name, "fields", tuple(fields[:MOST_FIELDS]), len(fields))


def _json(path: Path) -> dict[str, Any] | None:
    size_bytes = path.stat().st_size
    if path.suffix.lower() != ".json" or size_bytes > LARGEST_JSON_BYTES:
        return None
    try:
        return json_object(bytes(read_range(path, 0, size_bytes)), path.name)
    except CheckpointError:
        return None


def _fields(
    a: dict[str, Any], b: dict[str, Any], prefix: str, depth: int
) -> Iterator[FieldDifference]:
    for key in dict.fromkeys((*a, *b)):
        x, y = a.get(key, _ABSENT), b.get(key, _ABSENT)
        if isinstance(x, dict) and isinstance(y, dict) and depth:
            yield from _fields(x, y, f"{prefix}{_name(key)}.", depth - 1)
        elif x is _ABSENT or y is _ABSENT or _plain(x) != _plain(y):
            yield FieldDifference(f"{prefix}{_name(key)}", _said(x), _said(y))


_ABSENT = object()


def _plain(value: Any) -> str:
    """Text that is the same for equal values: 1 and 1.0 are, 1 and true are not."""
    match value:
        case float() if value.is_integer():
            return str(int(value))
        case dict():
            pairs = ((json.dumps(key), _plain(inner)) for key, inner in sorted(value.items()))
            return "{" + ",".join(f"{key}:{inner}" for key, inner in pairs) + "}"
        case list():
            return "[" + ",".join(map(_plain, value)) + "]"
        case _:
            return json.dumps(value)


def _said(value: Any) -> str | None:
    return None if value is _ABSENT else shown(value)


def _name(key: str) -> str:
    return key if len(key) <= 80 else shown(key)
