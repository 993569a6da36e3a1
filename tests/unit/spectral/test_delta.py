"""The delta of a pair: exact blocks, its unit, what is held and what is read again, its norms."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from timberkit.errors import SpectrumError
from timberkit.spectral import delta as delta_module
from timberkit.spectral.delta import (
    HeldMatrix,
    PairDelta,
    Rows,
    as_delta,
    culprit,
    long_blocks,
    norm,
    row_blocks,
)
from timberkit.spectral.refine import StoredMatrix

pytestmark = pytest.mark.usefixtures("one_thread")

BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
DTYPES = [BF16, F16, F32, F64]
SHAPES = [(70, 12), (12, 70), (20, 20), (1, 9), (9, 1), (1, 1)]


class Watched:
    """Rows of a tensor that count how often each of them is read."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._stored = StoredMatrix.of_tensor(weight)
        self.shape, self.dtype = self._stored.shape, self._stored.dtype
        self.read: Counter[int] = Counter()
        self.largest = 0

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        self.read.update(range(rows.start, rows.stop))
        self.largest = max(self.largest, rows.stop - rows.start)
        return self._stored[rows]

    def times(self) -> set[int]:
        """How often rows were read: one number if all equally often."""
        return {self.read[row] for row in range(self.shape[0])}


def watched(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[Watched, Watched]:
    return Watched(pair[0]), Watched(pair[1])


def delta_of(base: torch.Tensor, instruct: torch.Tensor) -> PairDelta:
    return PairDelta(StoredMatrix.of_tensor(base), StoredMatrix.of_tensor(instruct))


def exact(base: torch.Tensor, instruct: torch.Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = instruct.double().numpy() - base.double().numpy()
    return found


def everything(shape: tuple[int, int]) -> slice:
    return slice(0, shape[0])


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of about 60 elements: five rows of the tall shape."""
    monkeypatch.setattr(delta_module, "ROW_BLOCK_ELEMENTS", 60)


@pytest.mark.parametrize("first", DTYPES)
@pytest.mark.parametrize("second", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_are_the_difference(
    pairs: Any, shape: tuple[int, int], first: torch.dtype, second: torch.dtype
) -> None:
    base, instruct = pairs.noise(*shape, seed=0, size=0.3, dtype=F64)
    base, instruct = base.to(first), instruct.to(second)
    delta, expected = delta_of(base, instruct), exact(base, instruct)
    assert (delta.shape, delta.scale) == (shape, 1.0)
    narrow = {first, second} <= {BF16, F16}
    assert delta.dtype == (np.float32 if narrow else np.float64)
    for dtype in (np.float64, np.float32) if narrow else (np.float64,):
        for part in (everything(shape), slice(0, 1), slice(shape[0] // 2, shape[0])):
            block = delta.rows(part, dtype)
            assert block.dtype == dtype
            assert np.array_equal(block, expected[part].astype(dtype))
    for dtype in (np.float64, np.float32):
        whole = delta.whole(dtype)
        assert whole.dtype == dtype
        assert np.array_equal(whole, expected.astype(dtype))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("held", [1, 1 << 26])
@pytest.mark.parametrize("shape", [(70, 12), (12, 70)])
def test_double_precision_blocks_are_exact_where_exponents_lie_far_apart(
    shape: tuple[int, int], held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_module, "HELD_ELEMENTS", held)
    instruct = torch.ones(shape, dtype=BF16)
    base = torch.full(shape, 2.0**-30, dtype=BF16)
    delta, expected = delta_of(base, instruct), np.full(shape, 1.0 - 2.0**-30)
    for _ in range(2):  # whatever was computed in between
        assert np.array_equal(delta.rows(slice(1, 7), np.float64), expected[1:7])
        assert np.array_equal(delta.rows(slice(1, 7), np.float32), np.ones((6, shape[1])))
        assert np.array_equal(delta.whole(np.float64), expected)


SIZES = {
    BF16: [1e-40, 1e-38, 1e-30, 1e-13, 1e13, 1e30, 1e38],
    F16: [6e-8, 1e-5, 1e4],
    F32: [1e-44, 1e-38, 1e-13, 1e13, 1e38],
    F64: [1e-322, 1e-310, 1e-200, 1e-13, 1e13, 1e200, 1e307],
}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("held", [1, 1 << 26])
@pytest.mark.parametrize(
    ("dtype", "size"), [(dtype, size) for dtype in DTYPES for size in SIZES[dtype]]
)
def test_tiny_and_huge_deltas_are_scaled_exactly_by_a_power_of_two(
    dtype: torch.dtype, size: float, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_module, "HELD_ELEMENTS", held)
    rng = np.random.default_rng(0)
    instruct = torch.from_numpy(rng.uniform(-3, 3, (30, 12)) * size).to(dtype)
    base = torch.zeros_like(instruct)
    delta, expected = delta_of(base, instruct), exact(base, instruct)
    mantissa, exponent = math.frexp(delta.scale)
    assert mantissa == 0.5
    for part in (slice(0, 30), slice(11, 13)):
        block = delta.rows(part, np.float64)
        assert np.array_equal(block, np.ldexp(expected[part], 1 - exponent))
    largest = float(np.abs(delta.rows(slice(0, 30), np.float64)).max())
    usual = 1e-12 < float(np.abs(expected).max()) < 1e12
    assert delta.scale == 1.0 if usual else 0.5 <= largest < 1.0
    if dtype in (BF16, F16):
        single = delta.rows(slice(0, 30), np.float32)
        assert np.array_equal(single, delta.rows(slice(0, 30), np.float64))
    norms = float(np.linalg.norm(expected / size)) * size
    assert delta.instruct_norm == pytest.approx(norms, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_delta_of_zeros_has_no_unit(dtype: torch.dtype) -> None:
    weight = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert delta_of(weight, weight.clone()).scale == 0.0
    signed = torch.zeros(3, 4, dtype=dtype)
    assert delta_of(signed, -signed).scale == 0.0


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("held", [1, 1 << 26])
@pytest.mark.parametrize("row", [0, 33, 69])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["base", "instruct"])
def test_nan_and_inf_in_any_block_are_refused_and_the_culprit_is_named(
    pairs: Any, which: str, value: float, row: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_module, "HELD_ELEMENTS", held)
    for dtype in (BF16, F32):
        weights = dict(
            zip(("base", "instruct"), pairs.noise(70, 12, seed=0, dtype=dtype), strict=True)
        )
        weights[which][row, 5] = value
        with pytest.raises(SpectrumError, match=f"^{which}: found NaN or Inf"):
            delta_of(**weights)


def test_the_same_infinity_in_both_weights_is_refused() -> None:
    weight = torch.ones(4, 3, dtype=BF16)
    weight[2, 1] = math.inf
    with pytest.raises(SpectrumError, match="found NaN or Inf"):
        delta_of(weight, weight.clone())


def test_the_culprit_is_the_weight_that_is_not_finite_or_the_difference() -> None:
    fine, wrong = np.ones((2, 2)), np.array([[1.0, math.nan], [1.0, 1.0]])
    assert culprit(wrong, fine).startswith("base: found NaN or Inf, expected finite weights")
    assert culprit(fine, wrong).startswith("instruct: ")
    assert culprit(fine, fine).startswith("delta (the difference overflows): ")


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("dtype", [BF16, F32])
def test_a_streamed_delta_is_the_held_one(
    pairs: Any, dtype: torch.dtype, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, instruct = (weight * size for weight in pairs.noise(70, 12, seed=1, dtype=dtype))
    held = delta_of(base, instruct)
    monkeypatch.setattr(delta_module, "HELD_ELEMENTS", 70 * 12 - 1)
    streamed = delta_of(base, instruct)
    assert (streamed.shape, streamed.dtype) == (held.shape, held.dtype)
    assert (streamed.scale, streamed.instruct_norm) == (held.scale, held.instruct_norm)
    for working in {held.dtype.type, np.float64}:
        for part in (slice(0, 70), slice(0, 1), slice(13, 41), slice(69, 70)):
            assert np.array_equal(streamed.rows(part, working), held.rows(part, working))
        blocks, same = (list(long_blocks(d, 7 * 12, working)) for d in (streamed, held))
        assert [part for part, _ in blocks] == [part for part, _ in same]
        for (_, block), (_, expected) in zip(blocks, same, strict=True):
            assert np.array_equal(block, expected)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("shape", "held", "again"),
    [((70, 12), 70 * 12, 0), ((70, 12), 70 * 12 - 1, 1), ((12, 70), 1, 0), ((20, 20), 1, 1)],
)
def test_only_a_tall_delta_beyond_the_limit_reads_its_rows_again(
    pairs: Any, shape: tuple[int, int], held: int, again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_module, "HELD_ELEMENTS", held)
    base, instruct = watched(pairs.noise(*shape, seed=1))
    delta = PairDelta(base, instruct)
    assert base.times() == instruct.times() == {1}
    for part in row_blocks(shape):
        delta.rows(part, np.float32)
    assert base.times() == instruct.times() == {1 + again}
    assert base.largest * shape[1] <= max(60, shape[1])
    delta.rows(slice(0, 3), np.float64)  # exact: from the weights themselves
    assert base.read[0] == 2 + again
    assert base.read[shape[0] - 1] == 1 + again


def test_the_whole_in_double_precision_is_kept(pairs: Any) -> None:
    base, instruct = watched(pairs.noise(12, 70, seed=1))
    delta = PairDelta(base, instruct)
    first = delta.whole(np.float64)
    assert delta.whole(np.float64) is first
    assert np.array_equal(delta.rows(slice(3, 9), np.float64), first[3:9])
    assert base.times() == instruct.times() == {2}


def test_weights_are_not_changed(pairs: Any) -> None:
    for dtype, size in itertools.product(DTYPES, (1.0, 1e13)):
        base, instruct = (weight * size for weight in pairs.noise(9, 7, seed=2, dtype=dtype))
        if not bool(torch.isfinite(instruct).all()):
            continue
        before = base.clone(), instruct.clone()
        delta = delta_of(base, instruct)
        delta.rows(slice(0, 9), np.float64)
        delta.whole(np.float64)
        assert torch.equal(base, before[0])
        assert torch.equal(instruct, before[1])


@pytest.mark.parametrize("elements", [1, 7, 60, 1 << 19])
@pytest.mark.parametrize("shape", [(1, 1), (1, 100), (100, 1), (37, 11), (60, 60), (1000, 3)])
def test_row_blocks_cover_every_row_once_in_order(
    shape: tuple[int, int], elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_module, "ROW_BLOCK_ELEMENTS", elements)
    blocks = row_blocks(shape)
    assert blocks[0].start == 0
    assert blocks[-1].stop == shape[0]
    for first, second in itertools.pairwise(blocks):
        assert first.stop == second.start
    for block in blocks:
        assert block.stop > block.start
        assert (block.stop - block.start) * shape[1] <= max(elements, shape[1])


@pytest.mark.parametrize("elements", [1, 60, 1 << 22])
@pytest.mark.parametrize("shape", SHAPES)
def test_long_blocks_cover_the_long_side_once_in_order(
    shape: tuple[int, int], elements: int
) -> None:
    matrix = np.random.default_rng(0).standard_normal(shape)
    for dtype in (np.float32, np.float64):
        parts = list(long_blocks(as_delta(matrix), elements, dtype))
        joined = np.concatenate(
            [block for _, block in parts], axis=0 if shape[0] >= shape[1] else 1
        )
        assert np.array_equal(joined, matrix.astype(dtype))
        ends = [0, *(part.stop for part, _ in parts)]
        assert [part.start for part, _ in parts] == ends[:-1]
        assert all(block.size <= max(elements, min(shape)) for _, block in parts)


def test_a_matrix_in_memory_is_a_delta_and_a_delta_stays_what_it_is(pairs: Any) -> None:
    matrix = np.random.default_rng(0).standard_normal((6, 9)).T
    found = as_delta(matrix)
    assert (found.shape, found.dtype) == ((9, 6), np.dtype(np.float64))
    for dtype in (np.float32, np.float64):
        assert found.whole(dtype).flags.c_contiguous
        assert np.array_equal(found.whole(dtype), matrix.astype(dtype))
        assert np.array_equal(found.rows(slice(2, 5), dtype), matrix[2:5].astype(dtype))
    for delta in (HeldMatrix(matrix), delta_of(*pairs.noise(5, 4, seed=0))):
        assert as_delta(delta) is delta


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms_of_values_whose_squares_leave_the_number_range(dtype: type[Any]) -> None:
    info = np.finfo(dtype)
    shape = np.array([[3.0, -4.0], [0.0, 12.0]])
    sizes = [1.0, 1e-9, 1e9, 1e-12, float(info.tiny), float(info.max) / 16, float(info.max) ** 0.5]
    for size in sizes:
        assert norm((shape * size).astype(dtype)) == pytest.approx(13.0 * size, rel=1e-6)
    smallest = float(info.smallest_subnormal)
    assert norm(np.full((2, 2), smallest, dtype=dtype)) == pytest.approx(2 * smallest)
    mixed = np.array([1e-15, 3e-11, 4e-11], dtype=dtype)  # squares of 1e-30 beside 1e-21
    assert norm(mixed) == pytest.approx(5e-11, rel=1e-6)


def test_norms_of_nothing_and_of_zeros_are_zero_and_of_what_is_not_finite_not_finite() -> None:
    assert norm(np.empty((0, 3))) == 0.0
    assert norm(np.zeros((4, 3), dtype=np.float32)) == 0.0
    for value in (math.nan, math.inf, -math.inf):
        assert not math.isfinite(norm(np.array([1.0, value, 2.0])))


def test_a_norm_does_not_depend_on_the_memory_layout() -> None:
    values = np.random.default_rng(0).standard_normal((30, 20))
    assert norm(values[:, ::2]) == pytest.approx(float(np.linalg.norm(values[:, ::2])), rel=1e-14)
    assert norm(values.T) == pytest.approx(norm(values), rel=1e-14)


def test_stored_rows_follow_the_protocol(pairs: Any) -> None:
    base, _ = pairs.noise(5, 4, seed=0)
    rows: Rows = StoredMatrix.of_tensor(base)
    assert (rows.shape, rows.dtype) == ((5, 4), "bfloat16")
    assert rows[slice(1, 3)].dtype == np.uint16
