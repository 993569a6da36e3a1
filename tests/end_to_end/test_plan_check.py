"""``timberkit plan --check``: names held against the model that transformers builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from architecture_zoo import SIZES, save_pair


def test_an_architecture_of_the_zoo_is_what_its_names_say(commands: Any, tmp_path: Path) -> None:
    pair = (tmp_path / "base", tmp_path / "instruct")
    save_pair("jamba", pair)
    done = commands.run("plan", *pair, "--check")
    assert (done.exit_code, done.stderr) == (0, "")
    said = "Checked against transformers' JambaForCausalLM: 56 tensors are what they are taken for."
    assert f"{said}\n" in done.stdout
    listed = commands.run("plan", *pair, "--check", "--json").json["modules"]
    assert (listed["model"], listed["agreed"], listed["missed"]) == ("JambaForCausalLM", 56, {})


def test_linear_weights_without_a_rule_are_named_and_the_exit_code_says_so(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    name = "bert.encoder.layer.0.attention.self.query.weight"
    tensors = {name: torch.zeros(32, 32), "own.mlp.up_proj.weight": torch.zeros(48, 32)}
    pair = [
        checkpoints.write(tmp_path / side, [tensors], **{**SIZES, "model_type": "bert"})
        for side in ("base", "instruct")
    ]
    done = commands.run("plan", *pair, "--check")
    assert done.exit_code == 1
    shown = " ".join(done.stdout.split())
    assert "not recognised here: bert.encoder.layer.*.attention.self.query.weight (1)." in shown
    assert "because the model has no such name: own.mlp.up_proj.weight (1)." in shown
    assert commands.run("plan", *pair).exit_code == 0


def test_a_model_that_is_not_known_is_said_not_to_be_checked(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    tensors = {"model.layers.0.mlp.up_proj.weight": torch.zeros(48, 32)}
    pair = [
        checkpoints.write(tmp_path / side, [tensors], model_type="of-tomorrow")
        for side in ("base", "instruct")
    ]
    done = commands.run("plan", *pair, "--check")
    assert done.exit_code == 0
    assert "Not checked against a model: transformers" in done.stdout
