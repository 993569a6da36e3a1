"""Scores from counts: by hand, at the edges, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from timberkit.metrics import cover_at_tau, g_pass_at_k, mean_at_k, pass_at_k


def test_a_problem_with_fewer_rollouts_than_k_has_no_score() -> None:
    n, c = [4, 2, 0, 8], [4, 2, 0, 0]
    for found in (pass_at_k(n, c, 3), g_pass_at_k(n, c, 3, 0.5)):
        assert np.isnan(found).tolist() == [False, True, True, False]
        assert found[[0, 3]].tolist() == [1.0, 0.0]
    assert np.isnan(mean_at_k(n, c)).tolist() == [False, False, True, False]
    assert np.isnan(cover_at_tau(n, c, 0.5)).tolist() == [False, False, True, False]


def test_one_rollout_is_the_share_that_is_right() -> None:
    n, c = np.array([1, 7, 7, 9_999]), np.array([1, 0, 3, 1234])
    np.testing.assert_allclose(pass_at_k(n, c, 1), mean_at_k(n, c), rtol=1e-14)
    np.testing.assert_allclose(g_pass_at_k(n, c, 1, 1.0), mean_at_k(n, c), rtol=1e-14)


def test_all_rollouts_ask_whether_any_was_right() -> None:
    assert pass_at_k(6, [0, 1, 5, 6], 6).tolist() == [0.0, 1.0, 1.0, 1.0]


def test_several_ks_are_columns_in_the_order_asked() -> None:
    n, c = [8, 4], [2, 1]
    found = pass_at_k(n, c, [8, 1, 4])
    assert found.shape == (2, 3)
    for i, k in enumerate((8, 1, 4)):
        np.testing.assert_array_equal(found[:, i], pass_at_k(n, c, k))
    assert g_pass_at_k(n, c, np.array([1, 2]).tolist(), 0.5).shape == (2, 2)


def test_problems_of_several_n_are_scored_like_each_alone() -> None:
    n, c = np.array([5, 9, 5, 12]), np.array([2, 2, 0, 7])
    for k in (1, 3, 5):
        for score in (pass_at_k, lambda n, c, k: g_pass_at_k(n, c, k, 0.6)):
            alone = [score(int(total), [right], k)[0] for total, right in zip(n, c, strict=True)]
            np.testing.assert_array_equal(score(n, c, k), alone)


@pytest.mark.parametrize(("tau", "k", "wanted"), [(0.07, 100, 7), (0.6, 5, 3), (0.61, 5, 4)])
def test_a_threshold_means_the_decimal_that_was_written(tau: float, k: int, wanted: int) -> None:
    # 0.07 * 100 is 7.000000000000001: the ceiling of the product would ask for 8.
    always = g_pass_at_k(100, [100], k, tau)[0]
    assert always == 1.0
    assert g_pass_at_k(k, [wanted], k, tau)[0] == 1.0
    assert g_pass_at_k(k, [wanted - 1], k, tau)[0] == 0.0
    assert cover_at_tau(k, [wanted - 1, wanted], tau).tolist() == [0.0, 1.0]


def test_a_threshold_of_one_success_is_pass_at_k_and_of_all_is_the_other_end() -> None:
    c = np.arange(41)
    np.testing.assert_allclose(g_pass_at_k(40, c, 8, 1e-9), pass_at_k(40, c, 8), rtol=1e-13)
    np.testing.assert_allclose(
        g_pass_at_k(40, c, 8, 1.0), 1 - pass_at_k(40, 40 - c, 8), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize(
    ("n", "c", "said"),
    [
        (4, [], "expected a non-empty 1-D c"),
        (4, [[1]], "expected a non-empty 1-D c"),
        ([4, 4], [1], "expected a non-empty 1-D c"),
        (4, [1, 5], "problem 1: found c = 5 right of n = 4"),
        (4, [-1], "problem 0: found c = -1"),
        (-1, [-1], "problem 0"),
        (4, [0.5], "expected whole numbers"),
        (4.0, [1], "expected whole numbers"),
        (4, ["1"], "expected whole numbers"),
    ],
)
def test_impossible_counts_are_refused(n: object, c: object, said: str) -> None:
    for score in (mean_at_k, lambda n, c: pass_at_k(n, c, 1), lambda n, c: cover_at_tau(n, c, 1)):
        with pytest.raises(ValueError, match=said):
            score(n, c)


@pytest.mark.parametrize("k", [0, -3, [], [4, 0]])
def test_less_than_one_rollout_is_refused(k: object) -> None:
    with pytest.raises(ValueError, match="each at least 1"):
        pass_at_k(4, [1], k)  # type: ignore[arg-type]


@pytest.mark.parametrize("tau", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_outside_zero_to_one_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match=r"expected a share in \(0, 1\]"):
        g_pass_at_k(4, [1], 2, tau)
    with pytest.raises(ValueError, match=r"expected a share in \(0, 1\]"):
        cover_at_tau(4, [1], tau)


def test_graded_flags_count_as_one_rollout_each() -> None:
    assert pass_at_k(1, np.array([True, False]), 1).tolist() == [1.0, 0.0]
