"""The whole training run, on its smallest setting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from timberkit.errors import OutputExistsError
from timberkit.sapling import is_held_out, success_probabilities
from timberkit.sapling.pair import read_problems
from timberkit.sapling.training.__main__ import main
from timberkit.sapling.training.run import train_pair
from timberkit.sapling.training.settings import SMOKE


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training") / "pair"
    assert main(["--output", str(folder), "--smoke"]) == 0
    return folder


def content(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_smoke_training_writes_loadable_folders(output: Path) -> None:
    problems = read_problems(output / "held_out.jsonl")
    assert len(problems) == 7
    assert all(is_held_out(problem) for problem in problems)
    for name in ("base", "instruct"):
        assert (success_probabilities(output / name, problems) > 0).all()
    measured = json.loads((output / "measured.json").read_text())
    assert {stage for curves in measured.values() for stage in curves} == {
        "base",
        "sft",
        "instruct",
    }


def test_every_stage_changes_the_weights(output: Path) -> None:
    files = content(output)
    assert files["base/model.safetensors"] != files["instruct/model.safetensors"]
    assert sorted({name.split("/")[0] for name in files}) == [
        *("base", "held_out.jsonl", "instruct", "measured.json"),
    ]


def test_training_again_gives_the_same_bytes(output: Path, tmp_path: Path) -> None:
    train_pair(tmp_path / "again", SMOKE, say=lambda line: None)
    assert content(tmp_path / "again") == content(output)


def test_existing_output_is_refused_and_left_alone(output: Path) -> None:
    before = content(output)
    assert main(["--output", str(output), "--smoke"]) == 2
    assert content(output) == before


def test_rest_of_a_stopped_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pair.partial").mkdir()
    with pytest.raises(OutputExistsError, match=r"pair\.partial"):
        train_pair(tmp_path / "pair", SMOKE)
