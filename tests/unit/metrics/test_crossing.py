"""The k from which one model passes another: definition, interval, words."""

from __future__ import annotations

import numpy as np
import pytest

from timberkit.metrics import Crossing, crossing_point, pass_at_k
from timberkit.metrics.crossing import _first_lead
from timberkit.metrics.intervals import bootstrap_curves


def crossing_of(curve: list[float], ks: list[int] | None = None) -> Crossing:
    difference = np.array([curve, curve])
    labels = list(range(1, len(curve) + 1)) if ks is None else ks
    return crossing_point(difference, np.zeros_like(difference), labels, resamples=100)


@pytest.mark.parametrize(
    ("curve", "k", "changes"),
    [
        ([-1, -1, 1, 1], 3, 1),
        ([1, 1, 1, 1], 1, 0),
        ([-1, -1, -1, -1], None, 0),
        ([0, 0, 0, 0], None, 0),
        ([1, 1, -1, -1], None, 1),
        ([1, -1, 1, 1], 3, 2),
        ([1, -1, 1, -1], None, 3),
        ([-1, 0, 0, 1], 4, 1),
        ([-1, 1, 0, 0], 2, 1),
        ([-1, 1, 0, -1], None, 2),
        ([0, 1, 1, 1], 2, 0),
    ],
)
def test_ahead_means_ahead_and_never_behind_again(
    curve: list[float], k: int | None, changes: int
) -> None:
    found = crossing_of(curve)
    assert (found.k, found.low, found.high) == (k, k, k)
    assert found.lead_changes == changes
    assert found.share == (k is not None)


def test_the_crossing_of_each_row_is_that_of_the_row_alone() -> None:
    rng = np.random.default_rng(0)
    curves = rng.integers(-1, 2, (300, 6)).astype(float)
    for row, found in zip(curves, _first_lead(curves), strict=True):
        expected = next(
            (i for i in range(6) if row[i] > 0 and (row[i:] >= 0).all()),
            6,
        )
        assert found == expected


def test_it_is_said_in_a_line() -> None:
    assert crossing_of([-1, 1]).text == "2 [2, 2]"
    assert crossing_of([-1, -1], [1, 256]).text == (
        "none up to 256 [none up to 256, none up to 256]"
    )
    assert Crossing(40, 12, None, 256, 0.9, 1).text == "40 [12, none up to 256]"


def test_only_the_k_given_are_looked_at() -> None:
    assert crossing_of([-1, -0.5, 1], [1, 16, 256]).k == 256


def test_curves_that_run_close_together_have_a_wide_interval() -> None:
    rng = np.random.default_rng(1)
    ks = list(range(1, 33))
    p = rng.beta(0.5, 1.0, 80)
    scores = pass_at_k(32, rng.binomial(32, p), ks)
    noise = pass_at_k(32, rng.binomial(32, p), ks)
    close = crossing_point(scores, noise, ks, resamples=500)
    apart = crossing_point(scores + (np.array(ks) - 9.5) / 20, noise, ks, resamples=500)
    assert apart.low is not None
    assert apart.high is not None
    assert apart.low <= 10 <= apart.high <= apart.low + 3
    assert close.high is None
    assert close.low == 1
    assert 0 < close.share < 1


def test_more_confidence_is_a_wider_interval_and_the_seed_decides() -> None:
    rng = np.random.default_rng(2)
    ks = list(range(1, 21))
    first = rng.normal(0, 1, (40, 1)) + (np.array(ks) - 10) / 20
    zero = np.zeros_like(first)
    narrow, wide, again = (
        crossing_point(first, zero, ks, confidence=level, resamples=400)
        for level in (0.5, 0.99, 0.99)
    )
    assert wide == again
    assert wide.low is not None
    assert narrow.low is not None
    assert wide.low < narrow.low
    assert wide.high is None or (narrow.high is not None and wide.high > narrow.high)


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_interval_leaves_the_same_share_of_resamples_on_either_side(confidence: float) -> None:
    rng = np.random.default_rng(3)
    ks = list(range(1, 201))
    first = rng.normal(0, 1, (40, 1)) + (np.array(ks) - 100) / 200
    found = crossing_point(
        first, np.zeros_like(first), ks, confidence=confidence, resamples=2000, seed=5
    )
    drawn = np.concatenate(list(bootstrap_curves(first, resamples=2000, seed=5)))
    places = _first_lead(drawn) + 1
    assert found.low is not None
    assert found.high is not None
    tail = (1 - confidence) / 2
    assert tail - 0.01 < (places < found.low).mean() <= tail <= (places <= found.low).mean()
    assert tail - 0.01 < (places > found.high).mean() <= tail <= (places >= found.high).mean()


@pytest.mark.parametrize("ks", [[1], [2, 1], [1, 1], [1, 2, 3]])
def test_ks_that_are_not_one_a_column_and_ascending_are_refused(ks: list[int]) -> None:
    with pytest.raises(ValueError, match="one a column, ascending"):
        crossing_point([[0.1, 0.2]], [[0.1, 0.2]], ks)


def test_missing_scores_and_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="problem 0 has no value"):
        crossing_point([[0.1, np.nan]], [[0.1, 0.2]], [1, 2])
    with pytest.raises(ValueError, match="expected equal, 2-D"):
        crossing_point([[0.1, 0.3]], [[0.1]], [1, 2])
