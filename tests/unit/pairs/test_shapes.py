"""Shapes from tables are those that transformers saves, and plan as the files themselves would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, modeling_utils

from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.layout import Checkpoint
from timberkit.checkpoint.planned import planned_checkpoint
from timberkit.config import build_recipe
from timberkit.engine.estimate import Calibration, estimate
from timberkit.engine.plan import RefinementPlan, plan_refinement
from timberkit.pairs import PAIRS, Pair, find_pair
from timberkit.pairs.shapes import (
    DTYPE,
    pair_config,
    planned_pair,
    shape_source,
    tensor_shapes,
)

PARAMETERS = {
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-30b-a3b": 30_532_122_624,
    "sapling": 462_080,
}
PAPER = [pair for pair in PAIRS if pair.on_hub]
TINY: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "qwen3": {"tie_word_embeddings": True},
    "qwen3_moe": {
        **{"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 6},
        "tie_word_embeddings": False,
    },
}
SIZES = {
    **{"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8},
    **{"num_key_value_heads": 1, "intermediate_size": 12, "vocab_size": 20},
}


def model_on_meta(config: Mapping[str, Any], device: str = "meta") -> Any:
    fields = {name: value for name, value in config.items() if name != "model_type"}
    described = AutoConfig.for_model(config["model_type"], **fields)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(described, dtype=torch.bfloat16)


@pytest.fixture(autouse=True)
def _no_bars() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


@pytest.mark.parametrize("pair", PAPER, ids=lambda pair: pair.name)
def test_names_shapes_and_dtype_are_those_that_transformers_saves(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: dict[str, torch.Tensor] = {}

    def keep(tensors: dict[str, torch.Tensor], *_: object, **__: object) -> None:
        saved.update(tensors)

    monkeypatch.setattr(modeling_utils, "safe_save_file", keep)
    model_on_meta(pair_config(pair)).save_pretrained(tmp_path)
    shapes = tensor_shapes(pair_config(pair))
    assert {name: tuple(tensor.shape) for name, tensor in saved.items()} == shapes
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    for checkpoint in planned_pair(pair):
        assert {name: entry.shape for name, entry in checkpoint.tensors.items()} == shapes
        assert {entry.dtype for entry in checkpoint.tensors.values()} == {"BF16"}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_parameters_are_as_many_as_published(pair: Pair) -> None:
    for checkpoint in planned_pair(pair):
        found = sum(entry.numel for entry in checkpoint.tensors.values())
        assert found == PARAMETERS[pair.name]


def test_experts_are_named_as_the_published_files_name_them() -> None:
    shapes = tensor_shapes(pair_config(find_pair("qwen3-30b-a3b")))
    assert shapes["model.layers.47.mlp.experts.127.gate_proj.weight"] == (768, 2048)
    assert shapes["model.layers.0.mlp.gate.weight"] == (128, 2048)
    assert "lm_head.weight" in shapes
    assert "lm_head.weight" not in tensor_shapes(pair_config(find_pair("qwen3-0.6b")))


def test_the_tables_describe_the_embedded_pair_as_well() -> None:
    pair = find_pair("sapling")
    shapes = tensor_shapes(pair_config(pair))
    for checkpoint in planned_pair(pair):
        assert {name: entry.shape for name, entry in checkpoint.tensors.items()} == shapes


def plan_of(base: Checkpoint, instruct: Checkpoint, **fields: Any) -> RefinementPlan:
    recipe = build_recipe({"base": "org/base", "instruct": "org/instruct", **fields})
    return plan_refinement(base, instruct, recipe)


@pytest.mark.parametrize("fields", [{}, {"dtype": "float32", "families": ["all-linear"]}], ids=str)
@pytest.mark.parametrize("kind", TINY)
def test_a_plan_from_shapes_is_the_plan_of_the_files(
    kind: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    config = {"model_type": kind, **SIZES, **TINY[kind]}
    model = model_on_meta(config, "cpu")
    for name in ("base", "instruct"):
        model.save_pretrained(tmp_path / name)
    real = [open_checkpoint(tmp_path / name) for name in ("base", "instruct")]
    shapes = tensor_shapes(config)
    planned = [planned_checkpoint(str(one.folder), shapes, DTYPE, config) for one in real]
    # All of it: tensors with their reasons, every task with its bytes, the header of the output.
    assert plan_of(*planned, **fields) == plan_of(*real, **fields)


def test_what_is_refined_and_copied_of_the_mixture_of_experts() -> None:
    plan = plan_of(*planned_pair(find_pair("qwen3-30b-a3b")))
    assert Counter(tensor.family for tensor in plan.refined) == {
        "attention": 48 * 4,
        "expert": 48 * 128 * 3,
    }
    assert plan.copy_reasons == {
        "norm": 48 * 4 + 1,
        "family router not selected": 48,
        "family embedding not selected": 1,
        "family head not selected": 1,
    }
    header = len(plan.layout.shards[0].header)
    assert plan.output_bytes == 2 * PARAMETERS["qwen3-30b-a3b"] + header


@pytest.mark.parametrize("pair", PAPER, ids=lambda pair: pair.name)
def test_a_plan_reads_no_file_and_has_a_time(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    shape_source(pair)  # the tables themselves are read before

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    plan = plan_of(*planned_pair(pair), layers="0-1")
    calibration = Calibration("made", (256, 4096), (1e10, 2e10))
    one = estimate(plan, workers=1, calibration=calibration)
    two = estimate(plan, workers=2, calibration=calibration)
    assert one.disk_bytes == plan.output_bytes
    assert one.seconds is not None
    assert two.seconds is not None
    assert 0 < two.seconds <= one.seconds


def test_what_is_assumed_is_said() -> None:
    said = {pair.name: shape_source(pair) for pair in PAIRS}
    assert "lm_head.weight" in said["qwen3-0.6b"]
    assert all("shape tables" in said[pair.name] for pair in PAPER)
    assert [name for name, text in said.items() if "Assumed" in text] == ["qwen3-0.6b"]
    assert said["sapling"] == "From the headers of the shipped files."


def test_an_architecture_without_a_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="gpt2"):
        tensor_shapes({"model_type": "gpt2"})


def test_one_layer_less_is_eleven_tensors_less() -> None:
    config = pair_config(find_pair("qwen3-8b"))
    other = tensor_shapes({**config, "num_hidden_layers": 35})
    assert len(tensor_shapes(config)) - len(other) == 11
