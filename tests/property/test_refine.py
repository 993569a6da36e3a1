"""Any small pair and any methods: copies are copies, results agree with the oracle and compose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timberkit.config import (
    AnyVariant,
    Band,
    BaseSubspace,
    Leading,
    Linear,
    MatchedMerge,
    Merge,
    MpCut,
    Noise,
    RankCut,
    RankOne,
    Shrink,
    Steps,
    Timber,
    TimberL,
    TruncateEnergy,
    TruncateRank,
)
from timberkit.engine.execute import one_thread
from timberkit.records import MatrixRecord
from timberkit.spectral import decompose as decompose_module
from timberkit.spectral import delta as delta_module
from timberkit.spectral import ladder
from timberkit.spectral.agreement import agreement
from timberkit.spectral.oracle import consult
from timberkit.spectral.refine import refine_matrix

MANY = settings(max_examples=60, deadline=None, derandomize=True)
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]

unit = st.floats(0.0, 1.0)
fraction = st.floats(0.01, 1.0)
gain = st.one_of(unit, st.floats(-10.0, 10.0))
edits = st.one_of(
    st.builds(Timber, lam=unit),
    st.just(TimberL()),
    st.builds(TruncateRank, ratio=fraction),
    st.builds(TruncateEnergy, energy=fraction),
    st.builds(Merge, mu=unit),
    st.builds(RankCut, scale=st.floats(0.1, 3.0), lam=unit),
    st.builds(MpCut, lam=unit),
    st.sampled_from([Shrink(), RankOne()]),
    st.builds(Leading, count=st.integers(1, 20), gain=gain),
    st.builds(Band, start=st.floats(0.0, 0.5), stop=st.floats(0.51, 1.0), gain=gain),
    st.builds(Linear, first=gain, last=gain),
    st.builds(Steps, gains=st.tuples(gain)),
    st.builds(
        Steps, edges=st.sampled_from([(1, 2), (2, 5), (3, 40)]), gains=st.tuples(gain, gain, gain)
    ),
    st.builds(BaseSubspace, share=fraction, inside=gain, outside=gain),
)
variants = st.one_of(
    edits,
    edits,
    st.builds(MatchedMerge, of=edits),
    st.builds(Noise, seed=st.integers(0, 9), of=edits),
)


@st.composite
def weight_pairs(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """A pair of random shape and dtypes; the delta may be large, tiny, sparse or of low rank."""
    rows, columns = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    base = rng.standard_normal((rows, columns))
    inner = draw(st.integers(1, 14))
    delta = rng.standard_normal((rows, inner)) @ rng.standard_normal((inner, columns))
    delta *= draw(st.sampled_from([1.0, 1e-2, 1e-4]))
    delta[rng.random((rows, columns)) < draw(st.sampled_from([0.0, 0.5, 0.9]))] = 0.0
    first, second = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(DTYPES))
    return torch.from_numpy(base).to(first), torch.from_numpy(base + delta).to(second)


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, bytes]:
    return tensor.dtype, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@MANY
@given(pair=weight_pairs(), chosen=st.lists(variants, min_size=1, max_size=3), single=st.booleans())
def test_every_result_agrees_with_the_oracle(
    pair: tuple[torch.Tensor, torch.Tensor], chosen: list[AnyVariant], single: bool
) -> None:
    base, instruct = pair
    before = bits(base), bits(instruct)
    with pytest.MonkeyPatch.context() as patch, one_thread():
        if single:
            patch.setattr(ladder, "SINGLE_PRECISION_SIDE", 1)
        result = refine_matrix(base, instruct, chosen, name="w")
        for variant, weight in zip(chosen, result.weights, strict=True):
            assert weight.shape == instruct.shape
            assert weight.dtype == instruct.dtype
            found = agreement(weight, base, instruct, variant, name="w")
            assert found.holds, (variant, result.record, found)
        if result.record.cut is not None:
            gains = consult(base, instruct, TimberL()).gains
            assert gains is not None
            assert result.record.cut == int(gains.sum())
    assert (bits(base), bits(instruct)) == before


def test_a_cut_that_the_route_leaves_in_doubt_is_not_recorded() -> None:
    # Of rank one but for a hair: the Gram matrix loses the second direction, which
    # makes an effective rank just above 1, and K = 2.
    base = torch.zeros(2, 2, dtype=torch.float64)
    instruct = torch.tensor([[0.6, 0.8], [0.3, 0.4 + 2e-9]], dtype=torch.float64)
    with one_thread():
        [weight], record = _refined(base, instruct, TruncateRank(ratio=1.0))
        [_], asked = _refined(base, instruct, TimberL())
    assert (record.route, record.cut, record.head_energy) == ("float64", None, None)
    assert (asked.route, asked.cut) == ("svd", 2)
    assert bits(weight) == bits(instruct)


def _refined(
    base: torch.Tensor, instruct: torch.Tensor, variant: AnyVariant
) -> tuple[tuple[torch.Tensor, ...], MatrixRecord]:
    found = refine_matrix(base, instruct, [variant], name="w")
    return found.weights, found.record


@MANY
@given(pair=weight_pairs())
def test_all_gains_one_is_instruct_and_all_gains_zero_is_base_bit_for_bit(
    pair: tuple[torch.Tensor, torch.Tensor],
) -> None:
    base, instruct = pair
    keep: list[AnyVariant] = [
        Timber(lam=1.0),
        Merge(mu=1.0),
        TruncateRank(ratio=1.0),
        TruncateEnergy(energy=1.0),
        Steps(edges=(2,), gains=(1.0, 1.0)),
        BaseSubspace(share=0.5),
    ]
    with one_thread():
        for weight in refine_matrix(base, instruct, keep).weights:
            assert bits(weight) == bits(instruct)
        if bool((base.double() != instruct.double()).any()):
            drop = [Merge(mu=0.0), Steps(gains=(0.0,)), BaseSubspace(share=1, inside=0, outside=0)]
            for dropped in refine_matrix(base, instruct, drop).weights:
                assert bits(dropped) == bits(base.to(instruct.dtype))


@MANY
@given(pair=weight_pairs(), lams=st.lists(unit, min_size=1, max_size=4, unique=True))
def test_methods_with_one_cut_do_not_depend_on_their_company(
    pair: tuple[torch.Tensor, torch.Tensor], lams: list[float]
) -> None:
    base, instruct = pair
    chosen: list[AnyVariant] = [Timber(lam=lam) for lam in lams]
    with one_thread():
        together = refine_matrix(base, instruct, chosen).weights
        for variant, weight in zip(chosen, together, strict=True):
            alone: Any = refine_matrix(base, instruct, [variant]).weights[0]
            assert bits(alone) == bits(weight)


@st.composite
def spiked_pairs(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """A pair of random shape and dtypes whose delta has a bulk, and a few directions above it."""
    rows, columns = draw(st.integers(1, 90)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    base = 0.02 * rng.standard_normal((rows, columns))
    delta = rng.standard_normal((rows, columns)) * draw(st.sampled_from([1e-3, 1e-4, 1e-5]))
    for height in draw(st.lists(st.floats(1.0, 1000.0), max_size=4)):
        left, right = rng.standard_normal(rows), rng.standard_normal(columns)
        # As long as the bulk, times so much.
        length = np.linalg.norm(delta, ord=2) * height if height < 100 else height * 1e-3
        delta += length * np.outer(left / np.linalg.norm(left), right / np.linalg.norm(right))
    first, second = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(DTYPES))
    return torch.from_numpy(base).to(first), torch.from_numpy(base + delta).to(second)


@MANY
@given(
    pair=spiked_pairs(),
    chosen=st.lists(variants, min_size=1, max_size=3),
    single=st.booleans(),
    elements=st.integers(1, 400),
    wide=st.booleans(),
)
def test_streamed_and_held_results_agree_with_the_oracle(
    pair: tuple[torch.Tensor, torch.Tensor],
    chosen: list[AnyVariant],
    single: bool,
    elements: int,
    wide: bool,
) -> None:
    base, instruct = (weight.T.contiguous() if wide else weight for weight in pair)
    with pytest.MonkeyPatch.context() as patch, one_thread():
        if single:
            patch.setattr(ladder, "SINGLE_PRECISION_SIDE", 1)
        patch.setattr(delta_module, "ROW_BLOCK_ELEMENTS", elements)
        patch.setattr(decompose_module, "BLOCK_ELEMENTS", 3 * elements)
        cuts = []
        for held in (1 << 26, 0):
            patch.setattr(delta_module, "HELD_ELEMENTS", held)
            patch.setattr(decompose_module, "HELD_ELEMENTS", held)
            result = refine_matrix(base, instruct, chosen, name="w")
            cuts.append(result.record.cut)
            for variant, weight in zip(chosen, result.weights, strict=True):
                found = agreement(weight, base, instruct, variant, name="w")
                few = single and found.elementwise and found.worst <= 1.0
                flipped = round((1.0 - found.identical) * weight.numel())
                # A share of one in a thousand, where float32 is forced on a few hundred elements,
                # is a matter of luck: what is asked for there is a small number.
                assert found.holds or (few and flipped <= 4), (
                    held, variant, result.record.route, found
                )  # fmt: skip
    assert cuts[0] == cuts[1]
