"""Where one Pass@k curve passes another: the k* of "Base explores more".

Post-training often lifts Pass@1 and lowers Pass@k for large k; ``crossing_point`` says from which k
the first model (Base, say) leads, and how well that k is known::

    ks = range(1, 257)
    crossing_point(pass_at_k(n, c_base, ks), pass_at_k(n, c_instruct, ks), ks).text
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timberkit.metrics.counts import checked_ks
from timberkit.metrics.intervals import RESAMPLES, bootstrap_curves, checked_confidence
from timberkit.metrics.paired import checked_differences


@dataclass(frozen=True, slots=True)
class Crossing:
    """From which k the first model leads; None stands for "none up to ``up_to``".

    ``share`` of the resamples hold a crossing at all. ``lead_changes`` counts how often the lead
    changes hands between neighbouring k; more than one says that one k* does not describe the
    curves.
    """

    k: int | None
    low: int | None
    high: int | None
    up_to: int
    share: float
    lead_changes: int

    @property
    def text(self) -> str:
        """As one reads it: ``13 [9, 21]``, ``40 [12, none up to 256]``."""
        ends = [f"none up to {self.up_to}" if k is None else str(k) for k in (self.low, self.high)]
        value = f"none up to {self.up_to}" if self.k is None else str(self.k)
        return f"{value} [{', '.join(ends)}]"


def crossing_point(
    first: ArrayLike,
    second: ArrayLike,
    ks: Sequence[int],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Crossing:
    """The smallest k from which the first model's mean is ahead of the second's, and stays so.

    ``k* = min {k : D(k) > 0 and D(k') >= 0 for all k' >= k}`` with ``D`` the difference of the
    mean curves at the k given; None if there is no such k. Ahead from the start is the first k.

    Args:
        first, second: (problems, ks), as from ``pass_at_k(n, c, ks)``: same problems, same order.
        ks: ascending; k* is one of them, so give all from 1 to n where that is affordable.
        confidence: of the interval, in (0, 1). resamples, seed: of the bootstrap over problems.

    Returns:
        A ``Crossing``. The interval is the percentile one of the resampled k*, "none" counting as
        beyond every k: its ends are values that occurred. Both ends None mean that almost no
        resample has a crossing.

    Raises:
        ValueError: shapes that do not pair up, NaN (some problem has fewer than k rollouts), ks
            that do not ascend.

    Where the curves run close together the interval is wide, and should be: k* is then not known.
    Cost: O(problems * ks * resamples). Source: the crossover is described by Yue et al. 2025, Does
    Reinforcement Learning Really Incentivize Reasoning Capacity (arXiv 2504.13837).

    >>> crossing_point([[0.1, 0.6]] * 3, [[0.2, 0.4]] * 3, [1, 8]).text
    '8 [8, 8]'
    """
    found = checked_ks(ks)
    difference = checked_differences(first, second, dimensions=2)
    if difference.shape[1] != len(found) or list(found) != sorted(set(found)):
        raise ValueError(
            f"ks: found {len(found)} for {difference.shape[1]} columns, expected one a column,"
            " ascending"
        )
    tail = (1 - checked_confidence(confidence)) / 2
    curve = difference.mean(axis=0)
    drawn = [
        _first_lead(block) for block in bootstrap_curves(difference, resamples=resamples, seed=seed)
    ]
    places = np.sort(np.concatenate(drawn))
    # The ends are places that occurred, and lean outwards.
    low = places[int(np.floor(tail * (resamples - 1)))]
    high = places[int(np.ceil((1 - tail) * (resamples - 1)))]
    k, bottom, top = (
        found[place] if place < len(found) else None
        for place in (int(_first_lead(curve[None])[0]), int(low), int(high))
    )
    leads = np.sign(curve)[curve != 0]
    return Crossing(
        k,
        bottom,
        top,
        up_to=found[-1],
        share=float((places < len(found)).mean()),
        lead_changes=int((leads[1:] != leads[:-1]).sum()),
    )


def _first_lead(curves: NDArray[np.float64]) -> NDArray[np.intp]:
    """(curves,): the column from which each row is ahead for good, or the number of columns."""
    columns = curves.shape[1]
    # Behind for the last time here; everything after is ahead or level.
    last_behind = columns - 1 - np.argmax((curves < 0)[:, ::-1], axis=1)
    start = np.where((curves < 0).any(axis=1), last_behind + 1, 0)
    ahead = (curves > 0) & (np.arange(columns) >= start[:, None])
    return np.asarray(np.where(ahead.any(axis=1), np.argmax(ahead, axis=1), columns))
