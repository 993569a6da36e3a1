"""Rollouts and problems needed: the parts of the variance, and the way back."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from timberkit.metrics import DifferenceVariance, difference_variance
from timberkit.metrics.power import MOST_ROLLOUTS

Z = 1.959963984540054 + 0.8416212335729143


@pytest.fixture
def pilot() -> DifferenceVariance:
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 0.8, 200)
    q = np.clip(p + rng.normal(0.03, 0.1, 200), 0, 1)
    return difference_variance(32, rng.binomial(32, q), 32, rng.binomial(32, p), 4)


def test_noise_of_one_rollout_a_time_is_p_times_one_minus_p_over_n() -> None:
    c = np.array([0, 3, 10, 7])
    found = difference_variance(10, c, 10, np.zeros(4, dtype=int))
    unbiased = (c * (10 - c) / (10 * 9)).mean()
    assert found.within(1) == pytest.approx(unbiased)
    assert found.within(25) == pytest.approx(unbiased / 25)


def test_between_is_what_rollout_noise_leaves_and_never_below_zero() -> None:
    same = difference_variance(8, [4, 4, 4, 4], 8, [4, 4, 4, 4])
    assert same.between == 0.0
    apart = difference_variance(1000, [1000, 0] * 10, 1000, [0, 1000] * 10)
    assert apart.between == pytest.approx(20 / 19)
    assert apart.within(1) == 0.0


def test_noise_falls_with_rollouts_to_nothing_and_the_rest_stays(
    pilot: DifferenceVariance,
) -> None:
    noise = [pilot.within(n) for n in (4, 5, 8, 16, 64, 1024)]
    assert noise == sorted(noise, reverse=True)
    assert noise[-1] < 0.02 * noise[0]
    floor = math.sqrt(pilot.between / pilot.problems)
    assert pilot.standard_error(rollouts=MOST_ROLLOUTS) == pytest.approx(floor, rel=1e-3)
    with pytest.raises(ValueError, match="expected at least k = 4"):
        pilot.within(3)


def test_the_resolvable_difference_is_that_many_standard_errors(pilot: DifferenceVariance) -> None:
    assert pilot.resolvable() == pytest.approx(Z * pilot.standard_error())
    assert pilot.resolvable(power=0.5) == pytest.approx(1.959963984540054 * pilot.standard_error())
    assert pilot.resolvable(problems=4 * pilot.problems) == pytest.approx(pilot.resolvable() / 2)


def test_what_is_said_to_be_needed_resolves_and_one_less_does_not(
    pilot: DifferenceVariance,
) -> None:
    for difference in (0.02, -0.05, 0.3):
        problems = pilot.problems_needed(difference, rollouts=16)
        assert pilot.resolvable(problems=problems, rollouts=16) <= abs(difference)
        if problems > 2:
            assert pilot.resolvable(problems=problems - 1, rollouts=16) > abs(difference)
    for problems in (500, 2000):
        rollouts = pilot.rollouts_needed(0.03, problems=problems)
        assert rollouts is not None
        assert pilot.resolvable(problems=problems, rollouts=rollouts) <= 0.03
        if rollouts > pilot.k:
            assert pilot.resolvable(problems=problems, rollouts=rollouts - 1) > 0.03


def test_no_number_of_rollouts_makes_up_for_too_few_problems(pilot: DifferenceVariance) -> None:
    assert pilot.rollouts_needed(0.001) is None
    assert pilot.rollouts_needed(0.9) == pilot.k


def test_on_these_very_problems_rollouts_do_suffice(pilot: DifferenceVariance) -> None:
    fixed = replace(pilot, between=0.0)
    rollouts = fixed.rollouts_needed(0.001)
    assert rollouts is not None
    assert fixed.resolvable(rollouts=rollouts) <= 0.001 < fixed.resolvable(rollouts=rollouts - 1)


def test_problems_may_have_been_asked_unequally_often() -> None:
    rng = np.random.default_rng(1)
    n = np.array([8, 16] * 50)
    p = rng.random(100)
    found = difference_variance(n, rng.binomial(n, p), 12, rng.binomial(12, p), 2)
    assert found.rollouts == 8
    assert found.problems == 100
    assert abs(found.difference) < 0.05


@pytest.mark.parametrize(
    ("first", "second", "k", "said"),
    [
        ((8, [1]), (8, [1]), 1, "at least 2"),
        ((8, [1, 2]), (8, [1, 2, 3]), 1, "expected equally many"),
        ((8, [1, 2]), (6, [1, 2]), 4, "expected at least 2k = 8"),
        ((8, [1, 9]), (8, [1, 2]), 1, "problem 1"),
        ((8, [1, 2]), (8, [1, 2]), 0, "at least 1"),
    ],
)
def test_a_pilot_that_cannot_tell_is_refused(
    first: tuple[int, list[int]], second: tuple[int, list[int]], k: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        difference_variance(*first, *second, k)


def test_questions_without_sense_are_refused(pilot: DifferenceVariance) -> None:
    for difference in (0.0, math.nan):
        with pytest.raises(ValueError, match="other than 0"):
            pilot.problems_needed(difference)
    for power in (0.2, 1.0):
        with pytest.raises(ValueError, match="power"):
            pilot.resolvable(power=power)
    with pytest.raises(ValueError, match="confidence"):
        pilot.resolvable(confidence=95)
    with pytest.raises(ValueError, match="problems: found 0"):
        pilot.standard_error(problems=0)
