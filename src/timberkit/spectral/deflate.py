"""Take the few leading directions of a delta out, so that single precision sees the bulk.

Real deltas have a few singular values far above the rest. Errors of a float32 Gram matrix scale
with the largest of them, gaps at Timber's cut with the bulk: the directions beside the cut mix.
Block power iteration finds the leading directions ``V_p`` (short side) quickly *because* they stand
out; what is left,

    delta_rest = delta (I - V_p V_p^T),

has the same other singular values and directions, up to the coupling ``||R||^2 / gap`` with
``R = G V_p - V_p diag(x_p)``, which is computed. Only directions for which that is below what
float32 does anyway are taken out; without such directions nothing is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

BLOCK = 16
"""Directions iterated together; up to ``MOST`` of them are taken out."""
MOST = 12
ITERATIONS = 7
STANDS_OUT = 6.0
"""Largest eigenvalue over the mean one from which deflation is tried; noise has at most 4."""
SMALLEST_GAP = 0.1
"""Smallest relative step between the last eigenvalue taken out and the next one."""
SMALLEST_SIDE = 4 * BLOCK
"""Below, a block is no small part of the matrix."""


@dataclass(frozen=True, slots=True)
class Leading:
    """The first ``p`` directions of a delta.

    ``vectors`` (r, p) on the short side, ``images`` (long side, p) what the delta makes of them,
    ``singular_values`` (p,), ``next_level`` about the largest eigenvalue left (a lower bound),
    ``coupling`` the bound ``||R||^2 / gap`` on how far an eigenvalue of the rest may be moved.
    """

    vectors: NDArray[np.float32]
    images: NDArray[np.float32]
    singular_values: NDArray[np.float64]
    next_level: float
    coupling: float

    @property
    def count(self) -> int:
        """Number of directions, p."""
        return int(self.singular_values.size)

    def without(self, block: torch.Tensor, part: slice) -> torch.Tensor:
        """A block of the delta, taken along its long side, without these directions; in place.

        ``block`` is (long part, r): rows of a tall delta, columns of a wide one, transposed.
        """
        images = torch.from_numpy(self.images[part])
        return block.addmm_(images, torch.from_numpy(self.vectors).T, alpha=-1.0)


def leading_directions(delta: NDArray[np.floating[Any]], unit_roundoff: float) -> Leading | None:
    """Find the directions of a float32 delta, (m, n), that stand far above the rest.

    Returns the longest prefix, up to ``MOST``, whose coupling to the rest is below half of
    ``unit_roundoff`` times the largest eigenvalue left; None when there is none. Deterministic.
    Cost: ``4 m n BLOCK`` flops an iteration, one when nothing stands out, else ``ITERATIONS``.
    """
    rows, columns = delta.shape
    r = min(rows, columns)
    if r < SMALLEST_SIDE or delta.dtype != np.float32:
        return None
    matrix = torch.from_numpy(delta)
    matrix = matrix if rows >= columns else matrix.T
    mean_level = float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) ** 2 / r
    start = np.random.default_rng(0).standard_normal((r, BLOCK), dtype=np.float32)
    vectors = _orthonormal(start)
    for iteration in range(ITERATIONS):
        vectors = _orthonormal(_apply(matrix, vectors))
        if iteration == 0:
            image = matrix @ torch.from_numpy(vectors)
            largest = float(torch.linalg.matrix_norm(image, ord=2)) ** 2
            # One iteration sees at least half of a direction that stands out.
            if largest < STANDS_OUT / 2 * mean_level:
                return None
    return _converged(matrix, vectors, unit_roundoff)


def _converged(
    matrix: torch.Tensor, vectors: NDArray[np.float32], unit_roundoff: float
) -> Leading | None:
    """Rayleigh-Ritz in the block, then the prefix whose residual is small enough."""
    images = (matrix @ torch.from_numpy(vectors)).numpy().astype(np.float64)
    levels, rotation = np.linalg.eigh(images.T @ images)
    levels, rotation = levels[::-1], rotation[:, ::-1]
    turned = np.ascontiguousarray(vectors.astype(np.float64) @ rotation, dtype=np.float32)
    images = images @ rotation
    applied = (matrix.T @ torch.from_numpy(images.astype(np.float32))).numpy().astype(np.float64)
    residuals = np.square(applied - turned.astype(np.float64) * levels).sum(axis=0)
    for count in range(min(MOST, BLOCK - 1), 0, -1):
        gap = levels[count - 1] - levels[count]
        if gap <= SMALLEST_GAP * levels[count - 1]:
            continue  # the prefix would end inside the bulk
        coupling = float(residuals[:count].sum() / gap)
        if coupling <= 0.5 * unit_roundoff * levels[count]:
            return Leading(
                vectors=np.ascontiguousarray(turned[:, :count]),
                images=np.ascontiguousarray(images[:, :count], dtype=np.float32),
                singular_values=np.sqrt(levels[:count]),
                next_level=float(levels[count]),
                coupling=coupling,
            )
    return None


def _apply(matrix: torch.Tensor, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    applied: NDArray[np.float32] = (matrix.T @ (matrix @ torch.from_numpy(vectors))).numpy()
    return applied


def _orthonormal(block: NDArray[np.float32]) -> NDArray[np.float32]:
    """Orthonormalised in float64, so that the block stays a basis whatever its scales."""
    basis, _ = np.linalg.qr(block.astype(np.float64))
    return np.ascontiguousarray(basis, dtype=np.float32)
