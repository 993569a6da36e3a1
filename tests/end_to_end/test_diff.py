"""``timberkit diff`` on real checkpoints: what it shows, its JSON, its exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import timberkit

DONE, DIFFERS, USAGE, BAD_INPUT = 0, 1, 2, 3


@pytest.fixture(scope="module")
def refined(checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("diff") / "refined"
    timberkit.refine(checkpoints.base, checkpoints.instruct, output)
    return output


@pytest.fixture(scope="module")
def resharded(checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Instruct in three shards, with all that lies beside its weights."""
    folder = tmp_path_factory.mktemp("diff") / "resharded"
    tensors = checkpoints.read(checkpoints.instruct)
    shards = [dict(list(tensors.items())[i::3]) for i in range(3)]
    checkpoints.write(folder, shards)
    for path in checkpoints.instruct.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    return folder


def test_exactly_the_refined_tensors_differ(commands: Any, checkpoints: Any, refined: Path) -> None:
    done = commands.run("diff", checkpoints.instruct, refined, "--json")
    assert done.exit_code == DIFFERS
    expected = {record["name"] for record in checkpoints.manifest(refined)["refined"]}
    assert {tensor["name"] for tensor in done.json["differing"]} == expected
    assert done.json["tensors"] == {"values": 21, "equal": 8}
    assert done.json["files"] == []
    assert (done.json["a"], done.json["equal"]) == ("instruct", False)
    assert done.json["total"]["relative"] == pytest.approx(0.0039, abs=1e-4)


def test_shares_of_changed_elements_are_those_of_the_manifest(
    checkpoints: Any, refined: Path
) -> None:
    report = timberkit.diff(checkpoints.instruct, refined)
    changed = {
        record["name"]: record["matrix"]["changes"][0]["changed"]
        for record in checkpoints.manifest(refined)["refined"]
    }
    for tensor in report.differing:
        assert tensor.distance is not None
        share = tensor.distance.differing / tensor.distance.elements
        assert share == pytest.approx(changed[tensor.name], abs=1e-9)


def test_the_same_tensors_in_other_shards_are_equal(
    commands: Any, checkpoints: Any, resharded: Path
) -> None:
    done = commands.run("diff", checkpoints.instruct, resharded)
    assert done.exit_code == DONE
    assert done.stdout.splitlines()[0].endswith("Of 29 tensors 0 differ, 29 equal.")
    assert done.stdout.splitlines()[-1] == "Equal."


def test_a_short_table_and_the_rest_counted(commands: Any, checkpoints: Any, refined: Path) -> None:
    done = commands.run("diff", checkpoints.instruct, refined, "--top", 2)
    assert done.exit_code == DIFFERS
    assert "19 more differ less" in done.stdout
    assert done.stdout.count("_proj.weight") == 2
    assert "attention" in done.stdout
    assert len(done.stdout.splitlines()) < 25


def test_another_dtype_is_told_and_forgiven_by_a_tolerance(
    commands: Any, checkpoints: Any, resharded: Path, tmp_path: Path
) -> None:
    tensors = {n: t.double() for n, t in checkpoints.read(checkpoints.instruct).items()}
    checkpoints.write(tmp_path / "wide", [tensors])
    command = ("diff", checkpoints.instruct, tmp_path / "wide", "--weights-only")
    done = commands.run(*command)
    assert done.exit_code == DIFFERS
    assert "BF16 -> F64" in done.stdout
    assert commands.run(*command, "--tolerance", "0ulp").exit_code == DONE


def test_files_beside_the_weights_count_unless_left_alone(
    commands: Any, checkpoints: Any, resharded: Path, tmp_path: Path
) -> None:
    shutil.copytree(resharded, tmp_path / "b")
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps({**config, "rope_theta": 7.5}))
    (tmp_path / "b" / "tokenizer.json").write_text("{}")
    (tmp_path / "b" / "notes.txt").write_text("new")
    command = ("diff", resharded, tmp_path / "b")
    done = commands.run(*command)
    assert done.exit_code == DIFFERS
    assert "config.json: 1 field\n  rope_theta:" in done.stdout
    assert "-> 7.5" in done.stdout
    assert "notes.txt: only in B" in done.stdout
    assert commands.run(*command, "--weights-only").exit_code == DONE


def test_names_from_headers_are_shown_as_text(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    name = "[red]model[/red].weight"
    x = torch.ones(2, 2)
    checkpoints.write(tmp_path / "a", [{name: x, **{f"only{i}": x.clone() for i in range(99)}}])
    checkpoints.write(tmp_path / "b", [{name: x * torch.nan, "x\U000e0041": x.clone()}])
    done = commands.run("diff", tmp_path / "a", tmp_path / "b")
    assert done.exit_code == BAD_INPUT
    assert "printable name" in done.error
    checkpoints.write(tmp_path / "c", [{name: x * torch.nan}])
    done = commands.run("diff", tmp_path / "a", tmp_path / "c")
    assert done.exit_code == DIFFERS
    assert name in done.stdout
    assert "Only in A: 99" in done.stdout
    assert "and 94 more" in done.stdout
    assert "NaN, infinity or overflow against another value: 4 elements" in done.stdout
    assert len(done.stdout.splitlines()) < 30
    found = commands.run("diff", tmp_path / "a", tmp_path / "c", "--json", "--top", 1).json
    assert len(found["differing"]) == 1


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--tolerance", "2"), "2ulp"),
        (("--families", "teapots"), "teapots"),
        (("--layers", "9-4"), "backwards"),
        (("--layers", "70"), "left to compare"),
    ],
)
def test_wrong_options_exit_2(
    commands: Any, checkpoints: Any, flags: tuple[str, ...], told: str
) -> None:
    done = commands.run("diff", checkpoints.base, checkpoints.instruct, *flags)
    assert done.exit_code == USAGE
    assert told in done.error


def test_a_broken_shard_exits_3(commands: Any, checkpoints: Any, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    done = commands.run("diff", checkpoints.base, tmp_path)
    assert done.exit_code == BAD_INPUT
    assert "model.safetensors" in done.error


def test_only_names_and_quiet(commands: Any, checkpoints: Any) -> None:
    done = commands.run("diff", checkpoints.base, checkpoints.instruct, "--only-names")
    assert done.exit_code == DONE
    assert "no values were read" in done.stdout
    done = commands.run("diff", checkpoints.base, checkpoints.instruct, "-q")
    assert (done.exit_code, done.stdout, done.stderr) == (DIFFERS, "", "")
