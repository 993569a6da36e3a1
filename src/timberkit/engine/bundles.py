"""Tasks for machines far away: small ones in bundles, each with the memory it will take.

Handing a task to another machine costs milliseconds, a small matrix less than that; so consecutive
tasks are put together until they are worth the way. Memory is rounded up to a few sizes, because a
scheduler keeps a queue for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from timberkit.config import Linear, at
from timberkit.engine.analysis_plan import analysis_cost, analysis_memory_bytes
from timberkit.engine.estimate import PROCESS_BYTES, largest_share, task_memory_bytes
from timberkit.engine.job import JobContext
from timberkit.engine.tasks import CastTask, MeasureTask, OracleTask, RefineTask, SharedTask, Task

BUNDLE_COST = 1.0
"""Expected seconds that are worth the way to another machine."""
BUNDLES_PER_CORE = 8
"""So many bundles for each core at least, where the work is small, so that all have some."""
MOST_TASKS = 256
STEP_BYTES = 256 << 20
ORACLE_COPIES = 12
"""Float64 copies of a matrix that a full SVD of its delta holds, sources included."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Consecutive tasks, and the memory of the process that does them."""

    tasks: tuple[Task, ...]
    memory_bytes: int


def bundles(context: JobContext, tasks: Sequence[Task], cores: int) -> Iterator[Bundle]:
    """All tasks in their order, in bundles for so many cores. O(number of tasks)."""
    total = sum(map(analysis_cost, tasks))
    worth = min(BUNDLE_COST, total / (max(cores, 1) * BUNDLES_PER_CORE))
    held: list[Task] = []
    cost = 0.0
    for task in tasks:
        held.append(task)
        cost += analysis_cost(task)
        if cost >= worth or len(held) >= MOST_TASKS:
            yield _bundle(context, held)
            held, cost = [], 0.0
    if held:
        yield _bundle(context, held)


def memory_bytes(context: JobContext, task: Task) -> int:
    """Peak memory of a process while it does the task."""
    return PROCESS_BYTES + _needed(context, task)


def reserved_bytes(context: JobContext, tasks: Sequence[Task]) -> int:
    """Memory that a bundle of these tasks asks for: of its largest, rounded up; 0 for none."""
    largest = max((memory_bytes(context, task) for task in tasks), default=0)
    return -(-largest // STEP_BYTES) * STEP_BYTES


def _bundle(context: JobContext, tasks: Sequence[Task]) -> Bundle:
    return Bundle(tuple(tasks), reserved_bytes(context, tasks))


def _needed(context: JobContext, task: Task) -> int:
    match task:
        case SharedTask():
            return max(_needed(context.pairs[part.pair], part.task) for part in task.parts)
        case RefineTask():
            position = task.position(context.layers)
            variants = [at(variant, position) for variant in context.variants]
            every = any(isinstance(variant, Linear) for variant in variants)
            share = largest_share(variants)
            return task_memory_bytes(task, len(variants), all_directions=every, share=share)
        case MeasureTask():
            return analysis_memory_bytes(task)
        case OracleTask():
            return ORACLE_COPIES * 8 * task.task.rows * task.task.columns
        case CastTask():
            return 4 * max(task.source.size_bytes, task.target.size_bytes)
        case _:
            return 64 << 20
