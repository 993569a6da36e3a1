"""What intervals, tests and power promise, against simulated evaluations with known truth.

Seeds are fixed, so nothing here is flaky; tolerances are about three standard errors of a share
among that many trials, plus what is honestly known to be lost with few problems.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import betaincinv

from timberkit.metrics import (
    BetaBinomial,
    binomial_band,
    crossing_point,
    difference_variance,
    exact_pass_at_k,
    mean_interval,
    paired_differences,
    pass_at_k,
    rollout_interval,
)


def related_chances(
    rng: np.random.Generator, problems: int, shift: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(p, q) of two models: alike in what is hard, drawn alike if there is no shift."""
    common = rng.normal(-1.0, 1.5, problems)
    noise = rng.normal(0.0, 0.7, (2, problems))
    noise[0] += shift
    first, second = 1 / (1 + np.exp(-(common + noise)))
    return first, second


@pytest.mark.parametrize(
    ("problems", "alpha", "beta", "k", "least"),
    [(60, 0.5, 1.0, 1, 0.92), (60, 0.5, 1.0, 16, 0.92), (200, 0.1, 1.9, 1, 0.91)],
)
def test_an_interval_over_problems_holds_the_truth(
    problems: int, alpha: float, beta: float, k: int, least: float
) -> None:
    rng = np.random.default_rng(0)
    truth = BetaBinomial(alpha, beta).pass_at_k([k])[0]
    held = 0
    for trial in range(400):
        c = rng.binomial(32, rng.beta(alpha, beta, problems))
        found = mean_interval(pass_at_k(32, c, k), resamples=600, seed=trial)
        held += found.low <= truth <= found.high
    assert least <= held / 400 <= 0.985


@pytest.mark.parametrize(("n", "k"), [(32, 1), (32, 8), (128, 32)])
def test_an_interval_over_rollouts_holds_the_truth_of_these_problems(n: int, k: int) -> None:
    rng = np.random.default_rng(1)
    p = rng.beta(0.5, 1.0, 30)
    truth = exact_pass_at_k(p, k).mean()
    held = 0
    for _ in range(300):
        found = rollout_interval(n, rng.binomial(n, p), k)
        held += found.low <= truth <= found.high
    assert 0.90 <= held / 300 <= 0.985


def test_equal_models_are_called_different_at_any_k_as_seldom_as_promised() -> None:
    rng = np.random.default_rng(2)
    ks = [1, 2, 4, 8, 16]
    trials, alone, corrected, said = 500, 0, 0, 0
    for trial in range(trials):
        p, q = related_chances(rng, 40)
        first, second = (pass_at_k(16, rng.binomial(16, chance), ks) for chance in (p, q))
        rows = paired_differences(first, second, ks, resamples=300, seed=trial)
        alone += any(row.p_value <= 0.05 for row in rows)
        corrected += any(row.corrected_p_value <= 0.05 for row in rows)
        said += any(row.verdict != "not distinguishable" for row in rows)
    assert 0.02 <= corrected / trials <= 0.08
    assert 0.02 <= said / trials <= 0.08
    # What the correction is for.
    assert alone / trials > 1.4 * corrected / trials


def test_intervals_for_all_k_hold_all_differences_together() -> None:
    rng = np.random.default_rng(3)
    ks = [1, 4, 16]
    many = related_chances(np.random.default_rng(4), 400_000, shift=0.5)
    truth = [float(np.mean(exact_pass_at_k(many[0], k) - exact_pass_at_k(many[1], k))) for k in ks]
    trials, together, each = 300, 0, np.zeros(3)
    for trial in range(trials):
        p, q = related_chances(rng, 60, shift=0.5)
        first, second = (pass_at_k(32, rng.binomial(32, chance), ks) for chance in (p, q))
        rows = paired_differences(first, second, ks, resamples=400, seed=trial)
        together += all(
            row.simultaneous.low <= value <= row.simultaneous.high
            for row, value in zip(rows, truth, strict=True)
        )
        each += [
            row.difference.low <= value <= row.difference.high
            for row, value in zip(rows, truth, strict=True)
        ]
    assert 0.91 <= together / trials <= 0.985
    assert (each / trials >= 0.91).all()


@pytest.mark.parametrize(("k", "rollouts", "problems"), [(1, 4, 150), (4, 8, 100), (4, 32, 100)])
def test_the_power_formula_foresees_error_and_power(k: int, rollouts: int, problems: int) -> None:
    rng = np.random.default_rng(5)
    p, q = related_chances(rng, 4000, shift=0.4)
    pilot = difference_variance(16, rng.binomial(16, p), 16, rng.binomial(16, q), k)
    foreseen = pilot.standard_error(problems=problems, rollouts=rollouts)
    trials = 1500
    p, q = related_chances(rng, trials * problems, shift=0.4)
    scores = [pass_at_k(rollouts, rng.binomial(rollouts, chance), k) for chance in (p, q)]
    means = (scores[0] - scores[1]).reshape(trials, problems).mean(axis=1)
    # A standard deviation of 1500 trials is known to 2 %, the pilot's to 2 %.
    assert means.std() == pytest.approx(foreseen, rel=0.08)
    # Moved to where the power should be 80 %.
    effect = pilot.resolvable(problems=problems, rollouts=rollouts)
    resolved = means - means.mean() + effect > 1.96 * foreseen
    assert resolved.mean() == pytest.approx(0.8, abs=0.04)


def test_a_small_pilot_splits_the_variance_without_bias() -> None:
    rng = np.random.default_rng(6)
    k, n, problems = 3, 8, 40
    within, between = [], []
    for _ in range(300):
        p, q = related_chances(rng, problems, shift=0.4)
        pilot = difference_variance(n, rng.binomial(n, p), n, rng.binomial(n, q), k)
        within.append(pilot.within(n))
        between.append(pilot.between)
    p, q = related_chances(rng, 100_000, shift=0.4)
    scores = [pass_at_k(n, rng.binomial(n, chance), k) for chance in (p, q)]
    exact = [exact_pass_at_k(chance, k) for chance in (p, q)]
    noise = np.var((scores[0] - scores[1]) - (exact[0] - exact[1]))
    assert np.mean(within) == pytest.approx(noise, rel=0.05)
    assert np.mean(between) == pytest.approx(np.var(exact[0] - exact[1]), rel=0.1)


def test_the_interval_of_a_crossing_holds_where_the_curves_truly_cross() -> None:
    rng = np.random.default_rng(7)
    base, instruct = BetaBinomial(0.8, 3.2), BetaBinomial(0.35, 0.65)
    ks = list(range(1, 65))
    ahead = base.pass_at_k(ks) > instruct.pass_at_k(ks)
    truth = int(np.argmax(ahead)) + 1
    assert 2 < truth < 60
    trials, held = 150, 0
    for trial in range(trials):
        # One order of difficulty for both.
        difficulty = rng.random(150)
        chances = [betaincinv(m.alpha, m.beta, difficulty) for m in (base, instruct)]
        first, second = (pass_at_k(64, rng.binomial(64, chance), ks) for chance in chances)
        found = crossing_point(first, second, ks, resamples=200, seed=trial)
        low, high = found.low or math.inf, found.high or math.inf
        held += low <= truth <= high
    assert held / trials >= 0.90


def test_a_sampler_that_is_slightly_off_falls_out_of_the_band() -> None:
    rng = np.random.default_rng(8)
    p = rng.beta(0.5, 1.0, 100)
    band = binomial_band(128, p)
    hotter = p**1.15
    caught = sum(not band.holds(rng.binomial(128, hotter)) for _ in range(200))
    assert caught / 200 > 0.9
