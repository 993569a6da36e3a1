"""A plan held against the modules of a model: what agrees, what differs, what cannot be built."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from architecture_zoo import SIZES, ZOO, saved_tensors

from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.planned import planned_checkpoint
from timberkit.config import build_recipe
from timberkit.engine import module_check
from timberkit.engine.module_check import check_modules
from timberkit.engine.plan import RefinementPlan, plan_refinement
from timberkit.errors import MissingExtraError

L = "model.layers.0."
UP = f"{L}mlp.up_proj.weight"
LLAMA = {"model_type": "llama", **SIZES}


def plan_of(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> RefinementPlan:
    pair = (planned_checkpoint(name, shapes, "BF16", config) for name in ("base", "instruct"))
    return plan_refinement(*pair, build_recipe({"base": "org/base", "instruct": "org/instruct"}))


@pytest.mark.parametrize("architecture", ZOO)
def test_every_architecture_of_the_zoo_is_what_it_is_taken_for(
    architecture: str, tmp_path: Path
) -> None:
    saved_tensors(architecture, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    shapes = {name: entry.shape for name, entry in checkpoint.tensors.items()}
    plan = plan_of(shapes, checkpoint.config)
    found = check_modules(plan, checkpoint.config)
    assert (found.skipped, found.missed, found.mistaken, found.absent) == ("", {}, {}, {})
    assert found.agreed >= len(plan.refined)
    assert found.passed


def test_linear_weights_that_no_rule_fits_are_missed_and_unknown_names_absent() -> None:
    bert = "bert.encoder.layer.{}.attention.self.query.weight"
    shapes = {
        bert.format(0): (32, 32),
        bert.format(1): (32, 32),
        "own.mlp.up_proj.weight": (48, 32),
    }
    config = {"model_type": "bert", **SIZES}
    found = check_modules(plan_of(shapes, config), config)
    assert found.missed == {"bert.encoder.layer.*.attention.self.query.weight": 2}
    assert found.absent == {"own.mlp.up_proj.weight": 1}
    assert not found.passed


def test_what_is_no_linear_weight_but_named_like_one_is_mistaken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pattern = "model.layers.*.mlp.up_proj.weight"
    monkeypatch.setattr(module_check, "_linear_patterns", lambda _: {pattern: False})
    found = check_modules(plan_of({UP: (48, 32)}, LLAMA), LLAMA)
    assert (found.mistaken, found.missed, found.passed) == ({pattern: 1}, {}, False)


@pytest.mark.parametrize("name", [UP, "layers.0.mlp.up_proj.weight", f"model.{UP}"])
def test_the_prefix_of_the_model_does_not_count(name: str) -> None:
    found = check_modules(plan_of({name: (48, 32)}, LLAMA), LLAMA)
    assert (found.agreed, found.absent) == (1, {})


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "there is no config.json that names a model type"),
        ({"model_type": "of-tomorrow"}, "knows no 'of-tomorrow'"),
        ({**LLAMA, "num_hidden_layers": 10**9}, "config.json has 1000000000 layers, the names of"),
        ({**LLAMA, "hidden_size": "wide"}, "transformers cannot build it: "),
        ({"model_type": "vit"}, "no language model has this configuration"),
    ],
)
def test_what_cannot_be_built_is_skipped_with_a_reason(config: dict[str, Any], reason: str) -> None:
    found = check_modules(plan_of({UP: (48, 32)}, {}), config)
    assert reason in found.skipped
    assert (found.model, found.agreed, found.passed) == ("", 0, True)


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"timberkit\[eval\]"):
        check_modules(plan_of({UP: (48, 32)}, LLAMA), LLAMA)
