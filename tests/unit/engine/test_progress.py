"""Progress: what is done before and during a run is counted once, and ends at the total."""

from __future__ import annotations

import pytest

from timberkit.engine.estimate import relative_cost
from timberkit.engine.progress import Meter, Progress
from timberkit.engine.tasks import CopyTask, HashTask, Place, RefineTask, Task

PLACE = Place("file", 0, 128, "BF16")
TASKS: list[Task] = [
    RefineTask("w", None, "ffn", 0, 8, 8, PLACE, PLACE, PLACE),
    RefineTask("x", 1, "ffn", 0, 8, 8, PLACE, PLACE, PLACE),
    CopyTask("source", 0, "shard", 8, 1000),
    HashTask("output", 5000),
]


def test_every_task_counts_once_and_the_end_is_the_total() -> None:
    seen: list[Progress] = []
    meter = Meter("refine", TASKS, set(), seen.append)
    for task in TASKS:
        meter.advance(task.key)
    assert [progress.tasks_done for progress in seen] == [0, 1, 2, 3, 4]
    assert [progress.bytes_done for progress in seen] == [0, 128, 256, 1256, 6256]
    last = seen[-1]
    assert (last.tasks_total, last.bytes_total) == (4, 6256)
    assert last.cost_done == pytest.approx(last.cost_total)
    assert last.cost_total == pytest.approx(sum(map(relative_cost, TASKS)))
    assert {progress.phase for progress in seen} == {"refine"}
    costs = [progress.cost_done for progress in seen]
    assert costs == sorted(costs)


def test_what_an_earlier_run_did_is_counted_at_the_start_and_foreign_keys_ignored() -> None:
    seen: list[Progress] = []
    meter = Meter("refine", TASKS, {TASKS[0].key, TASKS[2].key, "of another run"}, seen.append)
    assert len(seen) == 1
    assert (seen[0].tasks_done, seen[0].bytes_done) == (2, 1128)
    meter.advance(TASKS[1].key)
    meter.advance(TASKS[3].key)
    assert seen[-1].tasks_done == seen[-1].tasks_total == 4


def test_a_task_cannot_be_counted_twice() -> None:
    meter = Meter("refine", TASKS, set(), None)
    meter.advance(TASKS[0].key)
    with pytest.raises(KeyError):
        meter.advance(TASKS[0].key)


def test_nobody_needs_to_listen() -> None:
    Meter("hash", [], set(), None)
    Meter("hash", TASKS, set(), None).advance(TASKS[3].key)


def test_keys_tell_all_tasks_apart() -> None:
    assert len({task.key for task in TASKS}) == len(TASKS)
