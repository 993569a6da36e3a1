"""Singular values without vectors against the full SVD, by both of its eigen-solvers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack

from timberkit.errors import SpectrumError
from timberkit.spectral import delta as delta_module
from timberkit.spectral import values as module
from timberkit.spectral.delta import PairDelta
from timberkit.spectral.refine import StoredMatrix
from timberkit.spectral.values import eigenvalues, singular_values, spectrum_of

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [(90, 40), (40, 90), (60, 60), (1, 30), (30, 1), (2, 2), (1, 1), (3, 2)]
SPECTRA = ["noise", "spikes", "cluster", "deficient", "geometric", "zero"]


@pytest.fixture(params=["lapack", "two-stage"])
def solver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The side from which torch's solver takes over, below or above every matrix."""
    side = 1 if request.param == "two-stage" else 1 << 20
    monkeypatch.setattr(module, "TWO_STAGE_SIDE", side)
    return str(request.param)


def planted(shape: tuple[int, int], kind: str) -> NDArray[np.float64]:
    rng = np.random.default_rng([*shape, *map(ord, kind)])
    r = min(shape)
    values = np.sort(rng.uniform(0.2, 1.0, r))[::-1].copy()
    if kind == "spikes":
        values[: max(1, r // 20)] *= 300.0
    elif kind == "cluster":
        values[:] = 1.0
    elif kind == "deficient":
        values[(r + 1) // 2 :] = 0.0
    elif kind == "geometric":
        values = 0.7 ** np.arange(r)
    elif kind == "zero":
        values[:] = 0.0
    left, right = (np.linalg.qr(rng.standard_normal((side, r)))[0] for side in shape)
    return (left * values) @ right.T


@pytest.mark.usefixtures("solver")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_those_of_the_full_svd_within_the_stated_errors(
    shape: tuple[int, int], kind: str, dtype: type[Any]
) -> None:
    matrix = planted(shape, kind).astype(dtype)
    true = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    found = spectrum_of(matrix)
    values, errors = found.singular_values, found.errors
    assert values.shape == errors.shape == (min(shape),)
    assert values.dtype == errors.dtype == np.float64
    assert (np.diff(values) <= 0).all()
    assert (values >= 0).all()
    slack = 4e-15 * true[0] * np.sqrt(true.size)
    assert (np.abs(values - true) <= errors + slack).all()
    assert (errors <= 1e-7 * true[0]).all()
    assert np.array_equal(singular_values(matrix), values)


def test_a_flat_spectrum_of_some_size_is_within_the_stated_errors(solver: str) -> None:
    # Errors inside a cluster grow with its size; all true values are 1 up to rounding.
    for seed in range(4):
        basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((150, 150)))[0]
        found = spectrum_of(basis)
        assert (np.abs(found.singular_values - 1.0) <= found.errors + 1e-15).all(), solver


def test_both_solvers_agree_within_their_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = planted((300, 200), "spikes")
    found = []
    for side in (1 << 20, 200):
        monkeypatch.setattr(module, "TWO_STAGE_SIDE", side)
        found.append(spectrum_of(matrix))
    difference = np.abs(found[0].singular_values - found[1].singular_values)
    assert (difference <= found[0].errors + found[1].errors).all()
    # The bound of the two-stage solver is the wider one.
    assert (found[1].errors > found[0].errors).all()


@pytest.mark.parametrize(("side", "two_stage"), [(40, True), (41, False)])
def test_the_short_side_decides_which_solver_is_taken(
    side: int, two_stage: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    eigvalsh, reduce = torch.linalg.eigvalsh, lapack.dsytrd

    def through_torch(*arguments: Any, **options: Any) -> Any:
        taken.append("torch")
        return eigvalsh(*arguments, **options)

    def through_lapack(*arguments: Any, **options: Any) -> Any:
        taken.append("lapack")
        return reduce(*arguments, **options)

    monkeypatch.setattr(torch.linalg, "eigvalsh", through_torch)
    monkeypatch.setattr(lapack, "dsytrd", through_lapack)
    monkeypatch.setattr(module, "TWO_STAGE_SIDE", side)
    for shape in ((40, 90), (90, 40)):
        singular_values(planted(shape, "noise"))
    assert taken == ["torch" if two_stage else "lapack"] * 2


@pytest.mark.usefixtures("solver")
def test_only_the_lower_triangle_is_read() -> None:
    delta = planted((60, 30), "noise")
    gram = np.asfortranarray(np.tril(delta.T @ delta))
    gram[np.triu_indices(30, 1)] = 1e3
    true = np.linalg.svd(delta, compute_uv=False)[::-1] ** 2
    np.testing.assert_allclose(eigenvalues(gram), true, rtol=0, atol=1e-14 * true[-1] * 30)


@pytest.mark.usefixtures("solver")
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (60, 60)])
def test_what_is_not_finite_is_refused(shape: tuple[int, int], value: float) -> None:
    matrix = planted(shape, "noise")
    matrix[-1, -1] = value
    with np.errstate(invalid="ignore"), pytest.raises(SpectrumError, match="eigenvalues"):
        singular_values(matrix)


def test_a_solver_that_reports_failure_is_believed(
    solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(*_: object, **__: object) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigvalsh", give_up)
    monkeypatch.setattr(lapack, "dsterf", lambda diagonal, beside: (diagonal, 3))
    reason = "did not converge" if solver == "two-stage" else "info = 3"
    with pytest.raises(SpectrumError, match=reason):
        singular_values(planted((30, 12), "noise"))


@pytest.mark.usefixtures("solver")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_streamed_pair_has_the_values_of_the_held_one(
    pairs: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, instruct = pairs.noise(90, 40, seed=0, spikes=5.0, dtype=dtype)
    stored = StoredMatrix.of_tensor(base), StoredMatrix.of_tensor(instruct)
    held = singular_values(PairDelta(*stored))
    monkeypatch.setattr(delta_module, "HELD_ELEMENTS", 1)
    monkeypatch.setattr(delta_module, "ROW_BLOCK_ELEMENTS", 7 * 40)
    assert np.array_equal(singular_values(PairDelta(*stored)), held)
    true = np.linalg.svd(instruct.double().numpy() - base.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(held, true, rtol=1e-9)
