"""Quantised weights: what the libraries that wrote them make of them, or an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.quantised import (
    PRESETS,
    compress,
    in_fp8_blocks,
    quantise_blocks,
    small_llama,
)

from timberkit.checkpoint import dequantise
from timberkit.checkpoint.conversion import converted, entry_folder, planned
from timberkit.checkpoint.dequantise import quantised_model
from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.quantized import quantization
from timberkit.errors import CheckpointError, MissingExtraError

LARGEST_ERROR = {"W8A8": 0.01, "W8A16": 0.01, "W4A16": 0.12, "W4A16_ASYM": 0.12, "NVFP4A16": 0.12}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("TIMBERKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    place.mkdir()
    return place


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_settings(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= settings
    (folder / "config.json").write_text(json.dumps(config))


def dequantised(folder: Path) -> dict[str, torch.Tensor]:
    model = quantised_model(open_checkpoint(folder))
    assert model is not None
    return load_file(converted(model).folder / "model.safetensors")


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("preset", PRESETS)
def test_formats_of_compressed_tensors_come_back_near_the_original(
    folder: Path, preset: str
) -> None:
    model = small_llama(seed=1)
    original = {name: value.clone() for name, value in model.state_dict().items()}
    compress(model, folder, preset)
    assert quantization(open_checkpoint(folder)) == "compressed-tensors"
    found = dequantised(folder)
    assert found.keys() == original.keys()
    for name, value in original.items():
        assert found[name].dtype == torch.bfloat16
        if name.endswith("_proj.weight"):
            assert 1e-3 < relative(found[name], value) < LARGEST_ERROR.get(preset, 0.04), name
        else:
            assert torch.equal(found[name], value), name


def test_int8_groups_agree_with_their_definition(folder: Path) -> None:
    compress(small_llama(seed=1), folder, "W8A16")
    # Four codes a word; as the definition has it, code - 128 times the scale of its group of 128.
    stored = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.down_proj"
    codes = stored[f"{name}.weight_packed"].view(torch.uint8).int() - 128
    scale = stored[f"{name}.weight_scale"].float().repeat_interleave(128, dim=1)
    expected = (codes * scale).to(torch.bfloat16)
    assert torch.equal(dequantised(folder)[f"{name}.weight"], expected)


@pytest.mark.parametrize("sides", [(128, 128), (64, 96), (50, 128)])
def test_fp8_blocks_agree_with_a_loop_over_blocks(folder: Path, sides: tuple[int, int]) -> None:
    model = small_llama(seed=1)
    in_fp8_blocks(model, folder, sides)
    found = dequantised(folder)
    for name, value in model.state_dict().items():
        if not name.endswith("_proj.weight"):
            assert torch.equal(found[name], value)
            continue
        codes, scales = quantise_blocks(value, sides)
        expected = torch.empty(value.shape, dtype=torch.bfloat16)
        for row in range(value.shape[0]):
            for column in range(value.shape[1]):
                scale = scales[row // sides[0], column // sides[1]]
                expected[row, column] = codes[row, column].float() * scale
        assert torch.equal(found[name], expected), name


def test_fp8_blocks_agree_with_transformers(folder: Path) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    in_fp8_blocks(small_llama(seed=1), folder)
    stored, found = load_file(folder / "model.safetensors"), dequantised(folder)
    name = "model.layers.0.self_attn.q_proj.weight"
    theirs = Fp8Dequantize(None)._dequantize_one(
        stored[name], stored[f"{name}_scale_inv"], torch.bfloat16
    )
    assert torch.equal(found[name], theirs)


def test_the_configuration_says_nothing_of_quantisation_afterwards(folder: Path) -> None:
    compress(small_llama(seed=1), folder, "FP8")
    config = json.loads((folder / "config.json").read_text())
    nested = {"text_config": {"quantization_config": {"a": 1}, "hidden_size": 8}}
    (folder / "config.json").write_text(json.dumps(config | nested))
    model = quantised_model(open_checkpoint(folder))
    assert model is not None
    place = converted(model).folder
    found = json.loads((place / "config.json").read_text())
    assert "quantization_config" not in found
    assert found["text_config"] == {"hidden_size": 8}
    assert found["hidden_size"] == config["hidden_size"]
    assert quantization(open_checkpoint(place)) is None


def test_a_plan_knows_shapes_and_writes_nothing(folder: Path, cache: Path) -> None:
    compress(small_llama(seed=1), folder, "W4A16")
    model = quantised_model(open_checkpoint(folder))
    assert model is not None
    found = planned(model)
    assert not cache.exists()
    assert found.tensors["model.layers.0.mlp.down_proj.weight"].shape == (128, 256)
    assert {n: (e.dtype, e.shape) for n, e in found.tensors.items()} == {
        n: (e.dtype, e.shape) for n, e in converted(model).tensors.items()
    }


def test_scales_in_another_shard_are_found(folder: Path) -> None:
    in_fp8_blocks(small_llama(seed=1), folder)
    whole = dequantised(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = [
        {name: value for name, value in tensors.items() if name.endswith("_inv") is scales}
        for scales in (False, True)
    ]
    for i, half in enumerate(halves):
        save_file(half, folder / f"model-0000{i + 1}-of-00002.safetensors")
    assert whole.keys() == dequantised_all(folder).keys()
    assert all(torch.equal(value, whole[n]) for n, value in dequantised_all(folder).items())


def dequantised_all(folder: Path) -> dict[str, torch.Tensor]:
    model = quantised_model(open_checkpoint(folder))
    assert model is not None
    found: dict[str, torch.Tensor] = {}
    for path in converted(model).folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


def test_scales_of_activations_and_caches_are_left_out(folder: Path) -> None:
    compress(small_llama(seed=1), folder, "FP8")
    change(folder, lambda t: t.update({"model.layers.0.self_attn.k_scale": torch.ones(1)}))
    model = quantised_model(open_checkpoint(folder))
    assert model is not None
    assert "model.layers.0.self_attn.k_scale" in model.left_out()
    assert "model.layers.0.mlp.down_proj.input_scale" in model.left_out()
    assert not any("scale" in name for name in dequantised(folder))


def test_another_configuration_is_another_entry(folder: Path) -> None:
    in_fp8_blocks(small_llama(seed=1), folder)
    first = quantised_model(open_checkpoint(folder))
    change_settings(folder, activation_scheme="static")
    second = quantised_model(open_checkpoint(folder))
    assert first is not None
    assert second is not None
    assert entry_folder(first) != entry_folder(second)


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq"},
        {"quant_method": "bitsandbytes"},
        {"quant_method": "mxfp4"},
        {"quant_method": "fp8"},
        {"quant_method": ["fp8"]},
        {},
    ],
)
def test_other_methods_are_left_to_be_refused(folder: Path, settings: dict[str, Any]) -> None:
    in_fp8_blocks(small_llama(seed=1), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    assert quantised_model(open_checkpoint(folder)) is None


NAME = "model.layers.0.mlp.up_proj.weight"


def drop(name: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors.pop(name)


def put(name: str, value: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (drop(f"{NAME}_scale_inv"), "is left over"),
        (drop(NAME), "found no such tensor"),
        (put(f"{NAME}_scale_inv", torch.ones(3, 1)), r"expected \[2, 1\]"),
        (put(f"{NAME}_scale_inv", torch.ones(2)), r"expected \[2, 1\]"),
        (put(NAME, torch.ones(256, 128)), "expected codes in F8_E4M3"),
        (put("a.experts.gate_up_proj_scale_inv", torch.ones(2, 2)), "is left over"),
    ],
)
def test_fp8_codes_and_scales_that_do_not_fit_are_named(
    folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any], said: str
) -> None:
    in_fp8_blocks(small_llama(seed=1), folder)
    change(folder, edit)
    with pytest.raises(CheckpointError, match=said):
        quantised_model(open_checkpoint(folder))


@pytest.mark.parametrize("blocks", [[0, 128], [128], [128, -1], ["a", 1], [True, 1], [1 << 40, 1]])
def test_sides_of_blocks_that_mean_nothing_are_refused(folder: Path, blocks: list[Any]) -> None:
    in_fp8_blocks(small_llama(seed=1), folder)
    change_settings(folder, weight_block_size=blocks)
    with pytest.raises(CheckpointError, match="weight_block_size"):
        quantised_model(open_checkpoint(folder))


PACKED = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (drop(f"{PACKED}.weight_scale"), "has no"),
        (drop(f"{PACKED}.weight_shape"), "has no"),
        (put(f"{PACKED}.weight_shape", torch.tensor([256, 1 << 40])), "columns that fit"),
        (put(f"{PACKED}.weight_shape", torch.tensor([1, 128])), "columns that fit"),
        (put(f"{PACKED}.weight_shape", torch.tensor([256, -5])), "columns that fit"),
        (put(f"{PACKED}.weight_shape", torch.tensor([256])), "columns that fit"),
        (put(f"{PACKED}.weight_g_idx", torch.arange(128)), "is left over"),
    ],
)
def test_packed_codes_that_do_not_fit_are_named(
    folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any], said: str
) -> None:
    compress(small_llama(seed=1), folder, "W4A16")
    change(folder, edit)
    with pytest.raises(CheckpointError, match=said):
        quantised_model(open_checkpoint(folder))


def test_scales_of_another_shape_end_with_an_error(folder: Path) -> None:
    compress(small_llama(seed=1), folder, "W4A16")
    change(folder, put(f"{PACKED}.weight_scale", torch.ones(7, 3, dtype=torch.bfloat16)))
    with pytest.raises(CheckpointError, match="cannot be dequantised"):
        dequantised(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": "many"}}}},
        {"config_groups": 7},
        {"config_groups": {"g": {"targets": ["re:("], "weights": {"num_bits": 4}}}},
        {"format": "of-the-future", "config_groups": {"g": {"targets": 3}}},
    ],
)
def test_settings_that_mean_nothing_are_refused(folder: Path, settings: dict[str, Any]) -> None:
    compress(small_llama(seed=1), folder, "W4A16")
    change_settings(folder, **settings)
    with pytest.raises(CheckpointError, match="quantization_config cannot be read"):
        quantised_model(open_checkpoint(folder))


def test_the_extra_is_named_where_it_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import PackageNotFoundError

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    in_fp8_blocks(small_llama(seed=1), folder)
    monkeypatch.setattr(dequantise, "version", absent)
    with pytest.raises(MissingExtraError, match=r"timberkit\[quantized\]"):
        quantised_model(open_checkpoint(folder))
