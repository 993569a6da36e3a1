"""The model of a cluster: bounds that any schedule keeps, and limits named as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from timberkit.cli import app
from timberkit.config import build_recipe
from timberkit.engine.cluster_estimate import (
    estimate_cluster,
    longest_queue,
    moved_bytes,
)
from timberkit.engine.estimate import Calibration, refinement_seconds
from timberkit.engine.plan import RefinementPlan, plan_refinement
from timberkit.errors import UsageError
from timberkit.pairs import find_pair, planned_pair

SLOW = Calibration("made", (256, 4096), (1e9, 1e9), 1.0, 1e9)


@pytest.fixture(scope="module")
def plan() -> RefinementPlan:
    base, instruct = planned_pair(find_pair("qwen3-0.6b"))
    fields: dict[str, Any] = {"base": "b", "instruct": "i", "method": "timber"}
    return plan_refinement(base, instruct, build_recipe(fields, where="test"))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.integers(1, 40))
def test_queue_is_as_long_as_any_schedule_must_be_and_no_longer_than_greedy_may(
    seconds: list[float], cores: int
) -> None:
    found = longest_queue(seconds, cores)
    total, largest = sum(seconds), max(seconds)
    lowest = max(total / cores, largest)
    assert lowest <= found * (1 + 1e-9)
    # Graham's bound for list scheduling.
    assert found <= total / cores + (1 - 1 / cores) * largest + 1e-9


def test_bytes_moved_are_those_of_the_files(plan: RefinementPlan) -> None:
    read, written = moved_bytes(plan)
    headers = plan.output_bytes - written
    assert 0 <= headers < 0.001 * written
    refined = sum(task.base.size_bytes for task in plan.refine_tasks)
    assert read == written + refined  # Instruct once, and of Base what is refined


def test_more_machines_help_up_to_the_number_that_is_named(plan: RefinementPlan) -> None:
    def seconds(nodes: int) -> float:
        found = estimate_cluster(plan, SLOW, nodes=nodes, cores=4, bytes_per_second=1e9)
        return found.seconds

    useful = estimate_cluster(plan, SLOW, nodes=1, cores=4, bytes_per_second=1e9).useful_nodes
    assert useful > 2
    assert seconds(1) > seconds(useful // 2) > seconds(useful)
    assert seconds(2 * useful) == pytest.approx(seconds(useful), rel=0.02)


def test_limits_are_named(plan: RefinementPlan) -> None:
    def limit(nodes: int, bytes_per_second: float) -> str:
        found = estimate_cluster(
            plan, SLOW, nodes=nodes, cores=1, bytes_per_second=bytes_per_second
        )
        return found.limit

    assert limit(1, 1e12) == "processors"
    assert limit(10_000, 1e12) == "largest matrix"
    assert limit(1, 1e3) == "file system"


def test_one_machine_has_the_arithmetic_of_its_queues(plan: RefinementPlan) -> None:
    found = estimate_cluster(plan, SLOW, nodes=1, cores=1, bytes_per_second=1e12)
    assert found.arithmetic_seconds == pytest.approx(sum(refinement_seconds(plan, SLOW)))


@pytest.mark.parametrize(("nodes", "cores", "rate"), [(0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0)])
def test_numbers_that_are_not_positive_are_refused(
    plan: RefinementPlan, nodes: int, cores: int, rate: float
) -> None:
    with pytest.raises(UsageError, match="positive"):
        estimate_cluster(plan, SLOW, nodes=nodes, cores=cores, bytes_per_second=rate)


def test_plan_shows_a_cluster_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timberkit.engine.estimate.calibrate", lambda: SLOW)
    ask = ["plan", "--pair", "qwen3-0.6b", "--json"]
    assert "cluster" not in json.loads(CliRunner().invoke(app, ask).stdout)
    asked = [*ask, "--nodes", "3", "--cores", "8", "--bandwidth", "2"]
    shown = json.loads(CliRunner().invoke(app, asked).stdout)["cluster"]
    assert (shown["nodes"], shown["cores"], shown["bytes_per_second"]) == (3, 8, 2e9)
    refused = CliRunner().invoke(app, [*ask, "--cores", "8"])
    assert isinstance(refused.exception, UsageError)
