"""What a plan takes on a cluster: time, memory of a machine, and what the time is spent on.

A model, not a measurement: the calibration of this machine stands for every core, and the shared
file system for one pipe of so many bytes per second, however many machines pull at it.

- Arithmetic: the matrices, largest first, each to the core that is free first.
- Files: both sources of every matrix read, every variant written, the rest copied; beside the
  arithmetic, so that the slower of the two counts.
- Hashes at the end: the output read once more, a file by one core at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from timberkit.engine.bundles import memory_bytes
from timberkit.engine.estimate import WRITE_BYTES_PER_SECOND, Calibration, refinement_seconds
from timberkit.engine.job import JobContext
from timberkit.engine.plan import RefinementPlan
from timberkit.engine.tasks import RefineTask
from timberkit.errors import UsageError

Limit: TypeAlias = Literal["processors", "largest matrix", "file system"]


@dataclass(frozen=True, slots=True)
class ClusterEstimate:
    """What ``nodes`` machines of ``cores`` each take; seconds of each part of the work.

    ``limit`` is what the middle part waits for: with the largest matrix or the file system as the
    limit, further machines do not help. ``useful_nodes`` is the number from which that is so.
    """

    nodes: int
    cores: int
    bytes_per_second: float
    seconds: float
    arithmetic_seconds: float
    files_seconds: float
    hash_seconds: float
    read_bytes: int
    written_bytes: int
    memory_per_node_bytes: int
    limit: Limit
    useful_nodes: int


def estimate_cluster(
    plan: RefinementPlan,
    calibration: Calibration,
    *,
    nodes: int,
    cores: int,
    bytes_per_second: float = WRITE_BYTES_PER_SECOND,
    shard_bytes: float | None = None,
) -> ClusterEstimate:
    """What a plan takes on a cluster whose file system moves so many bytes per second in all.

    ``shard_bytes``: size of the files that a model planned from its shapes alone, as one file, is
    taken to have; as they are where None.
    Raises UsageError for numbers that are not positive. O(tasks log cores) for each of
    ``useful_nodes`` tried, which are doubled and halved.
    """
    if nodes < 1 or cores < 1 or not bytes_per_second > 0:
        raise UsageError(
            f"cluster: found {nodes} nodes of {cores} cores and {bytes_per_second:g} bytes per"
            " second, expected positive numbers"
        )
    tasks = refinement_seconds(plan, calibration)
    read, written = moved_bytes(plan)
    arithmetic = longest_queue(tasks, nodes * cores)
    files = (read + written) / bytes_per_second
    files_bytes = _file_sizes(plan, shard_bytes)
    hashed = max(
        longest_queue(
            (size / calibration.hash_bytes_per_second for size in files_bytes), nodes * cores
        ),
        sum(files_bytes) / bytes_per_second,
    )
    return ClusterEstimate(
        nodes=nodes,
        cores=cores,
        bytes_per_second=bytes_per_second,
        seconds=calibration.start_seconds + max(arithmetic, files) + hashed,
        arithmetic_seconds=arithmetic,
        files_seconds=files,
        hash_seconds=hashed,
        read_bytes=read,
        written_bytes=written,
        memory_per_node_bytes=_node_memory_bytes(plan, cores),
        limit=_limit(arithmetic, files, max(tasks, default=0.0)),
        useful_nodes=_useful_nodes(tasks, files, cores),
    )


def moved_bytes(plan: RefinementPlan) -> tuple[int, int]:
    """Bytes read and written by the tasks; hashes and headers are not among them."""
    variants, read, written = len(plan.recipe.variants), 0, 0
    for task in plan.tasks:
        if isinstance(task, RefineTask):
            read += task.base.size_bytes + task.instruct.size_bytes
            written += variants * task.target.size_bytes
        else:
            read += task.work_bytes
            written += variants * task.work_bytes
    return read, written


def longest_queue(seconds: Iterable[float], cores: int) -> float:
    """When the last core is done, if each task goes to the core that is free first, in order.

    >>> longest_queue([3.0, 2.0, 2.0], 2)
    4.0
    """
    queues = [0.0] * cores
    for task in seconds:
        heapq.heapreplace(queues, queues[0] + task)
    return max(queues)


def _limit(arithmetic: float, files: float, largest: float) -> Limit:
    if files >= arithmetic:
        return "file system"
    return "largest matrix" if largest >= 0.99 * arithmetic else "processors"


def _useful_nodes(tasks: Sequence[float], files: float, cores: int) -> int:
    """Smallest number of machines whose arithmetic waits for something else."""

    def waits(nodes: int) -> bool:
        arithmetic = longest_queue(tasks, nodes * cores)
        return _limit(arithmetic, files, max(tasks, default=0.0)) != "processors"

    high = 1
    while not waits(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if waits(middle) else (middle, high)
    return high


def _file_sizes(plan: RefinementPlan, shard_bytes: float | None) -> list[float]:
    """Bytes of every output file, the largest first."""
    found: list[float] = []
    for shard in plan.layout.shards:
        count = 1 if shard_bytes is None else max(1, round(shard.size_bytes / shard_bytes))
        found += [shard.size_bytes / count] * count
    return sorted(found * len(plan.recipe.variants), reverse=True)


def _node_memory_bytes(plan: RefinementPlan, cores: int) -> int:
    """So many of the largest tasks at a time, each with its process."""
    context = JobContext(variants=plan.recipe.variants, layers=plan.layers)
    needed = (memory_bytes(context, task) for task in plan.refine_tasks)
    return sum(heapq.nlargest(cores, needed))
