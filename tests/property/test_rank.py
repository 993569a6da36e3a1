"""Effective rank over random spectra: invariances, range, and an error bound that bounds."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from timberkit.spectral.rank import (
    effective_rank,
    effective_rank_cut,
    effective_rank_error,
    energy_share,
)

MANY = settings(max_examples=80, deadline=None, derandomize=True)

sizes = st.one_of(
    st.floats(1e-20, 10.0), st.floats(-16.0, 0.0).map(lambda x: 10.0**x), st.just(0.0)
)
spectra = st.lists(sizes, min_size=1, max_size=20).map(np.array)


@MANY
@given(spectra)
def test_effective_rank_lies_between_one_and_r(values: NDArray[np.float64]) -> None:
    found = effective_rank(values)
    if not values.any():
        assert found == 0.0
        assert effective_rank_cut(values) == 0
    else:
        assert 1.0 <= found <= values.size
        assert 1 <= effective_rank_cut(values) <= values.size
        assert effective_rank_cut(values) <= np.count_nonzero(values)


@MANY
@given(spectra, st.floats(-200.0, 200.0), st.randoms(use_true_random=False))
def test_scale_and_order_change_nothing(
    values: NDArray[np.float64], exponent: float, random: np.random.RandomState
) -> None:
    expected = effective_rank(values)
    shuffled = values.tolist()
    random.shuffle(shuffled)
    assert np.isclose(effective_rank(shuffled), expected, rtol=1e-12, atol=0)
    assert np.isclose(effective_rank(values * 10.0**exponent), expected, rtol=1e-11, atol=0)
    power = values * 2.0 ** int(exponent)
    assert effective_rank(power) == expected


@MANY
@given(spectra, st.integers(1, 20))
def test_appended_zeros_change_nothing(values: NDArray[np.float64], zeros: int) -> None:
    longer = np.concatenate([values, np.zeros(zeros)])
    assert np.isclose(effective_rank(longer), effective_rank(values), rtol=1e-15, atol=0)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(spectra, st.floats(-15.0, -1.0), st.data())
def test_perturbation_within_the_errors_stays_within_the_bound(
    values: NDArray[np.float64], exponent: float, data: st.DataObject
) -> None:
    assume(values.any())
    relative = data.draw(st.lists(st.sampled_from([0.0, 0.1, 1.0]), min_size=len(values)))
    signs = data.draw(st.lists(st.floats(-1.0, 1.0), min_size=len(values)))
    errors = 10.0**exponent * values.max() * np.array(relative[: len(values)])
    moved = np.maximum(values + errors * np.array(signs[: len(values)]), 0.0)
    assume(moved.any())
    change = abs(effective_rank(moved) - effective_rank(values))
    assert change <= effective_rank_error(values, errors) + 1e-13 * values.size


@MANY
@given(spectra, st.integers(0, 40))
def test_energy_share_grows_with_the_head_from_zero_to_one(
    values: NDArray[np.float64], head: int
) -> None:
    descending = np.sort(values)[::-1]
    low, high = energy_share(descending, head), energy_share(descending, head + 1)
    assert 0.0 <= low <= 1.0
    assert 0.0 <= high <= 1.0
    assert low <= high + 1e-15
    assert np.isclose(energy_share(descending, values.size), 1.0, rtol=1e-15)
