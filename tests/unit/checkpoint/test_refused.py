"""Formats that are refused: what is said of them, that the advice works, that nothing leaks."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.refused import CONVERT, refuse_quantised
from timberkit.checkpoint.source import resolve
from timberkit.config import Source
from timberkit.errors import CheckpointError, SourceError


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    return str(caught.value)


def quantised(folder: Path, config: dict[str, Any], card: str | None = None) -> str:
    save_file({"x.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    if card is not None:
        (folder / "README.md").write_text(f"---\n{card}\n---\n# A model\n")
    with pytest.raises(CheckpointError) as caught:
        refuse_quantised(open_checkpoint(folder), "Base")
    return str(caught.value)


def test_the_command_for_pickles_makes_a_checkpoint_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedding = torch.randn(5, 3)
    shards: list[dict[str, torch.Tensor]] = [
        {"embed.weight": embedding, "lm_head.weight": embedding},
        {"q_proj.weight": torch.randn(4, 3).bfloat16().T},
    ]
    for number, tensors in enumerate(shards, 1):
        torch.save(tensors, tmp_path / f"pytorch_model-0000{number}-of-00002.bin")
    (tmp_path / "training_args.bin").write_bytes(b"no weights")
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    message = refusal(tmp_path)
    assert message.endswith(CONVERT)
    python, flag, code = shlex.split(CONVERT)
    assert (python, flag) == ("python", "-c")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert len(open_checkpoint(tmp_path).shards) == 2
    found: dict[str, torch.Tensor] = {}
    for path in tmp_path.glob("*.safetensors"):
        found |= load_file(path)
    expected = shards[0] | shards[1]
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_the_command_runs_no_code_of_a_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"x": Hostile()}, tmp_path / "pytorch_model.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="Weights only load failed"):
        exec(shlex.split(CONVERT)[2], {})
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["consolidated.00.pth", "model.pt", "weights.ckpt"])
def test_pickles_of_other_programs_are_not_promised_a_command(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    message = refusal(tmp_path)
    assert "save_pretrained" in message
    assert "torch.load" not in message


def test_gguf_is_explained_and_its_original_named(tmp_path: Path) -> None:
    (tmp_path / "model-Q4_K_M.GGUF").write_bytes(b"GGUF")
    (tmp_path / "training_args.bin").write_bytes(b"x")
    message = refusal(tmp_path)
    assert "mostly quantised" in message
    assert "base_model" not in message
    (tmp_path / "README.md").write_text("---\nbase_model: org/model\n---\n")
    assert refusal(tmp_path).endswith("(its model card names org/model as base_model)")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.gguf", "GGUF weights are mostly quantised"),
        ("pytorch_model.bin", "torch.load"),
        ("model.pth", "save_pretrained"),
        ("model.safetensors", "give the folder around it"),
    ],
)
def test_a_file_in_place_of_a_folder_is_explained(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SourceError, match=f"found a file.*{said}"):
        resolve(Source(location=str(tmp_path / name)))
    with pytest.raises(SourceError, match=f"found a file.*{said}"):
        open_checkpoint(tmp_path / name)


def test_a_snapshot_without_safetensors_names_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--name" / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    message = refusal(folder)
    assert message.startswith("org/name: its repository on the Hub holds no *.safetensors")
    assert "hf download org/name" in message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, "quantised (gptq, 4 bits)"),
        ({"quant_method": "awq", "bits": True}, "quantised (awq)"),
        ({"quant_method": "bitsandbytes", "bits": 10**9}, "quantised (bitsandbytes)"),
        ({"quant_method": "compressed-tensors"}, "quantised (compressed-tensors)"),
        ({"quant_method": "fp8"}, "a model released in fp8 may have a version in BF16"),
        ({"quant_method": "\x1b[31m" * 9}, "quantised (of an unnamed method)"),
        ({"quant_method": "x" * 10**6}, "quantised (of an unnamed method)"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_method_is_named(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    message = quantised(tmp_path, {"quantization_config": settings})
    assert said in message
    assert f"{tmp_path.name} (Base)" in message
    assert message.isprintable()
    assert len(message) < 600


GPTQ = {"quantization_config": {"quant_method": "gptq"}}


@pytest.mark.parametrize(
    ("config", "card", "said"),
    [
        ({}, "base_model: org/model", "its model card names org/model as base_model"),
        ({}, "base_model:\n- org/model-7B.v1\n- org/b", "its model card names org/model-7B.v1"),
        ({"_name_or_path": "org/model"}, None, "its config.json names org/model"),
        ({"base_model": "org/a", "_name_or_path": "org/b"}, "licence: x", "names org/a"),
        ({"_name_or_path": "org/b"}, "base_model: org/a", "card names org/a"),
    ],
)
def test_the_original_is_named_where_the_files_name_it(
    tmp_path: Path, config: dict[str, Any], card: str | None, said: str
) -> None:
    assert said in quantised(tmp_path, {**GPTQ, **config}, card)


@pytest.mark.parametrize(
    "value",
    ["", "model", "/models/private", "../../secret", "org/a/b", "org/model\n", "org/\x1b[31mred",
     "https://evil.example/x", "org/" + "x" * 10**5, "org/ｍodel", "a b/c", 7, None, [], {}, [[]],
     "$(rm -rf)/x"],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_what_is_no_hub_id_is_never_shown(tmp_path: Path, value: Any) -> None:
    config = {**GPTQ, "_name_or_path": value, "base_model": value}
    message = quantised(tmp_path, config, f"base_model: {json.dumps(value)}")
    assert "names" not in message
    assert message.isprintable()


def test_plain_weights_are_not_refused(tmp_path: Path) -> None:
    save_file({"x.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    refuse_quantised(open_checkpoint(tmp_path), "Base")
