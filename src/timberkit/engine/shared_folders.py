"""What every machine of a cluster has to see: the sources as they are here, and the stage.

folders = SharedFolders(shards_of(base, instruct), stage="…", number="…")
problem = missing_here(folders)       # on the other machine; None where all is well
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from timberkit.checkpoint.layout import Checkpoint
from timberkit.checkpoint.writer import sync_file, write_file
from timberkit.engine.fence import NUMBER_BYTES, is_owner
from timberkit.engine.pair_runs import PairRun


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A file of a source as this machine sees it. Times are left out: a copy may have its own."""

    path: str
    size_bytes: int
    header_bytes: int
    header_sha256: str


@dataclass(frozen=True, slots=True)
class SharedFolders:
    """Files that are read, the stage that is written to (none by an analysis), and whose it is."""

    files: tuple[SeenFile, ...] = ()
    stage: str | None = None
    number: str = ""


def shards_of(checkpoints: Iterable[Checkpoint]) -> tuple[SeenFile, ...]:
    """All weight files of some checkpoints."""
    return tuple(
        SeenFile(
            os.path.abspath(shard.path), shard.size_bytes, shard.header_bytes, shard.header_sha256
        )
        for checkpoint in checkpoints
        for shard in checkpoint.shards
    )


def missing_here(folders: SharedFolders) -> str | None:
    """What this machine sees otherwise, in words, or None. Reads the headers of the sources."""
    for file in folders.files:
        problem = _differs(file)
        if problem is not None:
            return problem
    if folders.stage is not None and not is_owner(Path(folders.stage), folders.number):
        return f"{folders.stage}: not there, or not the folder of this run, expected to be shared"
    return None


def leave_mark(stage: Path) -> tuple[str, str]:
    """Write a small file into the stage, through to the disk: its name and content.

    The machine that started the run has to find it. Raises InterruptedRunError where nothing can
    be written.
    """
    name, content = f"probe-{secrets.token_hex(8)}", secrets.token_hex(16)
    write_file(stage / name, content.encode())
    sync_file(stage / name)
    return name, content


def finds_mark(stage: Path, name: str, content: str) -> bool:
    """Whether the mark of another machine is here; it is removed."""
    path = stage / name
    try:
        found = path.read_text(encoding="ascii") == content
        path.unlink()
    except (OSError, ValueError):
        return False
    return found


def _differs(file: SeenFile) -> str | None:
    try:
        with open(file.path, "rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            header = opened.read(file.header_bytes)
    except OSError as error:
        return f"{file.path}: cannot be read: {error.strerror}"
    if size != file.size_bytes:
        return f"{file.path}: found {size} bytes, expected {file.size_bytes}"
    if hashlib.sha256(header).hexdigest() != file.header_sha256:
        return f"{file.path}: another header, expected the file that this run reads"
    return None


def stage_folders(runs: Sequence[PairRun], stage: Path) -> SharedFolders:
    """Sources of all pairs and the stage, for a run that gets a number of its own."""
    checkpoints = [part for run in runs for part in (*run.pair.weights.values(), run.pair.instruct)]
    number = secrets.token_hex(NUMBER_BYTES // 2)
    return SharedFolders(tuple(dict.fromkeys(shards_of(checkpoints))), str(stage), number)
