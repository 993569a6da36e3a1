"""The yardstick itself: it accepts the oracle, and refuses what is wrong by a little."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from timberkit.config import Merge, TimberL, TruncateRank
from timberkit.spectral.agreement import agreement
from timberkit.spectral.oracle import consult, oracle_refine

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", [TimberL(), TruncateRank(ratio=0.5), Merge(mu=0.5)])
def test_the_oracle_rounded_agrees_perfectly(pairs: Any, dtype: torch.dtype, variant: Any) -> None:
    base, instruct = pairs.noise(60, 40, seed=0, dtype=dtype)
    weight = torch.from_numpy(oracle_refine(base, instruct, variant)).to(dtype)
    found = agreement(weight, base, instruct, variant)
    assert found.holds
    assert (found.identical, found.worst) == (1.0, 0.0)
    assert found.elementwise is (dtype in (torch.bfloat16, torch.float16))


@pytest.mark.parametrize("dtype", DTYPES)
def test_another_cut_is_noticed(pairs: Any, dtype: torch.dtype) -> None:
    base, instruct = pairs.noise(120, 50, seed=1, dtype=dtype, size=0.3)
    found = consult(base, instruct, TimberL())
    assert found.gains is not None
    kept = int(found.gains.sum())
    for other in (kept - 1, kept + 1):
        wrong = oracle_refine(base, instruct, TruncateRank(ratio=other / 50))
        assert not agreement(torch.from_numpy(wrong).to(dtype), base, instruct, TimberL()).holds


def test_two_elements_in_a_thousand_off_by_a_unit_are_too_many(pairs: Any) -> None:
    base, instruct = pairs.noise(100, 50, seed=2)
    weight = torch.from_numpy(oracle_refine(base, instruct, TimberL())).to(torch.bfloat16)
    for count, holds in ((1, True), (6, True), (7, False), (10, False)):
        moved = weight.clone().reshape(-1)
        moved.view(torch.int16)[:count] += 1
        found = agreement(moved.reshape(100, 50), base, instruct, TimberL())
        assert found.holds is holds, count
        assert found.worst == pytest.approx(1.0)


def test_one_element_off_by_two_units_is_too_far(pairs: Any) -> None:
    base, instruct = pairs.noise(100, 50, seed=2)
    weight = torch.from_numpy(oracle_refine(base, instruct, TimberL())).to(torch.bfloat16)
    index = int(weight.abs().argmax())
    weight.reshape(-1).view(torch.int16)[index] -= 2
    assert not agreement(weight, base, instruct, TimberL()).holds


def test_full_precision_is_held_to_a_millionth_of_the_delta(pairs: Any) -> None:
    base, instruct = pairs.noise(60, 40, seed=3, dtype=torch.float64)
    exact = torch.from_numpy(oracle_refine(base, instruct, TimberL()))
    norm = float(torch.linalg.vector_norm(instruct - base))
    noise = torch.randn(60, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise *= norm / float(torch.linalg.vector_norm(noise))
    for size, holds in ((0.5e-6, True), (2e-6, False)):
        assert agreement(exact + size * noise, base, instruct, TimberL()).holds is holds


def test_the_tie_excuses_its_own_directions_only(pairs: Any) -> None:
    values = np.array([4.0, 1.0, 1.0, 0.3])
    base, instruct = pairs.planted(20, 4, values, seed=4, dtype=torch.float64)
    variant = TruncateRank(ratio=0.5)
    left, found, right = np.linalg.svd((instruct - base).numpy(), full_matrices=False)

    def keeping(*directions: int) -> torch.Tensor:
        chosen = list(directions)
        return base + torch.from_numpy((left[:, chosen] * found[chosen]) @ right[chosen])

    assert agreement(keeping(0, 1), base, instruct, variant).holds
    assert agreement(keeping(0, 2), base, instruct, variant).holds
    assert not agreement(keeping(1, 2), base, instruct, variant).holds
    bound = agreement(keeping(0, 1), base, instruct, variant).bound
    assert bound == pytest.approx(2 * np.sqrt(2.0), rel=1e-4)


def test_a_delta_of_zeros_agrees_with_instruct() -> None:
    weight = torch.full((3, 3), 0.5, dtype=torch.bfloat16)
    assert agreement(weight, weight, weight, TimberL()).holds
    assert not agreement(weight * 1.05, weight, weight, TimberL()).holds
