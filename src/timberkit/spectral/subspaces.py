"""Singular subspaces and how far two of them coincide, beside what chance would give.

Two matrices of equal effective rank need not share a single direction. For orthonormal bases
``A, B`` (side x k) the principal angles have the cosines ``svd(A^T B)``; their mean square is

    overlap = ||A^T B||_F^2 / k,      and k / side for two subspaces drawn at random.

Vectors come from the float64 Gram matrix of the short side, ``W^T W = V diag(s^2) V^T`` for a tall
W, and ``U = W V / s``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from timberkit.errors import SpectrumError
from timberkit.measurements import OverlapMeasurement
from timberkit.spectral.values import singular_values

RANK_FLOOR = 1e-6
"""Directions whose singular value lies below this share of the largest are not told apart."""
QR_BELOW = 1e-5
"""Below this share ``W v / s`` is orthogonal to worse than 1e-6, and is made orthogonal by a QR."""
BLOCK_ELEMENTS = 1 << 22
"""Elements of a matrix converted at a time."""


@dataclass(frozen=True, slots=True)
class Directions:
    """Singular values, descending (r,), and the leading k directions, orthonormal columns.

    ``left`` (m, k) and ``right`` (n, k); k may be less than was asked for where the matrix has a
    lower rank (``RANK_FLOOR``).
    """

    singular_values: NDArray[np.float64]
    left: NDArray[np.float64]
    right: NDArray[np.float64]

    @property
    def count(self) -> int:
        """k."""
        return int(self.left.shape[1])


def singular_directions(matrix: NDArray[np.floating[Any]], count: int) -> Directions:
    """The leading ``count`` singular directions of a matrix, with all its singular values.

    Args:
        matrix: (m, n), finite, float32 or float64, of a size whose squares neither over- nor
            underflow.
        count: 0 to r = min(m, n).

    Returns:
        ``Directions``; the span of the first k is that of a full SVD where ``s_k > s_(k+1)``.

    Raises:
        SpectrumError: the eigen-solver did not converge.

    Cost: ``2 m n r`` flops for the Gram matrix, about ``9 r^3`` for its eigenvectors, ``2 m n k``
    for the other side; memory ``48 r^2`` bytes and ``8 (m + n) k``.
    """
    tall = matrix.shape[0] >= matrix.shape[1]
    longer = matrix if tall else matrix.T
    gram = _gram(longer)
    try:
        eigenvalues, eigenvectors = torch.linalg.eigh(torch.from_numpy(gram))
    except RuntimeError as error:
        raise SpectrumError(f"eigenvectors: {error}") from None
    values = np.sqrt(np.maximum(eigenvalues.numpy()[::-1], 0.0))
    found = min(count, int((values > RANK_FLOOR * values[0]).sum()))
    short = np.ascontiguousarray(eigenvectors.numpy()[:, ::-1][:, :found])
    long = np.empty((longer.shape[0], found))
    start = 0
    for block in _blocks(longer):
        stop = start + block.shape[0]
        np.matmul(block, short, out=long[start:stop])
        start = stop
    long /= values[:found]
    if found and values[found - 1] < QR_BELOW * values[0]:
        long = scipy.linalg.qr(long, mode="economic", overwrite_a=True, check_finite=False)[0]
    return Directions(values, *((long, short) if tall else (short, long)))


def overlaps(
    first: NDArray[np.float64], second: NDArray[np.float64], dimensions: Sequence[int]
) -> tuple[OverlapMeasurement, ...]:
    """Compare the leading k columns of two orthonormal bases, for each k of ``dimensions``.

    Args:
        first, second: (side, k1) and (side, k2), orthonormal columns in order of importance.
        dimensions: those below 1 or above ``min(k1, k2)`` are left out.

    Returns:
        One measurement for each k that is left, in the order given. The smallest cosine is good to
        3e-8 near zero.

    Cost: ``2 side k^2`` flops for the largest k, and a values-only solve for each.

    >>> overlaps(np.eye(4)[:, :2], np.eye(4)[:, 1:3], [2])[0].overlap
    0.5
    """
    most = min(first.shape[1], second.shape[1], max(dimensions, default=0))
    cosines = first[:, :most].T @ second[:, :most]
    return tuple(
        _overlap(np.ascontiguousarray(cosines[:k, :k]), k / first.shape[0])
        for k in dimensions
        if 1 <= k <= most
    )


def _overlap(cosines: NDArray[np.float64], chance: float) -> OverlapMeasurement:
    k = cosines.shape[0]
    return OverlapMeasurement(
        dimension=k,
        overlap=min(float(np.square(cosines).sum()) / k, 1.0),
        smallest_cosine=min(float(singular_values(cosines)[-1]), 1.0),
        chance=chance,
    )


def _gram(longer: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """``W^T W`` in float64 of a matrix with more rows than columns, (r, r)."""
    r = longer.shape[1]
    gram = np.zeros((r, r))
    for block in _blocks(longer):
        gram += block.T @ block
    return gram


def _blocks(longer: NDArray[np.floating[Any]]) -> Iterator[NDArray[np.float64]]:
    """Its rows in float64, a few at a time."""
    step = max(1, BLOCK_ELEMENTS // longer.shape[1])
    for start in range(0, longer.shape[0], step):
        yield np.ascontiguousarray(longer[start : start + step], dtype=np.float64)
