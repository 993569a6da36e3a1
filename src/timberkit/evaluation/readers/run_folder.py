"""Rollouts of a run folder of ``timberkit eval``: its table, or the logs of a run under way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from timberkit.checkpoint.manifest import read_manifest
from timberkit.errors import InputError
from timberkit.evaluation.readers.inspect_logs import open_inspect_logs
from timberkit.evaluation.readers.source import Source
from timberkit.rollouts import ROLLOUTS_NAME, Rollout, read_rollouts

KIND = "evaluation"
"""What the manifest of a run folder says it is of."""


def open_run(path: Path) -> Source:
    """All rollouts that a run has: from ``rollouts.parquet``, or from newer logs, with a notice.

    Raises InputError for a folder of another command of timberkit, or without any rollouts.
    """
    kind = read_manifest(path).get("kind")
    if kind != KIND:
        raise InputError(
            f"{path}: is an output of another command of timberkit, expected a run folder of"
            " timberkit eval"
        )
    table = path / ROLLOUTS_NAME
    logs = sorted(path.glob("logs/*/*.eval"))
    notices = []
    unfinished = any(file.stat().st_size for file in path.glob("journal/*/*.jsonl"))
    if unfinished:
        notices.append(
            f"{path}: the run is not finished, and its newest rollouts are not counted; the same"
            " timberkit eval command finishes it"
        )
    if table.is_file() and not _any_newer(logs, table):
        return Source(
            path, "run of timberkit eval", read_rollouts(table, texts=False), notices, True, table
        )
    if not logs:
        raise InputError(
            f"{path}: found no finished rollouts yet; run the same timberkit eval command again to"
            " finish it"
        )
    if not unfinished:
        why = f"newer logs than {ROLLOUTS_NAME}" if table.is_file() else f"no {ROLLOUTS_NAME}"
        notices.append(f"{path}: has {why}; the logs are read")
    source = open_inspect_logs(logs, path, ())
    return Source(path, "logs of timberkit eval", _from(source, notices), notices, True)


def _any_newer(logs: list[Path], table: Path) -> bool:
    written = table.stat().st_mtime_ns
    return any(log.stat().st_mtime_ns > written for log in logs)


def _from(source: Source, notices: list[str]) -> Iterator[Rollout]:
    yield from source.rollouts
    notices += source.notices
