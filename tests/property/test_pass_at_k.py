"""Pass@k over random probabilities: its range, its growth with k and p, its laws."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from timberkit.metrics import exact_pass_at_k, paired_difference

MANY = settings(max_examples=100, deadline=None, derandomize=True)

probabilities = st.lists(
    st.one_of(st.floats(0.0, 1.0), st.floats(-20.0, 0.0).map(lambda x: 10.0**x)),
    min_size=1,
    max_size=20,
).map(np.array)
rollouts = st.integers(1, 10_000)


@MANY
@given(probabilities, rollouts, rollouts)
def test_grows_with_k_and_stays_a_probability(
    p: NDArray[np.float64], first: int, second: int
) -> None:
    low, high = (exact_pass_at_k(p, k) for k in sorted([first, second]))
    assert ((low >= 0) & (high <= 1)).all()
    assert (low <= high).all()


@MANY
@given(probabilities, rollouts)
def test_grows_with_p_and_is_at_most_k_times_p(p: NDArray[np.float64], k: int) -> None:
    ordered = exact_pass_at_k(np.sort(p), k)
    assert (np.diff(ordered) >= 0).all()
    assert (exact_pass_at_k(p, k) <= np.minimum(1.0, k * p) * (1 + 1e-12)).all()


@MANY
@given(probabilities, rollouts, rollouts)
def test_failing_both_times_is_failing_all_together(
    p: NDArray[np.float64], first: int, second: int
) -> None:
    a, b, both = (exact_pass_at_k(p, k) for k in (first, second, first + second))
    np.testing.assert_allclose(both, a + b - a * b, rtol=1e-9, atol=1e-300)


@MANY
@given(probabilities, st.floats(-1.0, 1.0))
def test_a_constant_difference_is_known_without_doubt(
    scores: NDArray[np.float64], difference: float
) -> None:
    found = paired_difference(scores + difference, scores, resamples=50)
    assert np.isclose(found.value, difference, atol=1e-12)
    assert found.high - found.low <= 1e-12
