"""Reading tensors: the same values as the library, in memory of their own, and named failures."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.layout import Checkpoint
from timberkit.checkpoint.reader import (
    TORCH_NAMES,
    RowReader,
    check_unchanged,
    fingerprint,
    read_bytes,
    read_pieces,
    read_range,
    read_slice,
    read_tensor,
    torch_dtype,
)
from timberkit.errors import CheckpointError

DTYPES = sorted(set(TORCH_NAMES) - {"F8_E8M0"})  # the library's torch part cannot write that one


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "experts": torch.randn(4, 3, 5, generator=generator).to(torch.bfloat16),
        "vector": torch.randn(7, generator=generator),
        "scalar": torch.tensor(3.0, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "mask": torch.tensor([[True, False]]),
    }


@pytest.fixture
def checkpoint(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Checkpoint:
    save_file(tensors, tmp_path / "model.safetensors")
    return open_checkpoint(tmp_path)


def test_tensors_equal_what_was_saved(
    checkpoint: Checkpoint, tensors: dict[str, torch.Tensor]
) -> None:
    for name, expected in tensors.items():
        found = read_tensor(checkpoint, name)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
        assert bytes(read_bytes(checkpoint, name)) == (
            expected.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_reads_as_the_library_reads_it(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "model.safetensors"
    values = torch.arange(6).reshape(2, 3).to(torch_dtype(dtype))
    save_file({"a": values}, path)
    found = read_tensor(open_checkpoint(tmp_path), "a")
    assert found.dtype == values.dtype
    assert torch.equal(found.view(torch.uint8), load_file(path)["a"].view(torch.uint8))


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2", "X9"])
def test_packed_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(CheckpointError, match=f"dtype {dtype}"):
        torch_dtype(dtype)


def test_tensor_is_writable_and_the_file_does_not_change(checkpoint: Checkpoint) -> None:
    before = checkpoint.shards[0].path.read_bytes()
    first = read_tensor(checkpoint, "vector")
    first.zero_()
    assert read_tensor(checkpoint, "vector").count_nonzero() == 7
    assert checkpoint.shards[0].path.read_bytes() == before


def test_slices_are_the_leading_indices(
    checkpoint: Checkpoint, tensors: dict[str, torch.Tensor]
) -> None:
    for index in range(4):
        found = read_slice(checkpoint, "experts", index)
        assert torch.equal(found, tensors["experts"][index])
    assert read_slice(checkpoint, "mask", 0).tolist() == [True, False]


def test_slice_reads_only_its_own_bytes(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, int]] = []

    def spy(path: Path, start: int, size: int) -> bytearray:
        read.append((start, size))
        return read_range(path, start, size)

    monkeypatch.setattr("timberkit.checkpoint.reader.read_range", spy)
    read_slice(checkpoint, "experts", 2)
    start = checkpoint.tensors["experts"].start_byte
    assert read == [(start + 2 * 30, 30)]


def test_slices_that_do_not_exist_are_programming_errors(checkpoint: Checkpoint) -> None:
    for index in (-1, 4):
        with pytest.raises(IndexError, match="no slice"):
            read_slice(checkpoint, "experts", index)
    with pytest.raises(IndexError, match="no slice"):
        read_slice(checkpoint, "empty", 0)
    with pytest.raises(ValueError, match="no slices"):
        read_slice(checkpoint, "vector", 0)
    with pytest.raises(KeyError):
        read_tensor(checkpoint, "nothing")


def test_range_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(10)))
    assert read_range(path, 3, 4) == bytes([3, 4, 5, 6])
    assert read_range(path, 10, 0) == b""
    assert read_range(path, 0, 10) == bytes(range(10))


def test_short_answers_of_the_system_are_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(10)))
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: preadv(fd, [views[0][:3]], at))
    assert read_range(path, 1, 8) == bytes(range(1, 9))


def test_file_that_ends_while_it_is_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10))
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with pytest.raises(CheckpointError, match="became shorter"):
        read_range(path, 0, 10)


def test_file_that_became_shorter_is_an_error_before_memory_is_taken(
    checkpoint: Checkpoint,
) -> None:
    path = checkpoint.shards[0].path
    os.truncate(path, path.stat().st_size - 1)
    last = max(checkpoint.tensors.values(), key=lambda entry: entry.start_byte + entry.size_bytes)
    with pytest.raises(CheckpointError, match="became shorter"):
        read_tensor(checkpoint, last.name)
    with pytest.raises(CheckpointError, match="became shorter"):
        read_range(path, 0, 1 << 60)


def test_unreadable_file_is_named_with_its_errno(checkpoint: Checkpoint) -> None:
    checkpoint.shards[0].path.unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors: .*errno 2"):
        read_tensor(checkpoint, "vector")
    with pytest.raises(CheckpointError, match="errno 2"):
        fingerprint(checkpoint)
    with pytest.raises(CheckpointError, match="errno 21"):
        read_range(checkpoint.folder, 0, 1)


def test_failed_reads_leave_no_file_open(checkpoint: Checkpoint) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(CheckpointError):
            read_range(checkpoint.shards[0].path, 0, 1 << 40)
        read_tensor(checkpoint, "vector")
    assert len(os.listdir("/proc/self/fd")) == before


def test_unchanged_source_passes_after_a_round_through_json(checkpoint: Checkpoint) -> None:
    check_unchanged(checkpoint, json.loads(json.dumps(fingerprint(checkpoint))))


def test_fingerprint_tells_size_time_and_header(checkpoint: Checkpoint) -> None:
    path = checkpoint.shards[0].path
    assert fingerprint(checkpoint) == {
        "model.safetensors": {
            "size_bytes": path.stat().st_size,
            "mtime_ns": path.stat().st_mtime_ns,
            "header_sha256": checkpoint.shards[0].header_sha256,
        }
    }


def test_changed_time_size_header_and_shards_are_noticed(checkpoint: Checkpoint) -> None:
    path = checkpoint.shards[0].path
    before = fingerprint(checkpoint)
    original = path.read_bytes()
    changed = "source was changed while it was in use"
    with pytest.raises(CheckpointError, match=f"{changed}: shards"):
        check_unchanged(checkpoint, {})
    with pytest.raises(CheckpointError, match=f"{changed}: its size"):
        check_unchanged(checkpoint, {"model.safetensors": {}})
    os.utime(path, ns=(1, 1))
    with pytest.raises(CheckpointError, match=f"{changed}: its time of change"):
        check_unchanged(checkpoint, before)
    path.write_bytes(original.replace(b"vector", b"Vector"))
    with pytest.raises(CheckpointError, match=f"{changed}: its header"):
        check_unchanged(checkpoint, before)
    path.write_bytes(original + b"\0")
    with pytest.raises(CheckpointError, match=f"{changed}: its size"):
        check_unchanged(checkpoint, before)


def test_rows_of_a_matrix_in_blocks_are_read_from_where_they_lie(tmp_path: Path) -> None:
    whole = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    path = tmp_path / "matrix.bin"
    path.write_bytes(b"before" + whole.numpy().tobytes())
    second = whole[:, 1].reshape(8, 5)  # of three parts in each of two groups, four rows each
    start, blocks = 6 + 4 * 5 * 4, (4 * 5 * 4, 3 * 4 * 5 * 4)
    reader = RowReader(path, start, (8, 5), "float32", blocks)
    for rows in (slice(0, 8), slice(3, 5), slice(1, 2), slice(4, 8), slice(5, 5)):
        assert reader[rows].tolist() == second[rows].tolist()
    columns = RowReader(path, 6 + 8, (24, 2), "float32", (8, 20))
    assert columns[3:9].tolist() == whole.reshape(24, 5)[3:9, 2:4].tolist()


def test_a_piece_beyond_the_end_of_the_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "short.bin"
    path.write_bytes(bytes(20))
    with pytest.raises(CheckpointError, match="ends before byte 24"):
        read_pieces(path, [(0, 4), (16, 8), (2, 2)])
    assert read_pieces(path, []) == b""
