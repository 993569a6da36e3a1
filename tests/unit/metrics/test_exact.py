"""Pass@k from known chances: extremes, tiny chances, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from timberkit.metrics import exact_pass_at_k, pass_curve


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
