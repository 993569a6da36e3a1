"""Take the few leading directions of a delta out, so that single precision sees the bulk.

Real deltas have a few singular values far above the rest. Errors of a float32 reduction scale with
the largest of them, gaps at Timber's cut with the bulk: the directions beside the cut mix. A few
steps of block Lanczos on the Gram matrix ``G`` find the leading directions ``V_p`` quickly
*because* they stand out, and

    G - V_p diag(x_p - raised) V_p^T

has the same directions and the same other eigenvalues, up to the coupling ``||R||^2 / gap`` with
``R = G V_p - V_p diag(x_p)``, which is computed. The directions taken out stay in the matrix just
above the rest, so that every direction keeps its place in the order.

The Gram matrix may be that of the delta as it is: the errors of a rank-k update spread over the
whole eigenbasis and come out ten times smaller than those of the reduction (docs/log.md). Only
where the leading directions are very large is it built again, without them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

BLOCK = 16
"""Directions iterated together."""
DEPTH = 6
"""Blocks in the Krylov space, in which up to ``MOST`` directions are looked for."""
MOST = 32
STANDS_OUT = 6.0
"""Largest eigenvalue over the mean one from which deflation is tried; noise has at most 4."""
SMALLEST_GAP = 0.1
"""Smallest relative step between the last eigenvalue taken out and the next one."""
SMALLEST_SIDE = 2 * BLOCK * DEPTH
"""Below, the Krylov space is no small part of the matrix."""
RAISED = 1.5
"""Eigenvalue of deflated directions over the largest of the rest."""


@dataclass(frozen=True, slots=True)
class Leading:
    """The first ``p`` directions of a delta, by its Gram matrix.

    ``vectors`` (r, p) on the short side, ``levels`` (p,) their eigenvalues, descending,
    ``next_level`` about the largest eigenvalue left (a lower bound), ``coupling`` the bound
    ``||R||^2 / gap`` on how far an eigenvalue of the rest may be moved.
    """

    vectors: NDArray[np.float64]
    levels: NDArray[np.float64]
    next_level: float
    coupling: float

    @property
    def count(self) -> int:
        """Number of directions, p."""
        return int(self.levels.size)

    @property
    def singular_values(self) -> NDArray[np.float64]:
        """(p,), descending."""
        return np.sqrt(self.levels)

    @property
    def raised(self) -> float:
        """Where these directions stand in the deflated matrix."""
        return RAISED * self.next_level

    def move(self, gram: NDArray[np.float32], levels: NDArray[np.float64]) -> NDArray[np.float32]:
        """The Gram matrix with these directions moved from ``levels`` (p,) to ``raised``.

        ``gram`` (r, r), lower triangle, Fortran order, is used up. Cost: ``r^2 p`` flops.
        """
        for sign in (-1.0, 1.0):
            excess = np.maximum(-sign * (levels - self.raised), 0.0)
            scaled = self.vectors[:, excess > 0] * np.sqrt(excess[excess > 0])
            if scaled.size:
                narrow = np.asfortranarray(scaled, dtype=np.float32)
                gram = blas.ssyrk(sign, narrow, beta=1.0, c=gram, lower=1, overwrite_c=1)
        return gram


def leading_directions(gram: NDArray[np.float32], unit_roundoff: float) -> Leading | None:
    """Find the directions of a float32 Gram matrix that stand far above the rest.

    Block Lanczos with full orthogonalisation: ``BLOCK * DEPTH`` vectors, Rayleigh-Ritz in them.

    Args:
        gram: (r, r), lower triangle, Fortran order.
        unit_roundoff: of the precision in which the rest will be solved.

    Returns:
        The longest prefix, up to ``MOST``, whose coupling to the rest is below half of
        ``unit_roundoff`` times the largest eigenvalue left; None when there is none. Deterministic.

    Cost: ``2 r^2 BLOCK DEPTH`` flops; a third of that when nothing stands out.
    Source: Golub & Underwood, The block Lanczos method, 1977.
    """
    r = gram.shape[0]
    if r < SMALLEST_SIDE:
        return None
    mean_level = float(np.diagonal(gram).sum(dtype=np.float64)) / r
    basis = _orthonormal(np.random.default_rng(0).standard_normal((r, BLOCK)))
    images = _image(gram, basis)
    for step in range(1, DEPTH):
        applied = images[:, -BLOCK:]
        if step == 2:
            # Two applications see at least half of a direction that stands out.
            largest = float(np.linalg.norm(basis[:, -BLOCK:].T @ applied, ord=2))
            if largest < STANDS_OUT / 2 * mean_level:
                return None
        for _ in range(2):  # twice is enough, whatever the scales
            applied = applied - basis @ (basis.T @ applied)
        block = _orthonormal(applied)
        basis = np.concatenate([basis, block], axis=1)
        images = np.concatenate([images, _image(gram, block)], axis=1)
    return _converged(basis, images, unit_roundoff)


def _converged(
    basis: NDArray[np.float64], images: NDArray[np.float64], unit_roundoff: float
) -> Leading | None:
    """Rayleigh-Ritz in the basis, then the prefix whose residual is small enough."""
    projected = basis.T @ images
    levels, rotation = np.linalg.eigh((projected + projected.T) / 2)
    levels, rotation = levels[::-1], rotation[:, ::-1][:, :MOST]
    turned = basis @ rotation
    residuals = np.square(images @ rotation - turned * levels[:MOST]).sum(axis=0)
    for count in range(MOST, 0, -1):
        gap = levels[count - 1] - levels[count]
        if gap <= SMALLEST_GAP * levels[count - 1]:
            continue  # the prefix would end inside the bulk
        coupling = float(residuals[:count].sum() / gap)
        if coupling <= 0.5 * unit_roundoff * levels[count]:
            return Leading(
                vectors=turned[:, :count],
                levels=levels[:count],
                next_level=float(levels[count]),
                coupling=coupling,
            )
    return None


def _image(gram: NDArray[np.float32], block: NDArray[np.float64]) -> NDArray[np.float64]:
    """``gram @ block``, multiplied in float32."""
    narrow = np.asfortranarray(block, dtype=np.float32)
    image: NDArray[np.float64] = blas.ssymm(1.0, gram, narrow, lower=1).astype(np.float64)
    return image


def _orthonormal(block: NDArray[np.float64]) -> NDArray[np.float64]:
    basis, _ = np.linalg.qr(block)
    return np.asarray(basis, dtype=np.float64)
