"""The route of accelerators, exercised on the CPU: same values, checked vectors, same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from timberkit.config import AnyVariant, Merge, Timber, TimberL, TruncateEnergy, TruncateRank
from timberkit.dtypes import Matrix
from timberkit.errors import SpectrumError
from timberkit.spectral import decompose as decompose_module
from timberkit.spectral import ladder
from timberkit.spectral.agreement import agreement
from timberkit.spectral.decompose import (
    PRODUCT_COUPLING,
    REDUCTION_COUPLING,
    Decomposition,
    Route,
    TorchGram,
    decompose,
)
from timberkit.spectral.refine import refine_matrix

VARIANTS: list[AnyVariant] = [
    Timber(lam=0.2),
    TimberL(),
    TruncateRank(ratio=0.6),
    TruncateEnergy(energy=0.95),
    Merge(mu=0.9),
]


@pytest.fixture
def accelerated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Send the Gram routes of ``refine_matrix`` through torch; the routes taken are listed."""
    taken: list[str] = []

    def through_torch(delta: Matrix, route: Route, *, device: str = "cpu") -> Decomposition:
        taken.append(f"{route} on {device}")
        if route == "svd":
            return decompose(delta, route)
        return TorchGram(delta, route, device="cpu")

    monkeypatch.setattr(ladder, "decompose", through_torch)
    monkeypatch.setattr(ladder, "SINGLE_PRECISION_SIDE", 1)
    return taken


@pytest.mark.parametrize("route", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(80, 40), (40, 80), (50, 50), (1, 9), (9, 1), (2, 2)])
def test_same_spectrum_and_spaces_as_lapack(shape: tuple[int, int], route: Route) -> None:
    rng = np.random.default_rng(1)
    r = min(shape)
    left, right = (np.linalg.qr(rng.standard_normal((side, r)))[0] for side in shape)
    delta = (left * np.linspace(3.0, 1.0, r)) @ right.T
    ours, theirs = TorchGram(delta, route, device="cpu"), decompose(delta, route)
    both = ours.spectrum.errors + theirs.spectrum.errors
    difference = np.abs(ours.spectrum.singular_values - theirs.spectrum.singular_values)
    assert (difference <= both).all()
    # LAPACK's counts the errors of a float32 Gram matrix apart from those of the reduction.
    product = PRODUCT_COUPLING / REDUCTION_COUPLING / np.sqrt(r) if route == "float32" else 0.0
    assert theirs.coupling() == pytest.approx(ours.coupling() * (1 + product), rel=1e-4)
    np.testing.assert_allclose(ours.levels(), np.square(ours.spectrum.singular_values))
    for start, stop in ((0, 1), (r // 2, r), (0, r)):
        first, second = (found.vectors(start, stop).astype(np.float64) for found in (ours, theirs))
        tolerance = 1e-4 if route == "float32" else 1e-12
        np.testing.assert_allclose(first @ first.T, second @ second.T, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [(96, 48), (48, 96), (64, 64), (1, 40), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("spikes", [0.0, 30.0])
def test_weights_agree_with_the_oracle_through_torch(
    pairs: Any, accelerated: list[str], shape: tuple[int, int], dtype: torch.dtype, spikes: float
) -> None:
    base, instruct = pairs.noise(*shape, seed=4, spikes=spikes, dtype=dtype)
    result = refine_matrix(base, instruct, VARIANTS, device="cuda")
    assert accelerated
    assert all(route.endswith("on cuda") for route in accelerated)
    for variant, weight in zip(VARIANTS, result.weights, strict=True):
        assert agreement(weight, base, instruct, variant).holds, variant


def test_dispatch_sends_the_gram_routes_to_the_device_and_the_svd_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str]] = []

    class Recorder:
        def __init__(self, delta: Matrix, route: Route, *, device: str) -> None:
            asked.append((route, device))

    monkeypatch.setattr(decompose_module, "TorchGram", Recorder)
    delta = np.eye(3)
    for route in ("float32", "float64"):
        assert isinstance(decompose(delta, route, device="cuda:1"), Recorder)  # type: ignore[arg-type]
        assert not isinstance(decompose(delta, route), Recorder)  # type: ignore[arg-type]
    assert decompose(delta, "svd", device="cuda:1").route == "svd"
    assert asked == [("float32", "cuda:1"), ("float64", "cuda:1")]


def test_an_eigensolver_that_lies_about_the_leading_vector_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    eigh = torch.linalg.eigh

    def lie(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, vectors = eigh(gram)
        return values, vectors.roll(1, dims=1)

    delta = np.diag(np.linspace(2.0, 1.0, 8))
    monkeypatch.setattr(torch.linalg, "eigh", lie)
    with pytest.raises(SpectrumError, match="does not solve"):
        TorchGram(delta, "float32", device="cpu")


def test_an_eigensolver_that_returns_nan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full_like(gram[0], torch.nan), torch.full_like(gram, torch.nan)

    monkeypatch.setattr(torch.linalg, "eigh", nothing)
    with pytest.raises(SpectrumError, match="does not solve"):
        TorchGram(np.eye(4), "float64", device="cpu")


def test_a_lost_vector_behind_the_leading_one_sends_the_matrix_to_the_next_route(
    pairs: Any, accelerated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    eigh = torch.linalg.eigh

    def lose(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, vectors = eigh(gram)
        if gram.dtype == torch.float32:
            vectors[:, 0] = vectors[:, 1]
        return values, vectors

    monkeypatch.setattr(torch.linalg, "eigh", lose)
    base, instruct = pairs.noise(60, 30, seed=2)
    result = refine_matrix(base, instruct, [TimberL()], device="cuda")
    assert result.record.route == "float64"
    assert accelerated == ["float32 on cuda", "float64 on cuda"]
    assert agreement(result.weights[0], base, instruct, TimberL()).holds


def test_an_eigensolver_that_gives_up_sends_the_matrix_to_the_next_route(
    pairs: Any, accelerated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(gram: torch.Tensor) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", give_up)
    base, instruct = pairs.noise(60, 30, seed=2)
    result = refine_matrix(base, instruct, [TimberL()], device="cuda")
    assert result.record.route == "svd"
    assert agreement(result.weights[0], base, instruct, TimberL()).holds
