"""Singular values without vectors: what an analysis needs of three matrices for every weight."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from timberkit.dtypes import Matrix
from timberkit.errors import SpectrumError
from timberkit.spectral.decompose import (
    TORCH_ALLOWANCE,
    gram_matrix,
    spectrum_of_eigenvalues,
    tridiagonal_eigenvalues,
    tridiagonal_form,
)
from timberkit.spectral.delta import Delta
from timberkit.spectral.filters import Spectrum

TWO_STAGE_SIDE = 3000
"""Short side from which torch's two-stage reduction is quicker than LAPACK's ``sytrd``."""


def singular_values(matrix: Delta | Matrix) -> NDArray[np.float64]:
    """All singular values of a matrix, descending, (min(m, n),) float64.

    The square roots of the eigenvalues of the float64 Gram matrix of the short side.

    Args:
        matrix: (m, n), finite; float32 or float64, of a size whose squares neither over- nor
            underflow.

    Returns:
        Values with errors of about ``1e-15 s_1^2 / s_i``, at most ``3e-8 s_1`` near zero.

    Raises:
        SpectrumError: LAPACK did not converge, which NaN or Inf in the matrix cause.

    Cost: ``m n r + 4/3 r^3`` flops in float64; memory ``8 r^2`` bytes and one block.
    """
    return spectrum_of(matrix).singular_values


def spectrum_of(matrix: Delta | Matrix) -> Spectrum:
    """``singular_values`` with a bound on the error of each; otherwise the same."""
    gram = gram_matrix(matrix, np.float64)
    # Torch's solver needed a wider bound, see ``decompose``.
    allowance = TORCH_ALLOWANCE if gram.shape[0] >= TWO_STAGE_SIDE else 1.0
    return spectrum_of_eigenvalues(eigenvalues(gram), "float64", allowance=allowance)


def eigenvalues(gram: Matrix) -> NDArray[np.float64]:
    """Eigenvalues, ascending, of a symmetric float64 matrix given by its lower triangle.

    ``gram`` (r, r) in Fortran order; overwritten.
    """
    r = gram.shape[0]
    if r >= TWO_STAGE_SIDE:
        import torch

        # The lower triangle in Fortran order is the upper one of the transposed C-ordered view.
        try:
            with threadpool_limits(limits=1):  # torch may have been loaded just now
                found = torch.linalg.eigvalsh(torch.from_numpy(gram.T), UPLO="U")
        except RuntimeError as error:
            raise SpectrumError(f"eigenvalues: {error}") from None
        values: NDArray[np.float64] = found.numpy()
    else:
        _, _, diagonal, beside = tridiagonal_form(gram)
        values = tridiagonal_eigenvalues(diagonal, beside)
    if not np.isfinite(values).all():
        raise SpectrumError("eigenvalues: found values that are not finite")
    return values
