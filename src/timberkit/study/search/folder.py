"""The folder of a search: what lies in it, who may write to it, and whether it fits.

::

    RUN/
    ├── timberkit.json        the settings, the sources, versions; written before anything is asked
    ├── journal.jsonl         every evaluation, and the opening of the confirm split (``book``)
    ├── factors/              leading directions of every delta (``factors``)
    ├── candidate/            the checkpoint of the candidate that is asked (rollouts only)
    ├── rollouts/             an evaluation run for each candidate (rollouts only)
    ├── results.json          what was found (``findings``), frontier.csv as a table
    ├── tradeoff.svg, .png    the picture (with the extra report)
    ├── winner.yaml           for ``timberkit refine --config``
    └── lock                  held (flock) by the run that is alive
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from timberkit.checkpoint.manifest import MANIFEST_NAME, SCHEMA_VERSION, read_manifest
from timberkit.checkpoint.stage_folder import cannot_create, read_note, write_note
from timberkit.errors import (
    CheckpointError,
    InterruptedRunError,
    OutputExistsError,
    ResourceError,
    StageConflictError,
)

KIND = "search"
LOCK_NAME = "lock"
JOURNAL_NAME = "journal.jsonl"
RESULTS_NAME = "results.json"
TABLE_NAME = "frontier.csv"
WINNER_NAME = "winner.yaml"
PICTURE_STEM = "tradeoff"


@contextmanager
def hold_search(
    path: Path, settings: Mapping[str, Any], sources: Mapping[str, Any]
) -> Iterator[Mapping[str, Any] | None]:
    """Open the folder of a search, made if missing, for this process alone.

    ``settings``: as JSON values; ``sources``: what the files of both models look like. Yields the
    sources that an earlier run of these settings noted, None for a new search. Raises
    StageConflictError where a run is alive in it or has other settings, naming them,
    OutputExistsError where something else stands there, UsageError where nothing can be created.
    """
    _refuse_strangers(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise cannot_create(path, error) from None
    try:
        _take(lock, path)
        if (path / MANIFEST_NAME).exists():
            yield _sources_before(path, settings)
        else:
            write_json(
                path / MANIFEST_NAME,
                {
                    "schema_version": SCHEMA_VERSION,
                    "kind": KIND,
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                    "versions": {"timberkit": version("timberkit")},
                    "settings": dict(settings),
                    "sources": dict(sources),
                },
            )
            yield None
    finally:
        os.close(lock)


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all; InterruptedRunError where the disk refuses it."""
    try:
        write_note(path, fields)
    except OSError as error:
        raise InterruptedRunError(
            f"{path}: cannot be written: {error.strerror}; what is done so far is kept; free some"
            " space and run the same command again"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Likewise for any text."""
    draft = path.with_name(f"{path.name}.draft")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise InterruptedRunError(
            f"{path}: cannot be written: {error.strerror}; free some space and run the same command"
            " again"
        ) from None


def _refuse_strangers(path: Path) -> None:
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise OutputExistsError(f"{path}: found a file, expected a folder; name another: -o RUN")
    if (path / MANIFEST_NAME).exists():
        if read_manifest(path).get("kind") != KIND:
            raise OutputExistsError(
                f"{path}: is an output of another command of timberkit; name another folder: -o RUN"
            )
        return
    others = sorted(entry.name for entry in path.iterdir() if entry.name != LOCK_NAME)
    if set(others) - {f"{MANIFEST_NAME}.draft"}:
        raise OutputExistsError(
            f"{path}: holds {others[0]} and no search; name another folder: -o RUN"
        )


def _sources_before(path: Path, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    manifest = read_manifest(path)
    before, sources = manifest.get("settings"), manifest.get("sources")
    there: Mapping[str, Any] = before if isinstance(before, dict) else {}
    differing = [
        f"{name}: {json.dumps(there.get(name))[:200]} before,"
        f" {json.dumps(settings.get(name))[:200]} now"
        for name in sorted({*there, *settings})
        if there.get(name) != settings.get(name)
    ]
    if differing:
        raise StageConflictError(
            f"{path}: is a search with other settings:\n  "
            + "\n  ".join(differing)
            + "\ngive the settings from before, or another folder"
        )
    if not isinstance(sources, dict) or set(sources) != {"base", "instruct"}:
        raise CheckpointError(
            f"{path / MANIFEST_NAME}: does not say which files were searched; restore the file, or"
            " search in a folder of its own"
        )
    return sources


def _take(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = (read_note(path / LOCK_NAME) or {}).get("pid")
        who = f"process {pid}" if isinstance(pid, int) else "a process"
        raise StageConflictError(
            f"{path}: {who} is searching into this folder at this moment; wait for it or stop it,"
            " or choose another folder"
        ) from None
    except OSError as error:
        raise ResourceError(
            f"{path}: the file system gives no locks ({error.strerror}), so two runs could write"
            " the same files; choose a folder on another file system"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps({"pid": os.getpid()}).encode(), 0)
