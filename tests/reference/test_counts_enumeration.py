"""Scores from counts, by going through every subset of rollouts, and in exact fractions."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction
from math import comb

import numpy as np
import pytest

from timberkit.metrics import distinct_answers, g_pass_at_k, majority_vote, pass_at_k
from timberkit.metrics.distributions import binomial


@pytest.mark.parametrize("n", range(1, 13))
def test_every_subset_counted_gives_the_same(n: int) -> None:
    ones = np.array([number.bit_count() for number in range(2**n)])
    subsets = np.arange(2**n)
    for c in range(n + 1):
        # Rollouts 0 … c - 1 are the right ones.
        right = ones[subsets & (2**c - 1)]
        for k in range(1, n + 1):
            among = right[ones == k]
            assert pass_at_k(n, [c], k)[0] == pytest.approx((among > 0).mean(), rel=1e-14)
            for wanted in range(1, k + 1):
                found = g_pass_at_k(n, [c], k, wanted / k)[0]
                assert found == pytest.approx((among >= wanted).mean(), rel=1e-13, abs=0)


@pytest.mark.parametrize("k", [1, 2, 10, 100, 999, 5000, 9999, 10_000])
def test_ten_thousand_rollouts_agree_with_exact_fractions(k: int) -> None:
    n = 10_000
    c = [0, 1, 2, 5, 50, 1234, 5000, 9000, 9999, 10_000]
    every = comb(n, k)
    expected = [float(1 - Fraction(comb(n - right, k), every)) for right in c]
    np.testing.assert_allclose(pass_at_k(n, c, k), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("c", "k", "wanted"),
    [(5, 100, 2), (2500, 40, 20), (5000, 100, 90), (9000, 1000, 880), (300, 5000, 170)],
)
def test_ten_thousand_rollouts_over_a_threshold_agree_with_exact_fractions(
    c: int, k: int, wanted: int
) -> None:
    n = 10_000
    tail = sum(comb(c, j) * comb(n - c, k - j) for j in range(wanted, min(c, k) + 1))
    expected = float(Fraction(tail, comb(n, k)))
    assert g_pass_at_k(n, [c], k, wanted / k)[0] == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("p", [1e-6, 0.01, 0.3, 0.97])
@pytest.mark.parametrize(("n", "k"), [(7, 3), (64, 16), (320, 320)])
def test_the_mean_over_all_counts_is_the_chance_itself(p: float, n: int, k: int) -> None:
    mean = binomial(n, p) @ pass_at_k(n, np.arange(n + 1), k)
    assert mean == pytest.approx(-np.expm1(k * np.log1p(-p)), rel=1e-12)


def test_sampled_counts_are_unbiased_where_the_plug_in_estimate_is_not() -> None:
    rng = np.random.default_rng(0)
    n, k, p = 20, 10, 0.05
    c = rng.binomial(n, p, 200_000)
    scores = pass_at_k(n, c, k)
    truth = 1 - (1 - p) ** k
    standard_error = scores.std() / np.sqrt(c.size)
    assert abs(scores.mean() - truth) < 4 * standard_error
    plug_in = 1 - (1 - c / n) ** k
    assert truth - plug_in.mean() > 20 * standard_error


def vote(answers: list[str | None], right: list[bool]) -> Fraction:
    """Majority vote as one would count it by hand."""
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return Fraction(0)
    first = [answer for answer, size in votes.items() if size == max(votes.values())]
    grade = dict(zip(answers, right, strict=True))
    return Fraction(sum(grade[answer] for answer in first), len(first))


CORRECT = {"a", "d"}


@pytest.mark.parametrize("seed", range(12))
def test_a_vote_of_k_is_the_mean_over_all_votes_of_k(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9))
    answers = [["a", "b", "c", "d", None][i] for i in rng.integers(0, 5 - seed % 2, n)]
    right = [answer in CORRECT for answer in answers]
    for k in range(1, n + 1):
        subsets = list(itertools.combinations(range(n), k))
        scores = [vote([answers[i] for i in some], [right[i] for i in some]) for some in subsets]
        expected = float(sum(scores) / len(scores))
        assert majority_vote([answers], [right], k)[0] == pytest.approx(expected, abs=1e-13)
        kinds = [len({answers[i] for i in some} - {None}) for some in subsets]
        assert distinct_answers([answers], k)[0] == pytest.approx(np.mean(kinds), abs=1e-13)


def test_a_vote_of_many_agrees_with_drawn_subsets() -> None:
    rng = np.random.default_rng(1)
    n, k = 64, 24
    names = np.array(["right", *(f"wrong {i}" for i in range(9))])
    shares = np.array([0.22, 0.2, 0.13, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.05])
    answers = rng.choice(names, n, p=shares).tolist()
    right = [answer == "right" for answer in answers]
    draws = [rng.choice(n, k, replace=False) for _ in range(3000)]
    scores = [float(vote([answers[i] for i in some], [right[i] for i in some])) for some in draws]
    found = majority_vote([answers], [right], k)[0]
    assert found == pytest.approx(np.mean(scores), abs=4 * np.std(scores) / np.sqrt(3000))
