"""What a search maximises: the second score, while the first one is held.

    J = mean(high) - penalty * slope * softplus(lack / slope)
    lack = mean(low of Instruct) + margin - mean(low)

in points (percent), on the same problems for candidate and Instruct. Far inside the constraint the
penalty vanishes, far outside each point lost at the first score costs ``penalty`` points, and in
between it is smooth, so that a sampler can feel its way along the edge. ``margin``: what a
candidate has to gain at the first score on the problems searched on, because part of that gain is
chance and will be missing on others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from timberkit.metrics import paired_difference
from timberkit.study.search.evaluators import Scores

SLOPE = 0.25
"""Points of the first score over which the penalty sets in."""


@dataclass(frozen=True, slots=True)
class Objective:
    """See the module. ``tolerance``: points of the first score that may be lost on other problems;
    ``confidence``: how sure that has to be, one-sided."""

    margin: float
    penalty: float
    tolerance: float
    confidence: float

    def value(self, found: Scores, instruct: Scores) -> float:
        """J of per-problem scores (problems, 2), in points."""
        low, high = 100 * found.mean(axis=0)
        lack = 100 * instruct[:, 0].mean() + self.margin - low
        return float(high - self.penalty * SLOPE * np.logaddexp(0.0, lack / SLOPE))

    def keeps(self, found: Scores, instruct: Scores) -> bool:
        """Whether the loss at the first score surely stays within the tolerance.

        The lower end of the paired interval of the difference to Instruct, at the one-sided
        confidence, lies above ``-tolerance``. Deterministic.
        """
        return self.lowest(found, instruct) >= -self.tolerance

    def lowest(self, found: Scores, instruct: Scores) -> float:
        """That lower end, in points."""
        interval = paired_difference(
            100 * found[:, 0], 100 * instruct[:, 0], confidence=2 * self.confidence - 1
        )
        return interval.low
