"""Chosen eigenvectors of a symmetric tridiagonal matrix, all at once, by twisted factorisations.

For an eigenvalue x of T the matrix ``T - x I`` is factorised from the top (``L D+ L^T``) and from
the bottom (``U D- U^T``); at the row where both meet with the smallest pivot, ``gamma``, the vector
is started with 1 and continued upwards and downwards by one multiplication a row. That is one
recurrence over the rows for *every* chosen eigenvalue at once: a few vector operations a row, where
LAPACK's ``stemr`` works scalar by scalar.

Close eigenvalues lose orthogonality in proportion to their gap, which ``stemr`` prevents with much
care; here the result is checked instead, and ``None`` sends the caller to ``stemr``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

LARGEST_RESIDUAL = 1e-11
"""``||T z - x z||`` over the largest eigenvalue; 1e-13 is usual."""
COLUMNS = 256
"""Eigenvalues treated together: a handful of arrays of this width stays in the cache."""


def eigenvectors(diagonal: Vector, beside: Vector, eigenvalues: Vector) -> Vector | None:
    """Unit eigenvectors of T for given eigenvalues, as columns.

    Args:
        diagonal, beside: (n,) and (n - 1,) of T, n >= 2.
        eigenvalues: (k,), accurate to rounding, each an eigenvalue of T.

    Returns:
        (n, k) Fortran order, or None where a residual is not small: T splits, or pivots vanish.
        Orthogonality is for the caller to check: it is about ``1e-14 ||T|| / gap``.

    Cost: about ``20 n k`` flops. Source: Dhillon & Parlett, Orthogonal eigenvectors and relative
    gaps, SIAM J. Matrix Anal. Appl. 25 (2004), section 2.
    """
    found = np.empty((diagonal.size, eigenvalues.size), order="F")
    allowed = LARGEST_RESIDUAL * float(np.abs(diagonal).max() + 2 * np.abs(beside).max())
    for start in range(0, eigenvalues.size, COLUMNS):
        chosen = eigenvalues[start : start + COLUMNS]
        with np.errstate(all="ignore"):  # what goes wrong shows in the residual
            vectors = _twisted(diagonal, beside, chosen)
            residual = _residual(diagonal, beside, chosen, vectors)
        if not residual <= allowed:
            return None
        found[:, start : start + COLUMNS] = vectors
    return found


def _twisted(diagonal: Vector, beside: Vector, eigenvalues: Vector) -> Vector:
    """(n, k) unit vectors; NaN where a factorisation broke down."""
    n, k = diagonal.size, eigenvalues.size
    squares, quotient = beside**2, np.empty(k)
    shifted = diagonal[:, None] - eigenvalues
    down, up = shifted.copy(), shifted.copy()  # pivots from the top, from the bottom
    for j in range(1, n):
        np.divide(squares[j - 1], down[j - 1], out=quotient)
        np.subtract(down[j], quotient, out=down[j])
    for j in range(n - 2, -1, -1):
        np.divide(squares[j], up[j + 1], out=quotient)
        np.subtract(up[j], quotient, out=up[j])
    gamma = down + up
    gamma -= shifted
    twist = np.abs(gamma, out=gamma).argmin(axis=0)
    # Multipliers from each row to the next, switched off on the other side of the twist.
    row = np.arange(n)[:, None]
    towards_bottom = np.divide(-beside[:, None], up[1:], out=up[1:])
    towards_bottom *= row[1:] > twist
    towards_top = np.divide(-beside[:, None], down[:-1], out=down[:-1])
    towards_top *= row[:-1] < twist
    vectors = (row == twist).astype(np.float64)
    for j in range(1, n):
        np.multiply(towards_bottom[j - 1], vectors[j - 1], out=quotient)
        np.add(vectors[j], quotient, out=vectors[j])
    for j in range(n - 2, -1, -1):
        np.multiply(towards_top[j], vectors[j + 1], out=quotient)
        np.add(vectors[j], quotient, out=vectors[j])
    found: Vector = vectors / np.sqrt(np.einsum("ij,ij->j", vectors, vectors))
    return found


def _residual(diagonal: Vector, beside: Vector, eigenvalues: Vector, vectors: Vector) -> float:
    """Largest element of ``T Z - Z diag(x)``; NaN if there is one in Z."""
    image = (diagonal[:, None] - eigenvalues) * vectors
    image[:-1] += beside[:, None] * vectors[1:]
    image[1:] += beside[:, None] * vectors[:-1]
    return float(np.abs(image).max())
