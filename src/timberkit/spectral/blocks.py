"""Which directions have to be projected: runs of equal gains, and what needs no vectors.

Most methods have a few long runs of equal gains. The directions are cut at their ends; of the
blocks in between, those with the same gains as the widest need no vectors at all, because

    W_base + sum_b g_b P_b = W_base + g_0 delta + sum_(b != 0) (g_b - g_0) P_b.

Where gains change from direction to direction (``linear``, the head of ``shrink``) no cut is made:
that is one block with a gain for each of its directions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

LONG_RUN_SHARE = 16
"""A run of equal gains is long from this part of all directions, and from two, on."""


@dataclass(frozen=True, slots=True)
class Block:
    """Directions ``start <= i < stop``; ``gains`` (methods, width) are those of each method."""

    start: int
    stop: int
    gains: NDArray[np.float64]

    @property
    def width(self) -> int:
        """Number of directions."""
        return self.stop - self.start

    def level(self, place: int) -> float | None:
        """The gain of a method that has only one here, else None."""
        first = float(self.gains[place, 0])
        return first if bool((self.gains[place] == first).all()) else None

    @property
    def levels(self) -> tuple[float, ...] | None:
        """The gain of each method, if each has only one here."""
        found = [self.level(place) for place in range(len(self.gains))]
        return None if None in found else tuple(float(level or 0.0) for level in found)


@dataclass(frozen=True, slots=True)
class Partition:
    """Blocks to be projected, in order, and the gain of each method on all other directions."""

    blocks: tuple[Block, ...]
    reference: tuple[float, ...]


def steps(gains: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices i with ``gains[i - 1] != gains[i]``."""
    return np.flatnonzero(np.diff(gains)) + 1


def long_run_ends(gains: NDArray[np.float64]) -> NDArray[np.intp]:
    """Those of the ``steps`` beside which a long run of equal gains lies.

    >>> long_run_ends(np.array([0.9, 0.8, 0.7, 0.0, 0.0, 0.0])).tolist()
    [3]
    """
    changes = steps(gains)
    edges = np.concatenate([[0], changes, [gains.size]])
    # Of two directions each is a run.
    is_long = np.diff(edges) >= min(max(2, gains.size // LONG_RUN_SHARE), gains.size - 1)
    found: NDArray[np.intp] = changes[is_long[:-1] | is_long[1:]]
    return found


def is_stepped(gains: NDArray[np.float64]) -> bool:
    """Whether long runs lie beside every step: gains that do not change gradually."""
    return long_run_ends(gains).size == steps(gains).size


def partition(gains: Sequence[NDArray[np.float64]]) -> Partition:
    """Cut 0..r where any method ends a long run, and leave out what needs no vectors.

    Args:
        gains: (r,) for each method.

    Returns:
        No blocks at all for no methods. The reference of a method is its gain on the blocks left
        out, or, where all are projected, the gain that it has on most directions: 1 where it has
        none on a whole block.
    """
    if not gains:
        return Partition((), ())
    table = np.stack(gains)
    cuts = sorted({0, table.shape[1]}.union(*(long_run_ends(row).tolist() for row in table)))
    blocks = [Block(start, stop, table[:, start:stop]) for start, stop in pairwise(cuts)]
    widths: Counter[tuple[float, ...]] = Counter()
    for block in blocks:
        if block.levels is not None:
            widths[block.levels] += block.width
    if widths:
        left_out = widths.most_common(1)[0][0]
        return Partition(tuple(b for b in blocks if b.levels != left_out), left_out)
    return Partition(tuple(blocks), tuple(_commonest(blocks, i) for i in range(len(table))))


def _commonest(blocks: Sequence[Block], place: int) -> float:
    widths: Counter[float] = Counter()
    for block in blocks:
        level = block.level(place)
        if level is not None:
            widths[level] += block.width
    return widths.most_common(1)[0][0] if widths else 1.0
