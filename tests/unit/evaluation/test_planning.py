"""Plans: every unit with its settings before any model is open, and what would be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stub_models import StubModel, stub_opened

from timberkit.errors import CheckpointError, SourceError, UsageError
from timberkit.evaluation.needs import evaluation_needs
from timberkit.evaluation.planning import plan_evaluation
from timberkit.evaluation.run import EvaluationOptions, evaluate
from timberkit.evaluation_recipe import build_evaluation_recipe

pytest.importorskip("inspect_ai")

FIELDS: dict[str, Any] = {"models": ["m=sapling:base"], "tasks": ["sapling"], "limit": 3}
ROWS = Path(__file__).with_name("rows")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Any:
    model = StubModel(None)
    with stub_opened(monkeypatch, model):
        yield model


def plan(**fields: Any) -> Any:
    return plan_evaluation(build_evaluation_recipe({**FIELDS, **fields}))


def test_units_are_models_times_tasks_times_temperatures(stub: StubModel) -> None:
    found = plan(
        models=["m=sapling:base", "n=sapling:instruct"],
        tasks=["sapling", "sapling:held-out-4"],
        temperatures=[0.6, 1.0],
    )
    assert [unit.provisional.key for unit in found.units][:4] == [
        "m@T=0.6 sapling:held-out",
        "m@T=1.0 sapling:held-out",
        "m@T=0.6 sapling:held-out-4",
        "m@T=1.0 sapling:held-out-4",
    ]
    assert len({unit.provisional.stem for unit in found.units}) == 4
    assert len(found.units) == 8


def test_benchmark_that_cannot_be_read_is_in_the_plan_with_its_reason(stub: StubModel) -> None:
    found = plan(tasks=["sapling", {"name": "aime24", "data": "/no/such/file"}])
    assert isinstance(found.tasks[1].not_ready, SourceError)
    with pytest.raises(SourceError, match="aime24: /no/such/file cannot be read"):
        found.refuse_unready()
    needs = evaluation_needs(found, None)
    assert needs.not_ready[0][0] == "aime24:released"
    assert needs.requests == 3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"raw_models": ["x"]}, "--raw x: no model of this name; there are m"),
        ({"tasks": ["no-such"]}, "not known"),
        ({"tasks": ["sapling:odd"]}, "no setting 'odd'"),
        ({"tasks": ["sapling", "sapling:held-out"]}, "given more than once"),
        ({"preset": "odd"}, "preset 'odd'"),
    ],
)
def test_what_does_not_exist_is_refused(stub: StubModel, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan(**fields)


def test_data_with_a_problem_twice_is_refused(stub: StubModel, tmp_path: Path) -> None:
    row = (ROWS / "sapling.jsonl").read_text().splitlines()[0]
    (tmp_path / "twice.jsonl").write_text(f"{row}\n{row}\n")
    with pytest.raises(UsageError, match="two problems have the key"):
        plan(tasks=[{"name": "sapling", "data": str(tmp_path / "twice.jsonl")}])


def test_needs_count_what_a_run_has_and_guess_tokens_from_it(
    stub: StubModel, tmp_path: Path
) -> None:
    recipe = build_evaluation_recipe({**FIELDS, "rollouts": 2})
    evaluate(recipe, tmp_path / "run", options=EvaluationOptions(grade_workers=1))
    (unit,) = evaluation_needs(plan(rollouts=5), tmp_path / "run").units
    assert (unit.planned, unit.there, unit.requests) == (15, 6, 9)
    assert unit.tokens is not None
    assert unit.most_tokens == 9 * 8192
    (other,) = evaluation_needs(plan(seed=3), tmp_path / "run").units
    assert other.conflict is not None
    assert "seed: 0 before, 3 now" in other.conflict
    assert other.requests == 3


def test_needs_of_a_folder_that_is_no_evaluation_are_refused(
    stub: StubModel, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"no timberkit\.json"):
        evaluation_needs(plan(), tmp_path)
