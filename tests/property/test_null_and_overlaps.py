"""What holds of every shape of noise, every basis and every spectrum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timberkit.spectral.null import (
    largest_of_noise,
    measure_bulk,
    noise_edge,
    noise_null,
    noise_quantiles,
    noise_values,
)
from timberkit.spectral.rank import effective_rank
from timberkit.spectral.subspaces import overlaps

SIDES = st.integers(1, 5000)
SMALL = st.integers(1, 24)


@given(SIDES, SIDES)
@settings(deadline=None)
def test_the_null_lies_between_square_and_flat_noise(rows: int, columns: int) -> None:
    found = noise_null(rows, columns)
    assert found == noise_null(columns, rows)
    assert 0.80504 <= found.ratio <= 1.0
    assert 0.0 <= found.tail_energy <= 0.011
    assert noise_edge(rows, columns) <= largest_of_noise(rows, columns)


@given(st.integers(40, 3000), st.integers(40, 3000))
@settings(deadline=None, max_examples=30)
def test_the_null_is_the_effective_rank_of_its_own_quantiles(rows: int, columns: int) -> None:
    values = noise_values(rows, columns)
    r = min(rows, columns)
    assert effective_rank(values) / r == pytest.approx(noise_null(rows, columns).ratio, abs=2e-3)
    assert float(np.square(values).sum()) == pytest.approx(rows * columns, rel=1e-2)


@given(SIDES, SIDES, st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(deadline=None)
def test_quantiles_fall_with_their_share_and_stay_in_the_bulk(
    rows: int, columns: int, shares: list[float]
) -> None:
    values = noise_quantiles(rows, columns, sorted(shares))
    edge = noise_edge(rows, columns)
    assert (np.diff(values) <= 1e-9 * edge).all()
    assert (values <= edge * (1 + 1e-12)).all()
    assert (values >= abs(np.sqrt(rows) - np.sqrt(columns)) * (1 - 1e-9) - 1e-6).all()


@given(SMALL, SMALL, st.integers(0, 2**32 - 1), st.sampled_from([1e-200, 1e-3, 1.0, 1e200]))
@settings(deadline=None)
def test_the_bulk_knows_no_unit(rows: int, columns: int, seed: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    values = np.sort(rng.exponential(size=min(rows, columns)) ** 3)[::-1]
    expected, found = (measure_bulk(values * u, rows, columns) for u in (1.0, unit))
    assert found.spikes == expected.spikes < max(2, 0.5 * values.size + 1)
    assert 0.0 <= found.energy_outside <= 1.0
    assert found.noise_scale == pytest.approx(expected.noise_scale * unit, rel=1e-9)


@given(st.integers(1, 20), st.integers(0, 2**32 - 1), st.data())
@settings(deadline=None)
def test_overlaps_are_symmetric_bounded_and_know_no_basis(
    side: int, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    first, second = (np.linalg.qr(rng.standard_normal((side, side)))[0] for _ in range(2))
    k = data.draw(st.integers(1, side))
    found = overlaps(first, second, [k])[0]
    assert 0.0 <= found.smallest_cosine**2 <= found.overlap + 1e-9 <= 1.0 + 1e-9
    assert found.chance == k / side
    # Two subspaces of more than half of the dimensions cannot avoid each other.
    assert found.overlap >= max(0.0, 2 - side / k) - 1e-9
    turn = np.linalg.qr(rng.standard_normal((k, k)))[0]
    for other in (overlaps(second, first, [k])[0], overlaps(first[:, :k] @ turn, second, [k])[0]):
        assert other.overlap == pytest.approx(found.overlap, abs=1e-12)
        assert other.smallest_cosine == pytest.approx(found.smallest_cosine, abs=1e-7)
