"""Refined weights by blocks of rows: what is read and written when, and what records say of it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from timberkit.config import (
    AnyVariant,
    Merge,
    Timber,
    TimberL,
    TruncateEnergy,
    TruncateRank,
    variant_name,
)
from timberkit.dtypes import raw_dtype
from timberkit.errors import InputError, SpectrumError
from timberkit.records import ChangeRecord, MatrixRecord
from timberkit.spectral import decompose as decompose_module
from timberkit.spectral import delta as delta_module
from timberkit.spectral import ladder
from timberkit.spectral.agreement import agreement
from timberkit.spectral.decompose import decompose
from timberkit.spectral.filters import Spectrum
from timberkit.spectral.oracle import consult
from timberkit.spectral.refine import StoredMatrix, refine_rows

pytestmark = pytest.mark.usefixtures("one_thread")

BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
TALL, WIDE, SQUARE = (330, 60), (60, 330), (80, 80)
MOST_READ = 20 * 60
"""Elements of the largest block that may be asked for."""
VARIANTS: list[AnyVariant] = [
    Merge(mu=0.9),
    Timber(lam=0.2),
    TruncateRank(ratio=0.3),
    Merge(mu=1.0),
    TimberL(),
    TruncateEnergy(energy=0.95),
    TruncateRank(ratio=0.9),
    Merge(mu=0.0),
    TruncateRank(ratio=1.0),
]
ROUTES = [
    ("float32", BF16),
    ("float32", F16),
    ("mixed", BF16),
    ("mixed", F16),
    ("float64", BF16),
    ("float64", F16),
    ("float64", F32),
    ("float64", F64),
    ("svd", BF16),
    ("svd", F16),
    ("svd", F32),
    ("svd", F64),
]


class Watched:
    """Rows that note which of them were asked for."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._stored = StoredMatrix.of_tensor(weight)
        self.shape, self.dtype = self._stored.shape, self._stored.dtype
        self.asked: list[slice] = []

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        assert 0 <= rows.start < rows.stop <= self.shape[0]
        assert rows.step is None
        self.asked.append(rows)
        return self._stored[rows].copy()

    def largest(self) -> int:
        """Elements of the largest block."""
        return max(rows.stop - rows.start for rows in self.asked) * self.shape[1]

    def times(self) -> set[int]:
        """How often rows were read: one number if all equally often."""
        count = Counter(row for rows in self.asked for row in range(rows.start, rows.stop))
        return {count[row] for row in range(self.shape[0])}


class Ordered:
    """A sink that takes every row once, from the first to the last."""

    def __init__(self, shape: tuple[int, int], dtype: str) -> None:
        self._raw = np.zeros(shape, dtype=raw_dtype(dtype))
        self._dtype = dtype
        self.blocks: list[int] = []
        self.next = 0

    def __setitem__(self, rows: slice, values: NDArray[Any]) -> None:
        assert rows.start == self.next
        assert values.dtype == self._raw.dtype
        assert values.shape == (rows.stop - rows.start, self._raw.shape[1])
        self._raw[rows] = values
        self.next = rows.stop
        self.blocks.append(values.size)

    def tensor(self) -> torch.Tensor:
        """The weight, of which every row must have been written."""
        assert self.next == self._raw.shape[0]
        return torch.from_numpy(self._raw).view(getattr(torch, self._dtype))


@dataclass
class Outcome:
    """Weights and record of a refinement, and the rows it was given."""

    weights: list[torch.Tensor]
    record: MatrixRecord
    base: Watched
    instruct: Watched
    sinks: list[Ordered]


def refined(
    base: torch.Tensor,
    instruct: torch.Tensor,
    variants: Iterable[AnyVariant] = VARIANTS,
    dtype: torch.dtype | None = None,
) -> Outcome:
    chosen, rows = list(variants), (Watched(base), Watched(instruct))
    name = str(dtype or instruct.dtype).removeprefix("torch.")
    sinks = [Ordered(rows[1].shape, name) for _ in chosen]
    record = refine_rows(*rows, chosen, sinks, dtype=name)
    return Outcome([sink.tensor() for sink in sinks], record, *rows, sinks)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of seven rows to assemble and of twenty to decompose, for the tall shape."""
    monkeypatch.setattr(delta_module, "ROW_BLOCK_ELEMENTS", 7 * 60)
    monkeypatch.setattr(decompose_module, "BLOCK_ELEMENTS", MOST_READ)


def stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold no tall delta."""
    monkeypatch.setattr(delta_module, "HELD_ELEMENTS", 1)
    monkeypatch.setattr(decompose_module, "HELD_ELEMENTS", 1)


def lead_to(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let even small matrices take this route of the ladder."""
    if route in ("float32", "mixed"):
        monkeypatch.setattr(ladder, "SINGLE_PRECISION_SIDE", 1)

    def tampered(delta: Any, taken: Any, *, device: str = "cpu") -> Any:
        if route == "svd" and taken != "svd":
            raise SpectrumError("refused")
        found = decompose(delta, taken, device=device)
        if route == "mixed" and taken == "float32":
            values = found.spectrum.singular_values
            found.spectrum = Spectrum(values, np.full_like(values, 0.1 * values[0]))
        return found

    monkeypatch.setattr(ladder, "decompose", tampered)


def assert_agrees(outcome: Outcome, base: torch.Tensor, instruct: torch.Tensor) -> None:
    for variant, weight in zip(VARIANTS, outcome.weights, strict=True):
        found = agreement(weight, base, instruct, variant)
        assert found.holds, (variant, outcome.record.route, found)


@pytest.mark.parametrize(("route", "dtype"), ROUTES)
@pytest.mark.parametrize("spikes", [0.0, 20.0])
def test_a_streamed_tall_weight_agrees_with_the_oracle_by_every_route(
    pairs: Any, route: str, dtype: torch.dtype, spikes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead_to(route, monkeypatch)
    stream(monkeypatch)
    base, instruct = pairs.noise(*TALL, seed=1, spikes=spikes, dtype=dtype)
    outcome = refined(base, instruct)
    # So small a matrix keeps its spikes, which take single precision's vectors away.
    single = route in ("float32", "mixed")
    assert outcome.record.route == ("float64" if spikes and single else route)
    assert_agrees(outcome, base, instruct)
    for rows in (outcome.base, outcome.instruct):
        assert len(rows.times()) == 1
        assert rows.largest() <= MOST_READ
    for sink in outcome.sinks:
        assert max(sink.blocks) <= 7 * 60


@pytest.mark.parametrize(("route", "dtype"), ROUTES)
@pytest.mark.parametrize("shape", [TALL, WIDE, SQUARE])
def test_whether_a_delta_is_held_changes_no_byte(
    pairs: Any,
    shape: tuple[int, int],
    route: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lead_to(route, monkeypatch)
    base, instruct = pairs.noise(*shape, seed=2, dtype=dtype)
    held = refined(base, instruct)
    stream(monkeypatch)
    streamed = refined(base, instruct)
    assert held.record.route == streamed.record.route == route
    if route == "svd" and shape == TALL:  # of the triangular factor
        assert_agrees(held, base, instruct)
        assert_agrees(streamed, base, instruct)
        return
    for first, second in zip(held.weights, streamed.weights, strict=True):
        assert torch.equal(first, second)
    assert held.record == streamed.record


@pytest.mark.parametrize("spikes", [0.15, 0.5])
@pytest.mark.parametrize("held", [True, False])
def test_weights_whose_leading_directions_are_taken_out_agree(
    pairs: Any, held: bool, spikes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "SINGLE_PRECISION_SIDE", 1)
    monkeypatch.setattr(decompose_module, "BLOCK_ELEMENTS", 50 * 200)
    if not held:
        stream(monkeypatch)
    values = [spikes, *np.linspace(0.05, 0.01, 199)]
    base, instruct = pairs.planted(240, 200, values, seed=3)
    variants: list[AnyVariant] = [
        TimberL(),
        Timber(lam=0.4),
        TruncateRank(ratio=0.8),
        Merge(mu=0.5),
    ]
    outcome = refined(base, instruct, variants)
    assert outcome.record.route == "float32"
    for variant, weight in zip(variants, outcome.weights, strict=True):
        assert agreement(weight, base, instruct, variant).holds
    assert_states_what_is_found(outcome, base, instruct, variants)


@pytest.mark.parametrize("height", [300.0, 1000.0])
@pytest.mark.parametrize("shape", [(400, 260), (260, 400)])
def test_what_vectors_leak_of_a_large_leading_direction_is_taken_out_of_their_projections(
    shape: tuple[int, int], height: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_module, "ROW_BLOCK_ELEMENTS", 50 * 260)
    monkeypatch.setattr(decompose_module, "BLOCK_ELEMENTS", 1 << 22)
    rng = np.random.default_rng([260, int(height)])
    base = torch.from_numpy(0.02 * rng.standard_normal(shape)).to(BF16)
    bulk = 4e-4 * rng.standard_normal(shape)
    left, right = (rng.standard_normal(side) for side in shape)
    spike = np.outer(left / np.linalg.norm(left), right / np.linalg.norm(right))
    delta = bulk + height * np.linalg.norm(bulk, ord=2) * spike
    instruct = (base.double() + torch.from_numpy(delta)).to(BF16)
    variant = TruncateRank(ratio=0.6)
    outcome = refined(base, instruct, [variant])
    assert outcome.record.route == "float32"
    found = agreement(outcome.weights[0], base, instruct, variant)
    assert found.holds
    # Left in, ten times as many elements would be rounded otherwise.
    assert found.identical > 1.0 - 5e-4


@pytest.mark.parametrize("shape", [TALL, WIDE, SQUARE])
@pytest.mark.parametrize("order", range(4))
def test_filters_and_merges_come_out_in_the_order_asked_for(
    pairs: Any, shape: tuple[int, int], order: int
) -> None:
    base, instruct = pairs.noise(*shape, seed=4)
    expected = dict(zip(map(variant_name, VARIANTS), refined(base, instruct).weights, strict=True))
    chosen = [VARIANTS[i] for i in np.random.default_rng(order).permutation(len(VARIANTS))]
    outcome = refined(base, instruct, chosen)
    assert [change.variant for change in outcome.record.changes] == list(map(variant_name, chosen))
    for variant, weight in zip(chosen, outcome.weights, strict=True):
        assert torch.equal(weight, expected[variant_name(variant)]), variant


def assert_states_what_is_found(
    outcome: Outcome, base: torch.Tensor, instruct: torch.Tensor, variants: list[AnyVariant]
) -> None:
    """Every number of a record against the same number computed in float64 from the oracle."""
    record, after = outcome.record, instruct.double().numpy()
    whole = float(np.linalg.norm(after))
    difference = float(np.linalg.norm(after - base.double().numpy()))
    assert record.instruct_norm == pytest.approx(whole, rel=1e-6)
    assert record.delta_norm == pytest.approx(difference, rel=1e-6)
    for variant, weight, change in zip(variants, outcome.weights, record.changes, strict=True):
        exact = consult(base, instruct, variant)
        correction = float(np.linalg.norm(exact.weight - after))
        rounding = float(np.linalg.norm(weight.double().numpy() - exact.weight))
        assert change.correction == pytest.approx(correction / whole, rel=1e-5, abs=1e-15)
        if correction == 0.0:
            assert change.rounding is None
        elif rounding > 1e-9 * whole:  # below, what is rounded is no longer the oracle's weight
            assert change.rounding == pytest.approx(rounding / correction, rel=1e-5)
        changed = int((weight.double().numpy() != after).sum())
        assert change.changed == changed / after.size
        kept = None if exact.gains is None else int((exact.gains == 1.0).sum())
        assert change.kept == kept


@pytest.mark.parametrize(("route", "dtype"), ROUTES)
@pytest.mark.parametrize("shape", [TALL, WIDE])
def test_a_record_states_what_a_direct_computation_finds(
    pairs: Any,
    shape: tuple[int, int],
    route: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lead_to(route, monkeypatch)
    stream(monkeypatch)
    base, instruct = pairs.noise(*shape, seed=2, dtype=dtype)
    outcome = refined(base, instruct)
    assert outcome.record.route == route
    assert_states_what_is_found(outcome, base, instruct, VARIANTS)


@pytest.mark.parametrize("variants", [VARIANTS, [Merge(mu=0.5), Merge(mu=1.0), Merge(mu=0.0)]])
@pytest.mark.parametrize(
    ("dtype", "out_dtype"), [(BF16, F32), (F32, BF16), (F16, BF16), (F64, F32)]
)
def test_a_record_of_weights_in_another_dtype_states_what_a_direct_computation_finds(
    pairs: Any, variants: list[AnyVariant], dtype: torch.dtype, out_dtype: torch.dtype
) -> None:
    base, instruct = pairs.noise(*TALL, seed=6, dtype=dtype)
    outcome = refined(base, instruct, variants, out_dtype)
    assert all(weight.dtype == out_dtype for weight in outcome.weights)
    assert_states_what_is_found(outcome, base, instruct, variants)


@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e15, 1e30])
@pytest.mark.parametrize("dtype", [BF16, F32])
def test_a_record_of_tiny_and_huge_weights_states_what_a_direct_computation_finds(
    pairs: Any, dtype: torch.dtype, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead_to("float32", monkeypatch)
    base, instruct = (weight * size for weight in pairs.noise(*TALL, seed=7, dtype=dtype))
    outcome = refined(base, instruct)
    assert_states_what_is_found(outcome, base, instruct, VARIANTS)


def test_merges_alone_read_every_row_once(pairs: Any) -> None:
    base, instruct = pairs.noise(*TALL, seed=8)
    outcome = refined(base, instruct, [Merge(mu=0.3), Merge(mu=0.0), Merge(mu=1.0)])
    assert outcome.base.times() == outcome.instruct.times() == {1}
    assert outcome.base.largest() <= 7 * 60


def test_a_delta_of_zeros_is_written_once_for_every_method(pairs: Any) -> None:
    base, _ = pairs.noise(*TALL, seed=8)
    outcome = refined(base, base.clone())
    assert all(torch.equal(weight, base) for weight in outcome.weights)
    assert outcome.record.route == "zero delta"


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("row", [0, 150, 329])
@pytest.mark.parametrize("variant", [TimberL(), TruncateRank(ratio=0.9), Merge(mu=0.5)])
def test_a_value_too_large_for_another_dtype_is_refused_wherever_it_is(
    pairs: Any, variant: AnyVariant, row: int, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not held:
        stream(monkeypatch)
    base, instruct = pairs.noise(*TALL, seed=9)
    base[row, 7], instruct[row, 7] = 1e6, 1.01e6
    with pytest.raises(InputError, match="values overflow float16, expected them to fit"):
        refined(base, instruct, [variant], F16)


@pytest.mark.parametrize("variant", [TimberL(), Merge(mu=0.5)])
def test_values_at_the_end_of_the_number_range_are_written(variant: AnyVariant) -> None:
    largest = float(torch.finfo(F16).max)
    instruct = torch.full((12, 6), largest, dtype=F32)
    instruct[:, 0] = torch.linspace(0.5, 1.0, 12) * largest
    base = instruct * 0.75
    outcome = refined(base, instruct, [variant], F16)
    assert bool(torch.isfinite(outcome.weights[0]).all())


@pytest.mark.parametrize("held", [True, False])
def test_the_same_blocks_are_written_for_every_method(
    pairs: Any, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not held:
        stream(monkeypatch)
    outcome = refined(*pairs.noise(*TALL, seed=10))
    for first, second in itertools.pairwise(outcome.sinks):
        assert first.blocks == second.blocks
    assert outcome.sinks[0].blocks == [7 * 60] * 47 + [60]


def test_size_of_blocks_changes_no_rounded_element_beyond_the_promise(
    pairs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, instruct = pairs.noise(*TALL, seed=11)
    for elements in (1, 60, 1000, 1 << 19):
        monkeypatch.setattr(delta_module, "ROW_BLOCK_ELEMENTS", elements)
        assert_agrees(refined(base, instruct), base, instruct)


def test_changes_are_listed_one_for_each_method(pairs: Any) -> None:
    record = refined(*pairs.noise(*TALL, seed=12)).record
    assert len(record.changes) == len(VARIANTS)
    assert all(isinstance(change, ChangeRecord) for change in record.changes)
    assert (record.rows, record.columns) == TALL
