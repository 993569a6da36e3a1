"""Singular values and a few singular vectors of a delta, through the Gram matrix of its short side.

For a delta of shape m x n, ``r = min(m, n)``, the Gram matrix ``G`` (r x r, ``delta^T delta`` or
``delta delta^T``) has the eigenvalues ``s^2``; it is built by a symmetric rank-k update in blocks,
tridiagonalised once, and only the eigenvectors that a filter needs are ever formed:

    syrk -> sytrd -> sterf (all eigenvalues) -> twisted or stemr (chosen vectors) -> ormqr (back)

Three routes, cheapest first, each with a bound on what it may get wrong:

| route     | Gram, sytrd, ormqr | bound on the error of an eigenvalue `s_i^2`             |
|-----------|--------------------|---------------------------------------------------------|
| `float32` | float32            | u (12 x_1 + 48 x_i), u = 2^-24; x_1 after deflation     |
| `float64` | float64            | u (12 x_1 + 48 x_i), u = 2^-53                          |
| `svd`     | none: float64 SVD  | taken as the truth: the oracle computes the same values |

In `float32` directions far above the rest are taken out first (``deflate``); what the Gram matrix
lost to them adds ``0.25 u ||G||_F``. The tridiagonal problem is always solved in float64. The
constants are about twice what the worst of random, spiked, flat and stepped spectra needed
(docs/log.md). Devices other than the CPU use ``torch.linalg.eigh`` on the same Gram matrix and
check what comes back.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol, TypeAlias

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.linalg import blas, lapack

from timberkit.dtypes import Matrix, Working
from timberkit.errors import SpectrumError
from timberkit.spectral.deflate import Leading, leading_directions
from timberkit.spectral.delta import HELD_ELEMENTS, Delta, HeldMatrix, as_delta, long_blocks
from timberkit.spectral.filters import Spectrum
from timberkit.spectral.oracle import singular_value_decomposition
from timberkit.spectral.tridiagonal import eigenvectors

Route: TypeAlias = Literal["float32", "float64", "svd"]

UNIT_ROUNDOFF: dict[Route, float] = {"float32": 2.0**-24, "float64": 2.0**-53, "svd": 2.0**-53}
LARGEST_DEFECT: dict[Route, float] = {"float32": 1e-3, "float64": 1e-9, "svd": 1e-9}
"""Bound on the loss of orthogonality of computed vectors, in ``check_orthonormal``'s measure."""
TWISTED_DEFECT = 1e-7
"""The same for vectors of the tridiagonal matrix that are to be rounded to float32."""
EIGENVALUE_ERROR = 12.0
RELATIVE_ERROR = 48.0
TORCH_ALLOWANCE = 4.0
"""Bound on the error of an eigenvalue x_i: ``u (EIGENVALUE_ERROR x_1 + RELATIVE_ERROR x_i)``.

Times ``TORCH_ALLOWANCE`` for torch's products and ``eigh``, which reached 75 u x_1 on flat spectra.
"""
REDUCTION_COUPLING = 2.0
"""Entries of the error in the eigenbasis, over ``u ||G||_F / sqrt(r)``; below 0.7 as measured."""
PRODUCT_COUPLING = 8.0
"""The same for those of the Gram matrix alone, over ``u ||G||_F / r``; 1 to 3 as measured."""
PRODUCT_ERROR = 0.25
"""Eigenvalue error of the Gram matrix alone, over ``u ||G||_F``; at most 0.1 as measured."""
REMOVAL_COUPLING = 2.0
"""Entries that taking directions out of the delta leaves, over ``u s_1 s_next / sqrt(m n)``."""
BLOCK_ELEMENTS = 1 << 22
"""Elements of a delta converted at a time: bounds the memory of a conversion."""


class Decomposition(Protocol):
    """Spectrum of a delta now, singular vectors of its short side on demand."""

    route: Route
    spectrum: Spectrum
    leading: Leading | None
    """Directions found beforehand and taken out, if any."""

    def vectors(self, start: int, stop: int) -> Matrix:
        """Singular vectors ``start <= i < stop`` of the short side, as columns.

        Of the deflated directions only all together: neither end lies among them.
        """
        ...

    def coupling(self) -> float:
        """Scale ``e`` of the error matrix in the basis of the singular vectors.

        Two directions i, j mix by an angle of about ``e / |x_i - x_j|``, with ``x`` the
        eigenvalues (``float32``, ``float64``) or the singular values (``svd``): see ``levels``.
        """
        ...

    def levels(self) -> NDArray[np.float64]:
        """What the gaps are taken between: eigenvalues or singular values, descending, (r,)."""
        ...


def decompose(delta: Delta | Matrix, route: Route, *, device: str = "cpu") -> Decomposition:
    """Decompose an m x n delta by one route.

    Args:
        delta: (m, n), finite, m, n >= 1, not all zero; scaled so that squares neither over- nor
            underflow (``PairDelta`` does).
        route: see the module header.
        device: a torch device for the two Gram routes; ``svd`` always runs on the CPU.

    Returns:
        A ``Decomposition``.

    Raises:
        SpectrumError: LAPACK did not converge, or returned vectors that are not orthonormal.

    Cost: about ``m n r`` flops for the Gram matrix and ``4/3 r^3`` for the tridiagonal form;
    memory ``r^2`` numbers and one block.
    """
    delta = as_delta(delta)
    if route == "svd":
        return _FullSvd(delta)
    if device == "cpu":
        return _LapackGram(delta, route)
    return TorchGram(delta, route, device=device)


def gram_matrix(
    delta: Delta | Matrix,
    dtype: Working,
    leading: Leading | None = None,
) -> Matrix:
    """Lower triangle of the Gram matrix of the short side, (r, r), Fortran order.

    With ``leading``, that of the delta without these directions. Blocks along the long side, so
    that no second full copy of the delta exists in another dtype or without its leading part.
    """
    delta = as_delta(delta)
    update = blas.ssyrk if dtype is np.float32 else blas.dsyrk
    rows, columns = delta.shape
    r, tall = min(rows, columns), rows >= columns
    gram = np.zeros((r, r), dtype=dtype, order="F")
    narrow = None if leading is None else leading.vectors.astype(np.float32)
    whole = narrow is None and delta.dtype == dtype and not isinstance(delta, HeldMatrix)
    step = max(rows, columns) * r if whole and not tall else BLOCK_ELEMENTS
    for _, block in long_blocks(delta, step, dtype):
        if narrow is not None:
            image = block @ narrow if tall else narrow.T @ block
            block = block - (image @ narrow.T if tall else narrow @ image)
        block = np.ascontiguousarray(block)
        # BLAS reads columns: the transposed view of a C-ordered block is Fortran-ordered as is.
        gram = update(1.0, block.T, beta=1.0, c=gram, trans=not tall, lower=1, overwrite_c=1)
    return gram


def _norm_of_lower(gram: Matrix) -> float:
    """Frobenius norm of a symmetric matrix from its lower triangle; zeros stand in the upper."""
    flat, diagonal = gram.ravel(order="K"), np.diagonal(gram).astype(np.float64)
    return math.sqrt(max(2.0 * float(flat @ flat) - float(diagonal @ diagonal), 0.0))


def spectrum_of_eigenvalues(
    eigenvalues: NDArray[np.float64],
    route: Route,
    leading: Leading | None = None,
    *,
    allowance: float = 1.0,
    product_error: float = 0.0,
) -> Spectrum:
    """Descending singular values from ascending eigenvalues of the Gram matrix, with error bounds.

    The square root turns a small absolute error into a large one near zero:
    ``sqrt(x + e) - sqrt(x)`` above and ``sqrt(x) - sqrt(max(x - e, 0))`` below. Deflated directions
    bring their own values, good to a few units of float32. ``allowance`` multiplies the bound,
    ``product_error`` is added to it.
    """
    descending = np.maximum(eigenvalues[::-1], 0.0)
    error = EIGENVALUE_ERROR * descending[0] + RELATIVE_ERROR * descending
    error *= allowance * UNIT_ROUNDOFF[route]
    error += product_error
    if leading is not None:
        error += leading.coupling
        raised = leading.raised
        if (
            descending[leading.count - 1] < 0.9 * raised
            or not (descending[leading.count : leading.count + 1] < 0.9 * raised).all()
        ):
            raise SpectrumError("deflation: the directions taken out are not the leading ones")
    if float(eigenvalues[0]) < -2.0 * float(error[-1]):
        raise SpectrumError(
            f"eigenvalues: found {float(eigenvalues[0]):.1e} in a Gram matrix, expected none below"
            " 0 but for rounding; the eigen-solver failed"
        )
    values = np.sqrt(descending)
    above = np.sqrt(descending + error) - values
    below = values - np.sqrt(np.maximum(descending - error, 0.0))
    errors = np.maximum(above, below)
    if leading is not None:
        values[: leading.count] = leading.singular_values
        errors[: leading.count] = 64 * UNIT_ROUNDOFF[route] * leading.singular_values
    if route == "float32":
        # The delta itself may be rounded: ||E||_2 <= ||E||_F <= u ||delta||_F.
        errors += UNIT_ROUNDOFF[route] * float(np.linalg.norm(values))
    return Spectrum(values, errors)


def gram_coupling(eigenvalues: NDArray[np.float64], route: Route) -> float:
    """Error scale of the Gram routes: ``2 u ||G||_F / sqrt(r)``.

    Errors of the reduction spread evenly over the eigenbasis; measured entries stayed below 0.7 of
    ``u ||G||_F / sqrt(r)``.
    """
    frobenius = float(np.linalg.norm(eigenvalues))
    return REDUCTION_COUPLING * UNIT_ROUNDOFF[route] * frobenius / math.sqrt(eigenvalues.size)


def tridiagonal_form(
    gram: Matrix,
) -> tuple[Matrix, Matrix, NDArray[np.float64], NDArray[np.float64]]:
    """``G = Q T Q^T`` by ``sytrd`` in the precision of ``gram``, which is used up.

    ``gram`` (r, r), lower triangle, Fortran order. Returns the reflectors of Q (r, r) and their
    scales (r - 1,), the diagonal of T (r,) and what stands beside it (r - 1,).
    """
    reduce = lapack.ssytrd if gram.dtype == np.float32 else lapack.dsytrd
    reflectors, diagonal, beside, scales, info = reduce(
        gram, lower=1, lwork=64 * gram.shape[0], overwrite_a=1
    )
    _check_converged(info, "sytrd")
    return (
        reflectors,
        scales,
        np.asarray(diagonal, dtype=np.float64),
        np.asarray(beside, dtype=np.float64),
    )


def tridiagonal_eigenvalues(
    diagonal: NDArray[np.float64], beside: NDArray[np.float64]
) -> NDArray[np.float64]:
    """All eigenvalues of a tridiagonal matrix, ascending, by ``sterf`` in float64."""
    if diagonal.size == 1:
        return diagonal
    eigenvalues, info = lapack.dsterf(diagonal, beside)
    _check_converged(info, "sterf (eigenvalues)")
    return np.asarray(eigenvalues, dtype=np.float64)


class _LapackGram:
    """Gram matrix, tridiagonalised in the route's precision; eigenvectors by index range.

    The last vectors formed are kept: a doubtful threshold is settled with them (``ritz``) first.
    """

    def __init__(self, delta: Delta, route: Route) -> None:
        self.route = route
        self._single = route == "float32"
        self._dtype = np.float32 if self._single else np.float64
        self.leading: Leading | None = None
        self._product_norm = 0.0
        self._removal = 0.0
        self._formed: tuple[int, int, Matrix] | None = None
        gram = gram_matrix(delta, np.float32 if self._single else np.float64)
        if self._single:
            gram = self._deflated(delta, gram)
        self._reflectors, self._scales, self._diagonal, self._beside = tridiagonal_form(gram)
        self._eigenvalues = tridiagonal_eigenvalues(self._diagonal, self._beside)
        self.spectrum = spectrum_of_eigenvalues(
            self._eigenvalues,
            route,
            self.leading,
            product_error=PRODUCT_ERROR * UNIT_ROUNDOFF[route] * self._product_norm,
        )

    def _deflated(self, delta: Delta, gram: Matrix) -> Matrix:
        """The Gram matrix with the leading directions lowered to just above the rest.

        Built again without them where its own errors, which scale with them, would show.
        """
        unit, r = UNIT_ROUNDOFF["float32"], gram.shape[0]
        self._product_norm = _norm_of_lower(gram)
        self.leading = leading = leading_directions(gram, unit)
        if leading is None:
            return gram
        gram = leading.move(gram, leading.levels)
        left = _norm_of_lower(gram)
        if PRODUCT_COUPLING * self._product_norm / r > REDUCTION_COUPLING * left / math.sqrt(r):
            gram = leading.move(gram_matrix(delta, np.float32, leading), np.zeros(leading.count))
            self._product_norm = left
            size = math.prod(delta.shape)
            removed = float(leading.levels.sum()) * leading.next_level / size
            self._removal = REMOVAL_COUPLING * unit * math.sqrt(removed)
        return gram

    def vectors(self, start: int, stop: int) -> Matrix:
        if self._formed is None or not self._formed[0] <= start <= stop <= self._formed[1]:
            self._formed = start, stop, self._form(start, stop)
        first, _, formed = self._formed
        return formed[:, start - first : stop - first]

    def _form(self, start: int, stop: int) -> Matrix:
        r = self.spectrum.r
        if r == 1:
            return np.ones((1, stop - start), dtype=self._dtype)
        # LAPACK ascends, singular values descend.
        tridiagonal = self._tridiagonal_vectors(r - stop, r - start)[:, ::-1]
        vectors: Matrix = np.array(tridiagonal, dtype=self._dtype, order="F")
        # SciPy has no ormtr. With lower=1 the reflectors stand below the first subdiagonal, so
        # that Q = diag(1, Q') where Q' is the orthogonal factor of a QR: ormqr applies it.
        back = lapack.sormqr if self._single else lapack.dormqr
        lower, _, info = back(
            "L", "N", np.asfortranarray(self._reflectors[1:, :-1]), self._scales, vectors[1:],
            64 * r,
        )  # fmt: skip
        _check_converged(info, "ormqr")
        vectors[1:] = lower
        check_orthonormal(vectors, self.route)
        return vectors

    def _tridiagonal_vectors(self, first: int, last: int) -> NDArray[np.float64]:
        """Eigenvectors ``first <= i < last``, ascending, of the tridiagonal matrix."""
        if self._single:
            quick = eigenvectors(self._diagonal, self._beside, self._eigenvalues[first:last])
            if quick is not None and orthogonality_defect(quick) <= TWISTED_DEFECT:
                return quick
        try:
            _, vectors = scipy.linalg.eigh_tridiagonal(
                self._diagonal,
                self._beside,
                select="i",
                select_range=(first, last - 1),
                lapack_driver="stemr",
                check_finite=False,
            )
        except np.linalg.LinAlgError as error:
            raise SpectrumError(f"LAPACK stemr: {error}") from None
        return np.asarray(vectors, dtype=np.float64)

    def coupling(self) -> float:
        beside = self._removal + (0.0 if self.leading is None else self.leading.coupling)
        product = PRODUCT_COUPLING * UNIT_ROUNDOFF[self.route] * self._product_norm
        return gram_coupling(self._eigenvalues, self.route) + product / self.spectrum.r + beside

    def levels(self) -> NDArray[np.float64]:
        return np.square(self.spectrum.singular_values)


class TorchGram:
    """The same Gram matrix on a torch device, decomposed whole by ``torch.linalg.eigh``.

    Eigen-solvers of accelerators have failed silently before, so the vectors are checked.
    """

    def __init__(self, delta: Delta | Matrix, route: Route, *, device: str) -> None:
        import torch

        delta = as_delta(delta)
        self.route = route
        self.leading: Leading | None = None
        narrow = route == "float32"
        tall, r = delta.shape[0] >= delta.shape[1], min(delta.shape)
        gram = torch.zeros((r, r), dtype=torch.float32 if narrow else torch.float64, device=device)
        for _, part in long_blocks(delta, BLOCK_ELEMENTS, np.float32 if narrow else np.float64):
            block = torch.from_numpy(np.ascontiguousarray(part)).to(device)
            gram += block.T @ block if tall else block @ block.T
        try:
            eigenvalues, self._vectors = torch.linalg.eigh(gram)
        except RuntimeError as error:
            raise SpectrumError(f"eigh on {device}: {error}") from None
        residual = gram @ self._vectors[:, -1] - eigenvalues[-1] * self._vectors[:, -1]
        if not float(residual.norm()) <= 64 * UNIT_ROUNDOFF[route] * r * float(eigenvalues[-1]):
            raise SpectrumError(
                f"eigh on {device}: the leading eigenvector does not solve G v = x v"
            )
        self.spectrum = spectrum_of_eigenvalues(
            eigenvalues.to("cpu", torch.float64).numpy(), route, allowance=TORCH_ALLOWANCE
        )

    def vectors(self, start: int, stop: int) -> Matrix:
        r = self.spectrum.r
        chosen = self._vectors[:, r - stop : r - start].flip(1).to("cpu")
        vectors: Matrix = chosen.numpy()
        check_orthonormal(vectors, self.route)
        return vectors

    def coupling(self) -> float:
        return gram_coupling(self.levels(), self.route)

    def levels(self) -> NDArray[np.float64]:
        return np.square(self.spectrum.singular_values)


class _FullSvd:
    """Float64 full SVD: what the oracle computes, for deltas too delicate for a Gram matrix."""

    route: Route = "svd"
    leading: Leading | None = None

    def __init__(self, delta: Delta) -> None:
        rows, columns = delta.shape
        # The triangular factor has the same singular values and right vectors.
        streamed = rows > HELD_ELEMENTS // columns and rows > columns
        matrix = np.asarray(
            _triangular_factor(delta) if streamed else delta.whole(np.float64), dtype=np.float64
        )
        left, values, right = singular_value_decomposition(matrix)
        self._short_side = left if rows < columns else right.T
        # The oracle takes its own singular values at their word, and so does the last resort.
        self.spectrum = Spectrum.exact(values)

    def vectors(self, start: int, stop: int) -> Matrix:
        return np.ascontiguousarray(self._short_side[:, start:stop])

    def coupling(self) -> float:
        return EIGENVALUE_ERROR * UNIT_ROUNDOFF["svd"] * float(self.spectrum.singular_values[0])

    def levels(self) -> NDArray[np.float64]:
        return self.spectrum.singular_values


def _triangular_factor(delta: Delta) -> NDArray[np.float64]:
    """``R`` (r, r) of a QR factorisation of a tall delta, by blocks of rows."""
    factor = np.empty((0, delta.shape[1]))
    for _, block in long_blocks(delta, BLOCK_ELEMENTS, np.float64):
        factor = np.asarray(np.linalg.qr(np.concatenate([factor, block]), mode="r"))
    return factor


def orthogonality_defect(vectors: Matrix) -> float:
    """``max |V^T (V x) - x|`` for one fixed vector of signs x: sees a lost column for two products.

    NaN if there is one in the vectors; 0.0 for no vectors.
    """
    if not vectors.size:
        return 0.0
    signs = np.where(np.arange(vectors.shape[1]) % 3 == 1, -1.0, 1.0).astype(vectors.dtype)
    return float(np.abs(vectors.T @ (vectors @ signs) - signs).max())


def check_orthonormal(vectors: Matrix, route: Route) -> None:
    """Raise SpectrumError unless the columns are orthonormal to about the route's precision.

    A failed solver misses the bound by orders of magnitude, a sound one stays as far below it.
    """
    defect, allowed = orthogonality_defect(vectors), LARGEST_DEFECT[route]
    if not defect <= allowed:
        raise SpectrumError(
            f"eigenvectors: found a loss of orthogonality of {defect:.1e}, expected at most"
            f" {allowed:.1e}; the eigen-solver failed"
        )


def _check_converged(info: int, routine: str) -> None:
    if info != 0:
        raise SpectrumError(f"LAPACK {routine}: found info = {info}, expected 0; no convergence")
