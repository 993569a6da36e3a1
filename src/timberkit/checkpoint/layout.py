"""What lies where in the files of a checkpoint: plain values, no I/O.

A safetensors file is 8 bytes (little-endian length of the header), the header (JSON: name to dtype,
shape and offsets), then the bytes of the tensors, row-major, without holes.
``index.open_checkpoint`` builds a ``Checkpoint`` from a folder after validating all of it,
``planned.planned_checkpoint`` one of a model that is not here, from its shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

DTYPE_BITS: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32,
        "U64": 64, "I64": 64, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
        "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
        "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
    }
)  # fmt: skip
"""Bits per element of every dtype that the safetensors format names."""

FLOAT_DTYPES = frozenset({"F16", "BF16", "F32", "F64"})
"""Dtypes whose values are the weights themselves: what can be refined or cast."""


def pieces(
    start_byte: int, block_bytes: int, stride_bytes: int, first: int, size_bytes: int
) -> list[tuple[int, int]]:
    """Where bytes of a matrix lie in a file: (offset, length) of each piece, in order.

    The matrix is blocks of ``block_bytes``, ``stride_bytes`` apart, the first at ``start_byte``; a
    block of 0 bytes stands for one of any length. Asked for are ``size_bytes`` from byte ``first``.

    >>> pieces(100, 8, 20, 4, 10)
    [(104, 4), (120, 6)]
    """
    if not block_bytes:
        return [(start_byte + first, size_bytes)]
    found, last = [], first + size_bytes
    for block in range(first // block_bytes, -(-last // block_bytes)):
        begin, end = max(first, block * block_bytes), min(last, (block + 1) * block_bytes)
        offset = start_byte + block * stride_bytes + begin - block * block_bytes
        found.append((offset, end - begin))
    return found


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: ``size_bytes`` bytes from ``start_byte`` (absolute) of ``shard``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: str
    start_byte: int
    size_bytes: int

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Shard:
    """One safetensors file; ``tensors`` in the order of their bytes.

    ``name`` is the path relative to the folder, ``header_bytes`` counts the eight length bytes too,
    ``metadata`` is the header's ``__metadata__``, ``header_sha256`` covers the whole header.
    ``header`` is the whole header of a file that is not here (``planned``), None of a real one,
    whose header is read again where it is needed.
    """

    name: str
    path: Path
    size_bytes: int
    header_bytes: int
    header_sha256: str
    metadata: Mapping[str, str]
    tensors: tuple[TensorEntry, ...]
    header: bytes | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A validated checkpoint folder.

    ``tensors`` maps every name to its place, in the order of shards and of bytes within them;
    ``index_name`` is the name of the index file, or None; ``config`` is config.json, or empty.
    """

    folder: Path
    shards: tuple[Shard, ...]
    tensors: Mapping[str, TensorEntry]
    index_name: str | None
    config: Mapping[str, Any]

    def shard(self, name: str) -> Shard:
        """The shard of that relative name; KeyError if there is none."""
        for shard in self.shards:
            if shard.name == name:
                return shard
        raise KeyError(name)

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.size_bytes for entry in self.tensors.values())
