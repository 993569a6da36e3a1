"""Where every byte of the output will lie, known before one of them is written.

The refined checkpoint has the shards of the Instruct one, under the same names. Without another
dtype the headers are those of Instruct, byte for byte (but for a missing ``format``); with one,
each header is rebuilt and every offset computed anew. ``copy_ranges`` says which bytes are copied
bit for bit, ``cast_tensors`` which tensors change only their dtype; the rest is what gets refined.

    layout = plan_output(instruct, dtype=None)
    for piece in copy_ranges(layout, instruct, refined={"model.layers.0.mlp.up_proj.weight"}): ...

Not here: writing (``writer``), deciding what is refined (the plan of a run).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from timberkit.checkpoint.layout import DTYPE_BITS, FLOAT_DTYPES, Checkpoint, Shard, TensorEntry
from timberkit.errors import CheckpointError

LARGEST_COPY_BYTES = 64 << 20
"""Longest piece of one ``CopyRange``, so that a copy can be shared out, resumed and reported."""

_ALIGNMENT_BYTES = 8


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """One output shard: its complete header (length bytes included) and its tensors in byte order.

    ``tensors`` carry the dtypes, absolute offsets and sizes of the *output*.
    """

    name: str
    header: bytes
    size_bytes: int
    tensors: tuple[TensorEntry, ...]


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """All output shards, and every tensor by name."""

    shards: tuple[ShardLayout, ...]
    tensors: Mapping[str, TensorEntry]

    def shard(self, name: str) -> ShardLayout:
        """The output shard of that relative name; KeyError if there is none."""
        for shard in self.shards:
            if shard.name == name:
                return shard
        raise KeyError(name)

    @property
    def size_bytes(self) -> int:
        """Bytes of all shard files, headers included: what the disk must have room for."""
        return sum(shard.size_bytes for shard in self.shards)


@dataclass(frozen=True, slots=True)
class CopyRange:
    """``size_bytes`` bytes to copy unchanged between the shards of that name; offsets absolute."""

    shard: str
    source_start: int
    target_start: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CastTensor:
    """A tensor that only changes its dtype: where Instruct has it, where the output wants it."""

    source: TensorEntry
    target: TensorEntry


def output_dtype(dtype: str, wanted: str | None) -> str:
    """The dtype a tensor has in the output: ``wanted`` for plain floats, its own for the rest.

    Integers, booleans and FP8 keep theirs: their values mean nothing without their scales.

    >>> output_dtype("F32", "BF16"), output_dtype("I64", "BF16"), output_dtype("F32", None)
    ('BF16', 'I64', 'F32')
    """
    return wanted if wanted is not None and dtype in FLOAT_DTYPES else dtype


def output_data_bytes(instruct: Checkpoint, dtype: str | None) -> int:
    """Bytes of all tensors in the output, without headers: the ``total_size`` of an index."""
    return sum(_size_bytes(entry, dtype) for entry in instruct.tensors.values())


def plan_output(instruct: Checkpoint, dtype: str | None) -> OutputLayout:
    """Lay out the output shards for a validated Instruct checkpoint.

    ``dtype`` is None (each tensor keeps its own) or one of F16, BF16, F32, F64, which all plain
    float tensors get. A shard in which no dtype changes keeps its header byte for byte, unless its
    metadata lacks ``format``: then ``format: pt`` is added, which loaders of the transformers
    library ask for. A ``format`` that names another framework is kept, because it says how the
    values are laid out. Where dtypes change, tensors are ordered by element size, largest first and
    otherwise as before, so that each starts at a multiple of its element size.

    Reads one header per shard, none of a planned checkpoint. Raises CheckpointError when a header
    differs from the one that was validated, or cannot be read; ValueError for another ``dtype``.
    Memory: one header per shard.
    """
    if dtype is not None and dtype not in FLOAT_DTYPES:
        raise ValueError(
            f"output dtype {dtype!r}: expected one of {', '.join(sorted(FLOAT_DTYPES))}"
        )
    _refuse_equal_names(instruct)
    shards = tuple(_plan_shard(shard, dtype) for shard in instruct.shards)
    tensors = {entry.name: entry for shard in shards for entry in shard.tensors}
    return OutputLayout(shards, MappingProxyType(tensors))


def _refuse_equal_names(instruct: Checkpoint) -> None:
    """Raise CheckpointError for shards that are one file where names do not tell case."""
    seen: dict[str, str] = {}
    for shard in instruct.shards:
        other = seen.setdefault(shard.name.casefold(), shard.name)
        if other != shard.name:
            raise CheckpointError(
                f"{instruct.folder}: the shards {other!r} and {shard.name!r} differ in case only,"
                " and would be one file on some file systems; rename one, in the index too"
            )


def copy_ranges(layout: OutputLayout, instruct: Checkpoint, refined: Set[str]) -> list[CopyRange]:
    """The bytes copied from Instruct unchanged: the longest contiguous runs, in pieces of 64 MiB.

    Covers every tensor that is not in ``refined`` and keeps its dtype, each byte once; empty
    tensors need nothing. Ordered by shard and offset. Raises KeyError for a name in ``refined``
    that the checkpoint does not have. O(number of tensors).
    """
    _check_names(instruct, refined)
    return [piece for shard in layout.shards for piece in _shard_ranges(shard, instruct, refined)]


def cast_tensors(layout: OutputLayout, instruct: Checkpoint, refined: Set[str]) -> list[CastTensor]:
    """The tensors outside ``refined`` whose dtype changes, in output order; empty ones left out.

    Raises KeyError for a name in ``refined`` that the checkpoint does not have.
    """
    _check_names(instruct, refined)
    return [
        CastTensor(instruct.tensors[name], target)
        for name, target in layout.tensors.items()
        if name not in refined
        and target.size_bytes
        and target.dtype != instruct.tensors[name].dtype
    ]


def _check_names(instruct: Checkpoint, refined: Set[str]) -> None:
    for name in refined:
        if name not in instruct.tensors:
            raise KeyError(name)


def _size_bytes(entry: TensorEntry, dtype: str | None) -> int:
    wanted = output_dtype(entry.dtype, dtype)
    # Only a changed dtype is computed: sub-byte dtypes keep the size their header gave them.
    return entry.size_bytes if wanted == entry.dtype else entry.numel * DTYPE_BITS[wanted] // 8


def _plan_shard(shard: Shard, dtype: str | None) -> ShardLayout:
    changed = any(output_dtype(entry.dtype, dtype) != entry.dtype for entry in shard.tensors)
    if not changed and "format" in shard.metadata:
        header = _read_header(shard)
        data_bytes = sum(entry.size_bytes for entry in shard.tensors)
        return ShardLayout(shard.name, header, len(header) + data_bytes, shard.tensors)
    placed, end = [], 0
    for entry in _ordered(shard.tensors, dtype) if changed else shard.tensors:
        wanted, size_bytes = output_dtype(entry.dtype, dtype), _size_bytes(entry, dtype)
        placed.append(replace(entry, dtype=wanted, start_byte=end, size_bytes=size_bytes))
        end += size_bytes
    header = build_header(shard.metadata, placed)
    tensors = (replace(entry, start_byte=entry.start_byte + len(header)) for entry in placed)
    return ShardLayout(shard.name, header, len(header) + end, tuple(tensors))


def _ordered(tensors: tuple[TensorEntry, ...], dtype: str | None) -> list[TensorEntry]:
    # A narrower float in front of a wider integer would leave the integer at an odd address, which
    # torch cannot view. The same order as safetensors' own writer keeps, hence no change for most.
    return sorted(tensors, key=lambda entry: -DTYPE_BITS[output_dtype(entry.dtype, dtype)])


def build_header(metadata: Mapping[str, str], placed: Sequence[TensorEntry]) -> bytes:
    """The header of a safetensors file, its length bytes included, as the library writes it.

    ``placed``: the tensors in the order of their bytes, ``start_byte`` counted from the end of the
    header. ``format: pt`` is added where the metadata names no format.
    """
    fields: dict[str, Any] = {"__metadata__": {**metadata}}
    fields["__metadata__"].setdefault("format", "pt")
    for entry in placed:
        offsets = [entry.start_byte, entry.start_byte + entry.size_bytes]
        fields[entry.name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": offsets}
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    return struct.pack("<Q", len(text)) + text


def _read_header(shard: Shard) -> bytes:
    if shard.header is not None:
        return shard.header
    try:
        with shard.path.open("rb") as file:
            header = file.read(shard.header_bytes)
    except OSError as error:
        raise CheckpointError(
            f"{shard.path}: the header cannot be read: {error.strerror}; make the file readable"
            " and run the same command again"
        ) from None
    if hashlib.sha256(header).hexdigest() != shard.header_sha256:
        raise CheckpointError(
            f"{shard.path}: the header is not the one that was read a moment ago; the file was"
            " changed meanwhile; wait until nothing writes there and run the same command again"
        )
    return header


def _shard_ranges(
    shard: ShardLayout, instruct: Checkpoint, refined: Set[str]
) -> Iterator[CopyRange]:
    run: CopyRange | None = None
    for target in shard.tensors:
        source = instruct.tensors[target.name]
        if target.name in refined or source.dtype != target.dtype or not target.size_bytes:
            continue
        if run is not None and _continues(run, source, target):
            run = replace(run, size_bytes=run.size_bytes + target.size_bytes)
            continue
        if run is not None:
            yield from _pieces(run)
        run = CopyRange(shard.name, source.start_byte, target.start_byte, target.size_bytes)
    if run is not None:
        yield from _pieces(run)


def _continues(run: CopyRange, source: TensorEntry, target: TensorEntry) -> bool:
    return (
        source.start_byte == run.source_start + run.size_bytes
        and target.start_byte == run.target_start + run.size_bytes
    )


def _pieces(run: CopyRange) -> Iterator[CopyRange]:
    for done in range(0, run.size_bytes, LARGEST_COPY_BYTES):
        yield CopyRange(
            run.shard,
            run.source_start + done,
            run.target_start + done,
            min(LARGEST_COPY_BYTES, run.size_bytes - done),
        )
