"""Pass@k by going through every outcome, in exact fractions."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest

from timberkit.metrics import exact_pass_at_k, pass_curve

PROBABILITIES = [Fraction(*pair) for pair in ((0, 1), (1, 1000), (1, 7), (1, 2), (9, 10), (1, 1))]


def by_enumeration(p: Fraction, k: int) -> Fraction:
    """Sum of the probabilities of all 2^k outcomes with a success in them."""
    total = Fraction(0)
    for outcome in itertools.product((True, False), repeat=k):
        if any(outcome):
            solved = sum(outcome)
            total += p**solved * (1 - p) ** (k - solved)
    return total


@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize("k", range(1, 9))
def test_every_outcome_counted_gives_the_same(p: Fraction, k: int) -> None:
    found = exact_pass_at_k([float(p)], k)[0]
    assert found == pytest.approx(float(by_enumeration(p, k)), rel=1e-13, abs=0)


@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize(("n", "k"), [(4, 2), (8, 3), (12, 12), (30, 5)])
def test_it_is_the_mean_of_the_unbiased_estimate_over_all_counts(
    p: Fraction, n: int, k: int
) -> None:
    # 1 - C(n - c, k) / C(n, k) with c successes of n rollouts, averaged over the binomial c.
    mean = sum(
        comb(n, c) * p**c * (1 - p) ** (n - c) * (1 - Fraction(comb(n - c, k), comb(n, k)))
        for c in range(n + 1)
    )
    assert exact_pass_at_k([float(p)], k)[0] == pytest.approx(float(mean), rel=1e-12, abs=0)


@pytest.mark.parametrize("exponent", [3, 6, 9, 12, 15, 18])
@pytest.mark.parametrize("k", [1, 2, 7, 320, 10_000])
def test_tiny_probabilities_agree_with_exact_fractions(exponent: int, k: int) -> None:
    p = Fraction(1, 10**exponent)
    # The binomial series is cut where its terms are below a part in 1e25 of the first.
    exact = sum((-1) ** (i + 1) * comb(k, i) * p**i for i in range(1, min(k, 60) + 1))
    assert exact_pass_at_k([float(p)], k)[0] == pytest.approx(float(exact), rel=1e-12, abs=0)


def test_a_curve_is_the_mean_of_exact_fractions() -> None:
    curve = pass_curve(np.array([float(p) for p in PROBABILITIES]), [1, 3, 6])
    for k, value in curve.items():
        expected = sum(by_enumeration(p, k) for p in PROBABILITIES) / len(PROBABILITIES)
        assert value == pytest.approx(float(expected), rel=1e-13)
