"""Votes, variety and failures, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from timberkit.metrics import (
    answer_entropy,
    distinct_answers,
    format_failure_rate,
    majority_vote,
    truncation_rate,
)


@pytest.mark.parametrize(
    ("answers", "right", "score"),
    [
        (["4", "4", "5"], [1, 1, 0], 1.0),
        (["4", "5", "5"], [1, 0, 0], 0.0),
        (["4", "5"], [1, 0], 1 / 2),
        (["4", "5", "6"], [1, 0, 0], 1 / 3),
        (["4", "4", "5", "5", "6"], [1, 1, 0, 0, 0], 1 / 2),
        (["4", None, None, None], [1, 0, 0, 0], 1.0),
        ([None, None], [0, 0], 0.0),
        (["1/2", "0.5", "7"], [1, 1, 0], 2 / 3),
        ([3], [True], 1.0),
    ],
)
def test_the_first_place_decides_and_a_tie_is_shared(
    answers: list[str | None], right: list[bool], score: float
) -> None:
    assert majority_vote([answers], [right])[0] == pytest.approx(score)


def test_an_answer_graded_both_ways_has_the_mean_grade() -> None:
    assert majority_vote([["4", "4", "4", "5"]], [[1, 0, 1, 0]])[0] == pytest.approx(2 / 3)


def test_one_voter_is_the_share_that_is_right() -> None:
    answers = [["a", "b", "b", None, "c"]]
    right = [[True, False, False, False, True]]
    assert majority_vote(answers, right, 1)[0] == pytest.approx(2 / 5)


def test_too_few_rollouts_have_no_vote_and_no_variety() -> None:
    assert np.isnan(majority_vote([["4"], []], [[True], []], 2)).all()
    assert np.isnan(majority_vote([[]], [[]]))[0]
    assert np.isnan(distinct_answers([["4"], [None]], 2)).all()


def test_variety_counts_answers_not_silence() -> None:
    answers = [["a", "b", "a", None], [None, None], ["x"] * 3]
    assert distinct_answers(answers).tolist() == [2.0, 0.0, 1.0]
    assert distinct_answers(answers, 2)[1] == 0.0
    assert distinct_answers(answers, 1).tolist() == pytest.approx([0.75, 0.0, 1.0])


def test_entropy_of_equal_shares_is_their_logarithm_and_never_below_zero() -> None:
    found = answer_entropy([["a", "b", "c", "d"], ["a", "a", None], [None]])
    assert found[0] == pytest.approx(math.log(4))
    assert found[1] == 0.0
    assert not np.signbit(found[1])
    assert np.isnan(found[2])


def test_every_rollout_is_cut_off_or_unreadable_or_answered() -> None:
    answers = [["4", None, None, "5", None]]
    truncated = [[False, True, False, True, False]]
    assert truncation_rate(truncated)[0] == pytest.approx(2 / 5)
    assert format_failure_rate(answers, truncated)[0] == pytest.approx(2 / 5)


def test_rates_without_rollouts_are_unknown() -> None:
    assert np.isnan(truncation_rate([[]]))[0]
    assert np.isnan(format_failure_rate([[]], [[]]))[0]


def test_what_does_not_pair_up_is_refused() -> None:
    for pair in (([["a"]], [[True, False]]), ([["a"]], [[True], [True]])):
        with pytest.raises(ValueError, match="expected one flag for each answer"):
            majority_vote(*pair)
        with pytest.raises(ValueError, match="expected one flag for each answer"):
            format_failure_rate(*pair)
    for empty in (distinct_answers, answer_entropy, truncation_rate):
        with pytest.raises(ValueError, match="found no problems"):
            empty([])
    for k in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            majority_vote([["a"]], [[True]], k)
        with pytest.raises(ValueError, match="at least 1"):
            distinct_answers([["a"]], k)
