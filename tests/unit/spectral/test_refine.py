"""One refined weight: copies bit for bit, what may not matter and does not, records, refusals."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from timberkit.config import (
    AnyVariant,
    Merge,
    Timber,
    TimberL,
    TruncateEnergy,
    TruncateRank,
    variant_name,
)
from timberkit.errors import InputError, SpectrumError
from timberkit.spectral.agreement import agreement
from timberkit.spectral.oracle import consult, oracle_refine
from timberkit.spectral.refine import refine_matrix, spectrum

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
KEEP_ALL: list[AnyVariant] = [
    Timber(lam=1.0),
    TruncateRank(ratio=1.0),
    TruncateEnergy(energy=1.0),
    Merge(mu=1.0),
]
ALL: list[AnyVariant] = [
    Timber(lam=0.2),
    Timber(lam=0.7),
    TimberL(),
    TruncateRank(ratio=0.5),
    TruncateEnergy(energy=0.9),
    Merge(mu=0.8),
]


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return tensor.dtype, tuple(tensor.shape), content


def with_signed_zeros(weight: torch.Tensor) -> torch.Tensor:
    changed = weight.clone()
    changed[0, :2], changed[1, :2] = -0.0, 0.0
    return changed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (9, 9), (2, 5)])
def test_gains_of_one_copy_instruct_bit_for_bit(
    pairs: Any, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    base, instruct = map(with_signed_zeros, pairs.noise(*shape, seed=0, dtype=dtype))
    base[0, 0] = 0.5
    for weight in refine_matrix(base, instruct, KEEP_ALL).weights:
        assert bits(weight) == bits(instruct)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_merge_of_zero_copies_base_bit_for_bit(pairs: Any, dtype: torch.dtype) -> None:
    base, instruct = pairs.noise(40, 24, seed=1, dtype=dtype)
    base = with_signed_zeros(base)
    assert bits(refine_matrix(base, instruct, [Merge(mu=0.0)]).weights[0]) == bits(base)


def test_copies_in_another_dtype_are_rounded_once(pairs: Any) -> None:
    base, instruct = pairs.noise(20, 30, seed=2, dtype=torch.float32)
    for dtype in DTYPES:
        kept, dropped = refine_matrix(
            base, instruct, [Merge(mu=1.0), Merge(mu=0.0)], dtype=dtype
        ).weights
        assert bits(kept) == bits(instruct.to(dtype))
        assert bits(dropped) == bits(base.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_delta_of_zeros_gives_instruct_and_no_spectrum(dtype: torch.dtype) -> None:
    weight = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    result = refine_matrix(weight, weight.clone(), ALL)
    assert {bits(refined) for refined in result.weights} == {bits(weight)}
    record = result.record
    assert (record.route, record.delta_norm, record.effective_rank) == ("zero delta", 0.0, None)
    assert {(c.correction, c.rounding, c.changed, c.kept) for c in record.changes} == {
        (0.0, None, 0.0, None)
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_merge_is_rounded_from_the_exact_blend(pairs: Any, dtype: torch.dtype) -> None:
    base, instruct = pairs.noise(60, 50, seed=3, dtype=dtype, size=0.5)
    exact = base.double() + 0.9 * (instruct.double() - base.double())
    assert bits(refine_matrix(base, instruct, [Merge(mu=0.9)]).weights[0]) == bits(exact.to(dtype))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("variant", [TimberL(), Merge(mu=0.5), Merge(mu=1.0)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_inf_are_refused_and_the_culprit_is_named(
    pairs: Any, dtype: torch.dtype, variant: AnyVariant, value: float
) -> None:
    for culprit in ("base", "instruct"):
        weights = dict(zip(("base", "instruct"), pairs.noise(8, 6, seed=0, dtype=dtype)))  # noqa: B905
        weights[culprit][3, 2] = value
        with pytest.raises(SpectrumError, match=f"^{culprit}: found NaN or Inf"):
            refine_matrix(**weights, variants=[variant])


@pytest.mark.parametrize("variant", [TimberL(), Merge(mu=0.5)])
@pytest.mark.parametrize(
    ("dtype", "bits"),
    [(torch.bfloat16, 0x7F81), (torch.float16, 0x7C01), (torch.float32, 0x7F800001)],
)
def test_a_signalling_nan_is_refused_without_a_warning(
    dtype: torch.dtype, bits: int, variant: AnyVariant
) -> None:
    instruct = torch.ones(6, 4, dtype=dtype)
    instruct.view(torch.int32 if dtype == torch.float32 else torch.int16)[2, 2] = bits
    with pytest.raises(SpectrumError, match=r"^instruct: found NaN or Inf"):
        refine_matrix(torch.zeros_like(instruct), instruct, [variant])


def test_a_difference_that_overflows_is_refused_and_named() -> None:
    huge = torch.full((3, 4), 3e38, dtype=torch.bfloat16)
    with pytest.raises(SpectrumError, match="difference overflows"):
        refine_matrix(-huge, huge, [TimberL()])
    with pytest.raises(SpectrumError, match="difference overflows"):
        refine_matrix(-huge.double() * 5e269, huge.double() * 5e269, [TimberL()])


@pytest.mark.parametrize("variant", [TimberL(), Merge(mu=0.5), Merge(mu=1.0)])
def test_a_weight_too_large_for_the_output_dtype_is_refused_not_made_infinite(
    pairs: Any, variant: AnyVariant
) -> None:
    base, instruct = pairs.noise(12, 8, seed=0)
    base[2, 3], instruct[2, 3] = 1e6, 2e6
    with pytest.raises(InputError, match="values overflow float16"):
        refine_matrix(base, instruct, [variant], dtype=torch.float16)


@pytest.mark.parametrize(
    ("first", "second"), [((3, 4), (4, 3)), ((3,), (3,)), ((2, 2, 2), (2, 2, 2)), ((0, 4), (0, 4))]
)
def test_what_is_not_a_pair_of_matrices_is_refused(
    first: tuple[int, ...], second: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="expected two equal, 2-D"):
        refine_matrix(torch.zeros(first), torch.zeros(second), [TimberL()])


def test_integers_and_no_variant_are_refused() -> None:
    weight = torch.ones(3, 3)
    with pytest.raises(ValueError, match="found int32, expected a floating dtype"):
        refine_matrix(weight.int(), weight, [TimberL()])
    with pytest.raises(ValueError, match="found float8"):
        refine_matrix(weight, weight.to(torch.float8_e4m3fn), [TimberL()])
    with pytest.raises(ValueError, match="at least one variant"):
        refine_matrix(weight, weight, [])


def test_an_output_dtype_that_is_no_float_is_refused(pairs: Any) -> None:
    base, instruct = pairs.noise(6, 4, seed=0)
    for dtype in (torch.int8, torch.float8_e4m3fn):
        for variant in (TimberL(), Merge(mu=0.5)):
            with pytest.raises(ValueError, match="expected a floating dtype"):
                refine_matrix(base, instruct, [variant], dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_are_not_modified(pairs: Any, dtype: torch.dtype) -> None:
    base, instruct = pairs.noise(30, 20, seed=4, dtype=dtype)
    before = bits(base), bits(instruct)
    for out_dtype in DTYPES:
        variants = [*ALL, *KEEP_ALL, Merge(mu=0.0)]
        for weight in refine_matrix(base, instruct, variants, dtype=out_dtype).weights:
            weight.zero_()
        assert (bits(base), bits(instruct)) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(70, 40), (40, 70)])
def test_memory_layout_of_the_inputs_does_not_matter(
    pairs: Any, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    base, instruct = pairs.noise(*shape, seed=5, dtype=dtype)
    expected = [bits(weight) for weight in refine_matrix(base, instruct, ALL).weights]

    def strided(weight: torch.Tensor) -> torch.Tensor:
        return weight.repeat_interleave(2, dim=0).repeat_interleave(3, dim=1)[::2, ::3]

    def transposed(weight: torch.Tensor) -> torch.Tensor:
        return weight.T.contiguous().T

    for first, second in itertools.product((strided, transposed, torch.Tensor.clone), repeat=2):
        found = refine_matrix(first(base), second(instruct), ALL).weights
        assert [bits(weight) for weight in found] == expected, (first, second)


def test_number_of_threads_does_not_matter(pairs: Any) -> None:
    base, instruct = pairs.noise(256, 192, seed=6)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append([bits(weight) for weight in refine_matrix(base, instruct, ALL).weights])
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("spikes", [0.0, 40.0])
def test_methods_with_one_cut_give_the_same_bytes_in_any_order_and_number(
    pairs: Any, spikes: float
) -> None:
    base, instruct = pairs.noise(48, 32, seed=7, spikes=spikes)
    variants: list[AnyVariant] = [Timber(lam=0.2), Timber(lam=0.6), TimberL(), Merge(mu=0.5)]
    alone = {
        variant_name(variant): bits(refine_matrix(base, instruct, [variant]).weights[0])
        for variant in variants
    }
    assert len(set(alone.values())) == len(variants)
    for count in (2, 4):
        for chosen in itertools.permutations(variants, count):
            weights = refine_matrix(base, instruct, chosen).weights
            for variant, weight in zip(chosen, weights, strict=True):
                assert bits(weight) == alone[variant_name(variant)]


def test_a_second_call_gives_the_same_bytes(pairs: Any) -> None:
    base, instruct = pairs.noise(64, 80, seed=8, spikes=5.0)
    first, second = (refine_matrix(base, instruct, ALL) for _ in range(2))
    assert [bits(weight) for weight in first.weights] == [bits(weight) for weight in second.weights]
    assert first.record == second.record


@pytest.mark.parametrize("size", [1e-30, 1e-18, 1e18, 1e30])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_tiny_and_huge_deltas_are_solved_as_ordinary_ones(
    pairs: Any, dtype: torch.dtype, size: float
) -> None:
    _, delta = pairs.noise(40, 24, seed=9, weight=1.0, size=1.0, dtype=dtype)
    base, instruct = torch.zeros_like(delta), (delta.double() * size).to(dtype)
    result = refine_matrix(base, instruct, ALL)
    for variant, weight in zip(ALL, result.weights, strict=True):
        assert agreement(weight, base, instruct, variant).holds
        assert bool(torch.isfinite(weight).all())
    expected = float(torch.linalg.vector_norm(instruct.double()))
    assert result.record.delta_norm == pytest.approx(expected, rel=1e-6)
    assert result.record.cut == refine_matrix(base, delta, ALL).record.cut


def test_subnormal_deltas_of_double_precision_are_solved(pairs: Any) -> None:
    _, delta = pairs.noise(10, 6, seed=9, weight=1.0, size=1.0, dtype=torch.float64)
    base, instruct = torch.zeros_like(delta), delta * 1e-310
    result = refine_matrix(base, instruct, [TimberL()])
    assert result.record.cut == refine_matrix(base, delta, [TimberL()]).record.cut


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_record_states_what_direct_computation_finds(
    pairs: Any, dtype: torch.dtype, out_dtype: torch.dtype
) -> None:
    base, instruct = pairs.noise(60, 40, seed=10, dtype=dtype)
    result = refine_matrix(base, instruct, ALL, dtype=out_dtype)
    record = result.record
    delta = instruct.double() - base.double()
    values = torch.linalg.svdvals(delta).numpy()
    norm = float(torch.linalg.vector_norm(instruct.double()))
    assert (record.rows, record.columns) == (60, 40)
    assert record.instruct_norm == pytest.approx(norm)
    assert record.delta_norm == pytest.approx(np.linalg.norm(values), rel=1e-6)
    energies = np.cumsum(values**2) / (values**2).sum()
    assert record.cut is not None
    assert record.head_energy == pytest.approx(energies[record.cut - 1], abs=1e-5)
    for variant, weight, change in zip(ALL, result.weights, record.changes, strict=True):
        exact = torch.from_numpy(oracle_refine(base, instruct, variant))
        correction = float(torch.linalg.vector_norm(exact - instruct.double()))
        rounding = float(torch.linalg.vector_norm(weight.double() - exact))
        gains = consult(base, instruct, variant).gains
        assert change.variant == variant_name(variant)
        assert change.kept == (None if gains is None else int((gains == 1).sum()))
        assert change.correction == pytest.approx(correction / norm, rel=1e-3)
        if out_dtype == torch.bfloat16:
            assert change.rounding == pytest.approx(rounding / correction, rel=1e-2, abs=1e-6)
        differs = (weight.double() != instruct.double()).double().mean()
        assert change.changed == pytest.approx(float(differs), abs=1e-12)


def test_record_of_plain_interpolation_needs_no_decomposition(pairs: Any) -> None:
    base, instruct = pairs.noise(20, 10, seed=11)
    record = refine_matrix(base, instruct, [Merge(mu=0.5), Merge(mu=1.0)]).record
    assert record.route == "no decomposition"
    assert (record.effective_rank, record.cut, record.head_energy, record.unique) == (None,) * 4
    half, whole = record.changes
    assert half.correction == pytest.approx(record.delta_norm / record.instruct_norm / 2)
    assert (whole.correction, whole.rounding, whole.changed) == (0.0, None, 0.0)


def test_an_instruct_of_zeros_has_no_relative_correction(pairs: Any) -> None:
    base, _ = pairs.noise(20, 10, seed=11)
    change = refine_matrix(base, torch.zeros_like(base), [TimberL()]).record.changes[0]
    assert change.correction is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (1, 7), (7, 1), (1, 1)])
def test_spectrum_is_that_of_the_full_svd(
    pairs: Any, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    base, instruct = pairs.noise(*shape, seed=12, dtype=dtype, weight=1.0, size=1.0)
    for size in (1.0, 1e-25):
        first, second = (base * size, instruct * size)
        if dtype == torch.float16 and size != 1.0:
            continue
        true = torch.linalg.svdvals(second.double() - first.double()).numpy()
        found = spectrum(first, second)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, true, rtol=1e-10, atol=2e-7 * true[0])
    assert not spectrum(base, base).any()
