"""The noise curve against sampled noise, and against the closed forms of the spectral room."""

from __future__ import annotations

import numpy as np
import pytest

from timberkit.report.null_curve import null_singular_values
from timberkit.spectral.null import noise_null

SHAPES = [(300, 300), (600, 300), (300, 600), (900, 300)]


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_curve_is_that_of_sampled_noise(rows: int, columns: int) -> None:
    r = min(rows, columns)
    noise = np.random.default_rng(0).standard_normal((4, rows, columns)) * 0.5
    sampled = np.linalg.svd(noise, compute_uv=False).mean(axis=0)
    curve = null_singular_values(rows, columns, noise_scale=0.5, positions=range(1, r + 1))
    # The least values of a square matrix are a law of their own.
    inner = slice(0, r - r // 10)
    np.testing.assert_allclose(curve[inner], sampled[inner], rtol=0.03)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_its_effective_rank_is_the_null_of_the_measurements(rows: int, columns: int) -> None:
    r = min(rows, columns)
    curve = null_singular_values(rows, columns, noise_scale=1.0, positions=range(1, r + 1))
    shares = curve / curve.sum()
    ratio = np.exp(-(shares * np.log(shares)).sum()) / r
    assert ratio == pytest.approx(noise_null(rows, columns).ratio, abs=1e-3)


def test_curve_falls_and_scales_with_the_noise() -> None:
    curve = null_singular_values(50, 20, noise_scale=2.0, positions=range(1, 21))
    assert (np.diff(curve) < 0).all()
    half = null_singular_values(50, 20, noise_scale=1.0, positions=range(1, 21))
    np.testing.assert_allclose(curve, 2 * half)


def test_a_single_row_and_no_noise_at_all_have_a_curve() -> None:
    assert null_singular_values(1, 5, noise_scale=1.0, positions=[1])[0] > 0
    assert null_singular_values(4, 4, noise_scale=0.0, positions=[1, 4]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("place", [0, 5])
def test_places_outside_the_spectrum_are_refused(place: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 4"):
        null_singular_values(4, 9, noise_scale=1.0, positions=[place])
