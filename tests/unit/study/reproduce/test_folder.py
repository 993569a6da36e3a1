"""The folder of a study: what is done stays done, and belongs to one recipe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from timberkit.errors import CheckpointError, OutputExistsError, StageConflictError
from timberkit.findings import Cost
from timberkit.study.reproduce.folder import LEDGER_NAME, ModelFacts, hold_study
from timberkit.study_recipe import StudyRecipe, build_study_recipe


def recipe(**fields: object) -> StudyRecipe:
    return build_study_recipe({"base": "org/base", "instruct": "org/instruct", **fields})


def test_what_was_noted_is_there_again_bit_for_bit(tmp_path: Path) -> None:
    p = np.random.default_rng(0).random(50)
    cost = Cost("analysis", "weights", 1.25, 7, None)
    with hold_study(tmp_path / "s", recipe()) as folder:
        folder.finish(cost)
        folder.note_models({"timber-l": ModelFacts(0.5, None)})
        folder.note_exact("timber-l", "task", p)
        folder.note_asked("base", "task", failed=3)
        folder.note_sources({"base": {"x": 1}, "instruct": {}}, {"base": "abc", "instruct": None})
    with hold_study(tmp_path / "s", recipe()) as again:
        assert again.costs == {"analysis": cost}
        assert again.facts == {"timber-l": ModelFacts(0.5, None)}
        assert (again.exact["timber-l", "task"] == p).all()
        assert again.asked == {("base", "task"): 3}
        assert again.sources == {"base": {"x": 1}, "instruct": {}}
        assert again.revisions == {"base": "abc", "instruct": None}


def test_a_torn_line_at_the_end_is_done_again(tmp_path: Path) -> None:
    with hold_study(tmp_path / "s", recipe()) as folder:
        folder.note_asked("base", "task")
        folder.note_asked("instruct", "task")
    ledger = tmp_path / "s" / LEDGER_NAME
    ledger.write_bytes(ledger.read_bytes()[:-7])
    with hold_study(tmp_path / "s", recipe()) as again:
        assert again.asked == {("base", "task"): 0}


def test_another_recipe_is_refused_naming_the_field(tmp_path: Path) -> None:
    with hold_study(tmp_path / "s", recipe()):
        pass
    with (
        pytest.raises(StageConflictError, match="scale"),
        hold_study(tmp_path / "s", recipe(scale=0.5)),
    ):
        pass


def test_where_files_lie_and_how_code_is_run_may_change(tmp_path: Path) -> None:
    first = recipe(tasks=[{"name": "math500", "data": "a.jsonl"}])
    with hold_study(tmp_path / "s", first):
        pass
    moved = recipe(tasks=[{"name": "math500", "data": "b.jsonl"}], unsandboxed=True)
    with hold_study(tmp_path / "s", moved):
        pass
    with (
        pytest.raises(StageConflictError, match="tasks"),
        hold_study(tmp_path / "s", recipe(tasks=["aime24"])),
    ):
        pass


def test_a_second_run_is_refused_while_one_is_alive(tmp_path: Path) -> None:
    with (
        hold_study(tmp_path / "s", recipe()),
        pytest.raises(StageConflictError, match="running a study"),
        hold_study(tmp_path / "s", recipe()),
    ):
        pass


def test_what_is_no_study_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"notes\.txt"), hold_study(tmp_path, recipe()):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "notes.txt").unlink()
    (tmp_path / "timberkit.json").write_text(
        json.dumps({"schema_version": 1, "kind": "evaluation"})
    )
    with pytest.raises(OutputExistsError, match="another command"), hold_study(tmp_path, recipe()):
        pass


def test_a_ready_made_pair_is_known_by_its_name_not_its_place(tmp_path: Path) -> None:
    first = build_study_recipe({"pair": "sapling", "base": "/a/base", "instruct": "/a/instruct"})
    second = build_study_recipe({"pair": "sapling", "base": "/b/base", "instruct": "/b/instruct"})
    with hold_study(tmp_path / "s", first):
        pass
    assert "/a/" not in (tmp_path / "s" / "timberkit.json").read_text()
    with hold_study(tmp_path / "s", second):
        pass


@pytest.mark.parametrize("p", [[1.5], [-0.1], ["x"], [[0.5]]])
def test_an_impossible_entry_is_refused(tmp_path: Path, p: list[object]) -> None:
    with hold_study(tmp_path / "s", recipe()) as folder:
        folder.journal.append([{"exact": ["m", "t"], "p": p}])
    with pytest.raises(CheckpointError, match=LEDGER_NAME), hold_study(tmp_path / "s", recipe()):
        pass
