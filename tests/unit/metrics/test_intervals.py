"""Intervals over problems and over rollouts, and the words drawn from them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from timberkit.metrics import (
    Interval,
    in_words,
    mean_interval,
    pass_at_k,
    pass_intervals,
)
from timberkit.metrics.intervals import bootstrap_curves, bootstrap_means


def test_an_interval_that_holds_zero_says_so_ends_included() -> None:
    assert Interval(0.1, -0.1, 0.3).contains_zero
    assert Interval(0.1, 0.0, 0.3).contains_zero
    assert Interval(-0.1, -0.3, 0.0).contains_zero
    assert not Interval(0.1, 1e-12, 0.3).contains_zero


def test_resamples_drawn_in_pieces_are_as_many_as_asked_for_and_reproducible() -> None:
    # 1,500,000 values: every piece holds a single resample.
    values = np.zeros(1_500_000)
    values[::2] = 1.0
    means = bootstrap_means(values, resamples=3, seed=0)
    assert means.shape == (3,)
    assert np.abs(means - 0.5).max() < 0.01
    assert len(set(means.tolist())) == 3


def test_curves_draw_the_same_problems_as_means_and_for_every_column_alike() -> None:
    values = np.random.default_rng(0).random((30, 3))
    values[:, 2] = values[:, 0]
    found = np.concatenate(list(bootstrap_curves(values, resamples=500, seed=4)))
    assert found.shape == (500, 3)
    np.testing.assert_array_equal(found[:, 0], found[:, 2])
    means = bootstrap_means(values[:, 1], resamples=500, seed=4)
    np.testing.assert_allclose(found[:, 1], means, rtol=1e-13)


def test_curves_drawn_in_pieces_are_as_many_as_asked_for() -> None:
    blocks = list(bootstrap_curves(np.ones((3, 1_500_000)), resamples=2, seed=0))
    assert [block.shape for block in blocks] == [(1, 1_500_000)] * 2


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.2, "better"),
        (-0.2, -0.01, "worse"),
        (-0.1, 0.1, "not distinguishable"),
        (0.0, 0.1, "not distinguishable"),
        (-0.1, 0.0, "not distinguishable"),
    ],
)
def test_only_an_interval_on_one_side_of_zero_is_called_a_difference(
    low: float, high: float, said: str
) -> None:
    assert in_words(Interval((low + high) / 2, low, high)) == said


def test_no_words_without_an_interval() -> None:
    with pytest.raises(ValueError, match="expected an interval with both ends"):
        in_words(Interval(0.1, math.nan, 0.2))


def test_an_interval_leans_to_where_the_scores_have_their_tail() -> None:
    scores = np.array([0.0] * 26 + [0.1, 0.2, 0.6, 0.9])
    found = mean_interval(scores, resamples=4000)
    assert found.value == pytest.approx(scores.mean())
    assert found.high - found.value > 1.3 * (found.value - found.low) > 0
    mirrored = mean_interval(1 - scores, resamples=4000)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_the_interval_of_symmetric_scores_is_the_normal_one() -> None:
    scores = np.linspace(0, 1, 200)
    found = mean_interval(scores)
    half = 1.96 * scores.std() / math.sqrt(200)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.002)


def test_same_seed_same_interval() -> None:
    scores = np.random.default_rng(0).random(30)
    first, again, other = (mean_interval(scores, resamples=300, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("scores", [[0.25], [0.1, 0.1, 0.1], [0.0] * 9])
def test_equal_scores_are_a_point(scores: list[float]) -> None:
    found = mean_interval(scores)
    assert found.low == found.value == found.high == pytest.approx(scores[0])


def test_one_score_unlike_all_others_still_has_an_interval_at_any_confidence() -> None:
    scores = [0.0] * 29 + [1.0]
    for confidence in (0.5, 0.95, 0.999999, 1 - 1e-12):
        found = mean_interval(scores, confidence=confidence, resamples=500)
        assert 0 <= found.low <= found.high <= 1


def test_each_k_has_the_interval_of_its_scores() -> None:
    c = np.random.default_rng(1).integers(0, 9, 25)
    found = pass_intervals(8, c, [1, 4], resamples=200, seed=3)
    assert list(found) == [1, 4]
    assert found[4] == mean_interval(pass_at_k(8, c, 4), resamples=200, seed=3)


def test_a_problem_with_too_few_rollouts_is_named_never_dropped() -> None:
    with pytest.raises(ValueError, match=r"problem 1 has no value \(1 of 3 problems\)"):
        pass_intervals([8, 2, 8], [1, 1, 1], [4])


@pytest.mark.parametrize("scores", [[], [[0.1]], 0.5])
def test_what_is_no_list_of_scores_is_refused(scores: object) -> None:
    with pytest.raises(ValueError, match="expected 1-D and not empty"):
        mean_interval(scores)  # type: ignore[arg-type]


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_a_confidence_is_a_share(confidence: float) -> None:
    with pytest.raises(ValueError, match="expected between 0 and 1"):
        mean_interval([0.1, 0.2], confidence=confidence)
