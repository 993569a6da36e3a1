"""Pass@k and its paired interval: extremes, seeds, coverage, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from timberkit.metrics import Interval, exact_pass_at_k, paired_difference, pass_curve
from timberkit.metrics.pass_at_k import bootstrap_means


@pytest.mark.parametrize("k", [1, 2, 10, 10_000])
def test_a_problem_never_or_always_solved_stays_so(k: int) -> None:
    found = exact_pass_at_k([0.0, 1.0], k)
    assert found.tolist() == [0.0, 1.0]
    assert not np.signbit(found).any()


def test_one_rollout_is_the_probability_itself() -> None:
    p = np.linspace(0, 1, 21)
    np.testing.assert_allclose(exact_pass_at_k(p, 1), p, rtol=1e-15)


@pytest.mark.parametrize("p", [1e-12, 1e-15, 1e-300, 5e-324])
def test_tiny_probabilities_keep_all_their_digits(p: float) -> None:
    # 1 - (1 - p)^k as written gives 0 below 1e-16 and four wrong digits at 1e-12.
    assert exact_pass_at_k([p], 1)[0] == p
    assert exact_pass_at_k([p], 1000)[0] == pytest.approx(1000 * p, rel=1e-8)


def test_probabilities_just_below_one_do_not_pass_it() -> None:
    found = exact_pass_at_k([1 - 1e-16, 1 - 2.0**-53], 5)
    assert (found <= 1.0).all()
    assert (found > 0.999999).all()


def test_many_rollouts_solve_what_can_be_solved() -> None:
    assert exact_pass_at_k([1e-6], 10**9)[0] == 1.0


@pytest.mark.parametrize(
    "probabilities", [[], [[0.5]], [-1e-9], [1.0 + 1e-9], [0.5, math.nan], [math.inf], 0.5]
)
def test_what_is_no_list_of_probabilities_is_refused(probabilities: object) -> None:
    with pytest.raises(ValueError, match=r"expected a non-empty 1-D array of values in \[0, 1\]"):
        exact_pass_at_k(probabilities, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [0, -1])
def test_less_than_one_rollout_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k: found {k}, expected at least 1"):
        exact_pass_at_k([0.5], k)


def test_curve_is_the_mean_over_problems() -> None:
    p = np.random.default_rng(0).random(50) ** 3
    curve = pass_curve(p, [1, 4, 64])
    assert list(curve) == [1, 4, 64]
    assert curve[1] == pytest.approx(p.mean())
    assert curve[4] == pytest.approx((1 - (1 - p) ** 4).mean())
    assert curve[64] == pytest.approx((1 - (1 - p) ** 64).mean())


def test_difference_is_that_of_the_means_with_an_interval_around_it() -> None:
    rng = np.random.default_rng(1)
    second = rng.random(200)
    first = second + rng.normal(0.05, 0.02, 200)
    found = paired_difference(first, second, resamples=2000)
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert found.low < found.value < found.high
    assert not found.contains_zero
    swapped = paired_difference(second, first, resamples=2000)
    assert (swapped.value, swapped.low, swapped.high) == pytest.approx(
        (-found.value, -found.high, -found.low), abs=2e-4
    )


def test_pairing_removes_how_hard_the_problems_are() -> None:
    rng = np.random.default_rng(2)
    hard = rng.random(300)
    paired = paired_difference(hard + 0.01, hard, resamples=500)
    shuffled = paired_difference(hard + 0.01, rng.permutation(hard), resamples=500)
    assert paired.high - paired.low < 1e-12
    assert shuffled.high - shuffled.low > 0.05


def test_same_seed_same_interval_and_other_seed_another() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random(40), rng.random(40)
    runs = [paired_difference(first, second, resamples=300, seed=seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert runs[0].value == runs[2].value


def test_more_confidence_is_a_wider_interval() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.random(60), rng.random(60)
    widths = []
    for confidence in (0.5, 0.8, 0.95, 0.99):
        found = paired_difference(first, second, confidence=confidence, resamples=2000)
        widths.append(found.high - found.low)
    assert widths == sorted(widths)
    assert widths[0] < 0.5 * widths[-1]


@pytest.mark.parametrize("skew", [False, True])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(skew: bool) -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(400):
        noise = rng.exponential(1.0, 60) - 1.0 if skew else rng.normal(0.0, 1.0, 60)
        found = paired_difference(0.3 + noise, np.zeros(60), resamples=400, seed=trial)
        covered += found.low <= 0.3 <= found.high
    assert 0.90 <= covered / 400 <= 0.98


def test_an_interval_that_holds_zero_says_so_ends_included() -> None:
    assert Interval(0.1, -0.1, 0.3).contains_zero
    assert Interval(0.1, 0.0, 0.3).contains_zero
    assert Interval(-0.1, -0.3, 0.0).contains_zero
    assert not Interval(0.1, 1e-12, 0.3).contains_zero


@pytest.mark.parametrize(
    ("first", "second"), [([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]]), (1.0, 1.0)]
)
def test_scores_that_do_not_pair_up_are_refused(first: object, second: object) -> None:
    with pytest.raises(ValueError, match="expected equal, 1-D, not empty"):
        paired_difference(first, second)  # type: ignore[arg-type]


def test_resamples_drawn_in_pieces_are_as_many_as_asked_for_and_reproducible() -> None:
    # 1,500,000 values: every piece holds a single resample.
    values = np.zeros(1_500_000)
    values[::2] = 1.0
    means = bootstrap_means(values, resamples=3, seed=0)
    assert means.shape == (3,)
    assert np.abs(means - 0.5).max() < 0.01
    assert len(set(means.tolist())) == 3
