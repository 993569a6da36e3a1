"""Small LoRA adapters that peft makes and saves, with weights large enough to matter."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SMALL = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 80},
    **{"num_attention_heads": 4, "num_key_value_heads": 2},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None},
}
GPT2 = {
    **{"n_embd": 64, "n_layer": 1, "n_head": 4, "vocab_size": 80},
    **{"bos_token_id": 1, "eos_token_id": 2},
}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (
        lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
        {"target_modules": ["q_proj", "v_proj", "down_proj"], "lora_alpha": 8},
    ),
    "patterns": (
        lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
        {
            "target_modules": ["q_proj", "down_proj", "embed_tokens"],
            "modules_to_save": ["lm_head"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 2},
            "alpha_pattern": {"q_proj": 16},
        },
    ),
    "rslora, transposed": (
        lambda: GPT2LMHeadModel(GPT2Config(**GPT2)),
        {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_rslora": True},
    ),
    "biases": (
        lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
        {"target_modules": ["q_proj", "o_proj"]},
    ),
    "fused": (
        lambda: Phi3ForCausalLM(Phi3Config(**SMALL)),
        {"target_modules": ["qkv_proj", "gate_up_proj", "o_proj"]},
    ),
}
"""Name to a model and what of it is adapted, how."""


def save_adapted(
    case: str, folder: Path, dtype: torch.dtype = torch.bfloat16, **more: Any
) -> tuple[Path, Path]:
    """Save a Base and an adapter for it; their folders."""
    with warnings.catch_warnings():  # peft and transformers warn of each other
        warnings.simplefilter("ignore")
        build, options = CASES[case]
        torch.manual_seed(0)
        model = build().to(dtype)
        model.save_pretrained(folder / "base")
        adapted = get_peft_model(model, LoraConfig(r=6, **options, **more))
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                # Of falling size, so that methods differ in what they keep.
                fall = 0.7 ** torch.arange(max(weight.shape))
                axis = fall[: weight.shape[0], None] if weight.shape[0] < weight.shape[1] else 1.0
                weight.data = (torch.randn_like(weight.float()) * 0.05 * axis).to(weight.dtype)
            elif "modules_to_save" in name or name.endswith(".bias"):
                weight.data += torch.randn_like(weight) * 0.01
        adapted.save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter"


def merged(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """What peft makes of the two, in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        found: dict[str, torch.Tensor] = (
            PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
        )
    return found


def adapter_for(base: Path, folder: Path) -> None:
    """Save an adapter for the attention of a model that lies in a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        torch.manual_seed(0)
        get_peft_model(model, config).save_pretrained(folder)
