"""Several Instructs of one Base in one run: every folder is what a run of its own writes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import timberkit
from timberkit.checkpoint.stage_folder import StageFolder
from timberkit.engine import pair_runs
from timberkit.errors import InterruptedRunError, PairMismatchError, UsageError

USAGE = 2
VARIANTS = ("--variant", "timber-l", "--variant", "merge:mu=0.5")


@pytest.fixture(scope="module")
def family(grove: tuple[Path, Path], checkpoints: Any, tmp_path_factory: Any) -> dict[str, Path]:
    """A Base and two Instructs: the second has another vocabulary, dtype and sharding."""
    base, instruct = grove
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: (weight.float() + torch.randn(weight.shape, generator=generator) * 0.002).half()
        for name, weight in checkpoints.read(base).items()
    }
    tensors["model.embed_tokens.weight"] = torch.ones(7, 96).half()
    other = tmp_path_factory.mktemp("family") / "other"
    checkpoints.write(other, [tensors])
    return {"base": base, "instruct": instruct, "other": other}


@pytest.fixture(scope="module")
def apart(family: dict[str, Path], tmp_path_factory: Any) -> Path:
    """The outputs of separate runs."""
    place: Path = tmp_path_factory.mktemp("apart")
    for name in ("instruct", "other"):
        timberkit.refine(
            family["base"], family[name], place / name, variants=["timber-l", "merge:mu=0.5"]
        )
    return place


def flags(family: dict[str, Path]) -> tuple[object, ...]:
    return (
        *("--base", family["base"], "--instruct", family["instruct"]),
        *("--instruct", family["other"], *VARIANTS),
    )


def without_run_facts(manifest: dict[str, Any]) -> dict[str, Any]:
    refined = [{**record, "seconds": 0} for record in manifest["refined"]]
    return {**manifest, "run": None, "refined": refined, "created": None}


def assert_same(checkpoints: Any, together: Path, apart: Path) -> None:
    assert sorted(os.listdir(together)) == ["instruct", "other"]
    for name in ("instruct", "other"):
        for variant in ("timber-l", "merge_mu0.5"):
            first, second = together / name / variant, apart / name / variant
            hashes = [checkpoints.hashes(place) for place in (first, second)]
            for listed in hashes:
                del listed["timberkit.json"]
            assert hashes[0] == hashes[1]
            found, expected = (
                without_run_facts(checkpoints.manifest(place)) for place in (first, second)
            )
            assert found == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_every_folder_is_what_a_run_of_its_own_writes(
    commands: Any,
    checkpoints: Any,
    family: dict[str, Path],
    apart: Path,
    tmp_path: Path,
    workers: int,
) -> None:
    done = commands.run(
        "refine", *flags(family), "-o", tmp_path / "out", "--workers", workers, "--json"
    )
    assert done.exit_code == 0, done.stderr
    assert list(done.json["models"]) == ["instruct", "other"]
    assert_same(checkpoints, tmp_path / "out", apart)
    assert timberkit.verify(tmp_path / "out" / "other" / "timber-l", sample=2).passed


def test_a_journal_torn_between_two_models_of_a_matrix_does_it_again_for_both(
    checkpoints: Any,
    family: dict[str, Path],
    apart: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refine() -> None:
        models = [family["instruct"], family["other"]]
        timberkit.refine(
            family["base"], models, tmp_path / "out", variants=["timber-l", "merge:mu=0.5"]
        )

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pair_runs, "finish_outputs", stop)
        with pytest.raises(InterruptedRunError):
            refine()
    stage = StageFolder.of(tmp_path / "out")
    lines = stage.journal.read_bytes().splitlines(keepends=True)
    first, second = (json.loads(line)["entry"] for line in lines[2:4])
    assert (first["instruct"], second["instruct"]) == ("instruct", "other")
    assert first["key"] == second["key"]
    # What a loss of power there could take: the rest of the journal, and data.
    stage.journal.write_bytes(b"".join(lines[:3]) + lines[3][:20])
    for shard in (stage.tree / "other").rglob("*.safetensors"):
        size = shard.stat().st_size
        with shard.open("r+b") as file:
            header_bytes = 8 + int.from_bytes(file.read(8), "little")
            file.seek(header_bytes)
            file.write(bytes(size - header_bytes))
    refine()
    assert_same(checkpoints, tmp_path / "out", apart)


def moved_bytes() -> int:
    """Bytes that read calls of this process have moved."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_base_is_read_once_for_all(
    family: dict[str, Path], checkpoints: Any, tmp_path: Path
) -> None:
    read = []
    models = [family["instruct"], family["other"]]
    timberkit.refine(family["base"], models, tmp_path / "warm")
    for given in (models, *models):
        before = moved_bytes()
        timberkit.refine(family["base"], given, tmp_path / f"out{len(read)}")
        read.append(moved_bytes() - before)
    refined = sum(
        weight.nbytes for weight in checkpoints.read(family["base"]).values() if weight.dim() == 2
    )
    assert read[1] + read[2] - read[0] == pytest.approx(refined, rel=0.1)


def test_a_killed_run_continues_to_the_same_bytes_and_is_replaced_when_asked(
    commands: Any, checkpoints: Any, family: dict[str, Path], apart: Path, tmp_path: Path
) -> None:
    command = ("refine", *flags(family), "-o", tmp_path / "out", "--workers", 1)
    running = commands.start(*command)
    running.wait_until(lambda: len(checkpoints.journal(tmp_path / "out")) > 2)
    running.send(signal.SIGKILL)
    assert running.wait().exit_code == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    again = commands.run(*command, "--json")
    assert again.exit_code == 0, again.stderr
    assert again.json["resumed"] is True
    assert_same(checkpoints, tmp_path / "out", apart)
    assert os.listdir(tmp_path) == ["out"]
    assert commands.run(*command).exit_code == USAGE
    assert commands.run(*command, "--overwrite").exit_code == 0


def test_overwrite_keeps_a_folder_that_holds_more_than_outputs(
    family: dict[str, Path], apart: Path, tmp_path: Path
) -> None:
    note = tmp_path / "mine" / "notes" / "a.txt"
    note.parent.mkdir(parents=True)
    note.write_text("kept")
    (tmp_path / "mine" / "runs").symlink_to(apart)
    with pytest.raises(UsageError, match="was not made by timberkit"):
        timberkit.refine(family["base"], [family["instruct"]], tmp_path / "mine", overwrite=True)
    assert note.read_text() == "kept"


def test_a_model_that_does_not_fit_is_named_before_anything_is_written(
    checkpoints: Any, family: dict[str, Path], tmp_path: Path
) -> None:
    tensors = {name: w[..., :40].clone() for name, w in checkpoints.read(family["base"]).items()}
    checkpoints.write(tmp_path / "narrow", [tensors])
    models = [family["instruct"], tmp_path / "narrow"]
    with pytest.raises(PairMismatchError, match="Instruct model 'narrow'"):
        timberkit.refine(family["base"], models, tmp_path / "out")
    assert os.listdir(tmp_path) == ["narrow"]


def test_models_of_one_name_are_refused_until_they_are_named(
    family: dict[str, Path], tmp_path: Path
) -> None:
    same = [family["other"], family["other"]]
    with pytest.raises(UsageError, match="--instruct first="):
        timberkit.refine(family["base"], same, tmp_path / "out")
    named = [f"a={family['other']}", f"b={family['instruct']}"]
    result = timberkit.refine(family["base"], named, tmp_path / "out", method="merge", mu=1.0)
    assert result.models["b"].folders == {"merge_mu1": tmp_path / "out" / "b"}


def test_a_plan_shows_each_pair_and_the_sum(commands: Any, family: dict[str, Path]) -> None:
    planned = commands.run("plan", *flags(family), "--json").json
    disks = [model["estimate"]["disk_bytes"] for model in planned["models"].values()]
    assert planned["estimate"]["disk_bytes"] == sum(disks) > max(disks) > 0
    shown = commands.run("plan", *flags(family)).stdout
    for words in ("instruct:", "other:", "Together:"):
        assert words in shown


def test_one_model_by_option_is_as_by_position_and_with_a_name_in_a_folder(
    commands: Any, checkpoints: Any, family: dict[str, Path], apart: Path, tmp_path: Path
) -> None:
    for prefix, place in (("", tmp_path / "plain"), ("a=", tmp_path / "named" / "a")):
        model = f"{prefix}{family['other']}"
        output = tmp_path / place.relative_to(tmp_path).parts[0]
        done = commands.run(
            *("refine", "--base", family["base"], "--instruct", model, "-o", output, *VARIANTS)
        )
        assert done.exit_code == 0, done.stderr
        assert checkpoints.weights(place) == checkpoints.weights(apart / "other")


def test_a_model_given_both_ways_is_refused(commands: Any, family: dict[str, Path]) -> None:
    both = commands.run("plan", family["base"], family["other"], "--instruct", family["other"])
    assert both.exit_code == USAGE
    assert "expected one of the two" in both.error
