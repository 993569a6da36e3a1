"""What a step takes: seconds, bytes on the disk, and the largest memory of all its processes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PAUSE_SECONDS = 0.2
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass(slots=True)
class Meter:
    """A step under way. ``seconds`` and ``peak_bytes`` are final once it has ended."""

    seconds: float = 0.0
    peak_bytes: int | None = None


@contextmanager
def measured() -> Iterator[Meter]:
    """Measure a block: this process and all that descend from it, looked at five times a second.

    Memory is resident memory summed over processes, so that pages they share count for each of
    them: never too little. None where the system has no ``/proc``.
    """
    meter = Meter()
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(meter, done), daemon=True)
    started = time.perf_counter()
    watcher.start()
    try:
        yield meter
    finally:
        done.set()
        watcher.join()
        meter.seconds = time.perf_counter() - started


def _watch(meter: Meter, done: threading.Event) -> None:
    while True:
        found = tree_bytes(os.getpid())
        if found is not None:
            meter.peak_bytes = max(meter.peak_bytes or 0, found)
        if done.wait(PAUSE_SECONDS):
            return


def tree_bytes(root: int) -> int | None:
    """Resident bytes of a process and its descendants; None without ``/proc``."""
    parents: dict[int, int] = {}
    try:
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                parent = _parent(int(entry.name))
                if parent is not None:
                    parents[int(entry.name)] = parent
    except OSError:
        return None
    members = {root}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in members} - members
        members |= more
        grown = bool(more)
    return sum(map(_resident, members))


def _parent(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1")
        return int(text.rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def folder_bytes(path: Path) -> int:
    """Bytes of all files below a folder, links not followed; 0 where there is none."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total
