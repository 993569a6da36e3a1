"""How far a model lies above the merges: the value, the sides of the frontier, the interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from timberkit.metrics import frontier_gap, in_words

Scores = NDArray[np.float64]


def one_problem(*points: tuple[float, float]) -> Scores:
    """Models that are known by their means alone: one problem each."""
    return np.array(points)[:, None, :]


MERGES = one_problem((0.1, 0.9), (0.2, 0.8), (0.3, 0.5))


@pytest.mark.parametrize(
    ("point", "gap"),
    [
        ((0.2, 0.85), 0.05),
        ((0.25, 0.65), 0.0),
        ((0.25, 0.60), -0.05),
        ((0.1, 0.9), 0.0),
        ((0.3, 0.6), 0.1),
    ],
)
def test_the_gap_is_the_height_above_the_line_at_the_own_first_score(
    point: tuple[float, float], gap: float
) -> None:
    found = frontier_gap([point], MERGES, resamples=10)
    assert found.value == pytest.approx(gap)
    assert found.point == pytest.approx(point)
    assert found.reference == pytest.approx(point[1] - gap)
    assert found.place == "within"


def test_the_order_of_the_line_may_begin_at_either_end() -> None:
    point = [(0.22, 0.77)]
    there, back = (frontier_gap(point, line, resamples=10) for line in (MERGES, MERGES[::-1]))
    assert there == back


def test_right_of_everything_the_rightmost_model_is_compared_with() -> None:
    found = frontier_gap([(0.4, 0.52)], MERGES, resamples=10)
    assert found.place == "above"
    assert found.value == pytest.approx(0.02)


def test_left_of_everything_nothing_is_said() -> None:
    found = frontier_gap([(0.05, 0.99)], MERGES, resamples=10)
    assert found.place == "below"
    assert math.isnan(found.value)
    assert math.isnan(found.reference)
    assert found.interval is None
    assert not found.is_above


def test_where_the_line_turns_back_the_better_merge_counts() -> None:
    # The middle merge is better than the left one at both: it is what must be beaten there.
    line = one_problem((0.1, 0.6), (0.2, 0.9), (0.3, 0.5))
    assert frontier_gap([(0.12, 0.9)], line, resamples=10).value == pytest.approx(0.0)
    # A line that comes back over the same first scores: the upper branch counts.
    loop = one_problem((0.3, 0.5), (0.35, 0.6), (0.3, 0.7), (0.1, 0.9))
    assert frontier_gap([(0.3, 0.7)], loop, resamples=10).value == pytest.approx(0.0)
    assert frontier_gap([(0.32, 0.7)], loop, resamples=10).value == pytest.approx(0.04)


def test_one_model_is_a_frontier_of_a_point() -> None:
    line = one_problem((0.3, 0.5))
    assert frontier_gap([(0.3, 0.6)], line, resamples=10).value == pytest.approx(0.1)
    assert frontier_gap([(0.4, 0.6)], line, resamples=10).place == "above"
    assert frontier_gap([(0.2, 0.6)], line, resamples=10).place == "below"


def test_problems_that_are_hard_for_all_leave_the_interval_narrow() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random((200, 1))
    line = np.stack([np.hstack([0.5 * hard + 0.1 * i, 0.5 * hard - 0.1 * i]) for i in range(4)])
    point = np.hstack([0.5 * hard + 0.15, 0.5 * hard - 0.10])
    found = frontier_gap(point, line, resamples=500)
    assert found.value == pytest.approx(0.05)
    assert found.low == pytest.approx(0.05)
    assert found.high == pytest.approx(0.05)
    assert in_words(found.interval) == "better" if found.interval else False


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """At the end of the frontier too, where some resamples have no value."""
    rng = np.random.default_rng(2)
    for first in (0.45, 0.30):
        held = 0
        for repeat in range(150):
            noise = rng.normal(0, 0.1, (3, 60, 2))
            line = np.array([(0.5, 0.5), (0.3, 0.7)])[:, None] + noise[:2]
            truth = 1.0 - first + 0.05
            point = np.array([first, truth]) + noise[2]
            found = frontier_gap(point, line, resamples=200, seed=repeat)
            if found.place == "below":
                held += 1  # nothing was said, nothing wrong
                continue
            low = -math.inf if math.isnan(found.low) else found.low
            high = math.inf if math.isnan(found.high) else found.high
            held += low <= 0.05 <= high
        assert held >= 133


def test_an_end_that_unknown_resamples_could_move_is_not_given() -> None:
    scores = np.zeros((2, 40, 2))
    scores[0, :, 0] = np.arange(40) / 40  # the frontier's first score moves with the sample
    scores[1, :, 0] = scores[0].mean(axis=0)[0]
    found = frontier_gap(scores[1], scores[:1], resamples=400)
    assert found.place == "within"
    assert found.value == 0.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.interval is None


def test_same_seed_same_interval_and_other_seed_another() -> None:
    rng = np.random.default_rng(3)
    line, point = rng.random((3, 30, 2)), rng.random((30, 2))
    line[0, :, 0] *= 0.2
    runs = [frontier_gap(point, line, resamples=200, seed=seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert (runs[0].low, runs[0].high) != (runs[2].low, runs[2].high)


@pytest.mark.parametrize(
    ("point", "frontier", "told"),
    [
        (np.zeros((3, 2)), np.zeros((2, 4, 2)), r"\(m, problems, 2\)"),
        (np.zeros((3, 2)), np.zeros((0, 3, 2)), r"\(m, problems, 2\)"),
        (np.zeros((3, 2)), np.zeros((3, 2)), r"\(m, problems, 2\)"),
        (np.zeros((3, 3)), np.zeros((2, 3, 3)), r"\(m, problems, 2\)"),
        (np.zeros(3), np.zeros((2, 3, 2)), "2-D"),
        (np.full((3, 2), np.nan), np.zeros((2, 3, 2)), "problem 0 has no value"),
        (np.zeros((3, 2)), np.full((2, 3, 2), np.inf), "problem 0 has no value"),
    ],
)
def test_what_does_not_fit_is_refused(point: Scores, frontier: Scores, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        frontier_gap(point, frontier)


def test_confidence_and_resamples_are_checked() -> None:
    with pytest.raises(ValueError, match="confidence"):
        frontier_gap([(0.2, 0.8)], MERGES, confidence=1.0)
    with pytest.raises(ValueError, match="resamples"):
        frontier_gap([(0.2, 0.8)], MERGES, resamples=0)
