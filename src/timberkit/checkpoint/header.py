"""The header of one safetensors file, read strictly: what is not exactly right is refused.

``read_shard`` reads the first bytes of a file and returns where each tensor lies. A file may come
from anywhere, so nothing in it is trusted: numbers are bounded before they are used, the header is
at most 100 MB (the format's own limit) and is never expanded into many times its size, and every
byte after it must belong to exactly one tensor. Stricter than the safetensors library where no
honest writer goes: duplicate keys, unknown fields, names that are empty or cannot be printed, more
than 64 dimensions, 2^63 elements.

The format: https://github.com/huggingface/safetensors (section Format).
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from pathlib import Path
from typing import Any, NoReturn

from timberkit.checkpoint.layout import DTYPE_BITS, Shard, TensorEntry
from timberkit.checkpoint.reader import read_range
from timberkit.errors import CheckpointError

LARGEST_HEADER_BYTES = 100_000_000
LARGEST_NAME_CHARACTERS = 4096
LARGEST_DIMENSIONS = 64
LARGEST_COUNT = 2**63 - 1
# Opening brackets and commas: a matrix needs eight, so this is 375 000 matrices in a file. Without
# the limit, JSON such as "[],[],…" would take a hundred times its size once parsed.
LARGEST_MARKS = 3_000_000

_DAMAGED = "the file is damaged or was not written by a safetensors writer; download it again"
_FIELDS = {"dtype", "shape", "data_offsets"}


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlist = 8
_SHORT.maxlevel = 2


def shown(value: object) -> str:
    """``repr``, shortened: names and lists in a hostile file may be megabytes long.

    >>> shown("x" * 10**6) == "'" + "x" * 37 + "..." + "x" * 38 + "'"
    True
    >>> shown([0] * 10**6)
    '[0, 0, 0, 0, 0, 0, 0, 0, ...]'
    """
    return _SHORT.repr(value)


def json_object(raw: bytes, where: str, **hooks: Any) -> dict[str, Any]:
    """Parse UTF-8 JSON that must be an object; ``hooks`` go to ``json.loads``.

    Raises CheckpointError, naming ``where``, for other encodings, malformed, deeply nested or
    hugely branched JSON and anything that is not an object. Costs memory in proportion to ``raw``.

    >>> json_object(b'{"a": 1}', "config.json")
    {'a': 1}
    """
    if sum(map(raw.count, (b"[", b"{", b","))) > LARGEST_MARKS:
        raise CheckpointError(
            f"{where}: over {LARGEST_MARKS} brackets and commas, more than a checkpoint needs;"
            f" {_DAMAGED}"
        )
    try:
        found = json.loads(raw.decode("utf-8"), **hooks)
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8"
    except RecursionError:
        problem = "it is nested too deeply"
    except ValueError as error:
        problem = shown(str(error))
    else:
        if isinstance(found, dict):
            return found
        problem = f"found a {type(found).__name__}"
    raise CheckpointError(f"{where}: expected a JSON object, but {problem}; {_DAMAGED}")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """``object_pairs_hook`` that refuses a key given twice: readers disagree on which one counts.

    >>> unique_keys([("a", 1), ("a", 2)])
    Traceback (most recent call last):
        ...
    ValueError: the key 'a' stands there twice
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {shown(key)} stands there twice")
            seen.add(key)
    return found


def read_shard(path: Path, name: str) -> Shard:
    """Read and validate the header of one safetensors file; no tensor is read.

    ``name`` becomes the shard's name. Raises CheckpointError when the file is not exactly one
    header followed by the bytes of its tensors without holes, overlaps or rest. Cost: one read of
    the header, 100 MB at most.
    """
    where = str(path)
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise CheckpointError(
            f"{where}: cannot be read: {error.strerror}; check its permissions"
        ) from None
    if size_bytes < 8:
        raise CheckpointError(
            f"{where}: {size_bytes} bytes long, expected at least 8; an empty or interrupted"
            " download; download it again"
        )
    prefix = bytes(read_range(path, 0, 8))
    length = int.from_bytes(prefix, "little")
    if length > min(LARGEST_HEADER_BYTES, size_bytes - 8):
        _refuse_length(where, prefix, length, size_bytes)
    raw = bytes(read_range(path, 8, length))
    metadata, tensors = parse_header(raw, size_bytes, name=name, where=where)
    return Shard(
        name=name,
        path=path,
        size_bytes=size_bytes,
        header_bytes=8 + length,
        header_sha256=hashlib.sha256(prefix + raw).hexdigest(),
        metadata=metadata,
        tensors=tensors,
    )


def _refuse_length(where: str, prefix: bytes, length: int, size_bytes: int) -> NoReturn:
    if prefix == b"version ":
        raise CheckpointError(
            f"{where}: found a Git LFS pointer, expected the weights themselves; the repository"
            " was cloned without Git LFS; run 'git lfs pull' in its folder"
        )
    if prefix.lstrip()[:2] in (b"<!", b"<h", b"<?"):
        raise CheckpointError(
            f"{where}: found a web page, expected a safetensors file; the download saved an error"
            " page; download it again"
        )
    raise CheckpointError(
        f"{where}: its header claims {length} bytes, but the file has {size_bytes} and a header"
        f" at most {LARGEST_HEADER_BYTES}; a truncated download or no safetensors file; download"
        " it again"
    )


def parse_header(
    raw: bytes, size_bytes: int, *, name: str, where: str
) -> tuple[dict[str, str], tuple[TensorEntry, ...]]:
    """Metadata and tensors of a header (without its eight length bytes).

    ``size_bytes`` is the size of the whole file, ``name`` the shard's name. Tensors come in the
    order of their bytes, with absolute offsets. Raises CheckpointError, naming ``where``.
    """
    if not raw.startswith(b"{"):
        raise CheckpointError(
            f"{where}: its header starts with {shown(raw[:8])}, expected '{{'; {_DAMAGED}"
        )
    fields = json_object(
        raw,
        f"{where}: header",
        object_pairs_hook=unique_keys,
        parse_int=_natural,
        parse_float=_no_float,
        parse_constant=_no_float,
    )
    metadata = _metadata(fields.pop("__metadata__", {}), where)
    data_start = 8 + len(raw)
    entries = [_entry(tensor, field, where, name, data_start) for tensor, field in fields.items()]
    entries.sort(key=lambda entry: (entry.start_byte, entry.size_bytes))
    _refuse_gaps(entries, data_start, size_bytes, where)
    return metadata, tuple(entries)


def _natural(text: str) -> int:
    # "-0" too: the library refuses it, and so does every reader with unsigned counts.
    if text.startswith("-") or len(text) > 19 or int(text) > LARGEST_COUNT:
        raise ValueError(f"found the number {shown(text)}, expected 0 to 2^63 - 1")
    return int(text)


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"found the number {shown(text)}, expected a whole number")


def _metadata(found: Any, where: str) -> dict[str, str]:
    if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
        try:
            for text in (*found, *found.values()):
                text.encode("utf-8")
        except UnicodeEncodeError:
            raise CheckpointError(
                f"{where}: __metadata__ holds half a surrogate pair, which no text has; {_DAMAGED}"
            ) from None
        return found
    raise CheckpointError(
        f"{where}: __metadata__ is {shown(found)}, expected an object of texts; {_DAMAGED}"
    )


def _entry(tensor: str, field: Any, where: str, shard: str, data_start: int) -> TensorEntry:
    """One tensor, everything checked that can be checked without its neighbours."""
    here = f"{where}: tensor {shown(tensor)}"
    if not tensor or len(tensor) > LARGEST_NAME_CHARACTERS or not tensor.isprintable():
        raise CheckpointError(
            f"{here}: expected a printable name of 1 to {LARGEST_NAME_CHARACTERS} characters;"
            f" {_DAMAGED}"
        )
    if not isinstance(field, dict) or set(field) != _FIELDS:
        raise CheckpointError(
            f"{here}: found {shown(field)}, expected the fields dtype, shape and data_offsets;"
            f" {_DAMAGED}"
        )
    dtype, shape, offsets = field["dtype"], field["shape"], field["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise CheckpointError(
            f"{here}: unknown dtype {shown(dtype)}, expected one of {', '.join(DTYPE_BITS)}; the"
            " file was written by a newer safetensors, or is damaged; convert it to BF16 or F32"
        )
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(
            f"{here}: data_offsets {shown(offsets)}, expected [start, end] with start <= end;"
            f" {_DAMAGED}"
        )
    bits = _elements(shape, here) * DTYPE_BITS[dtype]
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise CheckpointError(
            f"{here}: {dtype} {shown(shape)} takes {bits / 8:g} bytes, but its data_offsets"
            f" {shown(offsets)} hold {offsets[1] - offsets[0]}; {_DAMAGED}"
        )
    return TensorEntry(
        name=tensor,
        dtype=dtype,
        shape=tuple(shape),
        shard=shard,
        start_byte=data_start + offsets[0],
        size_bytes=offsets[1] - offsets[0],
    )


def _counts(found: Any) -> bool:
    return isinstance(found, list) and all(type(number) is int for number in found)


def _elements(shape: Any, here: str) -> int:
    """Product of the dimensions; below 2^63 even when zeros are left out, as torch needs."""
    if not _counts(shape) or len(shape) > LARGEST_DIMENSIONS:
        raise CheckpointError(
            f"{here}: shape {shown(shape)}, expected a list of at most {LARGEST_DIMENSIONS} whole"
            f" numbers; {_DAMAGED}"
        )
    product = 1
    for dimension in shape:
        product *= max(dimension, 1)
        if product > LARGEST_COUNT:
            raise CheckpointError(
                f"{here}: shape {shown(shape)} has 2^63 elements or more; {_DAMAGED}"
            )
    return 0 if 0 in shape else product


def _refuse_gaps(entries: list[TensorEntry], data_start: int, size_bytes: int, where: str) -> None:
    """Refuse overlaps, holes, offsets beyond the file and bytes of no tensor."""
    position = data_start
    for entry in entries:
        if entry.start_byte != position:
            what = "overlaps the one before it" if entry.start_byte < position else "leaves a hole"
            raise CheckpointError(
                f"{where}: tensor {shown(entry.name)} starts at byte {entry.start_byte}, expected"
                f" {position}: it {what}; {_DAMAGED}"
            )
        position += entry.size_bytes
    if position > size_bytes:
        raise CheckpointError(
            f"{where}: {size_bytes} bytes long, but its header describes {position}; a truncated"
            " download or copy; download it again"
        )
    if position < size_bytes:
        raise CheckpointError(
            f"{where}: {size_bytes} bytes long, but its header describes only {position}; bytes"
            f" that belong to no tensor; {_DAMAGED}"
        )
