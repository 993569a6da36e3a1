"""Bytes and tensors of a validated checkpoint, one at a time.

Reads are plain positioned reads into memory of their own, never a memory map: a file that is cut
short under a map kills the process (SIGBUS), where a short read is an error that can be named.

    checkpoint = open_checkpoint(folder)
    weight = read_tensor(checkpoint, "model.layers.0.self_attn.q_proj.weight")

``fingerprint`` and ``check_unchanged`` tell whether a source is still the one a run began with.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from timberkit.checkpoint.layout import DTYPE_BITS, Checkpoint, Shard, TensorEntry, pieces
from timberkit.dtypes import Raw, raw_dtype
from timberkit.errors import CheckpointError

if TYPE_CHECKING:
    import torch

TORCH_NAMES: Mapping[str, str] = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16",
    "U32": "uint32", "I32": "int32", "U64": "uint64", "I64": "int64",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
"""Name in torch of each dtype of the format; older torch versions lack some."""


def read_range(path: Path, start: int, size: int) -> bytearray:
    """Read exactly ``size`` bytes from byte ``start`` of a file, both >= 0: see ``read_pieces``."""
    return read_pieces(path, [(start, size)])


def read_pieces(path: Path, where: Sequence[tuple[int, int]]) -> bytearray:
    """Read pieces of a file, each an offset and a length, both >= 0, one behind the other.

    Returns fresh memory of their size. Raises CheckpointError when the file cannot be read, or ends
    earlier; memory is taken only after the file's size has been compared.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        end = max((start + size for start, size in where), default=0)
        if end > os.fstat(descriptor).st_size:
            raise _shorter(path, end)
        content = bytearray(sum(size for _, size in where))
        # The view must be released before the bytearray leaves: a pinned one cannot be resized.
        with memoryview(content) as view:
            done = 0
            for start, size in where:
                _fill(descriptor, path, start, view[done : done + size])
                done += size
        return content
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(descriptor)


def _fill(descriptor: int, path: Path, start: int, view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], start + done)
        if count == 0:
            raise _shorter(path, start + len(view))
        done += count


def _shorter(path: Path, expected_bytes: int) -> CheckpointError:
    return CheckpointError(
        f"{path}: the file became shorter: it ends before byte {expected_bytes}, which was there"
        " when it was opened; something rewrote or truncated it; restore it and start again"
    )


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path}: cannot be read: {error.strerror} (errno {error.errno}); check its permissions"
        " and the disk"
    )


def torch_dtype(dtype: str) -> torch.dtype:
    """The torch dtype of a dtype of the format.

    Raises CheckpointError for packed dtypes (F4, F6) and those the installed torch does not know.

    >>> torch_dtype("BF16")
    torch.bfloat16
    """
    import torch

    found = getattr(torch, TORCH_NAMES.get(dtype, ""), None)
    if not isinstance(found, torch.dtype):
        raise CheckpointError(
            f"dtype {dtype}: torch {torch.__version__} has no such dtype; the weights are packed"
            " or need a newer torch; use an unquantised checkpoint (BF16, F16 or F32)"
        )
    return found


def read_bytes(checkpoint: Checkpoint, name: str) -> bytearray:
    """The raw bytes of one tensor, row-major and little-endian, as they stand in the file.

    Raises CheckpointError when the file cannot be read, KeyError for a name that is not there.
    """
    entry = checkpoint.tensors[name]
    return read_range(checkpoint.shard(entry.shard).path, entry.start_byte, entry.size_bytes)


def read_tensor(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """One tensor on the CPU in its storage dtype and shape, writable, in memory of its own.

    Raises CheckpointError when the file cannot be read or torch has no such dtype, KeyError for a
    name that is not there. Cost: ``size_bytes`` of the tensor, once.
    """
    entry = checkpoint.tensors[name]
    dtype = torch_dtype(entry.dtype)
    return _as_tensor(read_bytes(checkpoint, name), dtype, entry.shape)


def read_slice(checkpoint: Checkpoint, name: str, index: int) -> torch.Tensor:
    """``tensor[index]`` of a tensor of two or more dimensions, reading only those bytes.

    ``index`` lies in ``[0, shape[0])``: one expert of a fused ``(E, a, b)`` tensor, one row of a
    matrix. Returns shape ``shape[1:]``, otherwise as ``read_tensor``. Raises IndexError for an
    index outside, ValueError for a tensor of fewer dimensions or with less than a byte an element.
    """
    entry = checkpoint.tensors[name]
    if len(entry.shape) < 2 or DTYPE_BITS[entry.dtype] % 8:
        raise ValueError(f"tensor {name!r}: {entry.dtype} {entry.shape} has no slices to read")
    if not 0 <= index < entry.shape[0]:
        raise IndexError(f"tensor {name!r}: no slice {index} in {entry.shape}")
    dtype = torch_dtype(entry.dtype)
    size = entry.size_bytes // entry.shape[0]
    path = checkpoint.shard(entry.shard).path
    return _as_tensor(read_range(path, _slice_start(entry, index), size), dtype, entry.shape[1:])


def _slice_start(entry: TensorEntry, index: int) -> int:
    return entry.start_byte + index * (entry.size_bytes // entry.shape[0])


def _as_tensor(content: bytearray, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    import torch

    if not content:  # frombuffer refuses an empty buffer
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype).reshape(shape)


class RowReader:
    """A stored matrix of which blocks of rows are read when they are asked for: ``reader[2:5]``.

    ``path`` holds a row-major matrix of ``shape`` from byte ``start``, in one piece or in
    ``blocks``: their bytes, and those from one to the next (``layout.pieces``); ``dtype`` is one of
    ``dtypes.FLOATING``. Nothing is kept between reads. Raises CheckpointError when the file cannot
    be read, or ends early.
    """

    def __init__(
        self,
        path: Path,
        start: int,
        shape: tuple[int, int],
        dtype: str,
        blocks: tuple[int, int] = (0, 0),
    ) -> None:
        self._path, self._start, self._blocks = path, start, blocks
        self.shape, self.dtype = shape, dtype

    def __getitem__(self, rows: slice) -> Raw:
        """(rows, n) raw, in memory of its own; a slice without a step."""
        first, last, _ = rows.indices(self.shape[0])
        element = raw_dtype(self.dtype)
        width = self.shape[1] * element.itemsize
        where = pieces(self._start, *self._blocks, first * width, (last - first) * width)
        content = read_pieces(self._path, where)
        return np.frombuffer(content, dtype=element).reshape(last - first, self.shape[1])


def fingerprint(checkpoint: Checkpoint) -> dict[str, dict[str, int | str]]:
    """What each shard file looks like now: shard name to size, time of change and header hash.

    JSON-able: ``{"size_bytes": int, "mtime_ns": int, "header_sha256": str}`` a shard. The bytes of
    the tensors are not read, so a change that keeps size, time and header goes unnoticed. Raises
    CheckpointError when a file is no longer the one that was opened.
    """
    return {shard.name: _shard_fingerprint(shard) for shard in checkpoint.shards}


def _shard_fingerprint(shard: Shard) -> dict[str, int | str]:
    try:
        status = shard.path.stat()
    except OSError as error:
        raise _unreadable(shard.path, error) from None
    if status.st_size != shard.size_bytes:
        raise _changed(shard.path, "size_bytes", status.st_size, shard.size_bytes)
    header_sha256 = hashlib.sha256(read_range(shard.path, 0, shard.header_bytes)).hexdigest()
    if header_sha256 != shard.header_sha256:
        raise _changed(shard.path, "header_sha256", header_sha256, shard.header_sha256)
    return {
        "size_bytes": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "header_sha256": header_sha256,
    }


def check_unchanged(checkpoint: Checkpoint, expected: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise CheckpointError unless every shard still looks as ``fingerprint`` recorded it.

    ``expected`` may come back from a JSON file. Cost: one read of each header.
    """
    found = fingerprint(checkpoint)
    if set(found) != set(expected):
        shards = ", ".join(sorted(set(found) ^ set(expected))[:5])
        raise CheckpointError(
            f"{checkpoint.folder}: the source was changed while it was in use: shards were added"
            f" or removed ({shards}); throw the unfinished run away (timberkit clean FOLDER)"
            " and start again"
        )
    for shard in checkpoint.shards:
        for field, value in found[shard.name].items():
            if expected[shard.name].get(field) != value:
                raise _changed(shard.path, field, value, expected[shard.name].get(field))


def _changed(path: Path, field: str, found: object, expected: object) -> CheckpointError:
    what = {
        "mtime_ns": "its time of change",
        "size_bytes": "its size",
        "header_sha256": "its header",
    }
    sizes = field == "size_bytes" and isinstance(expected, int)
    shown = f" ({found} bytes, {expected} before)" if sizes else ""
    return CheckpointError(
        f"{path}: the source was changed while it was in use: {what[field]} is another{shown};"
        " tensors read before and after would not belong together; restore the file, or throw the"
        " unfinished run away (timberkit clean FOLDER) and start again"
    )
