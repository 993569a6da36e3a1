"""The smallest singular values once more, from vectors that are known to float32: Rayleigh-Ritz.

An eigenvalue ``x`` of the Gram matrix that is off by ``e`` moves its singular value by
``e / (2 s)``: in float32 it is the smallest values, and with a square delta nearly only they, whose
errors leave an effective rank in doubt. For orthonormal ``V`` (r, t) close to the trailing singular
directions, the singular values of ``delta V`` are off by the *square* of what ``V`` is off: with
``c`` the coupling of the decomposition that gave ``V``, at most about

    sum over leading j of c^2 / (x_j - x_i).

Source: Parlett, The Symmetric Eigenvalue Problem, ch. 11; second-order perturbation theory.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from timberkit.dtypes import Matrix
from timberkit.errors import SpectrumError
from timberkit.spectral.decompose import Decomposition
from timberkit.spectral.delta import Delta, row_blocks
from timberkit.spectral.filters import Spectrum

SAFETY = 4.0
"""Bound over the estimate of second-order theory; at most a twentieth of it was ever measured."""
DOUBLE_ROUNDOFF = 2.0**-53


def with_ritz_values(delta: Delta, decomposition: Decomposition, start: int) -> Spectrum:
    """The spectrum of a float32 decomposition, its values from ``start`` on replaced.

    Args:
        delta: (m, n), that of the decomposition; read in float64.
        decomposition: with ``leading.count <= start < r``.
        start: index of the first value to replace; t = r - start of them.

    Returns:
        The spectrum; no error bound is larger than before.

    Raises:
        SpectrumError: the vectors are not orthonormal.

    Cost: ``2 m n t`` flops in float64 besides the vectors'; memory ``(r + 3 t) t`` numbers of
    float64 and one block, for a wide delta ``(r + n + 3 t) t``.
    """
    known = decomposition.spectrum
    vectors = decomposition.vectors(start, known.r)
    if decomposition.leading is not None:
        # Far above the rest, they would show in every value that is not told apart from them.
        vectors = np.concatenate([decomposition.leading.vectors, vectors], axis=1)
    squares = _squared_ritz_values(delta, vectors.astype(np.float64))
    rounding = 64 * DOUBLE_ROUNDOFF * squares[0]
    squares = squares[-(known.r - start) :]
    errors = np.minimum(
        _error_of_squares(decomposition, start) + rounding,
        known.errors[start:] * (2 * known.singular_values[start:] + known.errors[start:]),
    )
    values = np.sqrt(squares)
    above = np.sqrt(squares + errors) - values
    below = values - np.sqrt(np.maximum(squares - errors, 0.0))
    return Spectrum(
        np.minimum.accumulate(np.concatenate([known.singular_values[:start], values])),
        np.concatenate([known.errors[:start], np.maximum(above, below)]),
    )


def _squared_ritz_values(delta: Delta, vectors: Matrix) -> NDArray[np.float64]:
    """Squared singular values, descending, of the delta on the span of the columns."""
    rows, columns = delta.shape
    if rows >= columns:
        gram = np.zeros((vectors.shape[1], vectors.shape[1]))
        for part in row_blocks(delta.shape):
            image = delta.rows(part, np.float64) @ vectors
            gram += image.T @ image
    else:
        image = np.zeros((columns, vectors.shape[1]))
        for part in row_blocks(delta.shape):
            image += delta.rows(part, np.float64).T @ vectors[part]
        gram = image.T @ image
    # The vectors are orthonormal to float32 only.
    try:
        found = scipy.linalg.eigh(gram, vectors.T @ vectors, eigvals_only=True)
    except np.linalg.LinAlgError as error:
        raise SpectrumError(f"Ritz values: {error}") from None
    return np.maximum(np.asarray(found, dtype=np.float64)[::-1], 0.0)


def _error_of_squares(decomposition: Decomposition, start: int) -> NDArray[np.float64]:
    """``SAFETY sum_j c^2 / (x_j - x_i)`` for every trailing i; infinite beside a tie."""
    levels = decomposition.levels()
    gaps = levels[:start, None] - levels[None, start:]
    with np.errstate(divide="ignore"):
        terms: NDArray[np.float64] = (decomposition.coupling() ** 2 / gaps).sum(axis=0)
    return SAFETY * np.abs(terms)
