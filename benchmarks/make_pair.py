"""Write a Base and Instruct pair with the names, shapes, dtype and sharding of a real model.

    python benchmarks/make_pair.py qwen3-0.6b DIR             # whole
    python benchmarks/make_pair.py qwen3-8b DIR --layers 1    # some layers of a larger one
    python benchmarks/make_pair.py qwen3-30b-a3b DIR --layers 1 --experts 16 --no-embeddings

Base is Gaussian noise of standard deviation 0.02. The delta of each linear weight is noise plus a
part of low rank (eight directions, each 0.8 times the one before) that holds 30 % of its energy,
together 3 % of the weight's norm: a bulk with leading directions far above it, as real deltas have.
Both are rounded to bfloat16. Not here: a tokenizer, and anything of a real model's values; only
names, shapes, dtype and sharding are those of the model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

SHARD_BYTES = 2 << 30
RELATIVE_DELTA = 0.03
LOW_RANK_ENERGY = 0.3
LOW_RANK = 8


@dataclass(frozen=True)
class Shapes:
    """What decides the tensors of a decoder; ``ffn`` is the inner side of one expert's, if any."""

    model_type: str
    architecture: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    tied: bool
    experts: int = 0
    qk_norm: bool = True


MODELS = {
    "qwen3-0.6b": Shapes(
        "qwen3", "Qwen3ForCausalLM", 1024, 28, 16, 8, 128, 3072, 151_936, tied=True
    ),
    "qwen3-8b": Shapes(
        "qwen3", "Qwen3ForCausalLM", 4096, 36, 32, 8, 128, 12_288, 151_936, tied=False
    ),
    "llama-3.1-8b": Shapes(
        "llama", "LlamaForCausalLM", 4096, 32, 32, 8, 128, 14_336, 128_256, tied=False,
        qk_norm=False,
    ),
    "qwen3-30b-a3b": Shapes(
        "qwen3_moe", "Qwen3MoeForCausalLM", 2048, 48, 32, 4, 128, 768, 151_936, tied=False,
        experts=128,
    ),
    "llama-3.1-70b": Shapes(
        "llama", "LlamaForCausalLM", 8192, 80, 64, 8, 128, 28_672, 128_256, tied=False,
        qk_norm=False,
    ),
}  # fmt: skip


def tensors(model: Shapes, *, embeddings: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor, in the order of the layers."""
    if embeddings:
        yield "model.embed_tokens.weight", (model.vocabulary, model.hidden)
    wide, narrow = model.heads * model.head_dim, model.kv_heads * model.head_dim
    for layer in range(model.layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (model.hidden,)
        yield f"{prefix}.self_attn.q_proj.weight", (wide, model.hidden)
        yield f"{prefix}.self_attn.k_proj.weight", (narrow, model.hidden)
        yield f"{prefix}.self_attn.v_proj.weight", (narrow, model.hidden)
        yield f"{prefix}.self_attn.o_proj.weight", (model.hidden, wide)
        if model.qk_norm:
            yield f"{prefix}.self_attn.q_norm.weight", (model.head_dim,)
            yield f"{prefix}.self_attn.k_norm.weight", (model.head_dim,)
        yield f"{prefix}.post_attention_layernorm.weight", (model.hidden,)
        if model.experts:
            yield f"{prefix}.mlp.gate.weight", (model.experts, model.hidden)
        for expert in range(max(model.experts, 1)):
            owner = f"{prefix}.mlp.experts.{expert}" if model.experts else f"{prefix}.mlp"
            yield f"{owner}.gate_proj.weight", (model.ffn, model.hidden)
            yield f"{owner}.up_proj.weight", (model.ffn, model.hidden)
            yield f"{owner}.down_proj.weight", (model.hidden, model.ffn)
    yield "model.norm.weight", (model.hidden,)
    if embeddings and not model.tied:
        yield "lm_head.weight", (model.vocabulary, model.hidden)


def values(shape: tuple[int, ...], generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """One tensor of Base and of Instruct."""
    if len(shape) == 1:
        base = torch.ones(shape)
        return base.bfloat16(), (base + 0.01 * torch.randn(shape, generator=generator)).bfloat16()
    rows, columns = shape
    base = torch.randn(shape, generator=generator).mul_(0.02).bfloat16()
    norm = RELATIVE_DELTA * 0.02 * (rows * columns) ** 0.5
    delta = torch.randn(shape, generator=generator)
    delta.mul_(norm * (1 - LOW_RANK_ENERGY) ** 0.5 / float(torch.linalg.vector_norm(delta)))
    rank = min(LOW_RANK, rows, columns)
    strength = 0.8 ** torch.arange(rank)
    strength *= norm * LOW_RANK_ENERGY**0.5 / float(torch.linalg.vector_norm(strength))
    left = torch.linalg.qr(torch.randn(rows, rank, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(columns, rank, generator=generator))[0]
    delta.addmm_(left * strength, right.T)
    return base, delta.add_(base).bfloat16()


def shapes_of(name: str, layers: int | None = None, experts: int | None = None) -> Shapes:
    """A model's shapes with its first layers and experts only; ValueError for more than it has."""
    model = MODELS[name]
    for word, wanted, most in (
        ("layers", layers, model.layers),
        ("experts", experts, model.experts),
    ):
        if wanted is not None and not 1 <= wanted <= most:
            raise ValueError(f"{name}: {wanted} {word}, expected 1 to {most}")
    return replace(model, layers=layers or model.layers, experts=experts or model.experts)


def make_pair(
    name: str,
    folder: Path,
    *,
    layers: int | None = None,
    experts: int | None = None,
    embeddings: bool = True,
) -> tuple[Path, Path]:
    """Write ``folder/base`` and ``folder/instruct``; returns both. Refuses an existing folder.

    Memory: two shards of 2 GiB and four times the largest tensor in float32.
    """
    model = shapes_of(name, layers, experts)
    folders = folder / "base", folder / "instruct"
    for path in folders:
        path.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    shards: list[dict[str, str]] = [{}, {}]
    pending: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = ({}, {})
    held, number = 0, 0

    def flush() -> None:
        nonlocal held, number
        number += 1
        file = f"model-{number:05d}.safetensors"
        for weight_map, path, content in zip(shards, folders, pending, strict=True):
            save_file(content, path / file, metadata={"format": "pt"})
            weight_map.update(dict.fromkeys(content, file))
            content.clear()
        held = 0

    for tensor, shape in tensors(model, embeddings=embeddings):
        pair = values(shape, generator)
        for content, value in zip(pending, pair, strict=True):
            content[tensor] = value
        held += pair[0].numel() * 2
        if held >= SHARD_BYTES:
            flush()
    flush()
    config = json.dumps(model_config(model), indent=2)
    for weight_map, path in zip(shards, folders, strict=True):
        index = {"metadata": {}, "weight_map": weight_map}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
        (path / "config.json").write_text(config)
    return folders


def model_config(model: Shapes) -> dict[str, object]:
    """What ``config.json`` says of the shapes, in the words of the transformers library."""
    config: dict[str, object] = {
        "architectures": [model.architecture], "model_type": model.model_type,
        "hidden_size": model.hidden, "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads, "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim, "intermediate_size": model.ffn,
        "vocab_size": model.vocabulary, "tie_word_embeddings": model.tied,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    if model.experts:
        config |= {
            "num_experts": model.experts,
            "num_experts_per_tok": min(8, model.experts),
            "moe_intermediate_size": model.ffn,
        }
    return config


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="the first of them only")
    parser.add_argument("--experts", type=int, help="the first of each layer only")
    parser.add_argument("--no-embeddings", action="store_true", help="nor lm_head")
    given = parser.parse_args()
    make_pair(
        given.model,
        given.folder,
        layers=given.layers,
        experts=given.experts,
        embeddings=not given.no_embeddings,
    )


if __name__ == "__main__":
    main()
