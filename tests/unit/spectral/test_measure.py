"""One weight measured, against a float64 full SVD and direct counts; degenerate and bad weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from timberkit.config import Timber
from timberkit.errors import SpectrumError
from timberkit.measurements import (
    LEADING_COUNTS,
    TRUNCATE_ENERGIES,
    TRUNCATE_RANK_RATIOS,
    SpectrumMeasurement,
)
from timberkit.spectral.measure import measure_matrix, rounding_noise
from timberkit.spectral.null import noise_null
from timberkit.spectral.oracle import oracle_refine
from timberkit.spectral.rank import effective_rank

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [(120, 80), (80, 120), (96, 96), (1, 40), (40, 1), (1, 1), (3, 2)]
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def svd_values(matrix: torch.Tensor) -> NDArray[np.float64]:
    return np.linalg.svd(matrix.double().numpy(), compute_uv=False)


def assert_spectrum(found: SpectrumMeasurement, matrix: torch.Tensor) -> None:
    values = svd_values(matrix)
    assert found.norm == pytest.approx(float(np.linalg.norm(values)), rel=1e-9)
    assert found.largest == pytest.approx(values[0], rel=1e-9)
    assert found.effective_rank == pytest.approx(effective_rank(values), rel=1e-6)
    assert found.ratio == found.effective_rank / values.size
    assert found.stable_rank == pytest.approx(float((values**2).sum() / values[0] ** 2), rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_spectra_are_those_of_a_full_svd(
    pairs: Any, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    base, instruct = pairs.noise(*shape, seed=1, spikes=4.0, dtype=dtype)
    found = measure_matrix(base, instruct, keep_all=True)
    delta = instruct.double() - base.double()
    for spectrum, matrix in zip(
        (found.base, found.instruct, found.delta), (base, instruct, delta), strict=True
    ):
        assert_spectrum(spectrum, matrix)
        assert spectrum.singular_values is not None
        values = svd_values(matrix)
        np.testing.assert_allclose(spectrum.singular_values, values, atol=1e-7 * values[0])
    assert found.relative_delta == pytest.approx(found.delta.norm / found.base.norm)
    assert found.null == noise_null(*shape)
    assert (found.rounding, found.subspaces) == (None, None)


@pytest.mark.parametrize("shape", [(120, 80), (80, 120), (96, 96)])
def test_the_cut_and_the_truncations_are_those_of_their_definitions(
    pairs: Any, shape: tuple[int, int]
) -> None:
    base, instruct = pairs.noise(*shape, seed=2, spikes=2.0)
    cut = measure_matrix(base, instruct).cut
    values = svd_values(instruct.double() - base.double())
    energy, r = np.cumsum(values**2) / (values**2).sum(), min(shape)
    assert cut.cut == math.ceil(effective_rank(values))
    assert cut.head_energy == pytest.approx(energy[cut.cut - 1])
    assert cut.tail_sum == pytest.approx(values[cut.cut :].sum() / values.sum())
    assert cut.truncate_rank == tuple(math.ceil(x * r - 1e-9) for x in TRUNCATE_RANK_RATIOS)
    assert cut.truncate_energy == tuple(
        int(np.argmax(energy >= threshold)) + 1 for threshold in TRUNCATE_ENERGIES
    )


def test_values_are_kept_as_asked(pairs: Any) -> None:
    found = measure_matrix(*pairs.noise(20, 30, seed=0))
    assert found.base.singular_values is found.instruct.singular_values is None
    assert found.delta.singular_values is not None
    assert len(found.delta.singular_values) == 20


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rounding_shares_are_those_of_a_direct_count(pairs: Any, dtype: torch.dtype) -> None:
    base, instruct = pairs.noise(96, 160, seed=3, spikes=3.0, dtype=dtype)
    found = measure_matrix(base, instruct, rounding=True).rounding
    assert found is not None
    exact = oracle_refine(base, instruct, Timber(lam=0.2))
    rounded = torch.from_numpy(exact).to(dtype)
    weight, delta = instruct.double().numpy(), (instruct.double() - base.double()).numpy()
    correction = np.linalg.norm(exact - weight)
    error = np.linalg.norm(rounded.double().numpy() - exact)
    changed = float((rounded != instruct).double().mean())
    assert found.changed == pytest.approx(changed, abs=2e-3)
    assert found.correction_over_weight == pytest.approx(
        correction / np.linalg.norm(weight), rel=1e-3
    )
    assert found.correction_over_delta == pytest.approx(
        correction / np.linalg.norm(delta), rel=1e-3
    )
    assert found.error_over_correction == pytest.approx(error / correction, rel=5e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 0.02, 1e-6])
def test_rounding_noise_is_that_of_weights_rounded_to_their_dtype(
    dtype: torch.dtype, scale: float
) -> None:
    exact = torch.randn(300, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact *= scale
    rounded = exact.to(dtype)
    error = torch.linalg.vector_norm(rounded.double() - exact)
    expected = float(error / torch.linalg.vector_norm(rounded.double()))
    assert rounding_noise(rounded) == pytest.approx(expected, rel=0.02)


def test_rounding_noise_of_zeros_and_of_both_delta_parts(pairs: Any) -> None:
    assert rounding_noise(torch.zeros(3, 3, dtype=torch.bfloat16)) == 0.0
    mixed = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.bfloat16)
    assert rounding_noise(mixed) == pytest.approx(2.0**-7 / math.sqrt(12))
    base, instruct = pairs.noise(60, 40, seed=5)
    measured = measure_matrix(base, instruct, rounding=True)
    found = measured.rounding
    assert found is not None
    both = math.hypot(
        found.base_noise * measured.base.norm, found.instruct_noise * measured.instruct.norm
    )
    assert found.delta_noise == pytest.approx(both / measured.delta.norm)


@pytest.mark.parametrize("shape", [(150, 90), (90, 150), (80, 80)])
def test_subspaces_are_those_of_a_full_svd(pairs: Any, shape: tuple[int, int]) -> None:
    base, instruct = pairs.noise(*shape, seed=4, spikes=20.0)
    measured = measure_matrix(base, instruct, subspaces=True)
    found, cut = measured.subspaces, measured.cut.cut
    assert found is not None
    base64, instruct64 = base.double().numpy(), instruct.double().numpy()
    svds = [
        np.linalg.svd(matrix, full_matrices=False)
        for matrix in (base64, instruct64, instruct64 - base64)
    ]
    dimensions = [*(count for count in LEADING_COUNTS if count <= min(shape)), cut]
    lefts, rights = [svd[0] for svd in svds], [svd[2].T for svd in svds]
    for rows, first, second in (
        (found.left, lefts[0], lefts[1]),
        (found.right, rights[0], rights[1]),
        (found.delta_left, lefts[2], lefts[0]),
        (found.delta_right, rights[2], rights[0]),
    ):
        assert [row.dimension for row in rows] == dimensions
        for row in rows:
            cosines = first[:, : row.dimension].T @ second[:, : row.dimension]
            assert row.overlap == pytest.approx((cosines**2).sum() / row.dimension, abs=1e-6)
            smallest = np.linalg.svd(cosines, compute_uv=False)[-1]
            assert row.smallest_cosine == pytest.approx(smallest, abs=1e-5)
            assert row.chance == row.dimension / first.shape[0]
    assert measured.base.effective_rank == pytest.approx(
        measure_matrix(base, instruct).base.effective_rank, rel=1e-9
    )


def test_a_delta_of_zeros_has_nothing_to_cut(pairs: Any) -> None:
    base, _ = pairs.noise(20, 30, seed=0)
    found = measure_matrix(base, base.clone(), rounding=True, subspaces=True)
    assert (found.delta.effective_rank, found.delta.stable_rank, found.delta.norm) == (0, 0, 0)
    assert found.relative_delta == 0.0
    assert (found.cut.cut, found.cut.head_energy, found.cut.tail_sum) == (0, 1.0, 0.0)
    assert found.bulk.spikes == 0
    assert found.rounding is not None
    assert found.rounding.correction_over_weight == found.rounding.changed == 0.0
    assert found.rounding.error_over_correction is None
    assert found.rounding.delta_noise is found.rounding.correction_over_delta is None
    assert found.subspaces is not None
    assert found.subspaces.delta_left == ()
    assert [row.overlap for row in found.subspaces.left] == pytest.approx([1.0, 1.0])


def test_a_base_of_zeros_has_no_relative_delta_and_no_subspaces(pairs: Any) -> None:
    _, instruct = pairs.noise(20, 30, seed=0)
    found = measure_matrix(torch.zeros_like(instruct), instruct, rounding=True, subspaces=True)
    assert found.relative_delta is None
    assert found.base.ratio == 0.0
    assert found.rounding is not None
    assert found.rounding.base_noise == 0.0
    assert found.subspaces is not None
    assert found.subspaces.left == found.subspaces.delta_right == ()


def test_a_delta_that_float32_does_not_hold_is_taken_in_float64() -> None:
    base = torch.full((6, 4), 2.0**-40, dtype=torch.bfloat16)
    instruct = torch.eye(6, 4).bfloat16() + torch.ones(6, 4).bfloat16()
    found = measure_matrix(base, instruct, keep_all=True)
    assert found.delta.singular_values is not None
    expected = svd_values(instruct.double() - base.double())
    np.testing.assert_allclose(found.delta.singular_values, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("unit", [1e-200, 1e-30, 1e30, 1e200])
def test_weights_of_any_magnitude_have_the_same_shares(pairs: Any, unit: float) -> None:
    base, instruct = pairs.noise(24, 18, seed=6, spikes=2.0, dtype=torch.float64)
    expected = measure_matrix(base, instruct)
    found = measure_matrix(base * unit, instruct * unit)
    assert found.delta.norm == pytest.approx(expected.delta.norm * unit, rel=1e-9)
    assert found.delta.ratio == pytest.approx(expected.delta.ratio, rel=1e-9)
    assert found.cut.cut == expected.cut.cut
    assert found.relative_delta == pytest.approx(expected.relative_delta)
    assert found.bulk.spikes == expected.bulk.spikes


@pytest.mark.parametrize("which", ["base", "instruct"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_bad_weights_are_named(pairs: Any, which: str, value: float) -> None:
    weights = dict(zip(("base", "instruct"), pairs.noise(6, 4, seed=0), strict=True))
    weights[which][3, 2] = value
    with pytest.raises(SpectrumError, match=f"^{which}: found NaN or Inf"):
        measure_matrix(**weights)


def test_numbers_beyond_float64_are_refused() -> None:
    huge = torch.full((3, 3), 1.6e308, dtype=torch.float64)
    with pytest.raises(SpectrumError, match="overflows float64"):
        measure_matrix(-huge, huge)
    with pytest.raises(SpectrumError, match="norm beyond float64"):
        measure_matrix(huge, huge)


def test_shapes_and_dtypes_are_checked() -> None:
    weight = torch.ones(3, 4)
    for other in (torch.ones(4, 3), torch.ones(3), torch.ones(3, 0)):
        with pytest.raises(ValueError, match="expected two equal, 2-D"):
            measure_matrix(other, weight)
    with pytest.raises(ValueError, match="floating dtype"):
        measure_matrix(weight.int(), weight)
