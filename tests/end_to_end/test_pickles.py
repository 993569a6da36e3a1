"""A pair of which one or both are pickles: the same bytes as from safetensors, by every command."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

import timberkit

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Checkpoints, Commands


def pickled(source: Path, target: Path) -> Path:
    """A copy of a model with its weights as a pickle."""
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    torch.save(weights, target / "pytorch_model.bin")
    return target


@pytest.fixture
def pair(checkpoints: type[Checkpoints], tmp_path: Path) -> tuple[Path, Path]:
    """The embedded pair as pickles."""
    return (
        pickled(checkpoints.base, tmp_path / "base"),
        pickled(checkpoints.instruct, tmp_path / "instruct"),
    )


def test_pickles_are_refused_unless_allowed(
    commands: Commands, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    for command in (
        *(("refine", *pair, "-o", tmp_path / "out"), ("plan", *pair), ("diff", *pair)),
        ("analyze", *pair, "-o", tmp_path / "out"),
    ):
        done = commands.run(*command)
        assert done.exit_code == 3
        assert "found pickled weights ('pytorch_model.bin')" in done.error
        assert "--allow-pickle" in done.error


def test_output_is_that_of_safetensors_and_says_where_it_came_from(
    commands: Commands, checkpoints: type[Checkpoints], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    assert (
        commands.run("refine", checkpoints.base, checkpoints.instruct, "-o", plain).exit_code == 0
    )
    planned = commands.run("plan", *pair, "--allow-pickle")
    assert "Base is converted from pickles, once, into " in planned.stdout
    assert "Instruct is converted from pickles" in planned.stdout
    before = checkpoints.hashes(pair[0]), checkpoints.hashes(pair[1])
    out = tmp_path / "out"
    done = commands.run("refine", *pair, "-o", out, "--allow-pickle")
    assert done.exit_code == 0, done.stderr
    assert (checkpoints.hashes(pair[0]), checkpoints.hashes(pair[1])) == before
    assert checkpoints.weights(out) == checkpoints.weights(plain)
    assert {path.name for path in out.iterdir()} == {path.name for path in plain.iterdir()}
    sources = checkpoints.manifest(out)["sources"]
    assert [sources[name]["converted_from"] for name in ("base", "instruct")] == ["pickles"] * 2
    assert sources["base"]["name"] == "base"
    card = (out / "README.md").read_text()
    assert "instruct (local folder), converted from pickles" in card
    assert "-o OUT --allow-pickle" in card
    refused = commands.run("verify", out)
    assert refused.exit_code == 3
    assert "--allow-pickle" in refused.stderr
    assert commands.run("verify", out, "--all", "--allow-pickle").exit_code == 0
    commands.run("clean", "--cache")
    assert commands.run("verify", out, "--allow-pickle").exit_code == 0  # converted anew


def test_analysis_and_diff_read_pickles(
    commands: Commands, checkpoints: type[Checkpoints], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    equal = commands.run("diff", pair[1], checkpoints.instruct, "--allow-pickle", "--json")
    assert equal.exit_code == 0, equal.stderr
    assert equal.json["values_read"]
    found = []
    for name, models in (("a", pair), ("b", (checkpoints.base, checkpoints.instruct))):
        done = commands.run(
            "analyze", *models, "-o", tmp_path / name, "--no-page", "--allow-pickle", "--json"
        )
        assert done.exit_code == 0, done.stderr
        found.append(done.json["summary"])
    assert found[0] == found[1]


def test_several_models_and_python(
    checkpoints: type[Checkpoints],
    pair: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TIMBERKIT_CACHE", str(tmp_path / "cache"))
    models: Any = [f"first={pair[1]}", f"second={checkpoints.instruct}"]
    timberkit.refine(pair[0], models, tmp_path / "out", allow_pickle=True)
    first, second = (checkpoints.weights(tmp_path / "out" / name) for name in ("first", "second"))
    assert first == second
    assert timberkit.plan(*pair, allow_pickle=True).refine_tasks


def test_hostile_pickle_ends_with_an_error_and_runs_nothing(
    commands: Commands, checkpoints: type[Checkpoints], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"a": torch.ones(2, 2), "trap": Trap()}, pair[1] / "pytorch_model.bin")
    done = commands.run(
        "refine", checkpoints.base, pair[1], "-o", tmp_path / "out", "--allow-pickle"
    )
    assert done.exit_code == 3
    assert "asks for code to be run (posix.system)" in done.error
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_clean_lists_and_removes_what_was_converted(
    commands: Commands, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    commands.run("clean", "--cache")
    assert commands.run("clean", "--cache").stdout == "The cache is empty.\n"
    assert commands.run("refine", *pair, "-o", tmp_path / "out", "--allow-pickle").exit_code == 0
    listed = commands.run("clean", "--cache", "--dry-run", "--json").json
    assert [line["state"] for line in listed] == ["converted", "converted"]
    removed = commands.run("clean", "--cache", "--json").json
    assert [line["state"] for line in removed] == ["removed", "removed"]
    assert commands.run("clean", "--cache").stdout == "The cache is empty.\n"
    assert commands.run("clean", tmp_path, "--cache").exit_code == 2
