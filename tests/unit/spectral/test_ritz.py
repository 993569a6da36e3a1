"""Trailing singular values from float32 vectors: far sharper, and never past their bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from timberkit.config import Timber, TimberL
from timberkit.dtypes import Matrix
from timberkit.errors import SpectrumError
from timberkit.spectral import ladder
from timberkit.spectral.agreement import agreement
from timberkit.spectral.decompose import Decomposition, Route, decompose
from timberkit.spectral.delta import as_delta
from timberkit.spectral.rank import effective_rank, effective_rank_cut, effective_rank_error
from timberkit.spectral.refine import refine_matrix
from timberkit.spectral.ritz import with_ritz_values

SHAPES = ((300, 300), (420, 300), (300, 420), (64, 64))


def delta_of(kind: str, rows: int, columns: int) -> NDArray[np.float32]:
    random = np.random.default_rng(rows + 7 * columns)
    matrix = random.standard_normal((rows, columns))
    if kind == "spiked":
        for size in (60, 120, 240):
            left, right = random.standard_normal(rows), random.standard_normal(columns)
            matrix += size * np.outer(left, right) / np.sqrt(rows * columns)
    if kind == "heavy tails":
        matrix *= np.exp(random.standard_normal((rows, 1)))
    if kind == "decaying":
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
        matrix = (left * np.geomspace(1, 1e-3, min(rows, columns))) @ right
    return np.asarray(matrix / np.abs(matrix).max(), dtype=np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["noise", "spiked", "heavy tails", "decaying"])
def test_trailing_values_stay_within_their_bound_of_the_full_svd(
    kind: str, shape: tuple[int, int]
) -> None:
    delta = delta_of(kind, *shape)
    exact = np.linalg.svd(delta.astype(np.float64), compute_uv=False)
    rough = decompose(delta, "float32")
    cut = effective_rank_cut(exact)
    sharp = with_ritz_values(as_delta(delta), rough, cut)
    off = np.abs(sharp.singular_values - exact)
    assert (off <= sharp.errors).all()
    assert (np.diff(sharp.singular_values) <= 0).all()
    assert (sharp.singular_values[:cut] == rough.spectrum.singular_values[:cut]).all()
    tail_before = np.abs(rough.spectrum.singular_values - exact)[cut:].max()
    assert off[cut:].max() < tail_before / 20
    before = effective_rank_error(rough.spectrum.singular_values, rough.spectrum.errors)
    after = effective_rank_error(sharp.singular_values, sharp.errors)
    assert abs(effective_rank(sharp.singular_values) - effective_rank(exact)) <= after < before


def test_vectors_that_are_not_orthonormal_are_an_error() -> None:
    delta = delta_of("noise", 64, 64)
    found = decompose(delta, "float32")
    found.vectors = lambda start, stop: np.ones((64, stop - start), np.float32)  # type: ignore[method-assign]
    with pytest.raises(SpectrumError, match="Ritz"):
        with_ritz_values(as_delta(delta), found, 50)


def test_a_square_delta_in_doubt_is_settled_without_float64_eigenvalues(
    pairs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doubt that comes from the smallest values alone, as with squares: 'ritz', as the oracle."""
    monkeypatch.setattr(ladder, "SINGLE_PRECISION_SIDE", 1)
    real = ladder.decompose

    def wrapped(delta: Matrix, route: Route, *, device: str = "cpu") -> Decomposition:
        found = real(delta, route, device=device)
        spectrum = found.spectrum
        errors = spectrum.errors.copy()
        errors[-8:] = np.maximum(errors[-8:], 0.3 * spectrum.singular_values[0])
        found.spectrum = type(spectrum)(spectrum.singular_values, errors)
        return found

    monkeypatch.setattr(ladder, "decompose", wrapped)
    monkeypatch.setattr(ladder, "spectrum_of", lambda delta: pytest.fail("not needed"))
    base, instruct = pairs.noise(120, 120, seed=1, dtype=torch.bfloat16)
    variants = [Timber(lam=0.3), TimberL()]
    result = refine_matrix(base, instruct, variants)
    assert result.record.route == "ritz"
    assert result.record.effective_rank_error is not None
    assert result.record.effective_rank_error < 0.01
    for variant, weight in zip(variants, result.weights, strict=True):
        assert agreement(weight, base, instruct, variant).holds
