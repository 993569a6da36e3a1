"""The fast solve against the float64 full SVD: method x shape x spectrum x dtype, ties included."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from timberkit.config import AnyVariant, Merge, Timber, TimberL, TruncateEnergy, TruncateRank
from timberkit.spectral import ladder
from timberkit.spectral.agreement import agreement
from timberkit.spectral.filters import Spectrum, gains
from timberkit.spectral.oracle import consult
from timberkit.spectral.rank import effective_rank
from timberkit.spectral.refine import refine_matrix

BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
VARIANTS: list[AnyVariant] = [
    Timber(lam=0.2),
    Timber(lam=0.8),
    TimberL(),
    TruncateRank(ratio=0.7),
    TruncateEnergy(energy=0.95),
    Merge(mu=0.9),
]
SHAPES = [(96, 48), (48, 96), (64, 64), (100, 70), (1, 40), (40, 1), (2, 2), (3, 2)]
SPECTRA = ["noise", "spike 3", "spike 30", "spike 300", "cluster", "deficient", "geometric"]
DTYPES = [
    (BF16, BF16, None),
    (F16, F16, None),
    (F32, F32, None),
    (F64, F64, None),
    (F32, BF16, None),
    (BF16, F32, None),
    (F16, BF16, BF16),
    (BF16, BF16, F32),
    (F32, F32, BF16),
]


pytestmark = pytest.mark.usefixtures("one_thread", "one_svd_a_delta")


@pytest.fixture
def _single_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small matrices begin with the single-precision route too."""
    monkeypatch.setattr(ladder, "SINGLE_PRECISION_SIDE", 1)


def spectrum_of(kind: str, r: int, rng: np.random.Generator) -> NDArray[np.float64]:
    bulk = rng.uniform(0.2, 1.0, r)
    if kind.startswith("spike"):
        bulk[: max(1, r // 20)] *= float(kind.split()[1])
    if kind == "cluster":
        bulk[r // 3 :] = 0.5
    if kind == "deficient":
        bulk[(r + 1) // 2 :] = 0.0
    if kind == "geometric":
        bulk = 0.8 ** np.arange(r)
    return 0.02 * np.sort(bulk)[::-1]


def heads_of(base: torch.Tensor, instruct: torch.Tensor) -> list[int]:
    """How many directions each method keeps by the singular values that the oracle finds."""
    values = consult(base, instruct, TimberL()).singular_values
    assert values is not None
    found = [gains(variant, Spectrum.exact(values)).values for variant in VARIANTS]
    return [int((gain == 1.0).sum()) for gain in found]


def timber_head(base: torch.Tensor, instruct: torch.Tensor) -> int:
    return heads_of(base, instruct)[VARIANTS.index(TimberL())]


def assert_all_agree(base: torch.Tensor, instruct: torch.Tensor, dtype: Any = None) -> None:
    result = refine_matrix(base, instruct, VARIANTS, dtype=dtype)
    expected = heads_of(base, instruct)
    assert result.record.cut == expected[VARIANTS.index(TimberL())]
    for variant, weight, change, head in zip(
        VARIANTS, result.weights, result.record.changes, expected, strict=True
    ):
        assert weight.dtype == (dtype or instruct.dtype)
        assert change.kept == (None if isinstance(variant, Merge) else head)
        found = agreement(weight, base, instruct, variant)
        assert found.holds, (variant, result.record, found)


@pytest.mark.usefixtures("_single_first")
@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_method_agrees_with_the_oracle(pairs: Any, shape: tuple[int, int], kind: str) -> None:
    rng = np.random.default_rng([*shape, *map(ord, kind)])
    values = spectrum_of(kind, min(shape), rng)
    exact = pairs.planted(*shape, values, seed=int(rng.integers(1000)), dtype=F64)
    for base_dtype, instruct_dtype, dtype in DTYPES:
        assert_all_agree(exact[0].to(base_dtype), exact[1].to(instruct_dtype), dtype)


@pytest.mark.parametrize("shape", [(320, 280), (264, 600)])
@pytest.mark.parametrize("spikes", [0.0, 30.0])
def test_matrices_large_enough_for_single_precision_agree(
    pairs: Any, shape: tuple[int, int], spikes: float
) -> None:
    base, instruct = pairs.noise(*shape, seed=1, spikes=spikes)
    assert_all_agree(base, instruct)


@pytest.mark.parametrize("spike", [5.0, 20.0])
@pytest.mark.parametrize("shape", [(320, 260), (260, 320)])
def test_a_leading_direction_inside_a_narrow_head_agrees(
    pairs: Any, shape: tuple[int, int], spike: float
) -> None:
    # The head is narrower than the tail: it is what gets projected, its leading direction included.
    values = [spike, *np.linspace(0.05, 0.01, 259)]
    base, instruct = pairs.planted(*shape, values, seed=0)
    for variant in (TimberL(), TruncateRank(ratio=0.1)):
        result = refine_matrix(base, instruct, [variant])
        kept = result.record.changes[0].kept
        assert kept is not None
        assert kept < 130
        assert agreement(result.weights[0], base, instruct, variant).holds


def values_with_effective_rank(target: float, r: int) -> NDArray[np.float64]:
    """A spectrum with this effective rank: bisection on the share of one tail for all values."""
    low, high = 1e-12, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if effective_rank(middle ** (np.arange(r) / r)) < target:
            low = middle
        else:
            high = middle
    values = high ** (np.arange(r) / r)
    # One value takes the last digits, which the common factor cannot reach.
    index, low, high = r // 2, 0.9 * values[r // 2], 1.1 * values[r // 2]
    for _ in range(200):
        values[index] = (low + high) / 2
        low, high = (
            (values[index], high) if effective_rank(values) < target else (low, values[index])
        )
    return values


OFFSETS = [
    sign * offset
    for offset, sign in itertools.product([1e-3, 1e-5, 1e-8, 9.9e-10, 1.01e-9, 1e-10], [1.0, -1.0])
]


@pytest.mark.parametrize("offset", [*OFFSETS, 0.0])
@pytest.mark.parametrize("shape", [(64, 48), (48, 80), (48, 48)])
def test_an_effective_rank_beside_an_integer_gives_the_cut_of_the_oracle(
    pairs: Any, shape: tuple[int, int], offset: float
) -> None:
    r = 48
    # The rounding of the weights themselves moves the effective rank by about 1e-13.
    values = 0.01 * np.sort(values_with_effective_rank(33 + offset * r, r))[::-1]
    base, instruct = pairs.planted(*shape, values, seed=3, dtype=F64, weight=1e-3)
    planted = effective_rank(np.linalg.svd((instruct - base).numpy(), compute_uv=False))
    assert planted == pytest.approx(33 + offset * r, abs=1e-11)
    assert timber_head(base, instruct) == (34 if offset > 1e-9 else 33)
    assert_all_agree(base, instruct)
    for dtype in (BF16, F32):
        assert_all_agree(base, instruct, dtype)


def plant_in_bfloat16(target: float, shape: tuple[int, int], seed: int) -> torch.Tensor:
    """A bfloat16 delta with this effective rank, although each element has only 8 bits.

    Newton steps, each on the steepest element left of some that were zero: what rounding leaves is
    made up for by the next element, a hundred times smaller.
    """
    rng = np.random.default_rng(seed)
    r = min(shape)
    values = np.sort(values_with_effective_rank(target, r))[::-1]
    left, right = (np.linalg.qr(rng.standard_normal((side, r)))[0] for side in shape)
    delta = torch.from_numpy((left * values) @ right.T).to(BF16).double().numpy()
    free = np.zeros(shape, dtype=bool)
    free.reshape(-1)[rng.permutation(delta.size)[:40]] = True
    delta[free] = 0.0
    for _ in range(100):
        u, s, vt = np.linalg.svd(delta, full_matrices=False)
        rank, shares = effective_rank(s), s / s.sum()
        if abs(rank - target) < 1e-12 or not free.any():
            break
        slope = (u * (-rank * (np.log(shares) + np.log(rank)) / s.sum())) @ vt
        step = (target - rank) / slope
        if abs(rank - target) > 0.01:
            # Still far: move all elements a little along the slope instead.
            delta += slope * (target - rank) / np.square(slope).sum() * ~free
            delta = torch.from_numpy(delta).to(BF16).double().numpy()
            continue
        place = np.unravel_index(np.argmax(np.where(free, np.abs(slope), 0.0)), shape)
        delta[place] = float(torch.tensor(step[place], dtype=torch.float64).to(BF16))
        free[place] = False
    return torch.from_numpy(delta).to(BF16)


@pytest.mark.usefixtures("_single_first")
@pytest.mark.parametrize("offset", [1e-5, -1e-5, 1e-6, -1e-6, 1e-7, -1e-7, 3e-9, -3e-9])
@pytest.mark.parametrize("shape", [(64, 48), (48, 80)])
def test_sixteen_bit_weights_beside_an_integer_give_the_cut_of_the_oracle(
    shape: tuple[int, int], offset: float
) -> None:
    instruct = plant_in_bfloat16(33 + offset * 48, shape, seed=int(1e9 * abs(offset)) + shape[0])
    base = torch.zeros_like(instruct)
    planted = effective_rank(np.linalg.svd(instruct.double().numpy(), compute_uv=False))
    assert planted == pytest.approx(33 + offset * 48, abs=0.3 * abs(offset) * 48)
    assert timber_head(base, instruct) == (34 if offset > 0 else 33)
    assert_all_agree(base, instruct)


def test_a_difference_that_single_precision_cannot_hold_gives_the_cut_of_the_oracle() -> None:
    # 1 - 2^-30 is 1 in float32: the delta would be of rank one, which it is not.
    instruct = torch.ones(2, 2, dtype=BF16)
    base = torch.zeros(2, 2, dtype=BF16)
    base[0, 0] = 2.0**-30
    assert timber_head(base, instruct) == 2
    assert refine_matrix(base, instruct, [TimberL()]).record.cut == 2


@pytest.mark.usefixtures("_single_first")
@pytest.mark.parametrize("gap", [1e-2, 1e-3, 1e-5, 1e-7, 1e-9, 1e-12, 0.0])
@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64])
@pytest.mark.parametrize("shape", [(64, 40), (40, 64)])
def test_near_ties_at_the_cut_agree(
    pairs: Any, shape: tuple[int, int], dtype: torch.dtype, gap: float
) -> None:
    values = 0.01 * np.linspace(2.0, 0.1, 40)
    cut = int(np.ceil(effective_rank(values)))
    for kept in (cut, 28):  # of Timber, and of the truncation by rank
        values[kept] = values[kept - 1] * (1.0 - gap)
    values = np.sort(values)[::-1]
    base, instruct = pairs.planted(*shape, values, seed=4, dtype=F64, weight=0.01)
    assert_all_agree(base, instruct, dtype)
    assert_all_agree(base.to(dtype), instruct.to(dtype))
