"""The folder of a long run: of one kind, written by one process at a time, its notes whole.

An evaluation, a study and a search each have a folder that grows over days and several runs. What
they have in common stands here; what lies in each is theirs.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from timberkit.checkpoint.manifest import MANIFEST_NAME, read_manifest
from timberkit.checkpoint.stage_folder import cannot_create, read_note, write_note
from timberkit.checkpoint.writer import sync_file, sync_folder
from timberkit.errors import (
    InterruptedRunError,
    OutputExistsError,
    ResourceError,
    StageConflictError,
)

LOCK_NAME = "lock"
_OURS = {LOCK_NAME, f"{MANIFEST_NAME}.draft", f".{MANIFEST_NAME}.draft"}
"""What a run may have left that was killed before its first note."""


@contextmanager
def hold_folder(path: Path, *, kind: str, doing: str) -> Iterator[None]:
    """Hold the folder of a run, made if missing, for this process alone.

    ``kind``: as its manifest says ("evaluation"); ``doing``: what another process does with it, for
    the message ("evaluating into").
    Raises OutputExistsError where something else stands there, StageConflictError where another
    process holds it, ResourceError for a file system without locks or room, UsageError where
    nothing can be created.
    """
    _refuse_strangers(path, kind)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise cannot_create(path, error) from None
    try:
        _take(lock, path, doing)
        yield
    finally:
        os.close(lock)


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all; InterruptedRunError where the disk refuses it."""
    try:
        write_note(path, fields)
    except OSError as error:
        raise _refused(path, error) from None


def write_text(path: Path, text: str) -> None:
    """Likewise for any text; on the disk before it has the name."""
    draft = path.with_name(f"{path.name}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        sync_file(draft)
        draft.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise _refused(path, error) from None


def differing_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What two settings differ in, as ``sampling.temperature: 0.6 before, 1.0 now``."""
    before, now = dict(_flat(old)), dict(_flat(new))
    return [
        f"{name}: {_shown(before, name)} before, {_shown(now, name)} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name, _MISSING) != now.get(name, _MISSING)
    ]


_MISSING = object()


def _shown(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name])[:80] if name in values else "not there"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _refused(path: Path, error: OSError) -> InterruptedRunError:
    return InterruptedRunError(
        f"{path}: cannot be written: {error.strerror}; what is done so far is kept; free some space"
        " and run the same command again"
    )


def _refuse_strangers(path: Path, kind: str) -> None:
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise OutputExistsError(f"{path}: found a file, expected a folder; name another: -o RUN")
    if (path / MANIFEST_NAME).exists():
        if read_manifest(path).get("kind") != kind:
            raise OutputExistsError(
                f"{path}: is an output of another command of timberkit; name another folder: -o RUN"
            )
        return
    others = sorted(entry.name for entry in path.iterdir() if entry.name not in _OURS)
    if others:
        raise OutputExistsError(
            f"{path}: holds {others[0]} and no {kind}; name another folder: -o RUN"
        )


def _take(lock: int, path: Path, doing: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = (read_note(path / LOCK_NAME) or {}).get("pid")
        who = f"process {pid}" if isinstance(pid, int) else "a process"
        raise StageConflictError(
            f"{path}: {who} is {doing} this folder at this moment; wait for it or stop it,"
            " or choose another folder"
        ) from None
    except OSError as error:
        raise ResourceError(
            f"{path}: the file system gives no locks ({error.strerror}), so two runs could write"
            " the same files; choose a folder on another file system"
        ) from None
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps({"pid": os.getpid()}).encode(), 0)
    except OSError as error:
        raise _refused(path, error) from None
