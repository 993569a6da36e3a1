"""Binomial, hypergeometric and sums, against exact fractions."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest

from timberkit.metrics.distributions import binomial, hypergeometric, sum_of_binomials


@pytest.mark.parametrize("n", [0, 1, 2, 17, 300])
@pytest.mark.parametrize("p", [0.0, 2.0**-60, 0.125, 0.5, 0.999755859375, 1.0])
def test_binomial_chances_keep_their_digits_in_the_tails(n: int, p: float) -> None:
    exact = Fraction(p)
    expected = [float(comb(n, c) * exact**c * (1 - exact) ** (n - c)) for c in range(n + 1)]
    np.testing.assert_allclose(binomial(n, p), expected, rtol=1e-12, atol=1e-290)


def test_the_smallest_chances_there_are_neither_overflow_nor_vanish() -> None:
    for p in (1e-300, 5e-324):
        assert binomial(300, p)[:3].tolist() == [1.0, pytest.approx(300 * p, rel=1e-12), 0.0]
    assert binomial(300, 1 - 2.0**-53)[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("n", "c", "k"),
    [(1, 0, 1), (1, 1, 1), (5, 2, 3), (12, 7, 12), (40, 0, 3), (40, 40, 3), (900, 450, 300)],
)
def test_hypergeometric_chances_keep_their_digits_in_the_tails(n: int, c: int, k: int) -> None:
    expected = [float(Fraction(comb(c, j) * comb(n - c, k - j), comb(n, k))) for j in range(k + 1)]
    np.testing.assert_allclose(hypergeometric(n, c, k), expected, rtol=1e-11, atol=1e-290)


def test_a_sum_of_equal_chances_is_one_binomial() -> None:
    start, found = sum_of_binomials(np.array([3, 0, 7]), np.array([0.3, 0.9, 0.3]))
    assert start == 0
    np.testing.assert_allclose(found, binomial(10, 0.3), atol=1e-14)


@pytest.mark.parametrize("n", [[0], [1], [2, 3], [4, 1, 7, 2]])
def test_a_sum_is_the_convolution_of_its_parts(n: list[int]) -> None:
    p = np.random.default_rng(0).random(len(n))
    expected = np.ones(1)
    for rollouts, chance in zip(n, p.tolist(), strict=True):
        expected = np.convolve(expected, binomial(rollouts, chance))
    start, found = sum_of_binomials(np.array(n), p)
    assert start == 0
    np.testing.assert_allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize("p", [1e-7, 0.01, 0.5, 0.9])
def test_a_sum_of_very_many_is_known_where_it_can_lie(p: float) -> None:
    start, found = sum_of_binomials(np.array([50_000, 50_000]), np.array([p, p]))
    expected = binomial(100_000, p)
    assert found.size < 4000
    np.testing.assert_allclose(found, expected[start : start + found.size], atol=1e-11)
    assert expected[start : start + found.size].sum() == pytest.approx(1, abs=1e-14)
