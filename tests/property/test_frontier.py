"""What holds of the gap above a frontier for any scores."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from timberkit.metrics import frontier_gap

Scores = NDArray[np.float64]
SHARES = st.integers(0, 20).map(lambda number: number / 20)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Scores, Scores]:
    """A candidate and a frontier on the same problems."""
    models, problems = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    scores = draw(arrays(np.float64, (models + 1, problems, 2), elements=SHARES))
    return scores[0], scores[1:]


def by_sampling(point: Scores, line: Scores) -> float:
    """The best second score on a finely sampled line at the candidate's first or better."""
    x, means = point.mean(axis=0)[0], line.mean(axis=1)
    best = [y for x_there, y in means if x_there >= x - 1e-12]
    for start, stop in itertools.pairwise(means):
        shares = np.linspace(0, 1, 2001)[:, None]
        places = start + shares * (stop - start)
        best.extend(places[places[:, 0] >= x - 1e-12, 1])
    if best:
        return float(max(best))
    furthest = means[:, 0].max()
    return float(max(y for x_there, y in means if x_there == furthest))


@given(pairs())
def test_the_gap_is_that_to_the_best_place_of_the_line(pair: tuple[Scores, Scores]) -> None:
    point, line = pair
    found = frontier_gap(point, line, resamples=1)
    if found.place == "below":
        assert point.mean(axis=0)[0] < line.mean(axis=1)[:, 0].min()
        return
    assert found.reference == pytest.approx(by_sampling(point, line), abs=2e-3)


@given(pairs(), st.randoms(use_true_random=False))
def test_the_order_of_the_problems_does_not_matter(
    pair: tuple[Scores, Scores], shuffle: object
) -> None:
    point, line = pair
    order = list(range(len(point)))
    shuffle.shuffle(order)  # type: ignore[attr-defined]
    first = frontier_gap(point, line, resamples=1)
    second = frontier_gap(point[order], line[:, order], resamples=1)
    assert first.value == pytest.approx(second.value, nan_ok=True)


@given(pairs(), st.integers(1, 10).map(lambda number: number / 10))
def test_a_better_second_score_is_a_larger_gap_by_as_much(
    pair: tuple[Scores, Scores], more: float
) -> None:
    point, line = pair
    before = frontier_gap(point, line, resamples=20)
    after = frontier_gap(point + np.array([0.0, more]), line, resamples=20)
    assert after.value == pytest.approx(before.value + more, nan_ok=True)
    assert after.low == pytest.approx(before.low + more, nan_ok=True)


@given(pairs())
def test_a_model_of_the_frontier_never_lies_above_it(pair: tuple[Scores, Scores]) -> None:
    _, line = pair
    for model in line:
        found = frontier_gap(model, line, resamples=20)
        assert found.place == "within"
        assert found.value <= 1e-12
        assert not found.low > 1e-12
