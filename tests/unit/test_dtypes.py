"""Raw blocks and numbers: what torch makes of every 16-bit pattern, and of every rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from timberkit.dtypes import EPSILON, FLOATING, SMALLEST_NORMAL, narrow, raw_dtype, widen

Working = type[np.float32] | type[np.float64]


def as_torch(raw: NDArray[Any], dtype: str) -> torch.Tensor:
    bits = raw.view(np.int16) if dtype == "bfloat16" else raw
    return torch.from_numpy(bits).view(getattr(torch, dtype))


@pytest.mark.parametrize("working", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_pattern_of_16_bits_widens_as_in_torch_and_comes_back(
    dtype: str, working: Working
) -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    raw = patterns if dtype == "bfloat16" else patterns.view(np.float16)
    numbers = widen(raw, dtype, working)
    assert numbers.dtype == working
    expected = as_torch(raw, dtype).to(getattr(torch, np.dtype(working).name)).numpy()
    np.testing.assert_array_equal(numbers, expected)
    finite = np.isfinite(numbers)
    back = narrow(numbers[finite], dtype).view(np.uint16)
    assert np.array_equal(back, patterns[finite])


@pytest.mark.parametrize("dtype", FLOATING)
@given(values=st.lists(st.floats(allow_nan=False, width=64), min_size=1, max_size=40))
def test_rounding_is_that_of_torch(dtype: str, values: list[float]) -> None:
    numbers = np.array(values)
    with np.errstate(over="ignore", under="ignore"):
        candidates = [numbers, numbers.astype(np.float32)]
    for given_numbers in candidates:
        expected = torch.from_numpy(given_numbers).to(getattr(torch, dtype))
        found = as_torch(narrow(given_numbers, dtype), dtype)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", FLOATING)
def test_ties_go_to_even_and_what_is_too_large_becomes_infinite(dtype: str) -> None:
    unit = EPSILON[dtype]
    if dtype != "float64":
        halves = np.array([1 + unit / 2, 1 + 3 * unit / 2, -1 - unit / 2])
        found = widen(narrow(halves, dtype), dtype, np.float64)
        assert found.tolist() == [1.0, 1 + 2 * unit, -1.0]
    largest = float(torch.finfo(getattr(torch, dtype)).max)
    with np.errstate(over="ignore"):
        beyond = np.array([largest, 2 * largest])
    found = widen(narrow(beyond, dtype), dtype, np.float64)
    assert found.tolist() == [largest, np.inf]


@pytest.mark.parametrize("dtype", FLOATING)
def test_constants_and_elements_are_those_of_torch(dtype: str) -> None:
    info = torch.finfo(getattr(torch, dtype))
    assert (EPSILON[dtype], SMALLEST_NORMAL[dtype]) == (info.eps, info.tiny)
    assert raw_dtype(dtype).itemsize == info.bits // 8


@pytest.mark.parametrize("dtype", FLOATING)
def test_widened_numbers_have_memory_of_their_own(dtype: str) -> None:
    raw = narrow(np.ones(4), dtype)
    for working in (np.float32, np.float64):
        numbers = widen(raw, dtype, working)
        numbers[:] = 7
        assert widen(raw, dtype, np.float64).tolist() == [1.0] * 4
