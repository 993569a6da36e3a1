"""The interval for the noise of the rollouts alone."""

from __future__ import annotations

import numpy as np
import pytest

from timberkit.metrics import mean_interval, pass_at_k, rollout_interval
from timberkit.metrics.distributions import binomial
from timberkit.metrics.rollout_noise import within_variance


@pytest.mark.parametrize(("n", "k"), [(1, 1), (6, 1), (6, 3), (6, 6), (40, 10)])
@pytest.mark.parametrize("p", [0.0, 0.02, 0.4, 1.0])
def test_the_variance_is_that_over_all_counts(n: int, k: int, p: float) -> None:
    chances, scores = binomial(n, p), pass_at_k(n, np.arange(n + 1), k)
    expected = chances @ scores**2 - (chances @ scores) ** 2
    table = 1 - (1 - p) ** np.arange(k, 2 * k + 1)
    assert within_variance(table[None], n, k)[0] == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize(("n", "k"), [(2, 1), (9, 4), (24, 6)])
def test_its_estimate_is_unbiased(n: int, k: int) -> None:
    p = 0.15
    chances, scores = binomial(n, p), pass_at_k(n, np.arange(n + 1), k)
    expected = chances @ scores**2 - (chances @ scores) ** 2
    estimates = within_variance(pass_at_k(n, np.arange(n + 1), range(k, 2 * k + 1)), n, k)
    assert chances @ estimates == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_is_a_share(confidence: float) -> None:
    with pytest.raises(ValueError, match="expected between 0 and 1"):
        rollout_interval(8, [1, 2], 1, confidence=confidence)


def test_an_interval_over_rollouts_is_refused_beyond_a_quarter_of_them() -> None:
    rollout_interval([32, 16], [3, 3], 4)
    with pytest.raises(ValueError, match=r"k <= n / 4 = 4; .* draw 20 rollouts"):
        rollout_interval([32, 16], [3, 3], 5)


def test_an_interval_over_rollouts_knows_nothing_of_other_problems() -> None:
    c = np.repeat([0, 64], 30)
    alone = rollout_interval(64, c, 4)
    assert alone.low == alone.high == alone.value == 0.5
    over = mean_interval(pass_at_k(64, c, 4), resamples=500)
    assert over.high - over.low > 0.2


def test_an_interval_over_rollouts_shrinks_with_them_and_holds_its_estimate() -> None:
    few = rollout_interval(32, np.full(20, 3), 4)
    many = rollout_interval(3200, np.full(20, 300), 4)
    assert few.low < few.value < few.high
    assert many.high - many.low == pytest.approx((few.high - few.low) / 10, rel=0.25)
    assert rollout_interval(8, [0, 1], 2).low >= 0.0
