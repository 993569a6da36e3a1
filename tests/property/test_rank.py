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


def effective_ranks(spectra: NDArray[np.float64]) -> NDArray[np.float64]:
    """Effective rank of every row; the definition without care for extreme units."""
    shares = spectra / spectra.sum(axis=1, keepdims=True)
    logarithms = np.log(np.where(shares > 0, shares, 1.0))
    return np.asarray(np.exp(-(shares * logarithms).sum(axis=1)))


def slopes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Derivative of the entropy by every value, up to a positive factor."""
    shares = np.maximum(values / values.sum(), 1e-300)
    return np.asarray(-np.log(shares) - np.log(effective_rank(values)))


def random_case(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A spectrum over up to 16 decades, zeros among it, and errors from tiny to as large as it."""
    r = int(rng.integers(1, 9))
    values = 10.0 ** rng.uniform(-rng.choice([0.5, 3.0, 16.0]), 0.0, r)
    values[rng.random(r) < 0.15] = 0.0
    values[rng.integers(r)] = 1.0
    errors = 10.0 ** rng.uniform(-14.0, rng.choice([-6.0, -2.0, 0.0]), r)
    if rng.random() < 0.3:
        errors[:] = errors[0]
    errors[rng.random(r) < rng.choice([0.0, 0.5])] = 0.0
    return values, errors


def test_twenty_thousand_random_perturbations_within_the_errors_stay_within_the_bound() -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        values, errors = random_case(rng)
        # Random ones, corners, and both corners that move the entropy most at first order.
        signs = rng.uniform(-1.0, 1.0, (20, values.size))
        signs[:10] = np.sign(signs[:10])
        signs[0] = np.sign(slopes(values))
        signs[1] = -signs[0]
        moved = np.maximum(values + errors * signs, 0.0)
        moved = moved[moved.any(axis=1)]
        change = np.abs(effective_ranks(moved) - effective_rank(values))
        bound = effective_rank_error(values, errors)
        assert (change <= bound + 1e-13 * values.size).all(), (values, errors)


def test_the_bound_of_small_errors_is_what_the_worst_signs_reach() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        values = rng.uniform(0.1, 1.0, int(rng.integers(2, 40)))
        errors = 1e-6 * rng.uniform(0.0, 1.0, values.size)
        signs = np.sign(slopes(values))
        worst = max(
            abs(effective_rank(values + sign * errors * signs) - effective_rank(values))
            for sign in (1.0, -1.0)
        )
        assert worst <= effective_rank_error(values, errors) <= 1.001 * worst + 1e-12


def test_the_bound_of_values_that_may_be_zero_is_not_far_above_what_they_reach() -> None:
    # p ln p is steepest at zero: there the bound could be a hundred times too wide.
    for share, error in ((0.0, 1e-9), (1e-12, 1e-9), (1e-9, 1e-9), (0.0, 1e-4), (0.0, 1e-15)):
        values = np.array([1.0, 0.5, share, share])
        errors = np.array([0.0, 0.0, error, error])
        reached = effective_rank(values + errors) - effective_rank(values)
        assert reached <= effective_rank_error(values, errors) * (1 + 1e-3) + 1e-14
        assert effective_rank_error(values, errors) <= 1.3 * reached + 1e-14
