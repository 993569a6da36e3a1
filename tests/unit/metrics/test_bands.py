"""Counts against known chances: the level that is promised, and what the band notices."""

from __future__ import annotations

import numpy as np
import pytest

from timberkit.metrics import binomial_band, pass_at_k
from timberkit.metrics.distributions import binomial


@pytest.mark.parametrize("level", [0.5, 0.9, 0.999])
@pytest.mark.parametrize(("problems", "n"), [(1, 8), (20, 32), (100, 128)])
def test_all_counts_lie_inside_at_least_as_often_as_promised(
    problems: int, n: int, level: float
) -> None:
    p = np.random.default_rng(0).beta(0.4, 1.0, problems)
    band = binomial_band(n, p, level=level)
    inside = [
        binomial(n, chance)[low : high + 1].sum()
        for chance, low, high in zip(p, band.low, band.high, strict=True)
    ]
    # The other half of the error is for the sum.
    assert np.prod(inside) >= 1 - (1 - level) / 2


def test_counts_that_agree_are_held_in_999_of_1000_runs() -> None:
    rng = np.random.default_rng(1)
    p = rng.beta(0.4, 1.0, 50)
    band = binomial_band(64, p, level=0.999)
    held = sum(band.holds(rng.binomial(64, p)) for _ in range(2000))
    assert held >= 1993
    loose = binomial_band(64, p, level=0.5)
    assert 0.5 <= sum(loose.holds(rng.binomial(64, p)) for _ in range(500)) / 500 <= 0.8


def test_one_problem_far_off_is_named() -> None:
    p = np.full(20, 0.3)
    c = np.full(20, 10)
    c[7] = 30
    band = binomial_band(32, p)
    assert band.outside(c) == [7]
    assert not band.holds(c)
    assert band.holds(np.full(20, 10))


def test_a_small_bias_that_all_problems_share_shows_in_their_sum() -> None:
    p = np.full(100, 0.3)
    c = np.full(100, round(128 * 0.34))
    band = binomial_band(128, p)
    assert band.outside(c) == []
    assert not band.holds(c)


def test_impossible_and_certain_problems_allow_nothing_else() -> None:
    band = binomial_band([16, 16, 0], [0.0, 1.0, 0.5])
    assert (band.low.tolist(), band.high.tolist()) == ([0, 16, 0], [0, 16, 0])
    assert (band.total_low, band.total_high) == (16, 16)
    assert band.holds([0, 16, 0])
    assert not band.holds([1, 16, 0])
    assert binomial_band(16, [1e-300, 1 - 2.0**-53]).low.tolist() == [0, 16]


def test_the_band_of_counts_is_one_of_pass_at_k_for_every_k() -> None:
    rng = np.random.default_rng(2)
    p = rng.random(30)
    c = rng.binomial(32, p)
    band = binomial_band(32, p)
    ks = [1, 4, 16, 32]
    low, found, high = (pass_at_k(32, counts, ks) for counts in (band.low, c, band.high))
    assert band.holds(c)
    assert ((low <= found) & (found <= high)).all()


def test_what_does_not_pair_up_is_refused() -> None:
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        binomial_band(8, [1.5])
    with pytest.raises(ValueError, match="level"):
        binomial_band(8, [0.5], level=1.0)
    with pytest.raises(ValueError, match="same shape"):
        binomial_band([8, 8], [0.5])
    with pytest.raises(ValueError, match="found shape"):
        binomial_band(8, [0.5, 0.5]).holds([1])
