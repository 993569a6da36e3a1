"""``--families vision`` against the models that transformers builds: which weights are linear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

import timberkit
from timberkit.checkpoint.families import classify, is_tower_linear

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 99,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QWEN = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2}
SECTIONS = {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "Llava": ("Llava", TOWER | {"model_type": "clip_vision_model"}, TEXT | {"model_type": "llama"}),
    "Qwen2VL": (
        "Qwen2VL",
        {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
        TEXT | SECTIONS,
    ),
    "Qwen2.5VL": ("Qwen2_5_VL", QWEN | {"out_hidden_size": 32}, TEXT | SECTIONS),
    "Qwen3VL": ("Qwen3VL", QWEN | {"out_hidden_size": 32, "deepstack_visual_indexes": [0]}, TEXT),
    "Gemma3": ("Gemma3", TOWER, TEXT),
    "Idefics3": ("Idefics3", TOWER, TEXT | {"model_type": "llama"}),
    "SmolVLM": ("SmolVLM", TOWER, TEXT | {"model_type": "llama"}),
    "Mistral3": (
        "Mistral3",
        TOWER | {"model_type": "pixtral"},
        TEXT | {"model_type": "mistral"},
    ),
}
BY_HAND = {"mm_input_projection_weight"}
"""A matrix that Gemma 3 multiplies with outside any ``nn.Linear``."""


def build(name: str) -> Any:
    kind, tower, text = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(vision_config=tower, text_config=text)
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config)


@pytest.mark.parametrize("name", MODELS)
def test_linear_weights_of_towers_and_projectors_are_those_of_linear_modules(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    linear = {f"{m}.weight" for m, module in model.named_modules() if isinstance(module, nn.Linear)}
    tower = {
        parameter: tuple(value.shape)
        for parameter, value in model.state_dict().items()
        if classify(parameter, tuple(value.shape)).kind == "vision"
    }
    found = {parameter for parameter, shape in tower.items() if is_tower_linear(parameter, shape)}
    by_hand = {parameter for parameter in tower if parameter.rpartition(".")[2] in BY_HAND}
    assert found == (linear & tower.keys()) | by_hand
    assert len(found) >= 8


@pytest.mark.parametrize("name", ["Llava", "Qwen2.5VL", "Gemma3"])
def test_towers_are_copied_unless_asked_for(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(name).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "instruct")
    pair = (tmp_path / "base", tmp_path / "instruct")
    usual = timberkit.refine(*pair, tmp_path / "usual")
    towers = timberkit.refine(*pair, tmp_path / "towers", families=["vision"])
    instruct = load_file(pair[1] / "model.safetensors")
    vision = {n for n, value in instruct.items() if classify(n, value.shape).kind == "vision"}
    first, second = (load_file(tmp_path / out / "model.safetensors") for out in ("usual", "towers"))
    changed = [{n for n in instruct if not torch.equal(f[n], instruct[n])} for f in (first, second)]
    assert changed[0] == {tensor.name for tensor in usual.plan.refined}
    assert changed[1] == {tensor.name for tensor in towers.plan.refined}
    assert changed[0].isdisjoint(vision)
    assert len(changed[0]) == 14
    assert changed[1] == {n for n in vision if is_tower_linear(n, tuple(instruct[n].shape))}
    for out in ("usual", "towers"):
        assert timberkit.verify(tmp_path / out, every=True).passed
        _, loading = type(model).from_pretrained(tmp_path / out, output_loading_info=True)
        assert not any(loading.values())
