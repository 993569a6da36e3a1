"""A delta of factors: decomposed and refined as the dense matrix that they make."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timberkit.config import AnyVariant, parse_variants
from timberkit.engine.execute import one_thread
from timberkit.errors import SpectrumError
from timberkit.spectral.agreement import agreement
from timberkit.spectral.low_rank import decompose_factors, refine_factors
from timberkit.spectral.refine import StoredMatrix

METHODS = parse_variants(
    [
        *("timber", "timber-l", "truncate-rank:ratio=0.3", "truncate-energy:energy=0.7", "shrink"),
        *("merge:mu=0.3", "rank-one", "leading:count=2,gain=0.5", "linear:first=0.2,last=1.4"),
        *("matched-merge:of=timber-l", "noise:seed=3,of=timber-l", "band:start=0,stop=0.2,gain=-1"),
    ]
)
sides = st.integers(1, 24)


@st.composite
def factors(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    rows, columns, rank = draw(sides), draw(sides), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    left, right = rng.standard_normal((rows, rank)), rng.standard_normal((rank, columns))
    left[:, rng.random(rank) < draw(st.sampled_from([0.0, 0.4]))] = 0.0
    return left * draw(st.sampled_from([1.0, 1e-3, 1e3])), right * 0.02


@settings(max_examples=80, deadline=None, derandomize=True)
@given(pair=factors())
def test_singular_values_are_those_of_the_product(pair: tuple[np.ndarray, np.ndarray]) -> None:
    left, right = pair
    found = decompose_factors(left, right)
    expected = np.linalg.svd(left @ right, compute_uv=False)
    scale = max(float(np.linalg.norm(left) * np.linalg.norm(right)), 1e-300)
    assert found.singular_values.shape == expected.shape
    np.testing.assert_allclose(found.singular_values, expected, atol=1e-14 * scale)
    whole, rest = found.scaled(np.ones(found.values.size))
    np.testing.assert_allclose(whole @ rest, left @ right, atol=1e-14 * scale)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    pair=factors(),
    chosen=st.lists(st.sampled_from(METHODS), min_size=1, max_size=3, unique=True),
    dtype=st.sampled_from(["bfloat16", "float32", "float64"]),
    seed=st.integers(0, 99),
)
def test_refined_weights_agree_with_the_oracle(
    pair: tuple[np.ndarray, np.ndarray], chosen: list[AnyVariant], dtype: str, seed: int
) -> None:
    left, right = pair
    rng = np.random.default_rng(seed)
    base = torch.from_numpy(rng.standard_normal((len(left), right.shape[1])))
    base = base.to(getattr(torch, dtype))
    instruct = base.double() + torch.from_numpy(left @ right)
    results = [np.empty(tuple(base.shape)) for _ in chosen]
    raw = [StoredMatrix.of_tensor(torch.from_numpy(r).to(base.dtype)).raw.copy() for r in results]
    with one_thread():
        record = refine_factors(
            StoredMatrix.of_tensor(base), decompose_factors(left, right), chosen, raw,
            dtype=dtype, name="w",
        )  # fmt: skip
        for variant, values, change in zip(chosen, raw, record.changes, strict=True):
            weight = torch.from_numpy(values.view(np.int16) if dtype == "bfloat16" else values)
            weight = weight.view(base.dtype)
            found = agreement(weight, base, instruct, variant, name="w")
            # A delta that is all zeros, or cancels, leaves nothing but rounding to compare.
            assert found.holds or found.distance <= found.bound, (variant, found)
            assert 0.0 <= change.changed <= 1.0
    assert record.route == "low rank"


def test_factors_that_are_not_finite_are_named() -> None:
    left = np.full((3, 2), np.nan)
    with pytest.raises(SpectrumError, match="NaN or Inf"):
        decompose_factors(left, np.ones((2, 3)))
    with pytest.raises(SpectrumError, match="overflows"):
        decompose_factors(np.full((3, 1), 1e200), np.full((1, 3), 1e200))
