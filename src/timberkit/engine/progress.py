"""How far a run is, counted in tasks, bytes and expected time."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from timberkit.engine.estimate import relative_cost
from timberkit.engine.tasks import Task


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. ``cost`` is in arbitrary units proportional to expected time."""

    phase: str
    tasks_done: int
    bytes_done: int
    cost_done: float
    tasks_total: int
    bytes_total: int
    cost_total: float


ProgressCallback = Callable[[Progress], None]


class Meter:
    """Adds up what is done and tells the caller; ``cost`` is what a task is expected to take."""

    def __init__(
        self,
        phase: str,
        tasks: Sequence[Task],
        done: Set[str],
        on_progress: ProgressCallback | None,
        *,
        cost: Callable[[Task], float] = relative_cost,
    ) -> None:
        self._phase = phase
        self._cost = cost
        self._on_progress = on_progress
        self._left = {task.key: task for task in tasks}
        self._total = (
            len(tasks),
            sum(task.work_bytes for task in tasks),
            sum(cost(task) for task in tasks),
        )
        self._so_far: tuple[int, int, float] = (0, 0, 0.0)
        for key in done & self._left.keys():
            self._count(key)
        self._tell()

    def advance(self, key: str) -> None:
        """Count a task as done."""
        self._count(key)
        self._tell()

    def _count(self, key: str) -> None:
        task = self._left.pop(key)
        tasks, size, cost = self._so_far
        self._so_far = (tasks + 1, size + task.work_bytes, cost + self._cost(task))

    def _tell(self) -> None:
        if self._on_progress is not None:
            tasks, size, cost = self._so_far
            self._on_progress(Progress(self._phase, tasks, size, cost, *self._total))
