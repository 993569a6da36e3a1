"""Damaged files: opened with exactly what the library reads from them, or refused by name."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import deserialize, safe_open
from safetensors.torch import save

from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.reader import TORCH_NAMES, read_bytes, read_tensor, torch_dtype
from timberkit.errors import CheckpointError

VALID = save(
    {
        "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "b.weight": torch.arange(5, dtype=torch.bfloat16),
        "c": torch.zeros(0, 2),
        "d": torch.tensor([[1, 2], [3, 4]], dtype=torch.int8),
    },
    {"format": "pt"},
)
HEADER_BYTES = struct.unpack("<Q", VALID[:8])[0]
HEADER = VALID[8 : 8 + HEADER_BYTES].rstrip()
DATA = VALID[8 + HEADER_BYTES :]
FRAGMENTS = (
    *('"', ",", ":", "{", "}", "[", "]", "[[", "{}", "null", "true", "-1", "0", "1e3", "1.0"),
    *('"a":', '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},', '"__metadata__":{},'),
    *('"shape":[],', '"data_offsets":[0,0],', '"dtype":"F4",', "\\u0000", "\\ud800", "é", "\n"),
    *("9223372036854775807", "9223372036854775808", "18446744073709551615", "9" * 400),
    *("NaN", "-0", " "),
)


def opens_as_the_library_or_refuses(content: bytes) -> bool:
    """Whether the bytes were accepted; what was accepted must equal what the library reads."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.safetensors").write_bytes(content)
        try:
            checkpoint = open_checkpoint(Path(folder))
        except CheckpointError as error:
            said = str(error)
        else:
            expected: dict[str, Any] = dict(deserialize(content))
            assert set(checkpoint.tensors) == set(expected)
            for name, entry in checkpoint.tensors.items():
                assert entry.dtype == expected[name]["dtype"]
                assert list(entry.shape) == expected[name]["shape"]
                assert read_bytes(checkpoint, name) == expected[name]["data"]
            return True
    assert folder in said
    return False


def framed(header: bytes) -> bytes:
    """The header with the length that belongs to it, before the data."""
    return struct.pack("<Q", len(header)) + header + DATA


def test_the_unharmed_file_opens() -> None:
    assert opens_as_the_library_or_refuses(VALID)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(1, 255)), max_size=3))
def test_flipped_bytes(flips: list[tuple[int, int]]) -> None:
    content = bytearray(VALID)
    for position, mask in flips:
        content[position] ^= mask
    opens_as_the_library_or_refuses(bytes(content))


@pytest.mark.parametrize("size", range(0, len(VALID), 7))
def test_truncation_is_always_refused(size: int) -> None:
    assert not opens_as_the_library_or_refuses(VALID[:size])


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=1, max_size=20))
def test_trailing_bytes_are_always_refused(rest: bytes) -> None:
    assert not opens_as_the_library_or_refuses(VALID + rest)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(HEADER)), st.integers(0, 12), st.sampled_from(["", *FRAGMENTS])
        ),
        min_size=1,
        max_size=3,
    )
)
def test_fragments_put_into_the_header(changes: list[tuple[int, int, str]]) -> None:
    header = HEADER
    for position, removed, fragment in changes:
        header = header[:position] + fragment.encode() + header[position + removed :]
    opens_as_the_library_or_refuses(framed(header))


def raw(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor: equal also where it holds NaN."""
    return tensor.flatten().view(torch.uint8)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**65) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "F4", "BF16", "X"]) | JSON,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(0, len(DATA)), min_size=2, max_size=2) | JSON,
    }
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=8) | st.just("__metadata__"), TENSOR | JSON, max_size=3))
def test_arbitrary_headers(header: dict[str, Any]) -> None:
    opens_as_the_library_or_refuses(framed(json.dumps(header).encode()))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1),
        st.tuples(
            st.sampled_from(sorted(set(TORCH_NAMES) - {"F8_E8M0"})),
            st.lists(st.integers(0, 4), max_size=4),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_the_library_writes_is_read_alike(
    layout: dict[str, tuple[str, list[int]]],
) -> None:
    tensors = {
        name: torch.arange(torch.Size(shape).numel()).reshape(shape).to(torch_dtype(dtype))
        for name, (dtype, shape) in layout.items()
        if name != "__metadata__"
    }
    if not tensors:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(save(tensors))
        checkpoint = open_checkpoint(Path(folder))
        with safe_open(path, framework="pt") as library:
            assert set(library.keys()) == set(checkpoint.tensors)
            for name, expected in tensors.items():
                found = read_tensor(checkpoint, name)
                assert found.dtype == expected.dtype
                assert found.shape == expected.shape
                assert torch.equal(raw(found), raw(library.get_tensor(name)))
