"""What an analysis measures and what it takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from timberkit.config import AnalyzeRecipe, build_analyze_recipe
from timberkit.engine.analysis_plan import (
    AnalysisPlan,
    analysis_cost,
    analysis_memory_bytes,
    default_analysis_workers,
    estimate_analysis,
    plan_analysis,
)
from timberkit.engine.estimate import Calibration, relative_cost
from timberkit.engine.sources import open_pair
from timberkit.engine.tasks import HashTask, MeasureTask, Place
from timberkit.sapling import base_folder, instruct_folder

CALIBRATION = Calibration("here", (128,), (1e9,))


def planned(**fields: object) -> AnalysisPlan:
    pair = {"base": str(base_folder()), "instruct": str(instruct_folder())}
    recipe: AnalyzeRecipe = build_analyze_recipe({**pair, **fields})
    return plan_analysis(open_pair(recipe.refinement()), recipe)


def test_the_weights_measured_are_those_that_refine_would_treat() -> None:
    plan = planned()
    assert {task.name for task in plan.tasks} == {tensor.name for tensor in plan.refinement.refined}
    assert len(plan.tasks) == 21
    costs = [analysis_cost(task) for task in plan.tasks]
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize(
    ("fields", "count"),
    [({"layers": "1"}, 7), ({"families": ["ffn"]}, 9), ({"families": ["embedding"]}, 1)],
)
def test_selections_hold(fields: dict[str, object], count: int) -> None:
    assert len(planned(**fields).tasks) == count


def test_what_is_asked_for_reaches_every_task() -> None:
    plan = planned(measure=["subspaces", "rounding"], keep_values="all")
    assert {task.measure for task in plan.tasks} == {("rounding", "subspaces")}
    assert {task.keep_values for task in plan.tasks} == {"all"}


def test_what_is_asked_for_costs_time_and_memory() -> None:
    place = Place("", 0, 2 * 512 * 1024, "BF16")
    plain = MeasureTask("w", None, "ffn", 0, 512, 1024, place, place, (), "delta")
    rounding, subspaces = (replace(plain, measure=(name,)) for name in ("rounding", "subspaces"))
    assert analysis_cost(plain) < analysis_cost(rounding) < analysis_cost(subspaces)
    assert analysis_memory_bytes(plain) < analysis_memory_bytes(subspaces)
    assert analysis_memory_bytes(plain) <= analysis_memory_bytes(rounding)
    assert analysis_memory_bytes(plain) >= 2 * place.size_bytes + 4 * 512 * 1024 + 8 * 512 * 512
    hashed = HashTask("file", 1000)
    assert analysis_cost(hashed) == relative_cost(hashed)


def test_an_estimate_divides_the_time_by_the_workers() -> None:
    plan = planned()
    one = estimate_analysis(plan, workers=1, calibration=CALIBRATION)
    two = estimate_analysis(plan, workers=2, calibration=CALIBRATION)
    assert one.seconds is not None
    assert two.seconds == pytest.approx(one.seconds / 2)
    assert estimate_analysis(plan).seconds is None
    assert estimate_analysis(plan).workers == default_analysis_workers(plan) == 1
