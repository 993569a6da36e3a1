"""Bundles hold every task once, in order, with the memory of the largest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from timberkit.config import Timber
from timberkit.engine.analysis_plan import analysis_cost
from timberkit.engine.bundles import BUNDLE_COST, STEP_BYTES, bundles, memory_bytes
from timberkit.engine.job import JobContext
from timberkit.engine.tasks import CopyTask, PairTask, Place, RefineTask, SharedTask

CONTEXT = JobContext(pairs=(JobContext(variants=(Timber(),), folders=("out",)),))


def refine(number: int, side: int) -> SharedTask:
    place = Place("a", 0, 2 * side * side, "BF16")
    task = RefineTask(f"w{number}", None, "ffn", 0, side, side, place, place, place)
    return SharedTask((PairTask(0, task),))


@given(st.lists(st.sampled_from([16, 256, 2048, 8192]), max_size=300), st.integers(0, 64))
def test_every_task_is_in_one_bundle_in_order_with_memory_enough(
    sides: list[int], cores: int
) -> None:
    tasks = [refine(number, side) for number, side in enumerate(sides)]
    made = list(bundles(CONTEXT, tasks, cores))
    assert [task for bundle in made for task in bundle.tasks] == tasks
    for bundle in made:
        assert bundle.memory_bytes >= max(memory_bytes(CONTEXT, task) for task in bundle.tasks)
        assert bundle.memory_bytes % STEP_BYTES == 0
        # Nothing is put to a bundle that is worth the way already.
        assert sum(map(analysis_cost, bundle.tasks[:-1])) < BUNDLE_COST


def test_small_tasks_travel_together_and_large_ones_alone() -> None:
    large, small = refine(0, 8192), [refine(number, 64) for number in range(1, 200)]
    first, *others = bundles(CONTEXT, [large, *small], 1)
    assert first.tasks == (large,)
    assert len(others) == 1


def test_copy_needs_less_memory_than_a_matrix() -> None:
    copy = SharedTask((PairTask(0, CopyTask("a", 0, "b", 0, 100)),))
    assert memory_bytes(CONTEXT, copy) < memory_bytes(CONTEXT, refine(0, 4096))
