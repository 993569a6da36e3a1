"""Opening a folder: what is accepted, and that everything else is a named error."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from timberkit.checkpoint.header import LARGEST_MARKS, read_shard
from timberkit.checkpoint.index import open_checkpoint, stale_shards
from timberkit.checkpoint.layout import DTYPE_BITS
from timberkit.checkpoint.quantized import quantization
from timberkit.errors import CheckpointError, SourceError

INDEX = "model.safetensors.index.json"


def write_raw(
    path: Path, header: str | bytes, data: bytes = b"", length: int | None = None
) -> None:
    raw = header.encode() if isinstance(header, str) else header
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)


def write_shard(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.full((2, 3), float(i)) for i, name in enumerate(names)}, path)


def write_index(folder: Path, weight_map: Mapping[str, Any], name: str = INDEX) -> None:
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    write_shard(folder / "model-00001-of-00002.safetensors", "a", "b")
    write_shard(folder / "model-00002-of-00002.safetensors", "c")
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    write_index(folder, {"a": one, "b": one, "c": two})
    return folder


# ---- headers ---------------------------------------------------------------------------------


def test_golden_bytes_give_the_offsets_that_stand_in_them(tmp_path: Path) -> None:
    header = (
        b'{"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[2,2],"data_offsets":[4,12]},'
        b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}   '
    )
    content = b"\x91\x00\x00\x00\x00\x00\x00\x00" + header + bytes(range(12))
    assert len(header) == 0x91
    (tmp_path / "model.safetensors").write_bytes(content)
    (shard,) = open_checkpoint(tmp_path).shards
    assert shard.header_bytes == 153
    assert shard.metadata == {"format": "pt"}
    assert [(e.name, e.dtype, e.shape, e.start_byte, e.size_bytes) for e in shard.tensors] == [
        ("b", "F32", (1,), 153, 4),
        ("w", "BF16", (2, 2), 157, 8),
    ]
    assert content[157:165] == bytes(range(4, 12))


ONE = '{"a":{"dtype":%s,"shape":%s,"data_offsets":%s}}'
GOOD = ONE % ('"F32"', "[1]", "[0,4]")


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        ("", b"", "starts with"),
        ("[]", b"", "starts with"),
        (" " + GOOD, b"\0" * 4, "starts with"),
        ('{"a":', b"", "JSON object"),
        (b'{"\xff":1}', b"", "not UTF-8"),
        ('{"a":' + "[" * 100_000, b"", "nested too deeply"),
        ('{"a":' + "[[]," * (LARGEST_MARKS // 3 + 1), b"", "brackets and"),
        ('{"a":' + "9" * 5000 + "}", b"", "2\\^63"),
        ('{"a":NaN}', b"", "NaN"),
        ('{"a":1}', b"", "expected the fields"),
        ('{"a":["F32",[1],[0,4]]}', b"\0" * 4, "expected the fields"),
        (GOOD[:-2] + ',"more":1}}', b"\0" * 4, "expected the fields"),
        (GOOD[:-1] + "," + GOOD[1:], b"\0" * 4, "twice"),
        ('{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"", "twice"),
        (ONE % ('"F31"', "[1]", "[0,4]"), b"\0" * 4, "unknown dtype 'F31'"),
        (ONE % ("[]", "[1]", "[0,4]"), b"\0" * 4, "unknown dtype"),
        (ONE % ('"F32"', "[-1]", "[0,4]"), b"\0" * 4, "'-1'"),
        (ONE % ('"F32"', "[-0]", "[0,0]"), b"", "'-0'"),
        (ONE % ('"F32"', "[1.0]", "[0,4]"), b"\0" * 4, "whole number"),
        (ONE % ('"F32"', "[true]", "[0,4]"), b"\0" * 4, "shape"),
        (ONE % ('"F32"', '["1"]', "[0,4]"), b"\0" * 4, "shape"),
        (ONE % ('"F32"', "1", "[0,4]"), b"\0" * 4, "shape"),
        (ONE % ('"F32"', str([1] * 65), "[0,4]"), b"\0" * 4, "at most 64"),
        (ONE % ('"F32"', "[9223372036854775808]", "[0,4]"), b"\0" * 4, "2\\^63"),
        (ONE % ('"F32"', "[4294967296,4294967296]", "[0,4]"), b"\0" * 4, "2\\^63"),
        (ONE % ('"F32"', "[0,4294967296,4294967296]", "[0,0]"), b"", "2\\^63"),
        (ONE % ('"F32"', "[2]", "[0,4]"), b"\0" * 4, "takes 8 bytes"),
        (ONE % ('"F4"', "[3]", "[0,1]"), b"\0", "takes 1.5 bytes"),
        (ONE % ('"F32"', "[1]", "[4,0]"), b"\0" * 4, "start <= end"),
        (ONE % ('"F32"', "[1]", "[0,4,8]"), b"\0" * 4, "start <= end"),
        (ONE % ('"F32"', "[1]", "[false,4]"), b"\0" * 4, "start <= end"),
        (ONE % ('"F32"', "[1]", "[4,8]"), b"\0" * 8, "leaves a hole"),
        (GOOD[:-1] + ',"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}', b"\0" * 6, "overlap"),
        (GOOD, b"\0" * 3, "truncated"),
        (GOOD, b"\0" * 5, "no tensor"),
        (GOOD.replace('"a"', '""'), b"\0" * 4, "printable name"),
        (GOOD.replace('"a"', '"a\\u0000b"'), b"\0" * 4, "printable name"),
        (GOOD.replace('"a"', '"a\\nb"'), b"\0" * 4, "printable name"),
        (GOOD.replace('"a"', '"\\u202eb"'), b"\0" * 4, "printable name"),
        (GOOD.replace('"a"', '"\\ud800"'), b"\0" * 4, "printable name"),
        (GOOD.replace('"a"', f'"{"a" * 4097}"'), b"\0" * 4, "printable name"),
        ('{"__metadata__":{"a":1}}', b"", "object of texts"),
        ('{"__metadata__":null}', b"", "object of texts"),
        ('{"__metadata__":{"a":"\\udc00"}}', b"", "surrogate"),
        ("{}", b"", "no tensor"),
    ],
)
def test_broken_header_is_refused_and_named(
    tmp_path: Path, header: str | bytes, data: bytes, said: str
) -> None:
    write_raw(tmp_path / "model.safetensors", header, data)
    with pytest.raises(CheckpointError, match=said) as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("length", [2**64 - 1, 100_000_001, 200, 55])
def test_header_length_beyond_the_file_is_refused_before_it_is_read(
    tmp_path: Path, length: int
) -> None:
    write_raw(tmp_path / "model.safetensors", GOOD, b"", length)
    with pytest.raises(CheckpointError, match="header claims"):
        open_checkpoint(tmp_path)


def test_header_over_the_formats_limit_is_refused_even_if_the_file_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_raw(path, GOOD, b"", 100_000_001)
    os.truncate(path, 200_000_000)
    with pytest.raises(CheckpointError, match="header claims"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes long"),
        (b"1234567", "7 bytes long"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
    ],
)
def test_files_that_are_no_safetensors_are_explained(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_dtype_of_the_format_has_the_size_the_library_gives_it(
    tmp_path: Path, dtype: str
) -> None:
    size = DTYPE_BITS[dtype]  # eight elements
    path = tmp_path / "model.safetensors"
    write_raw(path, ONE % (f'"{dtype}"', "[2,4]", f"[0,{size}]"), bytes(size))
    with safe_open(path, framework="pt") as library:
        assert library.get_slice("a").get_shape() == [2, 4]
    assert read_shard(path, path.name).tensors[0].size_bytes == size


def test_tensors_without_elements_and_scalars_are_accepted(tmp_path: Path) -> None:
    tensors = {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.0), "last": torch.zeros(0)}
    save_file(tensors, tmp_path / "model.safetensors")
    found = open_checkpoint(tmp_path).tensors
    assert {name: entry.shape for name, entry in found.items()} == {
        "empty": (0, 3),
        "scalar": (),
        "last": (0,),
    }


# ---- folders and indexes ---------------------------------------------------------------------


def test_sharded_checkpoint_opens_and_survives_pickling(sharded: Path) -> None:
    (sharded / "config.json").write_text('{"model_type": "llama", "limit": Infinity}')
    checkpoint = open_checkpoint(sharded)
    assert checkpoint.index_name == INDEX
    assert sorted(checkpoint.tensors) == ["a", "b", "c"]
    assert checkpoint.config["model_type"] == "llama"
    assert checkpoint.size_bytes == 3 * 24
    assert checkpoint.shard("model-00002-of-00002.safetensors").tensors[0].name == "c"
    assert pickle.loads(pickle.dumps(checkpoint)) == checkpoint


def test_relative_folder_becomes_absolute(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sharded.parent)
    assert open_checkpoint(Path("model")).folder == sharded


def test_shards_without_an_index_are_joined(tmp_path: Path) -> None:
    write_shard(tmp_path / "model-00001-of-00002.safetensors", "a")
    write_shard(tmp_path / "model-00002-of-00002.safetensors", "b")
    write_shard(tmp_path / "consolidated.safetensors", "a", "b")
    checkpoint = open_checkpoint(tmp_path)
    assert sorted(checkpoint.tensors) == ["a", "b"]
    assert checkpoint.index_name is None
    assert stale_shards(checkpoint) == ("consolidated.safetensors",)


def test_model_file_alone_counts_without_an_index(tmp_path: Path) -> None:
    write_shard(tmp_path / "model.safetensors", "a")
    write_shard(tmp_path / "adapter_model.safetensors", "a.lora_A")
    checkpoint = open_checkpoint(tmp_path)
    assert list(checkpoint.tensors) == ["a"]
    assert stale_shards(checkpoint) == ("adapter_model.safetensors",)


def test_one_file_of_another_name_is_a_checkpoint(tmp_path: Path) -> None:
    write_shard(tmp_path / "consolidated.safetensors", "a")
    assert [shard.name for shard in open_checkpoint(tmp_path).shards] == [
        "consolidated.safetensors"
    ]


def test_missing_part_is_noticed_without_an_index(tmp_path: Path) -> None:
    write_shard(tmp_path / "model-00001-of-00002.safetensors", "a")
    with pytest.raises(CheckpointError, match="found 1 of the 2 files"):
        open_checkpoint(tmp_path)


def test_name_in_two_files_without_an_index_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "one.safetensors", "a")
    write_shard(tmp_path / "two.safetensors", "a")
    with pytest.raises(CheckpointError, match=r"'a' lies in 'one.safetensors' and in 'two"):
        open_checkpoint(tmp_path)


def test_shard_that_the_index_does_not_list_is_stale(sharded: Path) -> None:
    write_shard(sharded / "model-00009-of-00009.safetensors", "a", "z")
    checkpoint = open_checkpoint(sharded)
    assert "z" not in checkpoint.tensors
    assert stale_shards(checkpoint) == ("model-00009-of-00009.safetensors",)


def test_whole_model_beside_an_index_that_ignores_it_is_ambiguous(sharded: Path) -> None:
    write_shard(sharded / "model.safetensors", "a", "b", "c")
    with pytest.raises(CheckpointError, match=r"model.safetensors beside"):
        open_checkpoint(sharded)


def test_several_indexes_are_named(sharded: Path) -> None:
    write_index(sharded, {}, "model.fp16.safetensors.index.json")
    with pytest.raises(CheckpointError, match=r"model\.fp16\.safetensors\.index\.json, model\.saf"):
        open_checkpoint(sharded)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "JSON object"),
        (b"[]", "found a list"),
        (b"\xff\xfe", "UTF-8"),
        (b"{}", "weight_map is None"),
        (b'{"weight_map": {}}', "weight_map is {}"),
        (b'{"weight_map": ["a"]}', "weight_map is"),
        (b'{"weight_map": {"a": 1}}', "lies in 1"),
        (b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "twice"),
        (b'{"weight_map":' + b'{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_broken_index_is_refused(sharded: Path, content: bytes, said: str) -> None:
    (sharded / INDEX).write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(sharded)


@pytest.mark.parametrize(
    "shard",
    [
        "../other/model.safetensors",
        "sub/../../model.safetensors",
        "/etc/model.safetensors",
        "sub\\model.safetensors",
        "./model.safetensors",
        "sub//model.safetensors",
        "model\n.safetensors",
        "model\0.safetensors",
        "model.bin",
        "",
        ".",
    ],
)
def test_index_cannot_lead_out_of_the_folder(sharded: Path, shard: str) -> None:
    write_shard(sharded.parent / "other" / "model.safetensors", "a")
    write_index(sharded, {"a": shard})
    with pytest.raises(CheckpointError, match="damaged or hostile"):
        open_checkpoint(sharded)


def test_shard_in_a_subfolder_is_read(tmp_path: Path) -> None:
    write_shard(tmp_path / "sub" / "part.safetensors", "a")
    write_index(tmp_path, {"a": "sub/part.safetensors"})
    assert open_checkpoint(tmp_path).tensors["a"].shard == "sub/part.safetensors"


def test_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors: missing"):
        open_checkpoint(sharded)


def test_index_and_shards_must_agree(sharded: Path) -> None:
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    write_index(sharded, {"a": one, "b": two, "c": two})
    with pytest.raises(CheckpointError, match=f"lists 'b' in '{two}'"):
        open_checkpoint(sharded)
    write_index(sharded, {"a": one, "c": two})
    with pytest.raises(CheckpointError, match=f"does not list 'b' in '{one}'"):
        open_checkpoint(sharded)
    write_index(sharded, dict.fromkeys("abdefgh", one) | {"c": two})
    with pytest.raises(CheckpointError, match="and 2 more"):
        open_checkpoint(sharded)


# ---- links and special files -----------------------------------------------------------------


def test_links_within_the_folder_and_into_its_hub_cache_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    write_shard(repository / "blobs" / "abc", "a")
    (repository / "blobs" / "def").write_text("{}")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    (snapshot / "config.json").symlink_to("../../blobs/def")
    assert list(open_checkpoint(snapshot).tensors) == ["a"]
    (tmp_path / "latest").symlink_to(snapshot)
    assert list(open_checkpoint(tmp_path / "latest").tensors) == ["a"]
    plain = tmp_path / "plain"
    write_shard(plain / "real" / "weights", "b")
    (plain / "model.safetensors").symlink_to("real/weights")
    assert list(open_checkpoint(plain).tensors) == ["b"]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", INDEX])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    write_shard(folder / "model.safetensors", "a")
    write_index(folder, {"a": "model.safetensors"})
    (folder / "config.json").write_text("{}")
    outside = tmp_path / "blobs" / name
    outside.parent.mkdir()
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(CheckpointError, match="leads out of the folder"):
        open_checkpoint(folder)


def test_loops_pipes_and_folders_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.symlink_to(path)
    with pytest.raises(CheckpointError, match="loop"):
        open_checkpoint(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="regular file"):
        open_checkpoint(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="regular file"):
        open_checkpoint(tmp_path)
    path.rmdir()
    path.symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="missing"):
        open_checkpoint(tmp_path)


def test_name_with_a_newline_among_shards_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a\nb.safetensors", "a")
    with pytest.raises(CheckpointError, match="rename it"):
        open_checkpoint(tmp_path)


# ---- folders that are no checkpoint ----------------------------------------------------------


def test_missing_folder_and_file_in_its_place_are_source_errors(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        open_checkpoint(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="found a file"):
        open_checkpoint(tmp_path / "file")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "found nothing"),
        (["README.md"], "found 'README.md'"),
        (["pytorch_model.bin"], "save_file"),
        (["model.pth", "config.json"], "pickles are refused"),
        (["model-q4.gguf"], "GGUF"),
        (["adapter_config.json", "adapter_model.safetensors"], "merge it first"),
        (["adapter_config.json", "adapter_model.bin"], "merge it first"),
    ],
)
def test_folder_without_weights_is_explained(tmp_path: Path, files: list[str], said: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, "\x00"])
def test_broken_config_is_refused(sharded: Path, content: str) -> None:
    (sharded / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config.json: expected a JSON object"):
        open_checkpoint(sharded)


def test_config_of_another_size_is_refused_unread(sharded: Path) -> None:
    with (sharded / "config.json").open("wb") as file:
        file.truncate(20_000_000)
    with pytest.raises(CheckpointError, match="at most 10000000"):
        open_checkpoint(sharded)


# ---- quantisation ----------------------------------------------------------------------------


def test_plain_weights_with_integer_buffers_are_not_quantised(tmp_path: Path) -> None:
    tensors = {
        "h.0.attn.c_attn.weight": torch.zeros(2, 2, dtype=torch.bfloat16),
        "h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8),
        "embeddings.position_ids": torch.zeros(1, 4, dtype=torch.int64),
        "logit_scale": torch.ones(()),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert quantization(open_checkpoint(tmp_path)) is None


@pytest.mark.parametrize(
    ("name", "tensor", "expected"),
    [
        ("q_proj.weight", torch.zeros(2, 2, dtype=torch.float8_e4m3fn), "fp8"),
        ("q_proj.qweight", torch.zeros(2, 2, dtype=torch.int32), "gptq or awq"),
        ("q_proj.weight_scale_inv", torch.zeros(2, 2), "scaled weights"),
        ("q_proj.weight_scale", torch.zeros(1), "scaled weights"),
        ("q_proj.weight.absmax", torch.zeros(2), "bitsandbytes"),
        ("q_proj.SCB", torch.zeros(2), "bitsandbytes"),
        ("q_proj.weight_packed", torch.zeros(2, 2, dtype=torch.int32), "compressed-tensors"),
        ("q_proj.weight", torch.zeros(2, 2, dtype=torch.int8), "integers (I8)"),
        ("experts.gate_up_proj_blocks", torch.zeros(2, 2, 2, dtype=torch.uint8), "integers (U8)"),
    ],
)
def test_quantised_weights_are_recognised_in_the_files(
    tmp_path: Path, name: str, tensor: torch.Tensor, expected: str
) -> None:
    save_file({name: tensor}, tmp_path / "model.safetensors")
    assert quantization(open_checkpoint(tmp_path)) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "fp8"),
        ({"quantization_config": {"load_in_4bit": True}}, "of an unnamed method"),
        ({"quantization_config": {"quant_method": 4}}, "of an unnamed method"),
        ({"quantization_config": None}, None),
        ({"quantization_config": {}}, None),
        ({"text_config": []}, None),
    ],
)
def test_config_names_the_quantisation(
    sharded: Path, config: dict[str, Any], expected: str | None
) -> None:
    (sharded / "config.json").write_text(json.dumps(config))
    assert quantization(open_checkpoint(sharded)) == expected
