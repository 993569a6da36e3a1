"""A cluster as a simulation of events: cores that compute, one file system that all of them share.

    result = simulate(tasks, cores=64, bytes_per_second=5e9, dispatch_seconds=0.001)

Each task is dispatched by one driver, reads, computes and writes. Reading and writing share the
file system equally (processor sharing); computing does not depend on others. Not here: networks of
their own for each machine, caches, machines that die, latency of the file system.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """A task: bytes in, seconds of one core, bytes out."""

    read_bytes: float
    seconds: float
    written_bytes: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Wall time, and the shares of it that the cores computed and the file system moved bytes."""

    seconds: float
    cores_busy: float
    files_busy: float


def simulate(
    tasks: Sequence[Work], *, cores: int, bytes_per_second: float, dispatch_seconds: float = 0.0
) -> Outcome:
    """Work through the tasks in their order. O((tasks + cores) log cores).

    With no file system to wait for this is list scheduling; with one core and no driver, the sum.
    """
    pipe = _Pipe(bytes_per_second)
    timers: list[tuple[float, int, int]] = []  # when, core, what it waited for
    left = _dispatched(tasks, dispatch_seconds)
    working: dict[int, Work] = {}
    now = 0.0

    def take(core: int) -> None:
        found = next(left, None)
        if found is not None:
            ready, working[core] = found
            heapq.heappush(timers, (max(ready, now), core, _READ))

    for core in range(min(cores, len(tasks))):
        take(core)
    while timers or pipe.busy:
        due = timers[0][0] if timers else float("inf")
        done = pipe.next_end(now)
        if done <= due:
            now = done
            core, what = pipe.pop(now)
            if what == _READ:
                heapq.heappush(timers, (now + working[core].seconds, core, _COMPUTED))
            else:
                take(core)
        else:
            now, core, what = heapq.heappop(timers)
            size = working[core].read_bytes if what == _READ else working[core].written_bytes
            pipe.push(now, core, _READ if what == _READ else _WRITTEN, size)
    computed = sum(task.seconds for task in tasks)
    moved = sum(task.read_bytes + task.written_bytes for task in tasks)
    wall = max(now, 1e-12)
    return Outcome(now, computed / (cores * wall), moved / bytes_per_second / wall)


_READ, _COMPUTED, _WRITTEN = range(3)


def _dispatched(tasks: Sequence[Work], dispatch_seconds: float) -> Iterator[tuple[float, Work]]:
    for number, task in enumerate(tasks):
        yield (number + 1) * dispatch_seconds, task


class _Pipe:
    """Processor sharing by virtual time: what one transfer would have got, had it been there."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._ends: list[tuple[float, int, int]] = []
        self._each = 0.0  # bytes that each transfer has got since the beginning
        self._at = 0.0

    @property
    def busy(self) -> bool:
        return bool(self._ends)

    def push(self, now: float, core: int, what: int, size: float) -> None:
        self._advance(now)
        heapq.heappush(self._ends, (self._each + size, core, what))

    def next_end(self, now: float) -> float:
        if not self._ends:
            return float("inf")
        left = self._ends[0][0] - self._each
        return max(now, self._at + left * len(self._ends) / self._rate)

    def pop(self, now: float) -> tuple[int, int]:
        self._advance(now)
        end, core, what = heapq.heappop(self._ends)
        self._each = max(self._each, end)
        return core, what

    def _advance(self, now: float) -> None:
        if self._ends:
            self._each += (now - self._at) * self._rate / len(self._ends)
        self._at = now
