"""Writes of several machines to one file: on the disk at once, and into no other run's file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from timberkit.checkpoint.writer import copy_range, write_at, written_through
from timberkit.errors import InterruptedRunError

Write = Callable[[Path], None]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"new!")
    return path


@pytest.fixture(params=["write", "copy"])
def write(request: pytest.FixtureRequest, source: Path) -> Write:
    if request.param == "write":
        return lambda path: write_at(path, 2, b"new!")
    return lambda path: copy_range(source, 0, path, 2, 4)


def test_the_same_bytes_are_written_and_outside_nothing_is_asked(
    tmp_path: Path, write: Write
) -> None:
    asked: list[str] = []
    path = tmp_path / "shard"
    path.write_bytes(bytes(8))
    with written_through(lambda: asked.append("yes")):
        write(path)
    assert path.read_bytes() == b"\0\0new!\0\0"
    assert asked == ["yes"]
    write(path)
    assert asked == ["yes"]


def test_file_is_opened_for_synchronous_writes(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shard"
    path.write_bytes(bytes(8))
    flags: list[int] = []
    opened = os.open

    def watch(name: str | Path, how: int, *more: int) -> int:
        if Path(name) == path:
            flags.append(how)
        return opened(name, how, *more)

    monkeypatch.setattr(os, "open", watch)
    with written_through(lambda: None):
        write(path)
    write(path)
    assert [bool(how & os.O_DSYNC) for how in flags] == [True, False]


def test_refused_write_changes_nothing_and_leaves_no_file_open(
    tmp_path: Path, write: Write
) -> None:
    path = tmp_path / "shard"
    path.write_bytes(bytes(8))

    def refuse() -> None:
        raise InterruptedRunError("not yours")

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InterruptedRunError, match="not yours"), written_through(refuse):
        write(path)
    assert path.read_bytes() == bytes(8)
    assert len(os.listdir("/proc/self/fd")) == before


def test_file_that_takes_the_place_after_the_look_is_not_written_to(
    tmp_path: Path, write: Write
) -> None:
    """A straggler that was held up between looking and writing, while another run began."""
    path = tmp_path / "shard"
    path.write_bytes(bytes(8))

    def replaced() -> None:
        path.unlink()
        path.write_bytes(b"other run")

    with written_through(replaced):
        write(path)
    assert path.read_bytes() == b"other run"
