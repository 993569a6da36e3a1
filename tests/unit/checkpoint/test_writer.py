"""Bytes onto the disk: allocation, in-place writes, copies, and what a full disk turns into."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from timberkit.checkpoint import writer
from timberkit.checkpoint.output_layout import ShardLayout
from timberkit.checkpoint.writer import (
    RowWriter,
    copy_range,
    create_shard,
    free_bytes,
    sync_file,
    sync_folder,
    write_at,
    write_file,
)
from timberkit.errors import CheckpointError, InterruptedRunError, ResourceError

FULL = Path("/dev/full")
needs_full_device = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")


def shard(size_bytes: int = 1000, header: bytes = b"HEADER") -> ShardLayout:
    return ShardLayout("a.safetensors", header, size_bytes, ())


def failing(number: int) -> Callable[..., int]:
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


def test_new_shard_has_its_size_and_header(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.safetensors"
    create_shard(path, shard())
    assert path.read_bytes() == b"HEADER".ljust(1000, b"\0")
    assert path.stat().st_blocks * 512 >= 1000
    assert path.stat().st_mode & 0o111 == 0


def test_existing_shard_keeps_its_data(tmp_path: Path) -> None:
    path = tmp_path / "a"
    create_shard(path, shard())
    write_at(path, 500, b"data")
    create_shard(path, shard())
    assert path.read_bytes()[500:504] == b"data"


def test_existing_shard_of_another_size_is_brought_to_size(tmp_path: Path) -> None:
    for found in (b"x" * 2000, b"x" * 3, b""):
        (tmp_path / "a").write_bytes(found)
        create_shard(tmp_path / "a", shard())
        assert (tmp_path / "a").stat().st_size == 1000


def test_shard_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / "a").symlink_to("precious")
    with pytest.raises(InterruptedRunError, match="cannot be created"):
        create_shard(tmp_path / "a", shard())
    assert (tmp_path / "precious").read_bytes() == b"mine"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_shows_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(number), raising=False)
    with pytest.raises(ResourceError, match=r"1000 bytes needed, \d+ bytes free"):
        create_shard(tmp_path / "a", shard())
    assert not (tmp_path / "a").exists()


def test_really_full_disk_shows_at_once() -> None:
    memory = Path("/dev/shm")
    mounts = Path("/proc/mounts")
    if not mounts.exists() or "/dev/shm tmpfs" not in mounts.read_text():
        pytest.skip("no /dev/shm in memory on this system")
    # A tmpfs refuses more than its size without allocating any of it.
    size_bytes = 2 * os.statvfs(memory).f_blocks * os.statvfs(memory).f_frsize
    path = memory / f"timberkit-test-{os.getpid()}"
    try:
        with pytest.raises(ResourceError, match=f"{size_bytes} bytes needed"):
            create_shard(path, shard(size_bytes))
        assert not path.exists()
    finally:
        path.unlink(missing_ok=True)


def test_full_disk_keeps_a_shard_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_shard(tmp_path / "a", shard())
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC), raising=False)
    with pytest.raises(ResourceError):
        create_shard(tmp_path / "a", shard())
    assert (tmp_path / "a").exists()


def test_file_system_that_cannot_allocate_gets_a_sparse_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.EOPNOTSUPP), raising=False)
    create_shard(tmp_path / "a", shard())
    assert (tmp_path / "a").stat().st_size == 1000
    with pytest.raises(ResourceError, match="needed"):
        create_shard(tmp_path / "b", shard(free_bytes(tmp_path) + (1 << 30)))
    assert not (tmp_path / "b").exists()


def test_failing_disk_is_told_from_a_full_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.EIO), raising=False)
    with pytest.raises(InterruptedRunError, match="cannot be created"):
        create_shard(tmp_path / "a", shard())


def test_arrays_of_any_type_are_written_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(32))
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_at(path, 4, memoryview(values))
    write_at(path, 0, bytearray(b"abcd"))
    write_at(path, 0, memoryview(np.zeros((0, 4))))
    assert path.read_bytes() == b"abcd" + values.tobytes() + bytes(4)


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(10))
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, data[:3], offset))
    write_at(path, 1, b"12345678")
    assert path.read_bytes() == b"\x0012345678\0"
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(InterruptedRunError, match="nothing was written"):
        write_at(path, 1, b"1")


def test_write_outside_the_file_is_a_programming_error(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(10))
    for offset in (8, -1):
        with pytest.raises(ValueError, match="not inside"):
            write_at(path, offset, b"123")
    with pytest.raises(ValueError, match="not inside"):
        copy_range(path, 0, path, 8, 3)
    assert path.read_bytes() == bytes(10)


@needs_full_device
def test_disk_full_while_writing_can_be_continued(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError, match=r"3 bytes to write, \d+ bytes free.*same comm"):
        write_at(FULL, 0, b"123")
    with pytest.raises(InterruptedRunError, match="free some space"):
        write_file(FULL, b"123")
    (tmp_path / "a").write_bytes(b"123")
    with pytest.raises(InterruptedRunError, match="free some space"):
        copy_range(tmp_path / "a", 0, FULL, 0, 3)


def test_missing_target_can_be_continued(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError, match="cannot be written: No such file"):
        write_at(tmp_path / "gone", 0, b"1")
    with pytest.raises(InterruptedRunError, match="cannot be written"):
        sync_file(tmp_path / "gone")
    with pytest.raises(InterruptedRunError, match="cannot be written"):
        sync_folder(tmp_path / "gone")


@pytest.mark.parametrize(
    "number",
    [None, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, "none", "stops", "ends"],
)
def test_copy_is_exact_whatever_the_kernel_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | str | None
) -> None:
    if number == "none":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    elif number == "ends":
        monkeypatch.setattr(os, "copy_file_range", lambda *_: 0, raising=False)
    elif number == "stops":
        calls = iter([5])

        def stop(source: int, target: int, size: int, start: int, end: int) -> int:
            if not (count := next(calls, 0)):
                raise OSError(errno.EXDEV, "")
            return os.pwrite(target, os.pread(source, count, start), end)

        monkeypatch.setattr(os, "copy_file_range", stop, raising=False)
    elif isinstance(number, int):
        monkeypatch.setattr(os, "copy_file_range", failing(number), raising=False)
    monkeypatch.setattr(writer, "_PIECE_BYTES", 1000)
    data = np.random.default_rng(0).bytes(5000)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    target.write_bytes(b"\xff" * 4000)
    copy_range(source, 123, target, 77, 3456)
    copy_range(source, 0, target, 0, 0)
    assert target.read_bytes() == b"\xff" * 77 + data[123:3579] + b"\xff" * (4000 - 77 - 3456)


def test_source_that_ends_early_is_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(10))
    target.write_bytes(bytes(100))
    with pytest.raises(CheckpointError, match="ends at byte 10, expected 15 bytes more"):
        copy_range(source, 5, target, 0, 20)
    source.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        copy_range(source, 5, target, 0, 20)


def test_unreadable_source_is_told_from_a_full_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("source", "target"):
        (tmp_path / name).write_bytes(bytes(10))
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    monkeypatch.setattr(os, "pread", failing(errno.EIO))
    with pytest.raises(CheckpointError, match="source: cannot be read"):
        copy_range(tmp_path / "source", 0, tmp_path / "target", 0, 10)


def test_small_file_is_replaced_whole_with_plain_permissions(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "config.json"
    write_file(path, b"longer than the next")
    path.chmod(0o755)
    write_file(path, b"short")
    assert path.read_bytes() == b"short"
    assert path.stat().st_mode & 0o777 == 0o644


def test_folder_that_cannot_be_synced_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(InterruptedRunError, match="Input/output"):
        sync_folder(tmp_path)


def test_free_space_of_a_path_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "there") > 0


def test_rows_of_a_matrix_in_blocks_are_written_where_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "matrix.bin"
    path.write_bytes(bytes(7 + 24))
    writer = RowWriter(path, 7 + 2, 3, (2 * 3, 4 * 3))  # two rows of every four, from byte 2 on
    matrix = np.arange(1, 10, dtype=np.uint8).reshape(3, 3)
    writer[0:1] = matrix[:1]
    writer[1:3] = matrix[1:]
    content = path.read_bytes()[9:]
    assert [*content[:6], *content[12:15]] == [*range(1, 10)]
    assert not any([*path.read_bytes()[:9], *content[6:12], *content[15:]])
    with pytest.raises(ValueError, match="not inside the file"):
        writer[2:6] = np.ones((4, 3), dtype=np.uint8)
