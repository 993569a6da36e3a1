"""Run a command and measure what its whole process tree takes: time, memory, bytes moved.

    python benchmarks/process_meter.py -- timberkit refine BASE INSTRUCT -o OUT
    python benchmarks/process_meter.py --timeout 600 -- python benchmarks/authors_algorithm.py ...

Processor time and bytes are exact where the kernel hands them up: it adds those of every reaped
child to its parent, and the root is read after its end, before it is reaped. Elsewhere the last
values seen of each process are summed. Memory is the sum of PSS over the tree (a page shared by two
processes counts half in each), sampled: a peak shorter than the interval goes unseen. Linux only.
Not here: memory of the page cache, which the system takes back when it needs it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

INTERVAL_SECONDS = 0.1
LARGEST_SHARE = 0.04
"""Share of one core that sampling may take; walking the pages of large processes is not free."""
SAMPLES_PER_LISTING = 4
"""Listing the tree's processes looks at every process of the machine."""
GONE = (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one command took.

    ``read_bytes`` and ``written_bytes`` are what system calls moved, page cache or not (reads
    through a memory map are not among them); ``disk_read_bytes`` and ``disk_written_bytes`` what
    reached the disk on the tree's account. ``meter_seconds`` is processor time of the sampling.
    """

    command: tuple[str, ...]
    exit_code: int
    timed_out: bool
    wall_seconds: float
    user_seconds: float
    system_seconds: float
    peak_pss_bytes: int
    peak_processes: int
    largest_rss_bytes: int
    read_bytes: int
    written_bytes: int
    disk_read_bytes: int
    disk_written_bytes: int
    samples: int
    meter_seconds: float

    @property
    def cpu_seconds(self) -> float:
        """User and system time of all processes."""
        return self.user_seconds + self.system_seconds


@dataclass(slots=True)
class _Watch:
    """What sampling has seen so far."""

    peak_pss_bytes: int = 0
    peak_processes: int = 0
    samples: int = 0
    meter_seconds: float = 0.0
    moved: dict[int, dict[str, int]] = field(default_factory=dict)
    unreaped: dict[int, tuple[float, float]] = field(default_factory=dict)
    """User and system seconds of processes that no ancestor waits for, as last seen."""


def measure(
    command: Sequence[str],
    *,
    stdout: Path | None = None,
    stderr: Path | None = None,
    timeout_seconds: float | None = None,
    interval_seconds: float = INTERVAL_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> Usage:
    """Run a command to its end, in a session of its own, and say what its process tree took.

    ``stdout`` and ``stderr`` go to files, or nowhere when None. On a timeout the whole tree is
    killed. ``environment`` is added to this process's. Raises FileNotFoundError for no such
    program; a command that fails is no error: see ``exit_code``.
    """
    with (
        open(stdout or os.devnull, "wb") as out,
        open(stderr or os.devnull, "wb") as err,
    ):
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    watch, finished = _Watch(), threading.Event()
    sampler = threading.Thread(
        target=_sample, args=(process.pid, watch, finished, interval_seconds), daemon=True
    )
    sampler.start()
    expired = threading.Event()
    timer = _timer(process.pid, timeout_seconds, expired)
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        wall_seconds = time.perf_counter() - started
        moved = _summed(watch.moved, instead=_io(process.pid), unreaped=set(watch.unreaped))
        finished.set()
        sampler.join()
    except BaseException:
        kill_tree(process.pid)
        raise
    finally:
        finished.set()
        if timer is not None:
            timer.cancel()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return Usage(
        command=tuple(command),
        exit_code=process.returncode,
        timed_out=expired.is_set(),
        wall_seconds=wall_seconds,
        user_seconds=usage.ru_utime + sum(user for user, _ in watch.unreaped.values()),
        system_seconds=usage.ru_stime + sum(system for _, system in watch.unreaped.values()),
        peak_pss_bytes=watch.peak_pss_bytes,
        peak_processes=watch.peak_processes,
        largest_rss_bytes=usage.ru_maxrss * 1024,
        read_bytes=moved.get("rchar", 0),
        written_bytes=moved.get("wchar", 0),
        disk_read_bytes=moved.get("read_bytes", 0),
        disk_written_bytes=moved.get("write_bytes", 0),
        samples=watch.samples,
        meter_seconds=watch.meter_seconds,
    )


def kill_tree(pid: int) -> None:
    """Kill a process and all that descend from it; those that are gone already do not matter."""
    try:
        members = [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]
    except GONE:
        return
    for member in members:
        try:
            member.send_signal(signal.SIGKILL)
        except GONE:
            continue


def _timer(pid: int, seconds: float | None, expired: threading.Event) -> threading.Timer | None:
    if seconds is None:
        return None

    def expire() -> None:
        expired.set()
        kill_tree(pid)

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    return timer


def _sample(pid: int, watch: _Watch, finished: threading.Event, interval: float) -> None:
    pause = 0.0
    members: list[psutil.Process] = []
    while not finished.wait(pause):
        before = time.thread_time()
        if watch.samples % SAMPLES_PER_LISTING == 0:
            members = _tree(pid)
        sizes = [_pss(member) for member in members]
        watch.peak_pss_bytes = max(watch.peak_pss_bytes, sum(sizes))
        watch.peak_processes = max(watch.peak_processes, sum(size > 0 for size in sizes))
        for member in members:
            counters = _io(member.pid)
            if counters:
                watch.moved[member.pid] = counters
            if member.pid != pid and _is_unreaped(member):
                times = _cpu_times(member)
                watch.unreaped[member.pid] = times or watch.unreaped.get(member.pid, (0.0, 0.0))
        watch.samples += 1
        taken = time.thread_time() - before
        watch.meter_seconds += taken
        pause = max(interval, taken / LARGEST_SHARE)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except GONE:
        return []


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except GONE:
        return 0


def _io(pid: int) -> dict[str, int]:
    """Counters of ``/proc/PID/io``, which a process keeps until it is reaped; empty where none."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return {}
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


def _is_unreaped(process: psutil.Process) -> bool:
    """Whether it is Python's fork server or was forked from it: nobody collects their times."""
    try:
        return "multiprocessing.forkserver" in " ".join(process.cmdline())
    except GONE:
        return False


def _cpu_times(process: psutil.Process) -> tuple[float, float] | None:
    try:
        times = process.cpu_times()
    except GONE:
        return None
    return float(times.user), float(times.system)


def _summed(
    moved: Mapping[int, Mapping[str, int]], *, instead: Mapping[str, int], unreaped: set[int]
) -> dict[str, int]:
    """Counters of a tree: the root's at its end, with those it waited for, and the unreaped."""
    parts = (
        [instead, *(moved[pid] for pid in unreaped if pid in moved)]
        if instead
        else [*moved.values()]
    )
    names = {name for counters in parts for name in counters}
    return {name: sum(counters.get(name, 0) for counters in parts) for name in names}


def main() -> None:
    """Command line: everything after the options is the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timeout", type=float, help="seconds")
    parser.add_argument("--stdout", type=Path, help="file for the command's output")
    parser.add_argument("--stderr", type=Path, help="file for its messages")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    usage = measure(
        given.command, stdout=given.stdout, stderr=given.stderr, timeout_seconds=given.timeout
    )
    print(json.dumps({**asdict(usage), "cpu_seconds": usage.cpu_seconds}))
    sys.exit(usage.exit_code if usage.exit_code >= 0 else 128 - usage.exit_code)


if __name__ == "__main__":
    main()
