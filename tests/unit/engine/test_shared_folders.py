"""What a machine of a cluster sees otherwise is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from timberkit.checkpoint.index import open_checkpoint
from timberkit.engine import fence
from timberkit.engine.shared_folders import (
    SharedFolders,
    finds_mark,
    leave_mark,
    missing_here,
    shards_of,
)
from timberkit.sapling import base_folder

NUMBER = "c" * fence.NUMBER_BYTES


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in base_folder().iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_same_files_are_seen_alike_whenever_they_were_copied(copy: Path) -> None:
    folders = SharedFolders(shards_of([open_checkpoint(copy)]))
    (shard,) = copy.glob("*.safetensors")
    shard.touch()
    assert missing_here(folders) is None


def test_missing_cut_and_other_files_are_named(copy: Path) -> None:
    folders = SharedFolders(shards_of([open_checkpoint(copy)]))
    (shard,) = copy.glob("*.safetensors")
    content = shard.read_bytes()
    shard.write_bytes(content[:20] + bytes([content[20] ^ 1]) + content[21:])
    assert f"{shard}: another header" in str(missing_here(folders))
    shard.write_bytes(content[:-1])
    assert f"{shard}: found {len(content) - 1} bytes" in str(missing_here(folders))
    shard.unlink()
    assert f"{shard}: cannot be read" in str(missing_here(folders))


def test_folder_of_the_same_name_that_is_not_shared_is_no_stage(tmp_path: Path) -> None:
    folders = SharedFolders(stage=str(tmp_path), number=NUMBER)
    assert "expected to be shared" in str(missing_here(folders))
    fence.take(tmp_path, NUMBER)
    assert missing_here(folders) is None


def test_mark_is_found_once_and_only_where_it_was_left(tmp_path: Path) -> None:
    name, content = leave_mark(tmp_path)
    assert not finds_mark(tmp_path, name, "other")
    name, content = leave_mark(tmp_path)
    assert finds_mark(tmp_path, name, content)
    assert not finds_mark(tmp_path, name, content)
    assert not finds_mark(tmp_path, "probe-0", content)
