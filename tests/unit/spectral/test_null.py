"""The Marchenko-Pastur law: its closed forms, its edges, and where a spectrum leaves it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad

from timberkit.spectral import null
from timberkit.spectral.null import (
    largest_of_noise,
    measure_bulk,
    noise_edge,
    noise_null,
    noise_quantiles,
    noise_values,
)

SHAPES = [(400, 400), (300, 400), (200, 400), (64, 128), (100, 1000), (30, 3000)]


def share_above(rows: int, columns: int, value: float) -> float:
    """The law's density of ``x = s / sqrt(N)`` integrated numerically."""
    beta = min(rows, columns) / max(rows, columns)
    low, high = 1 - math.sqrt(beta), 1 + math.sqrt(beta)

    def density(x: float) -> float:
        inside = max((high**2 - x**2) * (x**2 - low**2), 0.0)
        return math.sqrt(inside) / (math.pi * beta * x) if x > 0 else 0.0

    start = max(value / math.sqrt(max(rows, columns)), low)
    return float(quad(density, start, high, limit=500)[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_quantiles_invert_the_law(shape: tuple[int, int], share: float) -> None:
    value = float(noise_quantiles(*shape, share))
    assert share_above(*shape, value) == pytest.approx(share, abs=1e-7)


@pytest.mark.parametrize(
    ("shape", "ratio"),
    [
        ((4096, 4096), 0.8050413),
        ((3072, 4096), 0.8760231),
        ((2048, 4096), 0.9260528),
        ((256, 1024), 0.9662225),
    ],
)
def test_ratio_does_not_depend_on_size_or_orientation(shape: tuple[int, int], ratio: float) -> None:
    for found in (noise_null(*shape), noise_null(shape[1], shape[0])):
        assert found.ratio == pytest.approx(ratio, abs=1e-7)
    assert noise_null(*(2 * side for side in shape)).ratio == noise_null(*shape).ratio


def test_quadrature_is_good_to_nine_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = noise_null(777, 777).ratio
    monkeypatch.setattr(null, "NODES", 2400)
    null._quadrature.cache_clear()
    noise_null.cache_clear()
    try:
        assert noise_null(777, 777).ratio == pytest.approx(expected, abs=1e-9)
    finally:
        null._quadrature.cache_clear()
        noise_null.cache_clear()


@pytest.mark.parametrize("shape", SHAPES)
def test_tail_energy_is_that_of_the_quantiles_after_the_cut(shape: tuple[int, int]) -> None:
    scale = 40  # the law itself has no size: many quantiles stand for it
    rows, columns = (scale * side for side in shape)
    energy = np.square(noise_values(rows, columns))
    cut = math.ceil(noise_null(*shape).ratio * min(shape))
    expected = energy[scale * cut :].sum() / energy.sum()
    assert noise_null(*shape).tail_energy == pytest.approx(expected, rel=2e-3, abs=1e-7)


def test_edges_and_median_of_square_and_flat_noise() -> None:
    assert float(noise_quantiles(100, 100, 0.0)) == noise_edge(100, 100) == 20.0
    assert float(noise_quantiles(100, 100, 1.0)) == 0.0
    assert float(noise_quantiles(4, 10_000, 1.0)) == pytest.approx(98.0)
    assert float(noise_quantiles(4, 10_000, 0.5)) == pytest.approx(100.0, rel=1e-3)
    values = noise_values(50, 70)
    assert values.shape == (50,)
    assert (np.diff(values) < 0).all()


def test_a_single_row_has_one_direction() -> None:
    assert noise_null(1, 1) == noise_null(1, 9) == noise_null(9, 1)
    assert noise_null(9, 1).ratio == 1.0
    assert noise_null(9, 1).tail_energy == 0.0


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (-1, 3)])
def test_sides_below_one_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="sides of at least 1"):
        noise_null(*shape)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_shares_outside_zero_and_one_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        noise_quantiles(3, 3, share)


def gaussian(rows: int, columns: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((rows, columns))


@pytest.mark.parametrize("shape", [(150, 300), (200, 200), (300, 150)])
@pytest.mark.parametrize("scale", [1e-6, 0.02, 3.0])
def test_bulk_of_noise_has_its_scale_and_no_spikes(shape: tuple[int, int], scale: float) -> None:
    values = np.linalg.svd(scale * gaussian(*shape, seed=1), compute_uv=False)
    found = measure_bulk(values, *shape)
    assert found.noise_scale == pytest.approx(scale, rel=0.02)
    assert found.edge == pytest.approx(found.noise_scale * noise_edge(*shape), rel=1e-12)
    assert (found.spikes, found.energy_outside) == (0, 0.0)
    assert values[0] < found.noise_scale * largest_of_noise(*shape)


@pytest.mark.parametrize("count", [1, 3, 20])
def test_values_at_the_ends_of_the_number_range_keep_their_bulk(count: int) -> None:
    values = np.sort(np.abs(gaussian(1, 60, seed=count)[0]))[::-1].copy()
    values[:count] += 200
    expected = measure_bulk(values, 60, 60)
    for unit in (1e-250, 1e250):
        found = measure_bulk(values * unit, 60, 60)
        assert found.spikes == expected.spikes >= count
        assert found.noise_scale == pytest.approx(expected.noise_scale * unit)
        assert found.energy_outside == pytest.approx(expected.energy_outside)


def test_without_noise_everything_that_is_not_rounding_stands_outside() -> None:
    values = np.array([5.0, 3.0, 1.0, *[1e-9] * 17])
    found = measure_bulk(values, 20, 30)
    assert (found.noise_scale, found.edge, found.spikes) == (0.0, 0.0, 3)
    assert found.energy_outside == 1.0


def test_zeros_have_no_bulk() -> None:
    found = measure_bulk(np.zeros(4), 4, 9)
    assert (found.noise_scale, found.edge, found.spikes, found.energy_outside) == (0, 0, 0, 0)
