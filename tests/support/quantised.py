"""Small quantised checkpoints, written by compressed-tensors itself, or in FP8 blocks by hand."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from compressed_tensors.compressors.model_compressors.model_compressor import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    apply_quantization_config,
    preset_name_to_scheme,
)
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

PRESETS = ("FP8", "FP8_DYNAMIC", "FP8_BLOCK", "W8A8", "W8A16", "W4A16", "W4A16_ASYM", "NVFP4A16")
"""Schemes of compressed-tensors that say how large a weight is."""


def small_llama(*, seed: int, like: LlamaForCausalLM | None = None) -> LlamaForCausalLM:
    """One layer in bfloat16; near another model where one is given."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, vocab_size=64, dtype="bfloat16",
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    if like is not None:
        with torch.no_grad():
            for weight, near in zip(model.parameters(), like.parameters(), strict=True):
                weight.copy_(near + 0.05 * weight)
    return model


def compress(model: LlamaForCausalLM, folder: Path, preset: str) -> Path:
    """Quantise the model in place by one of ``PRESETS`` and save it."""
    scheme = preset_name_to_scheme(preset, ["Linear"])
    settings = QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"])
    apply_quantization_config(model, settings)
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            _calibrate(module, module.quantization_scheme.weights)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        **json.loads(settings.model_dump_json(exclude_none=True)),
        "quant_method": "compressed-tensors",
    }
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _calibrate(module: torch.nn.Module, args: QuantizationArgs) -> None:
    """Scales and zero points from the weight's own range."""
    weight = module.weight.detach()
    rows, columns = weight.shape
    if args.block_structure is not None:
        height, width = args.block_structure
        blocks = weight.reshape(rows // height, height, columns // width, width)
        low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
    elif args.group_size:
        groups = weight.reshape(rows, -1, args.group_size)
        low, high = groups.amin(2), groups.amax(2)
    elif args.strategy == "channel":
        low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    else:
        low, high = weight.min().reshape(1), weight.max().reshape(1)
    shared = None
    if args.strategy == "tensor_group":  # NVFP4 has a scale of the scales besides
        shared = generate_gparam(weight.min(), weight.max())
        module.weight_global_scale.data = shared.reshape(module.weight_global_scale.shape)
    scale, zero = calculate_qparams(low, high, args, global_scale=shared)
    module.weight_scale.data = scale.reshape(module.weight_scale.shape).to(module.weight_scale)
    if hasattr(module, "weight_zero_point"):
        point = module.weight_zero_point
        point.data = zero.reshape(point.shape).to(point.dtype)


def in_fp8_blocks(
    model: LlamaForCausalLM, folder: Path, sides: tuple[int, int] = (128, 128)
) -> Path:
    """Save the model as DeepSeek-V3 and Qwen3-FP8 are: codes and ``weight_scale_inv``."""
    model.config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8", "weight_block_size": list(sides), "activation_scheme": "dynamic",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tensors: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        if name.endswith("_proj.weight"):
            tensors[name], tensors[f"{name}_scale_inv"] = quantise_blocks(value, sides)
        else:
            tensors[name] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def quantise_blocks(
    weight: torch.Tensor, sides: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes in FP8 and, for each block, the largest element over 448."""
    rows, columns = weight.shape
    codes = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    scales = torch.empty(-(-rows // sides[0]), -(-columns // sides[1]))
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            place = (
                slice(i * sides[0], (i + 1) * sides[0]),
                slice(j * sides[1], (j + 1) * sides[1]),
            )
            scales[i, j] = weight[place].float().abs().max() / 448
            codes[place] = (weight[place].float() / scales[i, j]).to(torch.float8_e4m3fn)
    return codes, scales
