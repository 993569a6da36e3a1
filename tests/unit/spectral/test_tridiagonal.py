"""Twisted eigenvectors of tridiagonal matrices against LAPACK: right, orthogonal, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
from numpy.typing import NDArray

from timberkit.spectral import tridiagonal
from timberkit.spectral.tridiagonal import LARGEST_RESIDUAL, eigenvectors

Vector = NDArray[np.float64]

SEPARATED = ["random", "graded", "graded upwards", "toeplitz", "of a gram matrix"]
CLOSE = ["split once", "split in pairs", "wilkinson", "cluster", "identity", "zero"]


def matrix(kind: str, n: int) -> tuple[Vector, Vector]:
    """Diagonal (n,) and off-diagonal (n - 1,)."""
    rng = np.random.default_rng([n, *map(ord, kind)])
    diagonal, beside = rng.standard_normal(n), rng.uniform(0.2, 1.0, n - 1)
    if kind.startswith("graded"):
        scale = np.logspace(0, -8, n)[:: -1 if "upwards" in kind else 1]
        diagonal, beside = np.abs(diagonal + 3) * scale, beside * np.sqrt(scale[1:] * scale[:-1])
    elif kind == "toeplitz":
        diagonal, beside = np.full(n, 2.0), np.full(n - 1, -1.0)
    elif kind == "split once":
        beside[n // 3] = 0.0
    elif kind == "of a gram matrix":
        delta = rng.standard_normal((2 * n, n))
        return tridiagonal_form(delta.T @ delta)
    elif kind == "split in pairs":
        diagonal, beside = np.tile([1.0, 2.0], n)[:n], np.tile([0.5, 0.0], n)[: n - 1]
    elif kind == "wilkinson":
        diagonal, beside = np.abs(np.arange(n) - (n - 1) / 2), np.ones(n - 1)
    elif kind == "cluster":
        basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
        values = np.where(np.arange(n) < n // 2, 1.0, np.linspace(1.1, 2.0, n))
        return tridiagonal_form((basis * values) @ basis.T)
    elif kind == "identity":
        diagonal, beside = np.ones(n), np.zeros(n - 1)
    elif kind == "zero":
        diagonal, beside = np.zeros(n), np.zeros(n - 1)
    return diagonal, beside


def tridiagonal_form(symmetric: NDArray[np.float64]) -> tuple[Vector, Vector]:
    _, diagonal, beside, _, info = scipy.linalg.lapack.dsytrd(symmetric, lower=1)
    assert info == 0
    return diagonal, beside


def eigenvalues_of(diagonal: Vector, beside: Vector) -> Vector:
    values, info = scipy.linalg.lapack.dsterf(diagonal, beside)
    assert info == 0
    return np.asarray(values, dtype=np.float64)


def defect(vectors: Vector) -> float:
    return float(np.abs(vectors.T @ vectors - np.eye(vectors.shape[1])).max())


def residual(diagonal: Vector, beside: Vector, values: Vector, vectors: Vector) -> float:
    image = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    return float(np.abs(image @ vectors - vectors * values).max())


def required(vectors: Vector | None) -> Vector:
    assert vectors is not None
    return vectors


@pytest.mark.parametrize("n", [2, 3, 10, 150])
@pytest.mark.parametrize("kind", SEPARATED)
def test_separate_eigenvalues_give_the_vectors_of_lapack(kind: str, n: int) -> None:
    diagonal, beside = matrix(kind, n)
    values = eigenvalues_of(diagonal, beside)
    found = required(eigenvectors(diagonal, beside, values))
    assert found.shape == (n, n)
    assert found.flags.f_contiguous
    size = float(np.abs(values).max())
    assert residual(diagonal, beside, values, found) < 1e-12 * size
    gap = float(np.diff(values).min()) if n > 1 else size
    assert defect(found) < 1e-13 + 1e-13 * size / gap
    _, expected = scipy.linalg.eigh_tridiagonal(diagonal, beside, lapack_driver="stemr")
    overlap = np.abs(np.einsum("ij,ij->j", found, expected))
    np.testing.assert_allclose(overlap, 1.0, rtol=0, atol=(1e-13 * size / gap) ** 2 + 1e-12)


@pytest.mark.parametrize("n", [2, 3, 41, 150])
@pytest.mark.parametrize("kind", CLOSE)
def test_split_matrices_and_close_eigenvalues_give_nothing_or_small_residuals(
    kind: str, n: int
) -> None:
    diagonal, beside = matrix(kind, n)
    values = eigenvalues_of(diagonal, beside)
    found = eigenvectors(diagonal, beside, values)
    if found is not None:
        size = float(np.abs(diagonal).max() + 2 * np.abs(beside).max())
        assert np.isfinite(found).all()
        np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1.0)
        assert residual(diagonal, beside, values, found) <= LARGEST_RESIDUAL * size


@pytest.mark.parametrize("size", [1e-140, 1e-30, 1e30, 1e140])
def test_the_unit_does_not_matter(size: float) -> None:
    diagonal, beside = matrix("random", 40)
    values = eigenvalues_of(diagonal, beside)
    expected = required(eigenvectors(diagonal, beside, values))
    found = required(eigenvectors(diagonal * size, beside * size, values * size))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=0, atol=1e-10)


@pytest.mark.parametrize("signs", ["negative", "mixed"])
def test_the_signs_beside_the_diagonal_turn_components_alone(signs: str) -> None:
    diagonal, beside = matrix("random", 40)
    turned = -beside if signs == "negative" else beside * np.where(np.arange(39) % 3, 1.0, -1.0)
    values = eigenvalues_of(diagonal, beside)
    expected = required(eigenvectors(diagonal, beside, values))
    found = required(eigenvectors(diagonal, turned, values))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=0, atol=1e-10)
    assert residual(diagonal, turned, values, found) < 1e-12 * np.abs(values).max()


@pytest.mark.parametrize("columns", [1, 7, 60, 61])
def test_chunks_of_columns_give_the_same_vectors(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    diagonal, beside = matrix("random", 60)
    values = eigenvalues_of(diagonal, beside)
    expected = required(eigenvectors(diagonal, beside, values))
    monkeypatch.setattr(tridiagonal, "COLUMNS", columns)
    found = required(eigenvectors(diagonal, beside, values))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)
    for part in (slice(0, 1), slice(20, 45), slice(59, 60)):
        found = required(eigenvectors(diagonal, beside, values[part]))
        np.testing.assert_allclose(found, expected[:, part], rtol=0, atol=1e-15)


def test_more_columns_than_one_chunk_are_all_filled() -> None:
    n = tridiagonal.COLUMNS + 3
    diagonal, beside = matrix("of a gram matrix", n)
    values = eigenvalues_of(diagonal, beside)
    found = required(eigenvectors(diagonal, beside, values))
    assert residual(diagonal, beside, values, found) < 1e-12 * values[-1]
    assert defect(found) < 1e-9


def test_no_eigenvalues_give_no_vectors() -> None:
    diagonal, beside = matrix("random", 5)
    assert required(eigenvectors(diagonal, beside, np.empty(0))).shape == (5, 0)


@pytest.mark.parametrize("position", [0, 3, 9])
def test_what_is_no_eigenvalue_is_refused(position: int) -> None:
    diagonal, beside = matrix("random", 10)
    values = eigenvalues_of(diagonal, beside)
    for wrong in (values[position] + 1e-6, np.nan, np.inf):
        changed = values.copy()
        changed[position] = wrong
        assert eigenvectors(diagonal, beside, changed) is None


def test_a_wrong_eigenvalue_in_any_chunk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tridiagonal, "COLUMNS", 4)
    diagonal, beside = matrix("random", 10)
    values = eigenvalues_of(diagonal, beside)
    for position in range(10):
        changed = values.copy()
        changed[position] += 1e-6
        assert eigenvectors(diagonal, beside, changed) is None


@pytest.mark.parametrize("where", ["diagonal", "beside"])
def test_a_matrix_with_nan_is_refused_without_a_warning(where: str) -> None:
    parts: dict[str, Any] = dict(zip(("diagonal", "beside"), matrix("random", 10), strict=True))
    values = eigenvalues_of(**parts)
    parts[where] = parts[where].copy()
    parts[where][4] = np.nan
    assert eigenvectors(**parts, eigenvalues=values) is None


def test_a_matrix_whose_pivots_vanish_is_refused_or_solved_without_a_warning() -> None:
    # The first pivot from the top and the first from the bottom are exactly zero.
    diagonal, beside = np.array([1.0, 2.0, 1.0]), np.array([0.0, 0.0])
    assert eigenvectors(diagonal, beside, np.array([1.0])) is None
    diagonal, beside = np.array([0.0, 1.0, 0.0]), np.array([1.0, 1.0])
    values = np.array([-1.0, 0.0, 2.0])
    found = eigenvectors(diagonal, beside, values)
    assert found is None or residual(diagonal, beside, values, found) < 1e-14


def test_arguments_are_not_changed() -> None:
    diagonal, beside = matrix("random", 12)
    values = eigenvalues_of(diagonal, beside)
    before = [part.copy() for part in (diagonal, beside, values)]
    eigenvectors(diagonal, beside, values)
    for part, expected in zip((diagonal, beside, values), before, strict=True):
        assert np.array_equal(part, expected)
