"""Scores: exact chances and counts become the same tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timberkit.study.reproduce.scores import Scores, aligned, high_k, shared_problems, shown_ks


def exact(problems: str, p: list[float]) -> Scores:
    return Scores(tuple(problems), np.array(p))


def counted(problems: str, n: int, c: list[int]) -> Scores:
    return Scores(tuple(problems), None, np.full(len(problems), n), np.array(c))


def test_exact_table_is_one_minus_the_chance_of_failing_k_times() -> None:
    table = exact("ab", [0.5, 0.1]).table([1, 3])
    assert table == pytest.approx(np.array([[0.5, 1 - 0.5**3], [0.1, 1 - 0.9**3]]))


def test_counted_table_is_unbiased_and_its_first_column_the_rate() -> None:
    table = counted("ab", 4, [1, 4]).table([1, 2])
    assert table == pytest.approx(np.array([[0.25, 0.5], [1.0, 1.0]]))


def test_k_beyond_the_rollouts_is_not_a_number_rather_than_a_false_one() -> None:
    assert np.isnan(counted("a", 2, [1]).table([3])).all()


def test_models_are_set_against_each_other_on_the_problems_that_all_have() -> None:
    first, second = exact("abc", [0.1, 0.2, 0.3]), exact("cab", [0.6, 0.4, 0.5])
    third = exact("ca", [0.9, 0.7])
    assert shared_problems([first, second, third]) == ("a", "c")
    tables = [each.table([1])[:, 0].tolist() for each in aligned([first, second, third])]
    assert tables == [[0.1, 0.3], [0.4, 0.6], [0.7, 0.9]]


def test_a_problem_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        exact("ab", [0.1, 0.2]).on(["c"])


def test_curves_go_as_far_as_the_model_with_the_fewest_rollouts() -> None:
    models = [counted("a", 20, [1]), counted("a", 12, [1])]
    assert shown_ks(models, (1, 2, 256)) == (1, 2, 4, 8, 12)
    assert shown_ks([exact("a", [0.5])], (1, 2, 256)) == (1, 2, 256)


@given(st.sets(st.integers(1, 5000), min_size=1))
def test_the_k_of_exploration_is_one_that_is_known_to_be_within_reach(ks: set[int]) -> None:
    chosen = high_k(sorted(ks))
    assert 1 <= chosen <= max(ks)
    assert max(ks) < 8 or chosen * 4 <= max(ks) < chosen * 8
