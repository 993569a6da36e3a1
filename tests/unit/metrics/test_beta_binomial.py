"""The Beta-Binomial model: its curve, its likelihood, both fits, the published curves."""

from __future__ import annotations

import json
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import betaln

import timberkit
from timberkit.metrics import BetaBinomial, fit_counts, fit_curve, pass_at_k

PUBLISHED: dict[str, Any] = json.loads(
    (Path(timberkit.__file__).parent / "study" / "published.json").read_text("utf-8")
)["pass_at_k_qwen3_0_6b_thinking"]


@pytest.mark.parametrize(("alpha", "beta"), [(0.2, 1.8), (3.0, 0.5), (1e-4, 2.0), (500.0, 700.0)])
def test_the_curve_is_one_minus_a_ratio_of_beta_functions(alpha: float, beta: float) -> None:
    ks = [1, 2, 10, 320]
    expected = -np.expm1(betaln(alpha, beta + np.array(ks)) - betaln(alpha, beta))
    model = BetaBinomial(alpha, beta)
    np.testing.assert_allclose(model.pass_at_k(ks), expected, rtol=1e-9)
    assert model.pass_at_k([1])[0] == pytest.approx(model.mean)


def test_the_share_unsolved_falls_like_a_power_of_k() -> None:
    model = BetaBinomial(0.3, 1.1)
    unsolved = 1 - model.pass_at_k([10_000, 20_000])
    assert unsolved[1] / unsolved[0] == pytest.approx(2**-0.3, rel=1e-4)


def test_the_likelihood_of_all_counts_adds_up_to_one() -> None:
    model = BetaBinomial(0.7, 2.2)
    chances = [comb(9, c) * np.exp(model.log_likelihood(9, [c])) for c in range(10)]
    assert sum(chances) == pytest.approx(1)
    together = model.log_likelihood([9, 4], [3, 4])
    assert together == pytest.approx(model.log_likelihood(9, [3]) + model.log_likelihood(4, [4]))


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.9), (2.0, 5.0), (0.8, 0.2)])
def test_counts_drawn_from_a_model_give_it_back(alpha: float, beta: float) -> None:
    rng = np.random.default_rng(0)
    n = rng.choice([32, 64], 3000)
    c = rng.binomial(n, rng.beta(alpha, beta, 3000))
    found = fit_counts(n, c)
    assert (found.alpha, found.beta) == pytest.approx((alpha, beta), rel=0.1)
    ks = [1, 8, 32]
    observed = pass_at_k(n, c, ks).mean(axis=0)
    np.testing.assert_allclose(found.pass_at_k(ks), observed, atol=0.01)


def test_no_neighbour_of_the_fit_is_likelier() -> None:
    c = [0, 0, 0, 1, 3, 5, 16, 16, 12]
    found = fit_counts(16, c)
    best = found.log_likelihood(16, c)
    for up, down in ((1.01, 1.0), (0.99, 1.0), (1.0, 1.01), (1.0, 0.99)):
        neighbour = BetaBinomial(found.alpha * up, found.beta * down)
        assert neighbour.log_likelihood(16, c) < best


def test_problems_all_alike_and_problems_never_undecided_end_at_the_edges() -> None:
    alike = fit_counts(20, [5] * 50)
    assert alike.mean == pytest.approx(0.25, rel=1e-3)
    assert alike.alpha + alike.beta > 1e5
    decided = fit_counts(20, [0] * 30 + [20] * 10)
    assert decided.mean == pytest.approx(0.25, rel=1e-2)
    assert decided.alpha + decided.beta < 1e-3


@pytest.mark.parametrize("c", [[0, 0, 0], [8, 8, 8]])
def test_counts_that_any_curve_fits_are_refused(c: list[int]) -> None:
    with pytest.raises(ValueError, match="expected some right and some"):
        fit_counts(8, c)


@pytest.mark.parametrize(("alpha", "beta"), [(0.2, 1.8), (1.5, 0.4), (40.0, 60.0)])
def test_points_of_a_curve_give_it_back(alpha: float, beta: float) -> None:
    ks = [1, 2, 8, 64]
    found = fit_curve(ks, BetaBinomial(alpha, beta).pass_at_k(ks) * (1 - 1e-9))
    assert (found.alpha, found.beta) == pytest.approx((alpha, beta), rel=1e-2)


@pytest.mark.parametrize("benchmark", ["AIME24", "GPQA-Diamond"])
@pytest.mark.parametrize("model", ["Instruct", "Timber-L", "Timber"])
def test_two_numbers_describe_the_published_curves(benchmark: str, model: str) -> None:
    rows = PUBLISHED[benchmark]
    points = np.array(rows[model]) / 100
    misfit = fit_curve(rows["k"], points).pass_at_k(rows["k"]) - points
    # 30 problems: one of them is 3.3 points.
    assert np.abs(misfit).max() < 0.022
    assert np.sqrt((misfit**2).mean()) < 0.012


@pytest.mark.parametrize(
    ("ks", "values", "said"),
    [
        ([1], [0.1], "two k or more"),
        ([4, 4], [0.1, 0.1], "two k or more"),
        ([1, 2], [0.1], "one value a k"),
        ([1, 2], [10.0, 20.0], "divide percentages by 100"),
        ([1, 2], [0.1, np.nan], "shares between 0 and 1"),
        ([0, 2], [0.1, 0.2], "at least 1"),
    ],
)
def test_points_of_no_curve_are_refused(ks: list[int], values: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit_curve(ks, values)
