"""The part of a delta that lies in the leading singular subspaces of Base, by two projections.

With the leading ``k = ceil(share * r)`` left and right singular directions of the *Base* weight as
the columns of U (m, k) and V (n, k), the part of the delta inside is ``U C V^T`` with the core
``C = U^T delta V``, and

    refined = W_base + inside * U C V^T + outside * (delta - U C V^T)
    ||refined - W_instruct||^2 = (1 - outside)^2 (||delta||^2 - ||C||^2) + (1 - inside)^2 ||C||^2

All of it in float64, in blocks of rows. The directions of the short side come from Base's Gram
matrix (``decompose``) where it tells them apart at the cut to ``LARGEST_TURN``, else from a full
SVD; those of the long side are an orthonormal basis of what Base makes of them. Where the singular
values on both sides of the cut are equal the subspaces are not unique, and what LAPACK gives is
taken; ``agreement`` then allows for any other choice. A direction on which Base vanishes is none
of its own (``rank.leading_count``).

Cost: ``m n r + 4/3 r^3 + 4 r^2 k`` flops for the directions of the short side, ``6 m n k`` for the
others, the core and the result, ``2 m n k`` for each further result; memory of about
``24 (m + n) k + 24 r^2`` bytes and Base's weight in float32, or float64 where it is wide.

Source: arXiv 2511.08567, which finds that reinforcement learning moves weights off these
directions, and fine-tuning along them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from timberkit.config import BaseSubspace
from timberkit.dtypes import Raw, raw_dtype, widen
from timberkit.errors import SpectrumError
from timberkit.spectral.assemble import Sink, Written, rounded
from timberkit.spectral.decompose import Decomposition, decompose
from timberkit.spectral.delta import PairDelta, Rows, norm, row_blocks
from timberkit.spectral.rank import leading_count

LARGEST_TURN = 1e-9
"""By which the error of a Gram matrix may turn a direction beside the cut, in radians."""

Float64: type[np.float64] = np.float64


@dataclass(frozen=True, slots=True)
class Subspaces:
    """Orthonormal directions of Base, (m, k) and (n, k), and the delta between them, (k, k).

    The leading ones of a smaller share are the first; ``counts`` has their number for each share.
    """

    left: NDArray[np.float64]
    right: NDArray[np.float64]
    core: NDArray[np.float64]
    counts: Mapping[float, int]

    def inside_norm(self, share: float) -> float:
        """Frobenius norm of the part of the delta inside."""
        count = self.counts[share]
        return norm(self.core[:count, :count]) if count else 0.0

    def constant_gain(self, edit: BaseSubspace) -> float | None:
        """The gain of an edit for which everything lies inside, or nothing, else None."""
        count = self.counts[edit.share]
        if count == 0:
            return edit.outside
        return edit.inside if count == len(self.left) == len(self.right) else None

    def correction(self, edit: BaseSubspace, delta_norm: float) -> float:
        """``||refined - instruct||_F``."""
        inside = self.inside_norm(edit.share)
        outside = math.sqrt(max(delta_norm - inside, 0.0)) * math.sqrt(delta_norm + inside)
        return math.hypot((1.0 - edit.inside) * inside, (1.0 - edit.outside) * outside)


def base_subspaces(
    base: Rows, instruct: Rows, shares: Sequence[float], device: str = "cpu"
) -> Subspaces:
    """The leading subspaces of Base for all ``shares``, and what of the delta lies in them.

    Raises SpectrumError for NaN or Inf in Base. Cost: see the module header, with the largest k.
    """
    weight = PairDelta(_Nothing(base.shape, base.dtype), base)
    counts, short = dict.fromkeys(shares, 0), np.empty((min(base.shape), 0))
    if weight.scale:
        found, counts = _decomposed(weight, shares, device)
        short = np.asarray(found.vectors(0, max(counts.values())), dtype=np.float64)
    long = _other_side(weight, short)
    left, right = (long, short) if base.shape[0] >= base.shape[1] else (short, long)
    core = np.zeros((left.shape[1], left.shape[1]))
    for rows in row_blocks(base.shape):
        first, second = (widen(w[rows], w.dtype, Float64) for w in (base, instruct))
        core += left[rows].T @ ((second - first) @ right)
    return Subspaces(left, right, core, counts)


def write_inside(
    base: Rows,
    instruct: Rows,
    found: Subspaces,
    edits: Sequence[BaseSubspace],
    sinks: Sequence[Sink],
    dtype: str,
) -> list[Written]:
    """Write ``instruct + (outside - 1) delta + (inside - outside) U C V^T`` for each edit.

    Raises InputError where a value overflows ``dtype``.
    """
    written = [Written() for _ in edits]
    counts = sorted({found.counts[edit.share] for edit in edits})
    images = {count: found.left[:, :count] @ found.core[:count, :count] for count in counts}
    for rows in row_blocks(instruct.shape):
        first, second = (widen(w[rows], w.dtype, Float64) for w in (base, instruct))
        delta = second - first
        inside = {n: image[rows] @ found.right[:, :n].T for n, image in images.items()}
        for edit, sink, result in zip(edits, sinks, written, strict=True):
            value = inside[found.counts[edit.share]] * (edit.inside - edit.outside)
            if edit.outside != 1.0:
                value += delta * (edit.outside - 1.0)
            value += second
            sink[rows] = rounded(value, second, result, dtype)
    return written


def _decomposed(
    weight: PairDelta, shares: Sequence[float], device: str
) -> tuple[Decomposition, dict[float, int]]:
    """Base's spectrum with its vectors on demand, and the number of directions of each share."""
    try:
        found = decompose(weight, "float64", device=device)
        counts = _counts(found, shares)
        if all(_turn(found, count) <= LARGEST_TURN for count in counts.values()):
            return found, counts
    except SpectrumError:  # of the eigen-solver; what is not finite is known before
        pass
    found = decompose(weight, "svd")
    return found, _counts(found, shares)


def _counts(found: Decomposition, shares: Sequence[float]) -> dict[float, int]:
    values = found.spectrum.singular_values
    return {share: leading_count(values, share) for share in shares}


def _turn(found: Decomposition, count: int) -> float:
    """Angle by which errors mix the directions beside a cut; 0.0 where there is no other side."""
    levels = found.levels()
    if count in (0, levels.size):
        return 0.0
    gap = float(levels[count - 1] - levels[count])
    return found.coupling() / gap if gap > 0 else math.inf


def _other_side(weight: PairDelta, short: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal basis of Base's image of the short side's directions, the leading ones first."""
    rows_count, columns = weight.shape
    tall = rows_count >= columns
    image = np.zeros((max(weight.shape), short.shape[1]))
    if not short.shape[1]:
        return image
    for rows in row_blocks(weight.shape):
        block = weight.rows(rows, Float64)
        if tall:
            image[rows] = block @ short
        else:
            image += block.T @ short[rows]
    basis: NDArray[np.float64] = scipy.linalg.qr(
        image, mode="economic", overwrite_a=True, check_finite=False
    )[0]
    return basis


@dataclass(frozen=True, slots=True)
class _Nothing:
    """A weight of zeros: Base is its own delta from it."""

    shape: tuple[int, int]
    dtype: str

    def __getitem__(self, rows: slice) -> Raw:
        first, last, _ = rows.indices(self.shape[0])
        return np.zeros((last - first, self.shape[1]), dtype=raw_dtype(self.dtype))
