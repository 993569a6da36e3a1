"""Small models of many architectures, made by transformers from its own configuration classes.

    save_pair("mixtral", (folder / "base", folder / "instruct"))
    saved_tensors("mixtral", folder)      # what each tensor of a file is in the model

What a tensor is comes from the model, not from its name: every parameter is filled with a number of
its own, and the file says which became which, whatever transformers renamed, split or stacked.
``python tests/support/architecture_zoo.py`` writes the table of docs/architectures.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from timberkit.checkpoint.families import classify, module_path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"

SIZES: dict[str, Any] = {
    **{"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
    **{"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    **{"q_lora_rank": 16, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4},
    **{"v_head_dim": 8, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    **{"moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    **{"num_key_value_heads": 4, "head_dim": 4},
}
MAMBA = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
FALCON = {**MAMBA, "num_attention_heads": 4, "ffn_hidden_size": 48}
HYBRID = {"mamba_d_state": 8, "mamba_dt_rank": 4}
JAMBA = {
    **{"num_hidden_layers": 4, "num_experts": 4, "num_experts_per_tok": 2},
    **{"attn_layer_period": 4, "attn_layer_offset": 1},
    **{"expert_layer_period": 2, "expert_layer_offset": 1},
}
DELTA_NET = {
    **{"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8},
    **{"linear_value_head_dim": 8, "shared_expert_intermediate_size": 16, "num_hidden_layers": 4},
}
NEMOTRON = {
    **{"mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2},
    **{"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    **{"moe_shared_expert_intermediate_size": 16, "hybrid_override_pattern": "M*-E"},
}
GPT2 = {
    **{"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    **{"n_inner": 48, "bos_token_id": 1, "eos_token_id": 2},
}
GPT_OSS = {
    **{"num_local_experts": 4, "num_experts_per_tok": 2},
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
EYES = {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 32, "patch_size": 4}
CLIP = {
    **{"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24},
    **{"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8, "patch_size": 4},
}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
QWEN2_VL = {"text_config": {**SIZES, "rope_parameters": ROPE}, "vision_config": EYES}
EYES3 = {
    **{
        "depth": 1,
        "hidden_size": 16,
        "num_heads": 2,
        "patch_size": 4,
        "num_position_embeddings": 16,
    },
    **{"intermediate_size": 24, "out_hidden_size": 32, "deepstack_visual_indexes": [0]},
}
MIXTURE3 = {**MIXTURE, "moe_intermediate_size": 24}
QWEN3_VL = {
    "text_config": {**SIZES, **MIXTURE3, "rope_parameters": ROPE},
    "vision_config": EYES3,
}
GRANITE = {**SIZES, "num_local_experts": 4, "shared_intermediate_size": 24}
LLAVA = {"text_config": {**SIZES, "model_type": "llama"}, "vision_config": CLIP}

ZOO: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", SIZES),
    "qwen2": ("Qwen2Config", SIZES),
    "qwen2.5": ("Qwen2Config", {**SIZES, "tie_word_embeddings": True}),
    "qwen2-moe": ("Qwen2MoeConfig", {**SIZES, **MIXTURE, "shared_expert_intermediate_size": 24}),
    "qwen3": ("Qwen3Config", SIZES),
    "qwen3-moe": ("Qwen3MoeConfig", {**SIZES, **MIXTURE}),
    "qwen3-next": ("Qwen3NextConfig", {**SIZES, **MIXTURE, **DELTA_NET}),
    "mistral": ("MistralConfig", SIZES),
    "mixtral": ("MixtralConfig", {**SIZES, "num_local_experts": 4}),
    "gemma2": ("Gemma2Config", SIZES),
    "gemma3": ("Gemma3TextConfig", SIZES),
    "phi3": ("Phi3Config", SIZES),
    "olmo2": ("Olmo2Config", SIZES),
    "glm": ("GlmConfig", SIZES),
    "glm4": ("Glm4Config", SIZES),
    "glm4-moe": ("Glm4MoeConfig", {**SIZES, **LATENT}),
    "deepseek-v2": ("DeepseekV2Config", {**SIZES, **LATENT}),
    "deepseek-v3": ("DeepseekV3Config", {**SIZES, **LATENT}),
    "gpt-neox": ("GPTNeoXConfig", SIZES),
    "gpt2": ("GPT2Config", GPT2),
    "bloom": ("BloomConfig", {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mpt": ("MptConfig", {"vocab_size": 96, "d_model": 32, "n_layers": 2, "n_heads": 4}),
    "persimmon": ("PersimmonConfig", {**SIZES, "qk_layernorm": False}),
    "falcon": ("FalconConfig", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-7b": ("FalconConfig", FALCON),
    "falcon-rw": ("FalconConfig", {**FALCON, "multi_query": False, "alibi": True}),
    "gpt-oss": ("GptOssConfig", {**SIZES, **GPT_OSS}),
    "llama4": ("Llama4TextConfig", {**SIZES, "num_local_experts": 4, "intermediate_size_mlp": 48}),
    "granite-moe": ("GraniteMoeConfig", {**SIZES, "num_local_experts": 4}),
    "granite-moe-shared": ("GraniteMoeSharedConfig", GRANITE),
    "mamba": ("MambaConfig", {**MAMBA, "time_step_rank": 4}),
    "mamba2": ("Mamba2Config", {**MAMBA, "head_dim": 8, "num_heads": 8, "n_groups": 2}),
    "jamba": ("JambaConfig", {**SIZES, **HYBRID, **JAMBA}),
    "nemotron-h": ("NemotronHConfig", {**SIZES, **NEMOTRON}),
    "lfm2": ("Lfm2Config", {**SIZES, "layer_types": ["conv", "full_attention"]}),
    "qwen2-vl": ("Qwen2VLConfig", QWEN2_VL),
    "qwen3-vl-moe": ("Qwen3VLMoeConfig", QWEN3_VL),
    "llava": ("LlavaConfig", LLAVA),
}
"""Architecture to the name of its configuration class and the sizes of a small one."""


@dataclass(frozen=True, slots=True)
class Saved:
    """One tensor of a file: the class of the module that it comes from, and its parameter."""

    shape: tuple[int, ...]
    module: type[torch.nn.Module]
    parameter: str

    @property
    def part(self) -> str:
        """What the module is: linear, experts, router, embedding, convolution, norm or other."""
        name = self.module.__name__
        if issubclass(self.module, torch.nn.Linear) or name == "Conv1D":
            return "linear"
        for word in ("Experts", "Router", "Embedding", "Conv", "Norm"):
            if word in name:
                return {"Conv": "convolution"}.get(word, word.lower())
        return "other"


def is_vision(architecture: str) -> bool:
    """Whether the model has a tower for pictures."""
    return "vision_config" in ZOO[architecture][1]


def build(architecture: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A small model of that architecture, weights as transformers draws them."""
    import transformers

    name, options = ZOO[architecture]
    config = getattr(transformers, name)(**options)
    kind = "ImageTextToText" if is_vision(architecture) else "CausalLM"
    return getattr(transformers, f"AutoModelFor{kind}").from_config(config, dtype=dtype)


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of transformers, which write to stderr."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.utils.logging.enable_progress_bar()


def save_pair(architecture: str, folders: tuple[Path, Path]) -> None:
    """Save a Base with random weights and an Instruct a little way from it."""
    with torch.random.fork_rng(devices=[]), without_bars():
        torch.manual_seed(0)
        model = build(architecture)
        for folder in folders:
            for parameter in model.parameters():  # biases are made as zeros, norms as ones
                parameter.data.add_(torch.randn_like(parameter) * 0.02)
            model.save_pretrained(folder)


def saved_tensors(architecture: str, folder: Path) -> dict[str, Saved | None]:
    """What each tensor is of a checkpoint that transformers saves into ``folder``; None: a buffer.

    Where weights are tied, the module is the one that the file's name says.
    """
    with torch.random.fork_rng(devices=[]), without_bars():
        model = build(architecture, torch.float32)
        owners = [
            (f"{path}.{name}".removeprefix("."), type(module), parameter)
            for path, module in model.named_modules()
            for name, parameter in module.named_parameters(recurse=False)
        ]
        for number, (_, _, parameter) in enumerate(owners):
            parameter.data.fill_(number + 1)
        for _, buffer in model.named_buffers():
            buffer.data.fill_(0)
        model.save_pretrained(folder)
    named = {name: (name, module) for name, module, _ in owners}
    found: dict[str, Saved | None] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                (number,) = opened.get_tensor(name).unique().int().tolist()  # of one parameter only
                shape = tuple(opened.get_slice(name).get_shape())
                parameter, module = named.get(name, owners[number - 1][:2])
                found[name] = Saved(shape, module, parameter) if number else None
    return found


def treatment(saved: Mapping[str, Saved | None]) -> dict[str, list[str]]:
    """Kind of tensor to the modules of that kind, by the names in the file."""
    kinds: dict[str, list[str]] = {}
    for name, tensor in saved.items():
        if tensor is None:
            continue
        kind, module = classify(name, tensor.shape).kind, module_path(name)
        if module not in kinds.setdefault(kind, []):
            kinds[kind].append(module)
    return kinds


def table(treatments: Mapping[str, Mapping[str, list[str]]]) -> str:
    """The table of docs/architectures.md: an architecture a row, a kind a column."""
    kinds = ("attention", "ffn", "expert", "ssm", "router", "head", "state", "convolution")
    lines = [f"| | {' | '.join(kinds)} |", "|" + "---|" * (len(kinds) + 1)]
    for architecture, found in treatments.items():
        cells = (", ".join(f"`{name}`" for name in sorted(found.get(kind, ()))) for kind in kinds)
        lines.append(f"| {architecture} | {' | '.join(cells)} |")
    return "\n".join(lines)


def written(document: str, content: str) -> str:
    """A document with another table between its marks."""
    start, end = "<!-- begin zoo -->\n", "\n<!-- end zoo -->"
    before, after = document.index(start) + len(start), document.index(end)
    return document[:before] + content + document[after:]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        found = {name: treatment(saved_tensors(name, Path(place, name))) for name in ZOO}
    DOCUMENT.write_text(written(DOCUMENT.read_text("utf-8"), table(found)), "utf-8")
