"""The null against sampled noise, and the bulk against planted spikes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from timberkit.spectral.null import measure_bulk, noise_edge, noise_null, noise_values
from timberkit.spectral.rank import effective_rank, energy_share

SAMPLED = [(400, 400), (300, 400), (400, 200), (64, 128), (128, 128), (100, 900), (16, 500)]


def sampled(shape: tuple[int, int], seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng([seed, *shape])
    return np.linalg.svd(rng.standard_normal(shape), compute_uv=False)


@pytest.mark.parametrize("shape", SAMPLED)
def test_null_is_what_sampled_noise_shows(shape: tuple[int, int]) -> None:
    r = min(shape)
    spectra = [sampled(shape, seed) for seed in range(8)]
    null = noise_null(*shape)
    ratio = np.mean([effective_rank(values) / r for values in spectra])
    # Finite sides cost noise up to 0.3 directions at equal sides, and less otherwise.
    assert -1e-3 <= null.ratio - ratio <= 0.35 / r + 1e-3
    cut = math.ceil(null.ratio * r)
    tail = np.mean([1 - energy_share(values, cut) for values in spectra])
    assert null.tail_energy == pytest.approx(tail, rel=0.15, abs=2e-4)


@pytest.mark.parametrize("shape", [(300, 400), (200, 800)])
def test_quantiles_are_the_singular_values_of_sampled_noise(shape: tuple[int, int]) -> None:
    values = np.mean([sampled(shape, seed) for seed in range(8)], axis=0)
    assert np.abs(values - noise_values(*shape)).max() < 0.02 * noise_edge(*shape)


def test_pure_noise_hardly_ever_shows_a_spike() -> None:
    shape = (40, 60)
    found = [measure_bulk(sampled(shape, seed), *shape).spikes for seed in range(300)]
    assert sum(found) <= 6


@pytest.mark.parametrize("shape", [(200, 300), (256, 256), (400, 120)])
@pytest.mark.parametrize("count", [1, 5, 25])
def test_planted_spikes_are_counted_and_the_bulk_keeps_its_scale(
    shape: tuple[int, int], count: int
) -> None:
    rng = np.random.default_rng([count, *shape])
    scale = 1e-3
    edge = scale * noise_edge(*shape)
    left, right = (np.linalg.qr(rng.standard_normal((side, count)))[0] for side in shape)
    planted = edge * np.linspace(8.0, 2.0, count)
    matrix = scale * rng.standard_normal(shape) + (left * planted) @ right.T
    values = np.linalg.svd(matrix, compute_uv=False)
    found = measure_bulk(values, *shape)
    assert found.spikes == count
    # A spike above the median moves it by one rank: the scale grows by about count / r.
    assert found.noise_scale == pytest.approx(scale, rel=0.02 + 1.2 * count / min(shape))
    assert found.energy_outside == pytest.approx(energy_share(values, count), rel=1e-9)
    assert found.edge == pytest.approx(found.noise_scale * noise_edge(*shape))


def test_a_spike_inside_the_bulk_cannot_be_seen() -> None:
    shape, scale = (200, 300), 1.0
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((side, 1)))[0] for side in shape)
    matrix = scale * rng.standard_normal(shape) + 0.3 * noise_edge(*shape) * left @ right.T
    assert measure_bulk(np.linalg.svd(matrix, compute_uv=False), *shape).spikes == 0
