"""How far numbers are apart: distances and counts of any bits, against slow oracles."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from timberkit.dtypes import FLOATING, SIXTEEN_BIT, coarser, raw_dtype, ulp_distance, widen
from timberkit.engine import diff_job
from timberkit.engine.diff_job import Distance, compare_numbers

MANY = settings(max_examples=150, deadline=None, derandomize=True)
WIDTH = {"bfloat16": 16, "float16": 16, "float32": 32, "float64": 64}
SIGNED = {16: torch.int16, 32: torch.int32, 64: torch.int64}
ALL_BITS = np.arange(1 << 16, dtype=np.uint16)


@cache
def special(dtype: str) -> tuple[int, ...]:
    """Bits of zeros, subnormals, the ends of binades, infinities and NaNs, of both signs."""
    width = WIDTH[dtype]
    infinity = int(
        np.array(np.inf, np.float64 if width == 64 else np.float32).view(f"u{max(width, 32) // 8}")
    )
    if width == 16:
        infinity = 0x7C00 if dtype == "float16" else infinity >> 16
    low = [0, 1, 2, infinity - 1, infinity, infinity + 1, (1 << (width - 1)) - 1, infinity // 2]
    return tuple(bits | sign << (width - 1) for bits in low for sign in (0, 1))


@st.composite
def stored(draw: st.DrawFn, dtypes: tuple[str, ...] = FLOATING) -> tuple[str, list[int], list[int]]:
    dtype = draw(st.sampled_from(dtypes))
    bits = st.one_of(st.sampled_from(special(dtype)), st.integers(0, (1 << WIDTH[dtype]) - 1))
    pairs = draw(
        st.lists(st.tuples(bits, bits) | bits.map(lambda x: (x, x)), min_size=1, max_size=12)
    )
    return dtype, [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def raw_of(dtype: str, bits: list[int]) -> NDArray[Any]:
    return np.array(bits, dtype=f"<u{WIDTH[dtype] // 8}").view(raw_dtype(dtype))


def number(dtype: str, bits: int) -> int:
    """Which number of the dtype the bits are, in Python's own integers."""
    sign = 1 << (WIDTH[dtype] - 1)
    return -(bits - sign) if bits & sign else bits


@MANY
@given(stored())
def test_distance_is_that_of_the_numbers_in_order(case: tuple[str, list[int], list[int]]) -> None:
    dtype, first, second = case
    found = ulp_distance(raw_of(dtype, first), raw_of(dtype, second), dtype)
    expected = [
        abs(number(dtype, a) - number(dtype, b)) for a, b in zip(first, second, strict=True)
    ]
    assert [int(distance) for distance in found] == expected


@pytest.mark.parametrize("dtype", SIXTEEN_BIT)
def test_sorted_numbers_are_one_apart_from_end_to_end(dtype: str) -> None:
    values = widen(ALL_BITS.view(raw_dtype(dtype)), dtype, np.float64)
    kept = ALL_BITS[~np.isnan(values) & ~((values == 0) & np.signbit(values))]
    ordered = kept[np.argsort(widen(kept.view(raw_dtype(dtype)), dtype, np.float64))]
    raw = ordered.view(raw_dtype(dtype))
    assert set(ulp_distance(raw[1:], raw[:-1], dtype).tolist()) == {1}


@pytest.mark.parametrize(("dtype", "working"), [("float32", np.float32), ("float64", np.float64)])
@MANY
@given(value=st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_neighbours_are_one_apart(dtype: str, working: type[Any], value: float) -> None:
    here = np.array([value], working)
    for end in (np.inf, -np.inf):
        with np.errstate(over="ignore", under="ignore"):
            beside = np.nextafter(here, working(end))
        assert ulp_distance(here, beside, dtype).tolist() == [1]


def oracle(first: list[int], second: list[int], dtype: str, other: str) -> Distance:
    """Element by element, by Python's floats and torch's rounding."""
    coarse = coarser(dtype, other)
    found = Distance()
    for bits, other_bits in zip(first, second, strict=True):
        x, y = raw_of(dtype, [bits]), raw_of(other, [other_bits])
        a, b = float(widen(x, dtype, np.float64)[0]), float(widen(y, other, np.float64)[0])
        same = a == b or (math.isnan(a) and math.isnan(b))
        rounded = [
            tensor(raw, name).to(getattr(torch, coarse)) for raw, name in ((x, dtype), (y, other))
        ]
        finite = all(bool(torch.isfinite(value).all()) for value in rounded)
        if dtype == other:
            bits_differ = bits != other_bits
        else:
            bits_differ = a == b == 0 and math.copysign(1, a) != math.copysign(1, b)
        codes = [int(value.view(SIGNED[WIDTH[coarse]])) % (1 << WIDTH[coarse]) for value in rounded]
        apart = abs(number(coarse, codes[0]) - number(coarse, codes[1])) if finite else 0
        gap = abs(a - b) if finite else 0.0
        found = found.plus(
            Distance(
                elements=1, differing=int(not same), other_bits=int(same and bits_differ),
                not_finite=int(not same and not finite), measured=int(finite), largest=gap,
                total=gap, norm=gap, norm_a=abs(a) if finite else 0.0, ulps=apart,
                over_one_ulp=int(apart > 1),
            )
        )  # fmt: skip
    return found


def tensor(raw: NDArray[Any], dtype: str) -> torch.Tensor:
    signed = raw.view(f"<i{WIDTH[dtype] // 8}")
    return torch.from_numpy(signed).view(getattr(torch, dtype))


def assert_same(found: Distance, expected: Distance) -> None:
    for field in (
        "elements",
        "differing",
        "other_bits",
        "not_finite",
        "measured",
        "largest",
        "ulps",
        "over_one_ulp",
    ):
        assert getattr(found, field) == getattr(expected, field), field
    for field in ("total", "norm", "norm_a"):
        assert getattr(found, field) == pytest.approx(getattr(expected, field), rel=1e-12), field


@MANY
@given(stored())
def test_counts_and_sizes_are_those_of_each_element(case: tuple[str, list[int], list[int]]) -> None:
    dtype, first, second = case
    found = compare_numbers(raw_of(dtype, first), raw_of(dtype, second), dtype, dtype)
    assert_same(found, oracle(first, second, dtype, dtype))


@MANY
@given(left=stored(), right=stored())
def test_different_dtypes_meet_in_the_coarser(
    left: tuple[str, list[int], list[int]], right: tuple[str, list[int], list[int]]
) -> None:
    (dtype, first, _), (other, second, _) = left, right
    count = min(len(first), len(second))
    first, second = first[:count], second[:count]
    found = compare_numbers(raw_of(dtype, first), raw_of(other, second), dtype, other)
    assert_same(found, oracle(first, second, dtype, other))


@MANY
@given(case=stored(), cut=st.integers(0, 12))
def test_parts_add_up_to_the_whole(case: tuple[str, list[int], list[int]], cut: int) -> None:
    dtype, first, second = case
    a, b = raw_of(dtype, first), raw_of(dtype, second)
    parts = (compare_numbers(a[p], b[p], dtype, dtype) for p in (slice(cut), slice(cut, None)))
    total = Distance()
    for part in parts:
        total = total.plus(part)
    assert_same(total, compare_numbers(a, b, dtype, dtype))


@pytest.mark.parametrize("dtype", FLOATING)
def test_long_vectors_in_blocks_give_what_one_block_gives(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 15, 1000).tolist()
    other = [b ^ int(flip) for b, flip in zip(bits, rng.integers(0, 2, 1000), strict=True)]
    a, b = raw_of(dtype, bits), raw_of(dtype, other)
    whole = compare_numbers(a, b, dtype, dtype)
    monkeypatch.setattr(diff_job, "BLOCK_ELEMENTS", 7)
    assert_same(compare_numbers(a, b, dtype, dtype), whole)
    assert_same(whole, oracle(bits, other, dtype, dtype))
