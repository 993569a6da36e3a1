"""A quantised Instruct model: refused, or dequantised where that is asked for, and said so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.quantised import compress, in_fp8_blocks, small_llama

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Checkpoints, Commands


@pytest.fixture(params=["fp8", "W4A16"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A plain Base, and an Instruct model near it that is quantised."""
    base, instruct = tmp_path / "base", tmp_path / "instruct"
    model = small_llama(seed=1)
    model.save_pretrained(base)
    near = small_llama(seed=2, like=model)
    instruct.mkdir()
    if request.param == "fp8":
        in_fp8_blocks(near, instruct)
    else:
        compress(near, instruct, request.param)
    return base, instruct


def test_refused_by_default_with_the_way_on(
    commands: Commands, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    done = commands.run("refine", *pair, "-o", tmp_path / "out")
    assert done.exit_code == 3
    assert "instruct (Instruct): weights are quantised" in done.error
    assert "--dequantise turns them into BF16" in done.error


def test_every_command_works_on_what_was_dequantised(
    commands: Commands, checkpoints: type[Checkpoints], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    plan = commands.run("plan", *pair, "--dequantise")
    assert plan.exit_code == 0, plan.stderr
    assert "Warning: Instruct was quantised: what rounding took" in plan.stdout
    assert list(commands.run("plan", *pair, "--dequantise", "--json").json["conversions"]) == [
        "instruct"
    ]
    out = tmp_path / "out"
    done = commands.run("refine", *pair, "-o", out, "--dequantise")
    assert done.exit_code == 0, done.stderr
    assert "Warning: Instruct was quantised" in done.stdout
    assert checkpoints.manifest(out)["sources"]["instruct"]["converted_from"]
    card = (out / "README.md").read_text()
    assert "Instruct was quantised: what rounding took" in card
    assert "-o OUT --dequantise" in card
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    assert {str(value.dtype) for value in checkpoints.read(out).values()} == {"torch.bfloat16"}
    assert commands.run("verify", out, "--all", "--dequantise").exit_code == 0
    refused = commands.run("verify", out)
    assert refused.exit_code == 1
    assert "--dequantise" in refused.stdout
    analysis = commands.run("analyze", *pair, "-o", tmp_path / "a", "--no-page", "--dequantise")
    assert analysis.exit_code == 0, analysis.stderr
    assert "Warning: Instruct was quantised" in analysis.stdout


def test_the_output_loads_and_answers(
    commands: Commands, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    done = commands.run("refine", *pair, "-o", out, "--method", "merge", "--mu", 1, "--dequantise")
    assert done.exit_code == 0, done.stderr
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokens = torch.arange(8)[None]
    original = small_llama(seed=2, like=small_llama(seed=1))
    with torch.no_grad():
        expected, found = (m.float()(tokens).logits for m in (original, model))
    assert float((found - expected).norm() / expected.norm()) < 0.25
