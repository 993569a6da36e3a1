"""Keeps workers on other machines out of a stage that is no longer theirs.

A process on this machine dies with the run that started it. One on another machine may outlive it
for some seconds, or, where the network is cut, for longer. It writes the bytes that the continued
run writes, to the same places; but the stage may have been removed meanwhile, and another recipe
begun in its place. So a stage holds the number of the run that owns it. A worker looks before every
bundle of tasks and each ``LOOK_SECONDS`` during one, and ends at once where it finds another. It
looks once more before each write, with the file open: should the stage be replaced after that, the
open file is still the old one, which nobody reads.

The number is written over in place, never renamed into place: network file systems show the new
content of a file that is opened anew (close-to-open consistency), while a name may be cached.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from timberkit.checkpoint.writer import sync_file, write_file
from timberkit.errors import InterruptedRunError

OWNER = "owner"
"""File in a stage: the number of the run that may write to it, ``NUMBER_BYTES`` of text."""
NUMBER_BYTES = 32
LOOK_SECONDS = 1.0
SETTLE_SECONDS = 3.0
"""What a new owner waits where it finds an old one: longer than a worker goes without looking."""
_NOBODY = b"0" * NUMBER_BYTES


def take(stage: Path, number: str) -> None:
    """Make ``number`` the owner of a stage; waits ``SETTLE_SECONDS`` where another run owned it.

    Raises ValueError for a number of another length, InterruptedRunError when the disk fails.
    """
    content = number.encode()
    if len(content) != NUMBER_BYTES:
        raise ValueError(f"number: found {len(content)} bytes, expected {NUMBER_BYTES}")
    path = stage / OWNER
    owned = path.exists()
    _write(path, content)
    if owned:
        time.sleep(SETTLE_SECONDS)


def release(stage: Path) -> None:
    """Leave a stage without an owner; no error where it has none."""
    path = stage / OWNER
    if path.exists():
        _write(path, _NOBODY)
        path.unlink(missing_ok=True)


def is_owner(stage: Path, number: str) -> bool:
    """Whether the run ``number`` owns a stage.

    True as well when the file cannot be read for a reason that says nothing of its owner, such as
    a network that is away: writing fails then, too.
    """
    try:
        descriptor = os.open(stage / OWNER, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        found = os.read(descriptor, NUMBER_BYTES)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return len(found) < NUMBER_BYTES or found == number.encode()


def require_owner(stage: Path, number: str) -> None:
    """Raise InterruptedRunError where the run ``number`` does not own a stage."""
    if not is_owner(stage, number):
        raise InterruptedRunError(
            f"{stage}: no longer belongs to the run that this task is of; it was stopped or"
            " continued elsewhere, or the folder is another one on this machine"
        )


@contextmanager
def guarded(stage: Path, number: str) -> Iterator[None]:
    """End this process, whatever it does, as soon as another run owns the stage.

    Raises InterruptedRunError where that is so at the beginning.
    """
    require_owner(stage, number)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_SECONDS):
            if not is_owner(stage, number) and not over.is_set():
                os._exit(1)

    watcher = threading.Thread(target=watch, name="fence", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _write(path: Path, content: bytes) -> None:
    if not path.exists():
        write_file(path, content)
    else:
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                os.pwrite(descriptor, content, 0)
            finally:
                os.close(descriptor)
    sync_file(path)
