"""Stored weights as numbers and back: what torch makes of the same bits, for all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from timberkit.dtypes import (
    EPSILON,
    FLOATING,
    SIXTEEN_BIT,
    SMALLEST_NORMAL,
    narrow,
    raw_dtype,
    widen,
)
from timberkit.spectral.refine import StoredMatrix

MANY = settings(max_examples=100, deadline=None, derandomize=True)
ALL_BITS = np.arange(1 << 16, dtype=np.uint16)

finite = st.floats(allow_nan=False, width=64)


def stored(dtype: str, raw: NDArray[Any]) -> torch.Tensor:
    """The same bytes as a tensor."""
    return torch.from_numpy(raw.view(np.int16)).view(getattr(torch, dtype))


def raw_of(tensor: torch.Tensor) -> NDArray[Any]:
    return tensor.view(torch.int16).numpy().view(np.uint16)


@pytest.mark.parametrize("dtype", SIXTEEN_BIT)
@pytest.mark.parametrize("working", [np.float32, np.float64])
def test_every_sixteen_bit_number_is_widened_exactly(dtype: str, working: type[Any]) -> None:
    found = widen(ALL_BITS.view(raw_dtype(dtype)), dtype, working)
    assert found.dtype == working
    expected = stored(dtype, ALL_BITS).double().numpy()
    np.testing.assert_array_equal(found, expected)
    assert np.array_equal(np.signbit(found), np.signbit(expected))


@pytest.mark.parametrize("dtype", SIXTEEN_BIT)
def test_every_sixteen_bit_number_comes_back_bit_for_bit(dtype: str) -> None:
    numbers = ALL_BITS[~np.isnan(widen(ALL_BITS.view(raw_dtype(dtype)), dtype, np.float32))]
    for working in (np.float32, np.float64):
        back = narrow(widen(numbers.view(raw_dtype(dtype)), dtype, working), dtype)
        assert np.array_equal(back.view(np.uint16), numbers)


@pytest.mark.parametrize("dtype", SIXTEEN_BIT)
def test_numbers_beside_and_on_every_tie_are_rounded_as_torch_rounds_them(dtype: str) -> None:
    single = widen(ALL_BITS.view(raw_dtype(dtype)), dtype, np.float32)
    numbers = np.unique(single[np.isfinite(single)].astype(np.float64))
    ties = ((numbers[1:] + numbers[:-1]) / 2).astype(np.float32)
    for values in (ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, -np.inf)):
        single = values.astype(np.float32)
        expected = raw_of(torch.from_numpy(single).to(getattr(torch, dtype)))
        assert np.array_equal(narrow(single, dtype).view(np.uint16), expected)


@MANY
@given(values=st.lists(finite, min_size=1, max_size=30), dtype=st.sampled_from(FLOATING))
def test_any_number_is_rounded_as_torch_rounds_it(values: list[float], dtype: str) -> None:
    exact = np.array(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        single = exact.astype(np.float32)
    for numbers in (exact, single, exact[::-1], exact.reshape(1, -1)):
        found = narrow(numbers, dtype)
        assert found.dtype == raw_dtype(dtype)
        expected = torch.from_numpy(numbers.copy()).to(getattr(torch, dtype)).double().numpy()
        np.testing.assert_array_equal(widen(found, dtype, np.float64), expected)


@pytest.mark.parametrize("dtype", FLOATING)
def test_what_is_widened_lies_in_memory_of_its_own(dtype: str) -> None:
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    rows = StoredMatrix.of_tensor(weight)
    before = weight.clone()
    for working in (np.float32, np.float64):
        widen(rows[slice(0, 4)], dtype, working)[:] = 0.0
        assert torch.equal(weight, before)


@pytest.mark.parametrize("dtype", FLOATING)
def test_the_constants_are_those_of_torch(dtype: str) -> None:
    info = torch.finfo(getattr(torch, dtype))
    assert EPSILON[dtype] == info.eps
    assert SMALLEST_NORMAL[dtype] == info.smallest_normal
    assert raw_dtype(dtype).itemsize * 8 == info.bits


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("layout", ["plain", "transposed", "strided", "reversed rows"])
def test_tensors_of_any_layout_are_stored_as_their_values(dtype: str, layout: str) -> None:
    weight = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)).to(getattr(torch, dtype))
    if layout == "transposed":
        weight = weight.T
    elif layout == "strided":
        weight = weight[::2, 1::2]
    elif layout == "reversed rows":
        weight = weight.flip(0)
    rows = StoredMatrix.of_tensor(weight)
    assert (rows.shape, rows.dtype) == (tuple(weight.shape), dtype)
    found = widen(rows[slice(1, 3)], dtype, np.float64)
    assert np.array_equal(found, weight[1:3].double().numpy())
