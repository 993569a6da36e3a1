"""Noise level, edge, shrinkage: what is planted is found, bounds hold, the optimum is one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from timberkit.config import MpCut, Shrink
from timberkit.spectral.denoise import (
    NoiseLevel,
    count_above_edge,
    noise_level,
    shrinkage,
    shrinkage_error,
)
from timberkit.spectral.filters import Spectrum, gains
from timberkit.spectral.null import measure_bulk

MANY = settings(max_examples=150, deadline=None, derandomize=True)


def zeros(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.zeros_like(values)


def spiked(
    shape: tuple[int, int], spikes: list[float], sigma: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Signal of low rank, and signal plus noise; spikes in units of ``sigma sqrt(N)``."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((side, len(spikes))))[0] for side in shape)
    signal = (left * (np.array(spikes) * sigma * math.sqrt(max(shape)))) @ right.T
    return signal, signal + sigma * rng.standard_normal(shape)


@pytest.mark.parametrize("shape", [(400, 400), (600, 200), (200, 600)])
@pytest.mark.parametrize("sigma", [1e-3, 2.0])
def test_level_and_edge_of_planted_noise_are_found_despite_spikes(
    shape: tuple[int, int], sigma: float
) -> None:
    _, noisy = spiked(shape, [20.0, 6.0, 3.0], sigma, seed=1)
    values = np.linalg.svd(noisy, compute_uv=False)
    level = noise_level(values, zeros(values), shape)
    assert level.value == pytest.approx(sigma, rel=0.02)
    assert level.certain
    bulk = measure_bulk(values, *shape)
    assert level.value == pytest.approx(bulk.noise_scale, rel=1e-12)
    assert level.edge == pytest.approx(bulk.edge, rel=1e-12)
    assert count_above_edge(values, zeros(values), level) == (3, True)


def test_shrinkage_is_the_formula_of_its_source() -> None:
    shape, sigma = (50, 80), 0.3
    level = NoiseLevel(shape, sigma, 0.0, True)
    values = np.linspace(10.0, 0.0, 50)
    beta = 50 / 80
    for value, gain in zip(values, shrinkage(values, level), strict=True):
        y = value / (sigma * math.sqrt(80))
        if y <= 1 + math.sqrt(beta):
            assert gain == 0.0
        else:
            eta = math.sqrt((y * y - beta - 1) ** 2 - 4 * beta) / y
            assert gain == pytest.approx(eta / y, rel=1e-9)


@pytest.mark.parametrize("shape", [(300, 300), (400, 150)])
def test_shrinking_comes_closer_to_the_signal_than_any_cut_and_than_scaled_gains(
    shape: tuple[int, int],
) -> None:
    signal, noisy = spiked(shape, [8.0, 3.0, 2.0, 1.4], sigma=1.0, seed=2)
    left, values, right = np.linalg.svd(noisy, full_matrices=False)
    found = gains(Shrink(), Spectrum.exact(values, shape)).values

    def loss(gain: NDArray[np.float64]) -> float:
        return float(np.linalg.norm((left * (gain * values)) @ right - signal))

    best = loss(found)
    assert best < loss(np.ones_like(values))
    for kept in range(8):
        assert best < loss(np.arange(values.size) < kept)
    for factor in (0.9, 1.1):
        assert best < loss(np.where(found > 0, found * factor, 0.0))


def test_gains_grow_with_the_value_and_stay_in_the_unit_interval() -> None:
    level = NoiseLevel((64, 64), 0.1, 0.0, True)
    values = np.concatenate([[1e300, 1e150, 1e9], np.linspace(9.0, 0.0, 200)])
    found = shrinkage(values, level)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) <= 0).all()
    assert found[0] == 1.0
    assert found[-1] == 0.0


@pytest.mark.parametrize("method", [MpCut(lam=0.2), Shrink()])
def test_a_delta_without_noise_is_kept_and_one_without_anything_too(method: MpCut | Shrink) -> None:
    low_rank = np.array([3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1e-12])
    found = gains(method, Spectrum.exact(np.sort(low_rank)[::-1], (8, 8)))
    assert found.values[:3].tolist() == [1.0, 1.0, 1.0]
    assert found.certain
    assert gains(method, Spectrum.exact(np.zeros(3), (3, 5))).values.tolist() == [1.0, 1.0, 1.0]


def test_pure_noise_keeps_next_to_nothing() -> None:
    values = np.linalg.svd(np.random.default_rng(0).standard_normal((300, 200)), compute_uv=False)
    assert (gains(MpCut(lam=0.3), Spectrum.exact(values, (300, 200))).values == 1.0).sum() <= 1
    assert gains(Shrink(), Spectrum.exact(values, (300, 200))).values.max() < 0.3


@pytest.mark.parametrize("method", [MpCut(), Shrink()])
def test_the_shape_has_to_be_known(method: MpCut | Shrink) -> None:
    with pytest.raises(ValueError, match="without a shape"):
        gains(method, Spectrum.exact(np.array([2.0, 1.0])))


def test_whether_there_is_noise_at_all_is_in_doubt_next_to_the_floor() -> None:
    values = np.array([1.0, 0.5, 2e-7, 1e-7, 1e-7])
    for error, certain in ((1e-12, True), (2e-7, False)):
        for method in (MpCut(), Shrink()):
            found = gains(method, Spectrum(values, np.full(5, error), (5, 5)))
            assert found.certain is certain


spectra = st.lists(
    st.one_of(st.floats(0.05, 1.0), st.floats(-9.0, 0.0).map(lambda x: 10.0**x), st.just(0.0)),
    min_size=2,
    max_size=14,
).map(lambda found: np.sort([1.0, *found])[::-1])


@MANY
@given(
    values=spectra,
    exponent=st.floats(-12.0, -2.0),
    pushes=st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=15),
    longer=st.integers(0, 30),
)
def test_what_is_certain_and_bounded_holds_for_every_spectrum_within_the_errors(
    values: NDArray[np.float64], exponent: float, pushes: list[float], longer: int
) -> None:
    shape = (values.size, values.size + longer)
    errors = np.full(values.size, 10.0**exponent)
    cut, shrunk = (gains(method, Spectrum(values, errors, shape)) for method in (MpCut(), Shrink()))
    for sign in (1.0, -1.0):
        for push in (np.resize(pushes, values.size), np.ones(values.size)):
            moved = np.sort(np.maximum(values + sign * push * errors, 0.0))[::-1]
            exact = Spectrum.exact(moved, shape)
            if cut.certain:
                np.testing.assert_array_equal(gains(MpCut(), exact).values, cut.values)
            if shrunk.certain:
                other = gains(Shrink(), exact).values
                distance = float(np.linalg.norm((other - shrunk.values) * values))
                assert distance <= shrunk.error * (1 + 1e-9) + 1e-15


def test_an_exact_spectrum_has_no_error() -> None:
    values = np.array([3.0, 1.0, 0.9])
    level = noise_level(values, zeros(values), (3, 4))
    assert shrinkage_error(values, zeros(values), level) == 0.0
