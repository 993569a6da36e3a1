"""Two models on the same problems: intervals, sign-flip p-values, the correction over k."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from timberkit.metrics import Interval, paired_difference, paired_differences
from timberkit.metrics.paired import PairedDifference


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


@pytest.mark.parametrize(
    ("first", "second"), [([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]]), (1.0, 1.0)]
)
def test_scores_that_do_not_pair_up_are_refused(first: object, second: object) -> None:
    with pytest.raises(ValueError, match="expected equal, 1-D, not empty"):
        paired_difference(first, second)  # type: ignore[arg-type]


def test_a_missing_score_is_refused_never_dropped() -> None:
    with pytest.raises(ValueError, match="problem 1 has no value"):
        paired_difference([1.0, np.nan], [1.0, 1.0])
    with pytest.raises(ValueError, match="problem 0 has no value"):
        paired_differences([[0.1, 0.2]], [[0.1, np.nan]], [1, 2])


def test_the_interval_for_one_k_is_that_of_the_pair_alone() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((50, 3)), rng.random((50, 3))
    rows = paired_differences(first, second, [1, 4, 16], resamples=400, seed=2)
    assert [row.k for row in rows] == [1, 4, 16]
    for i, row in enumerate(rows):
        alone = paired_difference(first[:, i], second[:, i], resamples=400, seed=2)
        found = row.difference
        assert (found.value, found.low, found.high) == pytest.approx(
            (alone.value, alone.low, alone.high), abs=1e-12
        )


def test_intervals_for_all_k_are_wider_than_for_one_but_not_for_copies_of_it() -> None:
    rng = np.random.default_rng(1)
    difference = rng.normal(0.1, 1.0, (80, 6))
    zero = np.zeros_like(difference)
    ks = [1, 2, 3, 4, 5, 6]
    widths = [
        np.mean([row.simultaneous.high - row.simultaneous.low for row in rows])
        for rows in (
            paired_differences(difference, zero, ks, resamples=4000),
            paired_differences(difference[:, :1], zero[:, :1], [1], resamples=4000),
            paired_differences(np.repeat(difference[:, :1], 6, axis=1), zero, ks, resamples=4000),
        )
    ]
    assert widths[0] > 1.2 * widths[1]
    assert widths[2] == pytest.approx(widths[1], rel=1e-9)


def by_all_signs(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p-values alone and corrected, one pattern after the other."""
    length = np.sqrt((difference**2).sum(axis=0))
    observed = np.abs(difference.sum(axis=0)) / length
    reached = np.array(
        [
            np.abs(np.array(signs) @ difference) / length
            for signs in itertools.product((1, -1), repeat=len(difference))
        ]
    )
    alone = (reached >= observed - 1e-12).mean(axis=0)
    return alone, (reached.max(axis=1)[:, None] >= observed - 1e-12).mean(axis=0)


@pytest.mark.parametrize("seed", range(5))
def test_p_values_of_few_problems_are_those_of_all_sign_patterns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    difference = rng.integers(-3, 5, (8, 3)) / 8 + (rng.random((8, 1)) > 0.5) * 0.1
    alone, corrected = by_all_signs(difference)
    rows = paired_differences(difference, np.zeros_like(difference), [1, 2, 4], resamples=256)
    assert [row.p_value for row in rows] == pytest.approx(alone.tolist())
    assert [row.corrected_p_value for row in rows] == pytest.approx(corrected.tolist())


def test_drawn_sign_patterns_agree_with_all_of_them() -> None:
    rng = np.random.default_rng(9)
    difference = rng.normal(0.3, 1.0, (12, 2))
    alone, corrected = by_all_signs(difference)
    rows = paired_differences(difference, np.zeros_like(difference), [1, 2], resamples=4000)
    assert [row.p_value for row in rows] == pytest.approx(alone.tolist(), abs=0.025)
    assert [row.corrected_p_value for row in rows] == pytest.approx(corrected.tolist(), abs=0.025)


def test_a_drawn_p_value_is_never_zero_and_the_corrected_never_smaller() -> None:
    rng = np.random.default_rng(3)
    first = rng.random((60, 4)) + np.array([0.0, 0.05, 0.5, 5.0])
    rows = paired_differences(first, rng.random((60, 4)), [1, 2, 4, 8], resamples=500)
    assert rows[3].p_value == pytest.approx(1 / 501)
    assert all(0 < row.p_value <= row.corrected_p_value <= 1 for row in rows)


def test_equal_models_differ_by_nothing_with_p_one() -> None:
    scores = np.random.default_rng(0).random((20, 2))
    for row in paired_differences(scores, scores, [1, 2], resamples=200):
        assert row == PairedDifference(row.k, Interval(0, 0, 0), Interval(0, 0, 0), 1.0, 1.0)
        assert row.verdict == "not distinguishable"


def test_k_where_the_models_agree_do_not_disturb_the_others() -> None:
    rng = np.random.default_rng(5)
    first = rng.normal(0.4, 1, (30, 1))
    second = np.zeros((30, 1))
    alone = paired_differences(first, second, [1], resamples=500)
    both = paired_differences(
        np.hstack([first, second]), np.hstack([second, second]), [1, 2], resamples=500
    )
    assert both[0].corrected_p_value == alone[0].corrected_p_value
    assert both[0].simultaneous.low == pytest.approx(alone[0].simultaneous.low, rel=1e-12)
    assert both[1].corrected_p_value == 1.0


def test_the_verdict_is_drawn_from_the_interval_for_all_k() -> None:
    row = PairedDifference(4, Interval(0.1, 0.01, 0.2), Interval(0.1, -0.01, 0.21), 0.03, 0.07)
    assert row.verdict == "not distinguishable"


def test_swapped_models_have_swapped_verdicts() -> None:
    rng = np.random.default_rng(6)
    first, second = rng.random((100, 2)), rng.random((100, 2))
    first[:, 1] += 0.5
    there = paired_differences(first, second, [1, 8], resamples=500)
    back = paired_differences(second, first, [1, 8], resamples=500)
    assert [row.verdict for row in there] == ["not distinguishable", "better"]
    assert [row.verdict for row in back] == ["not distinguishable", "worse"]
    for one, other in zip(there, back, strict=True):
        assert one.corrected_p_value == other.corrected_p_value
        assert one.simultaneous.low == pytest.approx(-other.simultaneous.high)


@pytest.mark.parametrize(
    ("first", "second", "ks", "said"),
    [
        ([[0.1]], [[0.1, 0.2]], [1], "expected equal, 2-D"),
        ([0.1], [0.1], [1], "expected equal, 2-D"),
        ([[0.1]], [[0.1]], [1, 2], "expected one each"),
        ([[0.1]], [[0.1]], [0], "at least 1"),
        ([[0.1]], [[0.1]], [], "one or more"),
    ],
)
def test_curves_that_do_not_pair_up_are_refused(
    first: object, second: object, ks: list[int], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        paired_differences(first, second, ks)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="confidence"):
        paired_differences([[0.1]], [[0.1]], [1], confidence=95)
