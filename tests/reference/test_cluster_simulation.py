"""The simulation of a cluster against answers that are known."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timberkit.engine.cluster_estimate import longest_queue

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import cluster as script
import cluster_simulation as simulation

FAST = 1e18


def works(*tasks: tuple[float, float, float]) -> list[Any]:
    return [simulation.Work(*task) for task in tasks]


def test_two_transfers_share_the_file_system_equally() -> None:
    # 100 and 300 bytes at 100 a second: both at half speed until 2 s, then one alone until 4 s.
    found = simulation.simulate(works((100, 0, 0), (300, 0, 0)), cores=2, bytes_per_second=100.0)
    assert found.seconds == pytest.approx(4.0)
    assert found.files_busy == pytest.approx(1.0)


def test_one_core_reads_computes_and_writes_in_turn() -> None:
    found = simulation.simulate(works((100, 5, 50), (10, 1, 0)), cores=1, bytes_per_second=10.0)
    assert found.seconds == pytest.approx(10 + 5 + 5 + 1 + 1)


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=40), st.integers(1, 12))
def test_without_files_it_is_list_scheduling(seconds: list[float], cores: int) -> None:
    tasks = works(*((0.0, each, 0.0) for each in seconds))
    found = simulation.simulate(tasks, cores=cores, bytes_per_second=FAST)
    assert found.seconds == pytest.approx(longest_queue(seconds, cores), rel=1e-6)


@given(
    st.lists(
        st.tuples(st.floats(0, 1e3), st.floats(0.01, 10), st.floats(0, 1e3)),
        min_size=1, max_size=40,
    ),
    st.integers(1, 12),
)  # fmt: skip
def test_no_run_is_shorter_than_its_work_or_its_bytes(
    tasks: list[tuple[float, float, float]], cores: int
) -> None:
    found = simulation.simulate(works(*tasks), cores=cores, bytes_per_second=100.0)
    moved = sum(read + written for read, _, written in tasks) / 100.0
    computed = sum(seconds for _, seconds, _ in tasks)
    assert found.seconds >= max(moved, computed / cores) * (1 - 1e-9)
    assert found.seconds <= (moved + computed) * (1 + 1e-9)


def test_a_slow_driver_is_the_limit_of_many_cores() -> None:
    tasks = works(*[(0.0, 0.1, 0.0)] * 100)
    found = simulation.simulate(tasks, cores=100, bytes_per_second=FAST, dispatch_seconds=0.05)
    assert found.seconds == pytest.approx(100 * 0.05 + 0.1)


def test_section_is_replaced_and_the_text_around_it_stays(tmp_path: Any) -> None:
    page = tmp_path / "cluster.md"
    page.write_text("# Before\n")
    script.write_section("first\n", page)
    script.write_section("second\n", page)
    assert page.read_text() == f"# Before\n\n{script.BEGIN}\nsecond\n{script.END}\n"


def test_shapes_have_the_parameters_that_the_names_promise() -> None:
    billions = {}
    for name, found, _ in script.shapes():
        total = 0
        for shape in found.values():
            size = 1
            for side in shape:
                size *= side
            total += size
        billions[name] = total / 1e9
    assert billions["llama-3.1-70b"] == pytest.approx(70.6, abs=0.2)
    assert billions["qwen3-235b-a22b"] == pytest.approx(235, abs=0.5)
    assert billions["deepseek-v3-671b"] == pytest.approx(671, abs=0.5)
