"""Edits and controls of the delta from the shell: one pass, any workers, killed, verified."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import timberkit
from timberkit.config import parse_variant, variant_name
from timberkit.engine.estimate import worker_memory_bytes

TEXTS = (
    "rank-cut:scale=0.8,lam=0.2",
    "mp-cut:lam=0.2",
    "shrink",
    "rank-one",
    "leading:count=8,gain=0.5",
    "leading:share=0.05,gain=-0.5",
    "band:start=0.25,stop=0.5,gain=0",
    "linear:first=1,last=0.2",
    "timber:lam=0.2",
    "matched-merge:of=timber:lam=0.2",
    "noise:seed=1,of=timber:lam=0.2",
)
NAMES = [variant_name(parse_variant(text)) for text in TEXTS]
FLAGS = tuple(word for text in TEXTS for word in ("--variant", text))


@pytest.fixture(scope="module")
def output(commands: Any, checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded pair, every edit in one pass, by one worker."""
    folder: Path = tmp_path_factory.mktemp("edits") / "out"
    pair = (checkpoints.base, checkpoints.instruct)
    done = commands.run("refine", *pair, "-o", folder, "--workers", 1, *FLAGS)
    assert done.exit_code == 0, done.stderr
    return folder


def test_every_edit_gets_a_folder_and_passes_verify_in_all_its_matrices(
    output: Path, commands: Any, checkpoints: Any
) -> None:
    assert sorted(os.listdir(output)) == sorted(NAMES)
    assert len(set(checkpoints.weights(output).values())) == len(NAMES)
    done = commands.run("verify", output, "--all", "--json")
    assert done.exit_code == 0, done.stdout
    assert {check["folder"] for check in done.json["checks"]} == set(NAMES)


def test_two_workers_write_the_bytes_of_one(
    output: Path, commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    done = commands.run("refine", *pair, "-o", tmp_path / "out", "--workers", 2, *FLAGS)
    assert done.exit_code == 0, done.stderr
    assert checkpoints.weights(tmp_path / "out") == checkpoints.weights(output)


def test_the_manifest_of_a_control_makes_the_whole_pass_again(
    output: Path, commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    folder = output / "noise_seed1_of_timber_lam0.2"
    manifest = checkpoints.manifest(folder)
    edit = {"method": "timber", "lam": 0.2}
    assert manifest["variant"] == {"method": "noise", "seed": 1, "of": edit}
    done = commands.run("refine", "--config", folder / "timberkit.json", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert checkpoints.weights(tmp_path / "out") == checkpoints.weights(output)


def test_a_card_says_what_its_control_is(output: Path) -> None:
    card = (output / "noise_seed1_of_timber_lam0.2" / "README.md").read_text()
    assert "# instruct (local folder), refined with noise" in card
    assert "| Parameters | seed = 1, of = timber:lam=0.2 |" in card
    assert "| What it does | Instruct plus Gaussian noise, in each weight as large as" in card
    shrunk = (output / "shrink" / "README.md").read_text()
    assert "| Source | Gavish & Donoho".replace("&", "\\&") in shrunk


def test_state_dicts_become_what_the_files_hold(output: Path, checkpoints: Any) -> None:
    base, instruct = checkpoints.read(checkpoints.base), checkpoints.read(checkpoints.instruct)
    found = timberkit.refine_state_dicts(base, instruct, variants=TEXTS)
    for name in NAMES:
        assert checkpoints.equal(found[name], checkpoints.read(output / name))


def test_controls_report_the_correction_of_their_edit(output: Path, checkpoints: Any) -> None:
    def corrections(name: str) -> list[float]:
        records = checkpoints.manifest(output / name)["refined"]
        return [record["matrix"]["changes"][0]["correction"] for record in records]

    expected = corrections("timber_lam0.2")
    for name in NAMES[-2:]:
        assert corrections(name) == pytest.approx(expected, rel=1e-6)


def test_a_run_that_is_killed_draws_the_same_noise_when_it_goes_on(
    commands: Any, checkpoints: Any, grove: tuple[Path, Path], tmp_path: Path
) -> None:
    variants = ("--variant", "noise:seed=7,of=linear:first=1,last=0.2", "--variant", "shrink")
    done = commands.run("refine", *grove, "-o", tmp_path / "whole", "--workers", 1, *variants)
    assert done.exit_code == 0, done.stderr
    place = tmp_path / "place"
    place.mkdir()
    asked = ("refine", *grove, "-o", place / "out", *variants)
    running = commands.start(*asked, "--workers", 1)
    running.wait_until(lambda: len(checkpoints.journal(place / "out")) > 3)
    running.send(signal.SIGKILL)
    assert running.wait().exit_code == -signal.SIGKILL
    done = commands.run(*asked, "--workers", 2)
    assert done.exit_code == 0, done.stderr
    assert checkpoints.weights(place / "out") == checkpoints.weights(tmp_path / "whole")


def test_each_expert_of_a_fused_tensor_gets_noise_of_its_own(
    checkpoints: Any, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    name = "model.layers.0.mlp.experts.down_proj"
    base = {name: torch.randn(3, 40, 12, generator=generator)}
    instruct = {name: base[name] + 0.01 * torch.randn(3, 40, 12, generator=generator)}
    pair = (
        checkpoints.write(tmp_path / "base", [base]),
        checkpoints.write(tmp_path / "instruct", [instruct]),
    )
    timberkit.refine(*pair, tmp_path / "out", variants="noise:of=merge:mu=0.5")
    found = checkpoints.read(tmp_path / "out")
    added = (found[name].double() - instruct[name].double()).reshape(3, -1)
    for i in range(3):
        assert abs(float(torch.corrcoef(added)[i, (i + 1) % 3])) < 0.15
    lengths = torch.linalg.vector_norm((instruct[name] - base[name]).double().reshape(3, -1), dim=1)
    torch.testing.assert_close(
        torch.linalg.vector_norm(added, dim=1), lengths / 2, rtol=1e-4, atol=0
    )
    again = timberkit.refine_state_dicts(base, instruct, variants="noise:of=merge:mu=0.5")
    assert checkpoints.equal(again["noise_seed0_of_merge_mu0.5"], found)
    assert timberkit.verify(tmp_path / "out", every=True).passed


def test_a_pass_that_needs_all_vectors_is_planned_with_more_memory(checkpoints: Any) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    needs = [
        worker_memory_bytes(timberkit.plan(*pair, variants=text))
        for text in ("timber", "leading:count=8,gain=0.5", "linear:first=1,last=0.2")
    ]
    assert needs[0] == needs[1] < needs[2]


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--variant", "noise"), "of: is needed"),
        (("--variant", "noise:of=noise:of=timber"), "expected an edit"),
        (("--variant", "leading:gain=0.5"), "either count or share"),
        (("--method", "leading"), "gain: is needed"),
        (("--method", "shrink", "--lam", 0.5), "lam: is not known"),
        (("--variant", "noise:of=timber", "--variant", "noise:seed=0,of=timber"), "more than once"),
    ],
)
def test_an_edit_that_cannot_be_read_is_a_usage_error(
    commands: Any, checkpoints: Any, tmp_path: Path, flags: tuple[object, ...], part: str
) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    refused = commands.run("refine", *pair, "-o", tmp_path / "out", *flags)
    assert refused.exit_code in (2, 3)
    assert part in refused.error
    assert not (tmp_path / "out").exists()


def test_methods_without_parameters_have_a_flag(
    output: Path, commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    done = commands.run("refine", *pair, "-o", tmp_path / "out", "--method", "shrink")
    assert done.exit_code == 0, done.stderr
    alone, together = checkpoints.read(tmp_path / "out"), checkpoints.read(output / "shrink")
    for name, weight in alone.items():
        assert (weight == together[name]).double().mean() >= 0.999
