"""Laws of scores from counts, of votes and of paired tests, over random input."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timberkit.metrics import (
    answer_entropy,
    binomial_band,
    cover_at_tau,
    crossing_point,
    distinct_answers,
    g_pass_at_k,
    majority_vote,
    mean_interval,
    paired_differences,
    pass_at_k,
)

MANY = settings(max_examples=60, deadline=None, derandomize=True)
Counts = tuple[int, list[int]]

counts = st.integers(1, 400).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n), min_size=1, max_size=12))
)
votes = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", "d", None]), st.booleans()), min_size=1, max_size=12
)
curves = st.integers(2, 12).flatmap(
    lambda problems: st.lists(
        st.lists(st.integers(-8, 8), min_size=3, max_size=3), min_size=problems, max_size=problems
    )
)


@MANY
@given(counts, st.integers(1, 500), st.integers(1, 500))
def test_pass_at_k_grows_with_k_and_c_and_is_unknown_beyond_n(
    data: Counts, first: int, second: int
) -> None:
    n, c = data
    low, high = (pass_at_k(n, sorted(c), k) for k in sorted([first, second]))
    assert np.isnan(low).all() == (min(first, second) > n)
    assert np.isnan(high).all() == (max(first, second) > n)
    if max(first, second) <= n:
        assert ((low >= 0) & (high <= 1) & (low <= high)).all()
        assert (np.diff(low) >= 0).all()
        assert (np.diff(high) >= 0).all()


@MANY
@given(counts, st.data())
def test_leaving_out_a_rollout_at_random_changes_no_expectation(
    data: Counts, draw: st.DataObject
) -> None:
    n, c = data[0] + 1, np.array(data[1])
    k = draw.draw(st.integers(1, n - 1))
    tau = draw.draw(st.floats(0.01, 1.0))
    for score in (pass_at_k, lambda n, c, k: g_pass_at_k(n, c, k, tau)):
        # c may be n - 1 at most here; without a right one there is none to leave out.
        with_one_less = score(n - 1, np.maximum(c - 1, 0), k)
        expected = c / n * with_one_less + (1 - c / n) * score(n - 1, c, k)
        np.testing.assert_allclose(score(n, c, k), expected, rtol=1e-10, atol=1e-14)


@MANY
@given(counts, st.data())
def test_a_higher_threshold_is_harder_and_all_thresholds_add_up_to_the_mean(
    data: Counts, draw: st.DataObject
) -> None:
    n, c = data
    k = draw.draw(st.integers(1, min(n, 20)))
    tails = np.array([g_pass_at_k(n, c, k, j / k) for j in range(1, k + 1)])
    assert ((tails >= 0) & (tails <= 1 + 1e-12)).all()
    assert (np.diff(tails, axis=0) <= 1e-12).all()
    np.testing.assert_allclose(tails.sum(axis=0), k * np.array(c) / n, rtol=1e-10)
    covered = [cover_at_tau(n, c, j / k).sum() for j in range(1, k + 1)]
    assert covered == sorted(covered, reverse=True)


@MANY
@given(votes, st.randoms(use_true_random=False), st.data())
def test_votes_know_neither_order_nor_names(
    ballots: list[tuple[str | None, bool]], rng: random.Random, draw: st.DataObject
) -> None:
    k = draw.draw(st.integers(1, len(ballots)))
    shuffled = list(ballots)
    rng.shuffle(shuffled)
    renamed = [(None if a is None else a + "'", grade) for a, grade in shuffled]
    found = [
        majority_vote([[a for a, _ in some]], [[g for _, g in some]], k)[0]
        for some in (ballots, shuffled, renamed)
    ]
    assert 0 <= found[0] <= 1
    assert found[1:] == pytest.approx([found[0]] * 2, abs=1e-12)


@MANY
@given(votes)
def test_variety_grows_with_rollouts_ever_more_slowly_and_bounds_the_entropy(
    ballots: list[tuple[str | None, bool]],
) -> None:
    answers = [[a for a, _ in ballots]]
    found = [0.0] + [distinct_answers(answers, k)[0] for k in range(1, len(ballots) + 1)]
    assert (np.diff(found) >= -1e-12).all()
    assert (np.diff(found, 2) <= 1e-12).all()
    assert found[-1] == pytest.approx(distinct_answers(answers)[0])
    if found[-1]:
        assert 0 <= answer_entropy(answers)[0] <= math.log(found[-1]) + 1e-12


@MANY
@given(curves, st.integers(1, 1000))
def test_paired_tests_know_no_unit_and_no_side(rows: list[list[int]], unit: int) -> None:
    first = np.array(rows) / 8
    zero = np.zeros_like(first)
    ks = [1, 2, 4]
    there, back, scaled = (
        paired_differences(a, b, ks, resamples=64)
        for a, b in ((first, zero), (zero, first), (unit * first, zero))
    )
    for one, other, larger in zip(there, back, scaled, strict=True):
        assert 0 < one.p_value <= one.corrected_p_value <= 1
        assert one.p_value == other.p_value == larger.p_value
        assert one.corrected_p_value == other.corrected_p_value == larger.corrected_p_value
        assert one.simultaneous.low <= one.difference.value <= one.simultaneous.high
        assert other.difference.value == -one.difference.value
    crossing = crossing_point(first, zero, ks, resamples=64)
    assert crossing == crossing_point(unit * first, zero, ks, resamples=64)


@MANY
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.5, 0.99))
def test_an_interval_lies_within_its_scores(scores: list[float], confidence: float) -> None:
    found = mean_interval(scores, confidence=confidence, resamples=64)
    slack = 1e-12
    assert min(scores) - slack <= found.low <= found.high <= max(scores) + slack
    assert min(scores) - slack <= found.value <= max(scores) + slack


@MANY
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(0, 60), st.floats(0.1, 0.9999)
)
def test_a_band_holds_the_counts_expected_and_widens_with_its_level(
    p: list[float], n: int, level: float
) -> None:
    band = binomial_band(n, p, level=level)
    wide = binomial_band(n, p, level=1 - (1 - level) / 10)
    assert (band.low <= np.ceil(n * np.array(p))).all()
    assert (band.high >= np.floor(n * np.array(p))).all()
    assert (wide.low <= band.low).all()
    assert (wide.high >= band.high).all()
    assert wide.total_low <= band.total_low <= band.total_high <= wide.total_high
