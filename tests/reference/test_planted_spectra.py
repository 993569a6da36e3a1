"""Deltas whose spectrum is known beforehand: what is planted is found, kept, scaled or removed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from timberkit.config import AnyVariant, Merge, Timber, TimberL, TruncateEnergy, TruncateRank
from timberkit.spectral.rank import effective_rank, energy_share
from timberkit.spectral.refine import refine_matrix, spectrum

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [(60, 30), (30, 60), (40, 40)]
F64 = torch.float64


def factors(
    shape: tuple[int, int], r: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((side, r)))[0] for side in shape)
    return left, right


def plant(
    shape: tuple[int, int], values: NDArray[np.float64], seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.float64], NDArray[np.float64]]:
    left, right = factors(shape, values.size, seed)
    base = torch.from_numpy(np.random.default_rng(seed + 1).standard_normal(shape))
    instruct = base + torch.from_numpy((left * values) @ right.T)
    return base, instruct, left, right


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("values", [np.ones(7), np.linspace(3, 1, 30), 0.5 ** np.arange(20)])
def test_planted_values_are_found(shape: tuple[int, int], values: NDArray[np.float64]) -> None:
    base, instruct, _, _ = plant(shape, values)
    found = spectrum(base, instruct)
    np.testing.assert_allclose(found[: values.size], values, atol=1e-7 * values[0], rtol=1e-7)
    assert (found[values.size :] < 2e-7 * values[0]).all()
    record = refine_matrix(base, instruct, [TimberL()]).record
    assert record.effective_rank == pytest.approx(effective_rank(values), abs=1e-5)
    assert record.delta_norm == pytest.approx(float(np.linalg.norm(values)), rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 5, 17, 30])
def test_equal_directions_give_a_cut_of_their_number_and_instruct_itself(
    shape: tuple[int, int], count: int
) -> None:
    base, instruct, _, _ = plant(shape, np.ones(count))
    result = refine_matrix(base, instruct, [TimberL(), Timber(lam=0.5)])
    assert result.record.cut == count
    assert result.record.head_energy == pytest.approx(1.0, abs=1e-12)
    for weight in result.weights:
        torch.testing.assert_close(weight, instruct, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("variant", "gains"),
    [
        (TimberL(), [1, 1, 1, 1, 0]),
        (Timber(lam=0.25), [1, 1, 1, 1, 0.25]),
        (TruncateRank(ratio=2 / 30), None),
        (TruncateEnergy(energy=0.7), [1, 1, 0, 0, 0]),
        (Merge(mu=0.4), [0.4] * 5),
    ],
)
def test_each_direction_comes_back_times_its_gain(
    shape: tuple[int, int], variant: AnyVariant, gains: list[float] | None
) -> None:
    values = np.array([5.0, 4.0, 3.0, 1.5, 0.1])
    assert 3.0 < effective_rank(values) < 4.0
    if gains is None:
        kept = math.ceil(2 / 30 * min(shape))
        gains = [1.0] * kept + [0.0] * (5 - kept)
    base, instruct, left, right = plant(shape, values)
    weight = refine_matrix(base, instruct, [variant]).weights[0]
    found = left.T @ (weight - base).numpy() @ right
    np.testing.assert_allclose(found, np.diag(values * gains), atol=1e-9)
    correction = torch.linalg.vector_norm(weight - instruct)
    assert float(correction) == pytest.approx(np.linalg.norm(values * (1 - np.array(gains))))


def test_refining_twice_with_a_projection_changes_nothing_more() -> None:
    base, instruct, _, _ = plant((50, 30), np.linspace(2, 0.5, 30))
    variant = TruncateRank(ratio=0.5)
    once = refine_matrix(base, instruct, [variant]).weights[0]
    again = refine_matrix(base, once, [variant]).weights[0]
    torch.testing.assert_close(again, once, rtol=0, atol=1e-12)


def test_transposing_the_pair_transposes_the_result(pairs: Any) -> None:
    base, instruct = pairs.noise(70, 40, seed=2, dtype=F64)
    for variant in (TimberL(), TruncateEnergy(energy=0.8)):
        tall = refine_matrix(base, instruct, [variant]).weights[0]
        wide = refine_matrix(base.T, instruct.T, [variant]).weights[0]
        torch.testing.assert_close(wide.T, tall, rtol=0, atol=1e-13)


def test_a_rotation_of_the_rows_carries_over(pairs: Any) -> None:
    base, instruct = pairs.noise(40, 30, seed=3, dtype=F64)
    rotation = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).standard_normal((40, 40)))[0])
    plain = refine_matrix(base, instruct, [TimberL()]).weights[0]
    turned = refine_matrix(rotation @ base, rotation @ instruct, [TimberL()]).weights[0]
    torch.testing.assert_close(turned, rotation @ plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("rows", "columns", "ratio"),
    [
        (800, 800, 0.805),
        (600, 800, 0.876),
        (400, 800, 0.926),
        (300, 900, 0.954),
        (250, 1000, 0.966),
    ],
)
def test_independent_noise_has_the_effective_rank_of_the_marchenko_pastur_law(
    rows: int, columns: int, ratio: float
) -> None:
    rng = np.random.default_rng(rows)
    values = np.linalg.svd(rng.standard_normal((rows, columns)), compute_uv=False)
    found = effective_rank(values)
    assert found / rows == pytest.approx(ratio, abs=0.002)
    assert 0.006 <= 1 - energy_share(values, math.ceil(found)) <= 0.0105
