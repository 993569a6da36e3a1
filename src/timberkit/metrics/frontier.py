"""How far a model lies above a frontier of others in the plane of two scores.

Post-training buys Pass@1 with exploration, and merging sells it back: the merges of a pair, from
Instruct (mu = 1) to Base (mu = 0), draw a line in the plane (Pass@1, Pass@64). An edit is worth
something only above that line, at the Pass@1 that it has itself::

    gap = frontier_gap(candidate, merges)
    gap.value, gap.low, gap.high        # 0.047 [0.031, 0.063]: points above at equal Pass@1

Scores are per problem, so that a resample of problems moves the candidate and the line together:
what they have in common, how hard the problems are, leaves the interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timberkit.metrics.intervals import (
    RESAMPLES,
    Interval,
    bootstrap_curves,
    checked_confidence,
    checked_scores,
)

Place = Literal["within", "above", "below"]

_SAME = 1e-12
"""First scores that differ by rounding only count as equal."""


@dataclass(frozen=True, slots=True)
class FrontierGap:
    """A candidate against a frontier, in the unit of the scores.

    Attributes:
        value: the candidate's second score minus the frontier's at the candidate's first score;
            NaN where the frontier says nothing (``place`` "below").
        low, high: ends of the interval; NaN where too many resamples fall outside to tell.
        point: means of the candidate, (first, second).
        reference: the frontier's second score there; NaN likewise.
        place: "above" where the candidate's first score is higher than any of the frontier,
            "below" where it is lower than all of them, else "within".
    """

    value: float
    low: float
    high: float
    point: tuple[float, float]
    reference: float
    place: Place

    @property
    def interval(self) -> Interval | None:
        """The gap as an ``Interval``, None unless it has a value and both ends."""
        if not np.isfinite([self.value, self.low, self.high]).all():
            return None
        return Interval(self.value, self.low, self.high)

    @property
    def is_above(self) -> bool:
        """Whether all of the interval lies above zero."""
        return self.interval is not None and self.low > 0.0


def frontier_gap(
    point: ArrayLike,
    frontier: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> FrontierGap:
    """How far a candidate lies above a frontier at its own first score.

    ``gap = y - F(x)`` with ``(x, y)`` the candidate's mean scores and
    ``F(x) = max {y' : (x', y') on the line through the frontier's means, x' >= x}``.

    ``F`` is the best second score that the frontier reaches at that first score *or a better one*:
    a merge that beats the candidate at both counts against it, also where the line turns back. So
    ``F`` never rises with ``x``, and never lies below the plain interpolation.

    Outside the frontier nothing is extrapolated. A candidate whose first score is higher than any
    on the frontier is compared with the frontier's rightmost model, as a rule Instruct itself: its
    lead at the first score is not counted, and as a frontier falls to the right, the comparison
    asks more of the candidate than a frontier continued would. One whose first score is lower than
    all gets NaN: a longer frontier, down to Base, would have said more. A resample that falls
    there counts as unknown, which may be anything, when the ends of the interval are read off.

    Args:
        point: (problems, 2), per-problem scores of the candidate, such as Pass@1 and Pass@64.
        frontier: (m, problems, 2), those of m >= 1 models in the order of the line, on the same
            problems in the same order.
        confidence: of the percentile interval, in (0, 1).
        resamples, seed: of the bootstrap over problems, in which candidate and line move together.

    Returns:
        A ``FrontierGap`` in the unit of the scores.

    Raises:
        ValueError: shapes that do not fit, scores that are NaN or infinite, no resamples, a
            confidence outside (0, 1).

    The models of the frontier are taken as given: how many and which merges is the caller's
    choice, and a line through few of them lies below the curve where that is concave.
    Cost: O(resamples * m * problems).

    >>> merges = [[[0.2, 0.9]], [[0.3, 0.7]]]
    >>> round(frontier_gap([[0.25, 0.85]], merges).value, 12)
    0.05
    """
    scores, line = _checked(point, frontier)
    tail = (1 - checked_confidence(confidence)) / 2
    if resamples < 1:
        raise ValueError(f"resamples: found {resamples}, expected at least 1")
    columns = np.concatenate([scores[None], line]).transpose(1, 0, 2).reshape(len(scores), -1)
    means = columns.mean(axis=0).reshape(1, -1, 2)
    value, place = float(_gaps(means)[0]), _place(means[0])
    blocks = bootstrap_curves(columns, resamples=resamples, seed=seed)
    gaps = np.concatenate([_gaps(block.reshape(len(block), -1, 2)) for block in blocks])
    low, high = _ends(gaps, tail) if np.isfinite(value) else (float("nan"), float("nan"))
    x, y = (float(mean) for mean in means[0, 0])
    return FrontierGap(value, low, high, (x, y), y - value, place)


def _checked(
    point: ArrayLike, frontier: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scores = checked_scores(point, dimensions=2)
    line = np.asarray(frontier, dtype=np.float64)
    if scores.shape[1] != 2 or line.ndim != 3 or line.shape[1:] != scores.shape or not len(line):
        raise ValueError(
            f"frontier: found shape {line.shape} for scores of shape {scores.shape}, expected"
            " (m, problems, 2) and (problems, 2)"
        )
    for model in line:
        checked_scores(model, dimensions=2)
    return scores, line


def _place(means: NDArray[np.float64]) -> Place:
    first, line = means[0, 0], means[1:, 0]
    if first > line.max() + _SAME:
        return "above"
    return "below" if first < line.min() - _SAME else "within"


def _gaps(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaps (some,) of means (some, 1 + m, 2), the candidate first; NaN below the frontier."""
    x, y = means[:, 0, 0], means[:, 0, 1]
    xs, ys = means[:, 1:, 0], means[:, 1:, 1]
    best = np.where(xs >= x[:, None] - _SAME, ys, -np.inf).max(axis=1)
    best = np.maximum(best, _crossings(x, xs, ys).max(axis=1, initial=-np.inf))
    # Right of everything: the rightmost model, the better one of two equally far right.
    rightmost = np.where(xs == xs.max(axis=1, keepdims=True), ys, -np.inf).max(axis=1)
    best = np.where(x > xs.max(axis=1) + _SAME, rightmost, best)
    return np.asarray(np.where(x < xs.min(axis=1) - _SAME, np.nan, y - best))


def _crossings(
    x: NDArray[np.float64], xs: NDArray[np.float64], ys: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Second score where each segment passes the first score x, -inf where it does not."""
    start, stop = xs[:, :-1], xs[:, 1:]
    width = stop - start
    at = x[:, None]
    passes = (np.minimum(start, stop) <= at) & (at <= np.maximum(start, stop)) & (width != 0)
    share = np.where(passes, (at - start) / np.where(width == 0, 1.0, width), 0.0)
    return np.where(passes, ys[:, :-1] + share * (ys[:, 1:] - ys[:, :-1]), -np.inf)


def _ends(gaps: NDArray[np.float64], tail: float) -> tuple[float, float]:
    """Ends of the percentile interval; NaN for one that unknown resamples could move anywhere."""
    unknown = np.isnan(gaps)
    ends = (
        np.quantile(np.where(unknown, -np.inf, gaps), tail, method="lower"),
        np.quantile(np.where(unknown, np.inf, gaps), 1 - tail, method="higher"),
    )
    low, high = (float(end) if np.isfinite(end) else float("nan") for end in ends)
    return low, high
