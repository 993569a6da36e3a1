"""One smooth model of how hard the problems of a benchmark are: p ~ Beta(alpha, beta).

Two numbers describe the whole Pass@k curve, beyond n too; ``alpha`` below 1 means many problems
that are nearly never solved, and for large k the share unsolved falls like ``k^-alpha``.
``fit_counts`` takes counts (maximum likelihood), ``fit_curve`` a published curve whose counts are
not at hand.

A fit is a description, not a measurement: it knows no problem that cannot be solved at all, and
what it says beyond n is a guess. Report ``counts.pass_at_k`` where there are rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timberkit.metrics.counts import checked_counts, checked_ks

_LOGIT_BOUNDS = (-30.0, 30.0)
_LOG_CONCENTRATION_BOUNDS = (-12.0, 14.0)


@dataclass(frozen=True, slots=True)
class BetaBinomial:
    """Chances p of problems drawn from Beta(alpha, beta), both > 0."""

    alpha: float
    beta: float

    @property
    def mean(self) -> float:
        """Expected Pass@1, ``alpha / (alpha + beta)``."""
        return self.alpha / (self.alpha + self.beta)

    def pass_at_k(self, ks: Sequence[int]) -> NDArray[np.float64]:
        """Expected Pass@k, ``1 - B(alpha, beta + k) / B(alpha, beta)``, (ks,).

        As ``1 - prod_{i < k} (beta + i) / (alpha + beta + i)``: ValueError for k < 1. O(max k).

        >>> BetaBinomial(1.0, 1.0).pass_at_k([1, 3]).round(12).tolist()
        [0.5, 0.75]
        """
        found = np.array(checked_ks(ks))
        i = np.arange(found.max())
        with np.errstate(divide="ignore"):
            steps = np.log1p(-self.alpha / (self.alpha + self.beta + i))
        return np.asarray(-np.expm1(np.cumsum(steps))[found - 1])

    def log_likelihood(self, n: ArrayLike, c: ArrayLike) -> float:
        """Of counts (as in ``pass_at_k``), without the binomial coefficients, which are constant.

        >>> round(BetaBinomial(1.0, 1.0).log_likelihood(1, [1]), 12)  # ln 1/2
        -0.69314718056
        """
        rollouts, right = checked_counts(n, c)
        return float(_log_terms(self, rollouts, right).sum())


def fit_counts(n: ArrayLike, c: ArrayLike) -> BetaBinomial:
    """The Beta(alpha, beta) under which counts c_i of n_i rollouts are likeliest.

    Maximises ``sum_i ln B(c_i + alpha, n_i - c_i + beta) - ln B(alpha, beta)`` over the mean and
    the concentration ``alpha + beta``.

    Args:
        n, c: as in ``pass_at_k``; problems may differ in n.

    Returns:
        A ``BetaBinomial``. Counts that vary less than chance would make them end at the largest
        concentration (1.2 million: all problems alike), counts of only 0 and n at the smallest.

    Raises:
        ValueError: impossible counts; nothing right or everything right, which fits any curve.

    Cost: O(different (n, c)) for each of some hundred evaluations. Sources: Skellam 1948 (the
    distribution); Kazdan et al. 2025 (arXiv 2510.05197), for Pass@k.

    >>> 0.3 < fit_counts(8, [0, 0, 1, 2, 8, 5]).mean < 0.4
    True
    """
    rollouts, right = checked_counts(n, c)
    if not 0 < right.sum() < rollouts.sum():
        raise ValueError(
            f"found {right.sum()} right of {rollouts.sum()} rollouts, expected some right and some"
            " wrong; any curve would fit"
        )
    pairs, times = np.unique(np.stack([rollouts, right]), axis=1, return_counts=True)

    def cost(model: BetaBinomial) -> float:
        return -float(times @ _log_terms(model, pairs[0], pairs[1]))

    return _fit(cost, mean=float(right.sum() / rollouts.sum()))


def fit_curve(ks: Sequence[int], values: ArrayLike) -> BetaBinomial:
    """The Beta(alpha, beta) whose Pass@k curve is nearest to given points, by least squares.

    Args:
        ks: (points,), at least two different.
        values: (points,), Pass@k as shares in (0, 1), not percent.

    Returns:
        A ``BetaBinomial``; ``values - fit.pass_at_k(ks)`` shows how well two numbers do.

    Raises:
        ValueError: other shapes or values.

    Cost: O(max k) for each of some hundred evaluations.

    >>> fit_curve([1, 3], [0.5, 0.75]).pass_at_k([9]).round(6).tolist()
    [0.9]
    """
    found, points = checked_ks(ks), np.asarray(values, dtype=np.float64)
    if points.shape != (len(found),) or len(set(found)) < 2:
        raise ValueError(
            f"found {len(found)} k and values of shape {points.shape}, expected one value a k, of"
            " two k or more"
        )
    if not bool(((points > 0) & (points < 1)).all()):
        raise ValueError("values: expected shares between 0 and 1; divide percentages by 100")
    return _fit(
        lambda model: float(((model.pass_at_k(found) - points) ** 2).sum()),
        mean=float(points[int(np.argmin(found))]),
    )


def _fit(cost: Callable[[BetaBinomial], float], *, mean: float) -> BetaBinomial:
    from scipy.optimize import minimize  # slow to import, and few callers fit

    def model(place: NDArray[np.float64]) -> BetaBinomial:
        odds, concentration = exp(place[0]), exp(place[1])
        return BetaBinomial(concentration * odds / (1 + odds), concentration / (1 + odds))

    bounds = [_LOGIT_BOUNDS, _LOG_CONCENTRATION_BOUNDS]
    starts = [np.array([log(mean / (1 - mean)), start]) for start in (-1.0, 1.0, 4.0)]
    found = minimize(
        lambda place: cost(model(place)),
        min(starts, key=lambda place: cost(model(place))),
        method="Nelder-Mead",
        bounds=bounds,
        options={"xatol": 1e-9, "fatol": 1e-14, "maxiter": 2000, "maxfev": 4000},
    )
    return model(found.x)


def _log_terms(
    model: BetaBinomial, n: NDArray[np.int64], c: NDArray[np.int64]
) -> NDArray[np.float64]:
    """``ln B(c + alpha, n - c + beta) - ln B(alpha, beta)``, large numbers never subtracted."""
    right, wrong = _log_rising(model.alpha, c), _log_rising(model.beta, n - c)
    return right + wrong - _log_rising(model.alpha + model.beta, n)


def _log_rising(start: float, steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """``ln start (start + 1) … (start + steps - 1)``."""
    logs = np.cumsum(np.log(start + np.arange(int(steps.max()))))
    return np.asarray(np.concatenate([[0.0], logs])[steps])
