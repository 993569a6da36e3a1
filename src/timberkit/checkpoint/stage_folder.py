"""What lies in a stage folder, and who may touch it.

::

    .NAME.timberkit-stage/   beside the output NAME
    ├── lock                 held (flock) by the run that is alive; says its pid
    ├── recipe.json          which recipe the stage belongs to; written last, so a stage without it
    │                        was only half made
    ├── journal.jsonl        what is done (``journal``)
    ├── tree/                the future output
    ├── publishing.json      recipe.json and the fingerprint of tree, once that is finished
    ├── replaced/            the old output, where two folders cannot be exchanged in one step
    └── discarded/           whatever is on its way out

Things leave in one order, safe to be cut anywhere: ``tree`` is first renamed to ``discarded`` (a
half-deleted tree must never pass for a tree), then journal and recipe go, then the marker, then the
lock. A stage without ``tree`` therefore has nothing worth continuing.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timberkit.checkpoint.writer import FULL_DISK_ERRORS, free_bytes, sync_file, sync_folder
from timberkit.errors import ResourceError, StageConflictError, TimberkitError, UsageError

STAGE_SUFFIX = ".timberkit-stage"

_LARGEST_NOTE_BYTES = 64 << 20
_LOCK_ATTEMPTS = 5
_LOCK_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class StageFolder:
    """The paths in the stage folder ``path``; holds nothing open."""

    path: Path

    @classmethod
    def of(cls, output: Path) -> StageFolder:
        """The stage folder that belongs to an output."""
        return cls(output.parent / f".{output.name}{STAGE_SUFFIX}")

    @property
    def output(self) -> Path:
        """The output this stage is for."""
        return self.path.parent / self.path.name[1 : -len(STAGE_SUFFIX)]

    @property
    def tree(self) -> Path:
        """The future output."""
        return self.path / "tree"

    @property
    def journal(self) -> Path:
        """What is done."""
        return self.path / "journal.jsonl"

    @property
    def recipe(self) -> Path:
        """Which recipe the stage belongs to."""
        return self.path / "recipe.json"

    @property
    def marker(self) -> Path:
        """Says that tree is finished, and what it looks like."""
        return self.path / "publishing.json"

    def description(self) -> dict[str, Any] | None:
        """What recipe.json says (digest and so on), or the marker, which repeats it; else None."""
        return read_note(self.recipe) or read_note(self.marker)

    @property
    def replaced(self) -> Path:
        """The old output, between the two renames of an overwrite."""
        return self.path / "replaced"

    @property
    def lock(self) -> Path:
        """Held by the run that is alive."""
        return self.path / "lock"

    def hold(self) -> int:
        """Create the folder if need be and take its lock; returns the descriptor that holds it.

        Closing the descriptor (or the death of the process and of every process forked from it)
        gives the lock back. Raises StageConflictError when another run holds it, ResourceError for
        a file system without locks or without room, UsageError where nothing can be created.
        """
        if self.path.is_symlink():
            raise StageConflictError(
                f"{self.path}: is a link, expected a folder made by timberkit; remove it first"
            )
        for _ in range(_LOCK_ATTEMPTS):
            descriptor = self._try_to_hold()
            if descriptor is not None:
                return descriptor
            time.sleep(_LOCK_PAUSE_SECONDS)
        pid = (read_note(self.lock) or {}).get("pid")
        who = f"process {pid}" if isinstance(pid, int) else "a process"
        raise StageConflictError(
            f"{self.path}: {who} is writing to {self.output} at this moment; wait for it or stop"
            " it, or choose another output folder"
        )

    def _try_to_hold(self) -> int | None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:
            # Removed between the two lines by the run that was just finishing here.
            return None
        except OSError as error:
            raise cannot_create(self.path, error) from None
        held = False
        try:
            # The lock of a file that was unlinked meanwhile protects nothing.
            held = _lock(descriptor, self.lock) and _is_same_file(descriptor, self.lock)
            if held:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps({"pid": os.getpid()}).encode(), 0)
        except OSError as error:
            held = False
            raise cannot_create(self.path, error) from None
        finally:
            if not held:
                os.close(descriptor)
        return descriptor if held else None

    def is_held(self) -> bool:
        """Whether a run is alive in this stage; True when that cannot be found out."""
        try:
            descriptor = os.open(self.lock, os.O_RDONLY)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        try:
            return not _lock(descriptor, self.lock, shared=True)
        except ResourceError:
            return True
        finally:
            os.close(descriptor)

    def discard(self) -> None:
        """Remove everything but lock and folder, in the order that is safe to be cut anywhere.

        The caller holds the lock and knows that nothing in here is the only copy.
        """
        discarded = self.path / "discarded"
        for folder in (self.tree, self.replaced):
            _remove_folder(discarded)
            if os.path.lexists(folder):
                os.rename(folder, discarded)
                sync_folder(self.path)
            if folder == self.tree:
                self.journal.unlink(missing_ok=True)
                self.recipe.unlink(missing_ok=True)
        _remove_folder(discarded)
        sync_folder(self.path)
        self.marker.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the whole stage, the lock last; the caller holds the lock."""
        self.discard()
        for note in (self.recipe, self.marker):
            _draft(note).unlink(missing_ok=True)
        self.lock.unlink()
        try:
            self.path.rmdir()
        except OSError as error:
            # Another run has just begun here: the folder is its own now.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        sync_folder(self.path.parent)


def read_note(path: Path) -> dict[str, Any] | None:
    """The JSON object in a small file; None when it is missing, torn or something else."""
    try:
        if path.stat().st_size > _LARGEST_NOTE_BYTES:
            return None
        note = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return note if isinstance(note, dict) else None


def write_note(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a JSON object whole or not at all, and sync it; OSError when the disk refuses it."""
    draft = _draft(path)
    draft.write_text(json.dumps(dict(fields), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    sync_file(draft)
    os.replace(draft, path)
    sync_folder(path.parent)


def _draft(path: Path) -> Path:
    return path.with_name(path.name + ".draft")


def cannot_create(path: Path, error: OSError) -> TimberkitError:
    """The error for a stage that cannot be made: no room, or no permission and the like."""
    if error.errno in FULL_DISK_ERRORS:
        return ResourceError(
            f"{path}: {error.strerror}: {free_bytes(path)} bytes free; free some space, or choose"
            " an output folder on another disk"
        )
    return UsageError(
        f"{path}: cannot be created: {error.strerror}; timberkit works in a hidden folder beside"
        " the output; choose an output folder whose parent you may write to"
    )


def _lock(descriptor: int, path: Path, *, shared: bool = False) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ResourceError(
            f"{path}: the file system gives no locks ({error.strerror}), so two runs could write"
            " the same output; choose an output folder on another file system"
        ) from None
    return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove_folder(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
