"""The layout of an output: headers that loaders read, runs that cover each byte once."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.layout import Checkpoint
from timberkit.checkpoint.output_layout import (
    LARGEST_COPY_BYTES,
    CopyRange,
    OutputLayout,
    ShardLayout,
    cast_tensors,
    copy_ranges,
    output_data_bytes,
    plan_output,
)
from timberkit.errors import CheckpointError

TENSORS = {
    "long": torch.arange(3),
    "single": torch.ones(1),
    "wide": torch.ones(2, 3, dtype=torch.bfloat16),
    "flag": torch.tensor([True]),
}


def write(folder: Path, metadata: dict[str, str] | None = None) -> Checkpoint:
    folder.mkdir(exist_ok=True)
    save_file(TENSORS, folder / "model.safetensors", metadata)
    return open_checkpoint(folder)


def test_header_with_format_is_taken_over_byte_for_byte(tmp_path: Path) -> None:
    instruct = write(tmp_path, {"format": "pt", "note": "ü"})
    shard = plan_output(instruct, None).shard("model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    assert data.startswith(shard.header)
    assert shard.size_bytes == len(data)
    assert shard.tensors == instruct.shards[0].tensors


def test_shards_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "one.safetensors")
    save_file({"b": torch.ones(1)}, tmp_path / "One.safetensors")
    with pytest.raises(CheckpointError, match="differ in case only"):
        plan_output(open_checkpoint(tmp_path), None)


def test_odd_but_valid_header_with_format_is_not_tidied(tmp_path: Path) -> None:
    text = b'{"a" : {"dtype":"U8","shape":[1],"data_offsets":[0,1]},"__metadata__":{"format":"pt"}}'
    header = struct.pack("<Q", len(text)) + text
    (tmp_path / "model.safetensors").write_bytes(header + b"\7")
    assert plan_output(open_checkpoint(tmp_path), None).shards[0].header == header


def test_missing_format_is_added_as_the_library_itself_writes_it(tmp_path: Path) -> None:
    shard = plan_output(write(tmp_path), None).shards[0]
    expected = save(TENSORS, {"format": "pt"})
    assert expected.startswith(shard.header)
    assert shard.size_bytes == len(expected)


def test_format_of_another_framework_is_kept(tmp_path: Path) -> None:
    shard = plan_output(write(tmp_path, {"format": "mlx"}), None).shards[0]
    assert b'"format":"mlx"' in shard.header
    assert (tmp_path / "model.safetensors").read_bytes().startswith(shard.header)


def test_another_dtype_keeps_integers_and_is_readable(tmp_path: Path) -> None:
    instruct = write(tmp_path / "in", {"format": "pt", "note": "kept"})
    layout = plan_output(instruct, "F32")
    path = tmp_path / "out.safetensors"
    path.write_bytes(layout.shards[0].header.ljust(layout.size_bytes, b"\0"))
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "note": "kept"}
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {name: value.dtype for name, value in found.items()} == {
        "long": torch.int64,
        "single": torch.float32,
        "wide": torch.float32,
        "flag": torch.bool,
    }
    assert found["wide"].shape == (2, 3)
    assert output_data_bytes(instruct, "F32") == layout.size_bytes - len(layout.shards[0].header)


def test_every_tensor_stays_aligned_when_floats_shrink(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(1, dtype=torch.float64), "b": torch.arange(2), "c": torch.ones(1)}
    save_file(tensors, tmp_path / "model.safetensors")
    layout = plan_output(open_checkpoint(tmp_path), "BF16")
    for entry in layout.tensors.values():
        assert entry.start_byte % (entry.size_bytes // entry.numel) == 0
    path = tmp_path / "out"
    path.write_bytes(layout.shards[0].header.ljust(layout.size_bytes, b"\0"))
    with safe_open(path, framework="pt") as file:
        assert file.get_tensor("b").tolist() == [0, 0]


def test_dtype_that_changes_nothing_keeps_the_header(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    instruct = open_checkpoint(tmp_path)
    assert plan_output(instruct, "F32") == plan_output(instruct, None)


def test_rebuilt_header_escapes_hostile_names(tmp_path: Path) -> None:
    name = 'a","b":{}}\\'
    save_file({name: torch.ones(2)}, tmp_path / "model.safetensors")
    header = plan_output(open_checkpoint(tmp_path), "F16").shards[0].header
    assert len(header) % 8 == 0
    assert set(json.loads(header[8:])) == {"__metadata__", name}


def test_changed_source_is_refused(tmp_path: Path) -> None:
    instruct = write(tmp_path, {"format": "pt"})
    save_file({"long": torch.arange(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="changed meanwhile"):
        plan_output(instruct, None)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        plan_output(instruct, None)


def test_unknown_dtype_and_names_are_programming_errors(tmp_path: Path) -> None:
    instruct = write(tmp_path)
    with pytest.raises(ValueError, match="float32"):
        plan_output(instruct, "float32")
    layout = plan_output(instruct, None)
    with pytest.raises(KeyError, match="typo"):
        copy_ranges(layout, instruct, {"typo"})
    with pytest.raises(KeyError, match="typo"):
        cast_tensors(layout, instruct, {"typo"})
    with pytest.raises(KeyError, match="nowhere"):
        layout.shard("nowhere")


def test_nothing_refined_is_one_run_over_all_data(tmp_path: Path) -> None:
    instruct = write(tmp_path)
    layout = plan_output(instruct, None)
    header = len(layout.shards[0].header)
    assert copy_ranges(layout, instruct, set()) == [
        CopyRange(
            "model.safetensors",
            instruct.shards[0].header_bytes,
            header,
            layout.size_bytes - header,
        )
    ]


def test_refined_tensor_splits_the_run(tmp_path: Path) -> None:
    instruct = write(tmp_path, {"format": "pt"})
    before, after = copy_ranges(plan_output(instruct, None), instruct, {"single"})
    single = instruct.tensors["single"]
    assert before.source_start + before.size_bytes == single.start_byte
    assert after.source_start == single.start_byte + single.size_bytes


def test_cast_tensors_are_neither_copied_nor_refined(tmp_path: Path) -> None:
    instruct = write(tmp_path)
    layout = plan_output(instruct, "F32")
    (cast,) = cast_tensors(layout, instruct, set())
    assert (cast.source.dtype, cast.target.dtype) == ("BF16", "F32")
    assert cast.source.name == cast.target.name == "wide"
    assert cast_tensors(layout, instruct, {"wide"}) == []
    assert sum(piece.size_bytes for piece in copy_ranges(layout, instruct, set())) == 24 + 4 + 1


def test_long_runs_come_in_pieces(tmp_path: Path) -> None:
    instruct = write(tmp_path)
    entry = instruct.tensors["long"].__class__(
        "big", "U8", (1 << 28,), "model.safetensors", 100, (2 * LARGEST_COPY_BYTES) + 5
    )
    big = Checkpoint(tmp_path, instruct.shards, {"big": entry}, None, {})
    layout = OutputLayout((ShardLayout("model.safetensors", b"", 0, (entry,)),), {"big": entry})
    pieces = copy_ranges(layout, big, set())
    assert [piece.size_bytes for piece in pieces] == [LARGEST_COPY_BYTES, LARGEST_COPY_BYTES, 5]
    assert [piece.source_start for piece in pieces] == [
        100,
        100 + LARGEST_COPY_BYTES,
        100 + 2 * LARGEST_COPY_BYTES,
    ]
