"""Every route of the decomposition against a full SVD: values, their bounds, vectors, failures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
from numpy.typing import NDArray
from scipy.linalg import lapack

from timberkit.errors import SpectrumError
from timberkit.spectral import decompose as decompose_module
from timberkit.spectral.decompose import (
    EIGENVALUE_ERROR,
    UNIT_ROUNDOFF,
    Route,
    TorchGram,
    check_orthonormal,
    decompose,
    gram_matrix,
)
from timberkit.spectral.delta import HeldMatrix
from timberkit.spectral.rank import effective_rank, effective_rank_error
from timberkit.spectral.tridiagonal import eigenvectors

ROUTES: tuple[Route, ...] = ("float32", "float64", "svd")
GRAM_ROUTES: tuple[Route, ...] = ("float32", "float64")
SHAPES = [(90, 40), (40, 90), (60, 60), (1, 30), (30, 1), (2, 2), (1, 1), (3, 2), (2, 50)]
SPECTRA = ["noise", "spike 3", "spike 30", "spike 300", "deficient", "geometric"]
LARGEST_DEFECT_OF_A_SOUND_SOLVER = {"float32": 1e-5, "float64": 1e-12, "svd": 1e-13}
LARGEST_ANGLE = {"float32": 1e-4, "float64": 1e-12, "svd": 1e-12}


def singular_values(kind: str, r: int, rng: np.random.Generator) -> NDArray[np.float64]:
    bulk = np.sort(rng.uniform(0.2, 1.0, r))[::-1].copy()
    if kind.startswith("spike"):
        bulk[: max(1, r // 20)] *= float(kind.split()[1])
    if kind == "cluster":
        bulk[r // 4 :] = bulk[r // 4]
    if kind == "deficient":
        bulk[(r + 1) // 2 :] = 0.0
    if kind == "geometric":
        bulk = 0.7 ** np.arange(r)
    return np.sort(bulk)[::-1]


def planted(shape: tuple[int, int], kind: str, seed: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng([seed, *shape, *map(ord, kind)])
    r = min(shape)
    left, right = (np.linalg.qr(rng.standard_normal((side, r)))[0] for side in shape)
    return (left * singular_values(kind, r, rng)) @ right.T


def short_side(delta: NDArray[np.float64]) -> NDArray[np.float64]:
    left, _, right = np.linalg.svd(delta, full_matrices=False)
    return left if delta.shape[0] < delta.shape[1] else right.T


def found_by(delta: NDArray[np.float64], solver: str, route: Route) -> Any:
    if solver == "torch":
        return TorchGram(delta, route, device="cpu")
    return decompose(delta, route)


SOLVERS = [("lapack", route) for route in ROUTES] + [("torch", "float32"), ("torch", "float64")]


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("route", ROUTES)
def test_values_are_those_of_the_full_svd_within_the_stated_errors(
    shape: tuple[int, int], kind: str, route: Route
) -> None:
    for dtype in (np.float32, np.float64):
        delta = planted(shape, kind).astype(dtype)
        true = np.linalg.svd(delta.astype(np.float64), compute_uv=False)
        found = decompose(delta, route)
        values, errors = found.spectrum.singular_values, found.spectrum.errors
        assert found.route == route
        assert values.shape == errors.shape == true.shape
        assert (np.diff(values) <= 0).all()
        assert (values >= 0).all()
        slack = 4e-15 * true[0] * np.sqrt(true.size)
        assert (np.abs(values - true) <= errors + slack).all()
        np.testing.assert_allclose(values[0], true[0], rtol=4 * UNIT_ROUNDOFF[route] + 1e-14)


@pytest.mark.parametrize("kind", [*SPECTRA, "cluster"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("solver", "route"), SOLVERS)
def test_effective_rank_is_that_of_the_full_svd_within_its_bound(
    shape: tuple[int, int], kind: str, solver: str, route: Route
) -> None:
    delta = planted(shape, kind)
    true = effective_rank(np.linalg.svd(delta, compute_uv=False))
    found = found_by(delta, solver, route).spectrum
    bound = effective_rank_error(found.singular_values, found.errors)
    slack = 1e-12 * min(shape)
    assert abs(effective_rank(found.singular_values) - true) <= bound + slack


@pytest.mark.parametrize("shape", [(90, 40), (40, 90), (60, 60)])
@pytest.mark.parametrize(("solver", "route"), SOLVERS)
def test_values_tied_in_a_cluster_are_within_the_stated_errors_too(
    shape: tuple[int, int], solver: str, route: Route
) -> None:
    delta = planted(shape, "cluster")
    true = np.linalg.svd(delta, compute_uv=False)
    found = found_by(delta, solver, route).spectrum
    slack = 4e-15 * true[0] * np.sqrt(true.size)
    assert (np.abs(found.singular_values - true) <= found.errors + slack).all()


@pytest.mark.parametrize("solver", ["lapack", "torch"])
def test_a_large_flat_spectrum_is_within_the_stated_errors(solver: str) -> None:
    # Errors inside a cluster grow with its size; all true values are 1 up to rounding.
    for seed in range(6):
        rng = np.random.default_rng(seed)
        delta = np.linalg.qr(rng.standard_normal((128, 128)))[0]
        found = found_by(delta, solver, "float32").spectrum
        assert (np.abs(found.singular_values - 1.0) <= found.errors + 1e-13).all()
    assert found.errors.max() < 1e-5


@pytest.mark.parametrize("route", GRAM_ROUTES)
def test_errors_of_values_are_those_of_their_squares(route: Route) -> None:
    found = decompose(planted((40, 30), "spike 30"), route).spectrum
    values, error = found.singular_values, EIGENVALUE_ERROR * UNIT_ROUNDOFF[route]
    above = np.sqrt(np.square(values) + error * values[0] ** 2) - values
    assert (found.errors >= above * (1 - 1e-12)).all()
    assert found.errors[0] < found.errors[-1] < 2 * np.sqrt(error) * values[0]


def test_the_last_route_takes_its_values_at_their_word() -> None:
    assert not decompose(planted((20, 30), "noise"), "svd").spectrum.errors.any()


@pytest.mark.parametrize("shape", [(90, 40), (40, 90), (60, 60), (2, 50), (50, 2), (2, 2)])
@pytest.mark.parametrize(("solver", "route"), SOLVERS)
def test_vectors_are_orthonormal_and_span_the_directions_asked_for(
    shape: tuple[int, int], solver: str, route: Route
) -> None:
    # Neighbours differ by a fixed share, so that every direction is told apart.
    rng, r = np.random.default_rng(3), min(shape)
    left, right = (np.linalg.qr(rng.standard_normal((side, r)))[0] for side in shape)
    delta = (left * np.linspace(2.0, 1.0, r)) @ right.T
    found = found_by(delta, solver, route)
    true = short_side(delta)
    for start, stop in {(0, 1), (0, r), (r // 2, r), (r - 1, r), (r // 3, 2 * r // 3 + 1)}:
        vectors = found.vectors(start, stop).astype(np.float64)
        assert vectors.shape == (r, stop - start)
        defect = np.abs(vectors.T @ vectors - np.eye(stop - start)).max()
        assert defect <= LARGEST_DEFECT_OF_A_SOUND_SOLVER[route]
        expected = true[:, start:stop]
        # In the order of the singular values, each column stretched by its own.
        long_side = delta @ vectors if shape[0] >= shape[1] else delta.T @ vectors
        lengths = np.linalg.norm(long_side, axis=0)
        np.testing.assert_allclose(lengths, np.linspace(2.0, 1.0, r)[start:stop], rtol=1e-4)
        # What of the expected directions lies outside the space that was found.
        outside = expected - vectors @ (vectors.T @ expected)
        assert np.abs(outside).max() <= LARGEST_ANGLE[route]


@pytest.mark.parametrize("kind", ["spike 300", "cluster", "deficient"])
@pytest.mark.parametrize(("solver", "route"), SOLVERS)
def test_vectors_of_difficult_spectra_stay_orthonormal(
    kind: str, solver: str, route: Route
) -> None:
    found = found_by(planted((70, 40), kind), solver, route)
    vectors = found.vectors(0, 40).astype(np.float64)
    defect = np.abs(vectors.T @ vectors - np.eye(40)).max()
    assert defect <= LARGEST_DEFECT_OF_A_SOUND_SOLVER[route]


def test_vectors_of_a_single_row_are_one() -> None:
    for shape in ((1, 9), (9, 1)):
        for route in ROUTES:
            vectors = decompose(planted(shape, "noise"), route).vectors(0, 1)
            assert np.abs(vectors).tolist() == [[1.0]]


@pytest.mark.parametrize("shape", [(70, 30), (30, 70), (40, 40)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gram_in_blocks_is_the_product(
    shape: tuple[int, int], dtype: type[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    delta = planted(shape, "noise")
    rows, columns = shape
    expected = delta.T @ delta if rows >= columns else delta @ delta.T
    whole = gram_matrix(delta, dtype)
    # 7 divides no side: the last block is a short one.
    monkeypatch.setattr(decompose_module, "BLOCK_ELEMENTS", 7 * min(shape))
    blocks = gram_matrix(delta, dtype)
    lower = np.tril_indices(min(shape))
    tolerance = 20 * float(np.finfo(dtype).eps)
    for gram in (whole, blocks):
        assert gram.dtype == dtype
        np.testing.assert_allclose(gram[lower], expected[lower], rtol=0, atol=tolerance)
    torch_values = TorchGram(delta, "float64", device="cpu").spectrum.singular_values
    true = np.linalg.svd(delta, compute_uv=False)
    np.testing.assert_allclose(torch_values, true, rtol=0, atol=1e-7)


def test_gram_does_not_depend_on_the_memory_layout() -> None:
    delta = planted((50, 20), "noise")
    expected = gram_matrix(delta, np.float64)
    for view in (np.asfortranarray(delta), np.repeat(delta, 2, axis=1)[:, ::2], delta[::-1][::-1]):
        assert np.array_equal(gram_matrix(view, np.float64), expected)


@pytest.mark.parametrize("elements", [7, 30 * 7, 30 * 45, 1 << 22])
@pytest.mark.parametrize("kind", SPECTRA)
def test_a_tall_delta_beyond_the_limit_is_factorised_by_blocks_of_rows(
    kind: str, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of a row, of fewer rows than columns, of more, and one block for all.
    delta = planted((110, 30), kind)
    whole = decompose(delta, "svd")
    monkeypatch.setattr(decompose_module, "HELD_ELEMENTS", 110 * 30 - 1)
    monkeypatch.setattr(decompose_module, "BLOCK_ELEMENTS", elements)
    monkeypatch.setattr(HeldMatrix, "whole", None)  # it is not asked for
    found = decompose(delta, "svd")
    true = whole.spectrum.singular_values
    np.testing.assert_allclose(found.spectrum.singular_values, true, rtol=0, atol=1e-14 * true[0])
    vectors = found.vectors(0, 30)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(30), atol=1e-13)
    lengths = np.linalg.norm(delta @ vectors, axis=0)
    np.testing.assert_allclose(lengths, true, rtol=0, atol=1e-13 * true[0])


def test_a_square_delta_and_a_wide_one_are_not_factorised_by_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decompose_module, "HELD_ELEMENTS", 1)
    monkeypatch.setattr(decompose_module, "_triangular_factor", None)
    for shape in ((30, 30), (20, 50)):
        delta = planted(shape, "noise")
        true = np.linalg.svd(delta, compute_uv=False)
        np.testing.assert_allclose(decompose(delta, "svd").spectrum.singular_values, true)


@pytest.mark.parametrize("route", ROUTES)
def test_broken_bases_are_refused(route: Route) -> None:
    dtype = np.float32 if route == "float32" else np.float64
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 12)))[0].astype(dtype)
    check_orthonormal(basis, route)
    check_orthonormal(basis[:, :0], route)
    for breakage in ("lost", "doubled", "mixed", "stretched", "nan"):
        broken = basis.copy()
        if breakage == "lost":
            broken[:, 5] = 0.0
        elif breakage == "doubled":
            broken[:, 5] = broken[:, 6]
        elif breakage == "mixed":
            broken[:, 5] += 0.01 * broken[:, 0]
        elif breakage == "stretched":
            broken[:, 5] *= 1.01
        else:
            broken[3, 5] = np.nan
        with pytest.raises(SpectrumError, match="loss of orthogonality"):
            check_orthonormal(broken, route)


def failing(routine: Any, position: int) -> Any:
    """The LAPACK routine with ``info`` of what it returns set to 3."""

    def call(*arguments: Any, **options: Any) -> Any:
        found = list(routine(*arguments, **options))
        found[position] = 3
        return tuple(found)

    return call


@pytest.mark.parametrize("name", ["ssytrd", "dsterf", "sormqr"])
def test_a_routine_that_reports_failure_is_believed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lapack, name, failing(getattr(lapack, name), -1))
    with pytest.raises(SpectrumError, match="info = 3"):
        decompose(planted((20, 10), "noise"), "float32").vectors(0, 3)


def test_a_tridiagonal_solver_that_gives_up_is_a_spectrum_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def give_up(*_: object, **__: object) -> None:
        raise np.linalg.LinAlgError("stemr did not converge")

    monkeypatch.setattr(decompose_module, "eigenvectors", lambda *_: None)
    for route in GRAM_ROUTES:
        found = decompose(planted((20, 10), "noise"), route)
        with monkeypatch.context() as patch:
            patch.setattr(scipy.linalg, "eigh_tridiagonal", give_up)
            with pytest.raises(SpectrumError, match="stemr"):
                found.vectors(0, 3)


@pytest.fixture
def stemr(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The index ranges that LAPACK's tridiagonal solver was asked for."""
    asked: list[tuple[int, int]] = []
    solve = scipy.linalg.eigh_tridiagonal

    def watched(*arguments: Any, **options: Any) -> Any:
        asked.append(options["select_range"])
        return solve(*arguments, **options)

    monkeypatch.setattr(scipy.linalg, "eigh_tridiagonal", watched)
    return asked


def test_single_precision_vectors_are_twisted_and_double_precision_ones_are_of_lapack(
    stemr: list[tuple[int, int]],
) -> None:
    delta = planted((60, 40), "noise")
    decompose(delta, "float32").vectors(25, 40)
    assert not stemr
    decompose(delta, "float64").vectors(25, 40)
    assert stemr == [(0, 14)]


@pytest.mark.parametrize("spoilt", ["none", "not orthogonal", "not finite"])
def test_twisted_vectors_that_fail_the_check_are_replaced_by_those_of_lapack(
    spoilt: str, stemr: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    delta = planted((60, 40), "noise")
    expected = decompose(delta, "float32").vectors(25, 40).astype(np.float64)

    def spoil(*arguments: Any) -> Any:
        found = eigenvectors(*arguments)
        assert found is not None
        if spoilt == "not orthogonal":
            found[:, 3] = found[:, 4]
        elif spoilt == "not finite":
            found[7, 3] = np.nan
        return None if spoilt == "none" else found

    monkeypatch.setattr(decompose_module, "eigenvectors", spoil)
    vectors = decompose(delta, "float32").vectors(25, 40).astype(np.float64)
    assert stemr == [(0, 14)]
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["cluster", "deficient"])
def test_directions_too_close_for_twisted_vectors_are_left_to_lapack(
    kind: str, stemr: list[tuple[int, int]]
) -> None:
    # A diagonal delta splits: every vector of a tie would come out the same.
    values = singular_values(kind, 40, np.random.default_rng(0))
    vectors = decompose(np.diag(values), "float32").vectors(5, 40).astype(np.float64)
    assert stemr == [(0, 34)]
    defect = np.abs(vectors.T @ vectors - np.eye(35)).max()
    assert defect <= LARGEST_DEFECT_OF_A_SOUND_SOLVER["float32"]


def test_vectors_that_a_solver_spoils_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(*arguments: Any, **options: Any) -> Any:
        vectors, work, info = apply(*arguments, **options)
        return vectors * 1.001, work, info

    apply = lapack.dormqr
    found = decompose(planted((40, 30), "noise"), "float64")
    monkeypatch.setattr(lapack, "dormqr", spoil)
    with pytest.raises(SpectrumError, match="loss of orthogonality"):
        found.vectors(5, 30)
