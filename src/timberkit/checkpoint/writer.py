"""Bytes onto the disk: allocate a shard, write and copy in place, sync.

Every function opens the file it works on, so any process may call it on any range at any time;
ranges that do not overlap need no order. Nothing is buffered between calls, and nothing is promised
to survive a power cut before ``sync_file``.

A full disk is told apart by when it shows: in ``create_shard``, which allocates everything, it is a
``ResourceError`` (nothing is lost yet); later it is an ``InterruptedRunError``, because the work
done so far stays and the same command continues it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeAlias

import numpy as np

from timberkit.checkpoint.layout import pieces
from timberkit.checkpoint.output_layout import ShardLayout
from timberkit.dtypes import Raw
from timberkit.errors import CheckpointError, InterruptedRunError, ResourceError

Bytes: TypeAlias = bytes | bytearray | memoryview

FULL_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No room left, the quota is used up, or the file system has no files of this size."""

_UNSUPPORTED_ERRORS = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_PIECE_BYTES = 8 << 20
_shared: ContextVar[Callable[[], None] | None] = ContextVar("_shared", default=None)


@contextmanager
def written_through(check: Callable[[], None]) -> Iterator[None]:
    """Write pieces and copies inside the block through to the disk, and no byte more than them.

    For files that several machines write to: where two matrices meet in one page, a client of NFS
    may otherwise write all of a page that it holds, and with it old bytes of its neighbour's.
    ``check`` is called once a file is open and before anything is written to it, and raises where
    it must not be: a file that another run puts in the place of this one later is not the open one.
    """
    token = _shared.set(check)
    try:
        yield
    finally:
        _shared.reset(token)


def _open_target(path: Path) -> int:
    check = _shared.get()
    descriptor = os.open(path, os.O_WRONLY if check is None else os.O_WRONLY | os.O_DSYNC)
    if check is not None:
        try:
            check()
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def create_shard(path: Path, layout_shard: ShardLayout) -> None:
    """Create an output shard at its full size, with its header, and sync it.

    Makes missing parent folders. A file that is already there keeps its data bytes (a resumed run
    goes on in it) and gets the right size and header. The blocks are allocated at once where the
    file system can, so that a full disk shows here and not after hours. Raises ResourceError when
    there is no room (a file that this call made is removed again), InterruptedRunError for any
    other failure of the disk. Writes the header only, no data.
    """
    existed = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            os.ftruncate(descriptor, layout_shard.size_bytes)
            _allocate(descriptor, path, layout_shard.size_bytes)
            _write_all(descriptor, memoryview(layout_shard.header), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not existed:
            # First the blocks it got, so that the message does not count them as taken.
            path.unlink(missing_ok=True)
        raise _no_room(path, layout_shard.size_bytes, error) from None
    sync_folder(path.parent)


def write_at(path: Path, offset: int, data: Bytes) -> None:
    """Write ``data`` (contiguous, any element type) at byte ``offset``: ``write_pieces`` of one."""
    write_pieces(path, [(offset, memoryview(data).nbytes)], data)


def write_pieces(path: Path, where: Sequence[tuple[int, int]], data: Bytes) -> None:
    """Write ``data`` into pieces of an existing file, each an offset and a length, in order.

    Does not grow a file: raises ValueError when a piece is not inside it, because each was planned.
    Raises InterruptedRunError when the disk is full or fails. Not synced: see ``sync_file``.
    """
    view = memoryview(data)
    if not view.nbytes:
        return
    with _interrupted(path, view.nbytes):
        descriptor = _open_target(path)
        try:
            left = view.cast("B")
            for offset, size_bytes in where:
                _check_range(descriptor, path, offset, size_bytes)
                _write_all(descriptor, left[:size_bytes], offset)
                left = left[size_bytes:]
        finally:
            os.close(descriptor)


class RowWriter:
    """A stored matrix into which blocks of rows are written: ``writer[2:5] = block``.

    ``path`` gets a row-major matrix of ``columns`` from byte ``start``, in one piece or in
    ``blocks`` as ``RowReader`` has them; raises as ``write_pieces``.
    """

    def __init__(
        self, path: Path, start: int, columns: int, blocks: tuple[int, int] = (0, 0)
    ) -> None:
        self._path, self._start, self._columns, self._blocks = path, start, columns, blocks

    def __setitem__(self, rows: slice, block: Raw) -> None:
        """Write a raw block of rows, (rows, columns); not synced."""
        first = rows.start * self._columns * block.itemsize
        where = pieces(self._start, *self._blocks, first, block.nbytes)
        write_pieces(self._path, where, np.ascontiguousarray(block).data)


def write_file(path: Path, data: bytes) -> None:
    """Write a small file whole, with mode 0644, making missing parent folders; not synced.

    Raises InterruptedRunError when the disk is full or fails.
    """
    with _interrupted(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o644)
        try:
            os.fchmod(descriptor, 0o644)
            _write_all(descriptor, memoryview(data), 0)
        finally:
            os.close(descriptor)


def copy_range(
    source_path: Path, source_start: int, target_path: Path, target_start: int, size: int
) -> None:
    """Copy ``size`` bytes between two files, in the kernel where it can (shared blocks included).

    Raises CheckpointError when the source cannot be read or ends early, InterruptedRunError when
    the target disk is full or fails, ValueError when the range is not inside the target. Memory:
    none, or 8 MiB where the kernel cannot copy. Not synced: see ``sync_file``.
    """
    if not size:
        return
    source = _open_source(source_path)
    try:
        with _interrupted(target_path, size):
            target = _open_target(target_path)
        try:
            _check_range(target, target_path, target_start, size)
            done = _copy_in_kernel(source, source_start, target, target_start, size)
            while done < size:
                piece = _read_piece(source, source_path, source_start + done, size - done)
                with _interrupted(target_path, size - done):
                    _write_all(target, memoryview(piece), target_start + done)
                done += len(piece)
        finally:
            os.close(target)
    finally:
        os.close(source)


def sync_file(path: Path) -> None:
    """Wait until the bytes of a file are on the disk; InterruptedRunError when it refuses them."""
    with _interrupted(path, 0):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            # macOS has no fdatasync.
            getattr(os, "fdatasync", os.fsync)(descriptor)
        finally:
            os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system knows of this."""
    with _interrupted(path, 0):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _UNSUPPORTED_ERRORS:
                raise
        finally:
            os.close(descriptor)


def _allocate(descriptor: int, path: Path, size_bytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
            return
        except OSError as error:
            if error.errno not in _UNSUPPORTED_ERRORS:
                raise
    # The file stays sparse here; asking for the free space is the best that is left.
    held_bytes = os.fstat(descriptor).st_blocks * 512
    if size_bytes - held_bytes > shutil.disk_usage(path.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write_all(descriptor: int, view: memoryview, offset: int) -> None:
    while view.nbytes:
        written = os.pwrite(descriptor, view, offset)
        if not written:
            raise OSError(errno.EIO, "nothing was written")
        view, offset = view[written:], offset + written


def _check_range(descriptor: int, path: Path, offset: int, size_bytes: int) -> None:
    status = os.fstat(descriptor)
    if offset < 0 or (stat.S_ISREG(status.st_mode) and offset + size_bytes > status.st_size):
        raise ValueError(
            f"{path}: bytes {offset} to {offset + size_bytes} are not inside the file of"
            f" {status.st_size} bytes"
        )


def _copy_in_kernel(
    source: int, source_start: int, target: int, target_start: int, size: int
) -> int:
    """Bytes copied by the kernel; where it stops, the plain loop goes on and says what is wrong."""
    done = 0
    while hasattr(os, "copy_file_range") and done < size:
        try:
            copied = os.copy_file_range(
                source, target, size - done, source_start + done, target_start + done
            )
        except OSError:
            # Other file systems, old kernels (EXDEV, EINVAL, ENOSYS, EOPNOTSUPP), or a real
            # failure, of which this call does not say on which side it lies.
            break
        if not copied:
            break
        done += copied
    return done


def _open_source(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise _unreadable(path, error) from None


def _read_piece(descriptor: int, path: Path, offset: int, size: int) -> bytes:
    try:
        piece = os.pread(descriptor, min(size, _PIECE_BYTES), offset)
    except OSError as error:
        raise _unreadable(path, error) from None
    if not piece:
        raise CheckpointError(
            f"{path}: ends at byte {offset}, expected {size} bytes more; the file was cut while it"
            " was read; restore it and run the same command again"
        )
    return piece


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path}: cannot be read: {error.strerror}; the file was moved, or its disk fails;"
        " restore it and run the same command again"
    )


@contextmanager
def _interrupted(path: Path, size_bytes: int) -> Iterator[None]:
    """Turn a failure of the disk into an InterruptedRunError with numbers."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK_ERRORS:
            raise InterruptedRunError(
                f"{path}: {error.strerror}: {size_bytes} bytes to write,"
                f" {free_bytes(path)} bytes free; what is done so far is kept; free some space"
                " and run the same command again"
            ) from None
        raise InterruptedRunError(
            f"{path}: cannot be written: {error.strerror}; what is done so far is kept; look at"
            " the disk and the permissions, then run the same command again"
        ) from None


def _no_room(path: Path, size_bytes: int, error: OSError) -> ResourceError | InterruptedRunError:
    if error.errno in FULL_DISK_ERRORS:
        return ResourceError(
            f"{path}: {error.strerror}: {size_bytes} bytes needed, {free_bytes(path)} bytes free;"
            " free some space, or choose an output folder on another disk"
        )
    return InterruptedRunError(
        f"{path}: cannot be created: {error.strerror}; look at the disk and the permissions, then"
        " run the same command again"
    )


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write on the disk of ``path``, which need not exist.

    Quotas do not show in it.
    """
    for folder in (path, *path.absolute().parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return 0
