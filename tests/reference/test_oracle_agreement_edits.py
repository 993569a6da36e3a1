"""Edits beyond the paper against the float64 full SVD: alone and together, ties, large gains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from timberkit.config import AnyVariant, parse_variants
from timberkit.records import MatrixRecord
from timberkit.spectral import decompose as decompose_module
from timberkit.spectral import delta as delta_module
from timberkit.spectral import ladder
from timberkit.spectral.agreement import agreement
from timberkit.spectral.oracle import consult
from timberkit.spectral.refine import refine_matrix

BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
NAME = "model.layers.0.mlp.up_proj.weight"
EDITS: tuple[AnyVariant, ...] = parse_variants(
    [
        "rank-cut:scale=0.8,lam=0.2",
        "rank-cut:scale=2,lam=0",
        "mp-cut:lam=0.2",
        "shrink",
        "rank-one",
        "leading:count=3,gain=0.5",
        "leading:share=0.05,gain=-3",
        "band:start=0.25,stop=0.5,gain=0",
        "band:start=0.4,stop=0.9,gain=10",
        "linear:first=1,last=0.2",
        "linear:first=-2,last=5",
        "steps:edges=4+16,gains=0.3+1.2+1",
        "steps:edges=1+2+3,gains=-4+1+0.5+0",
        "steps:gains=1.3",
        "base-subspace:share=0.1,inside=0",
        "base-subspace:share=0.6,inside=3,outside=-0.5",
        "base-subspace:share=1,inside=0.5",
        "matched-merge:of=timber:lam=0.2",
        "matched-merge:of=shrink",
        "noise:seed=3,of=timber:lam=0.2",
        "noise:seed=3,of=band:start=0,stop=0.5,gain=4",
        "noise:of=merge:mu=0.7",
        "matched-merge:of=steps:gains=1.3",
        "noise:of=steps:gains=1.3",
        "matched-merge:of=base-subspace:share=0.3,inside=0",
        "noise:seed=3,of=base-subspace:share=0.6,inside=3,outside=-0.5",
    ]
)
SHAPES = [(96, 48), (48, 96), (64, 64), (1, 40), (40, 1), (2, 2), (3, 2)]
SPECTRA = ["noise", "spike 3", "spike 300", "cluster", "deficient", "geometric"]
DTYPES = [
    (BF16, BF16, None),
    (F16, F16, None),
    (F32, F32, None),
    (F64, F64, None),
    (F32, BF16, None),
    (BF16, BF16, F32),
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


def assert_agree(
    base: torch.Tensor,
    instruct: torch.Tensor,
    chosen: tuple[AnyVariant, ...] = EDITS,
    dtype: Any = None,
) -> MatrixRecord:
    result = refine_matrix(base, instruct, chosen, dtype=dtype, name=NAME)
    for variant, weight, change in zip(chosen, result.weights, result.record.changes, strict=True):
        assert weight.dtype == (dtype or instruct.dtype)
        exact = consult(base, instruct, variant, name=NAME)
        kept = None if exact.gains is None else int((exact.gains == 1.0).sum())
        if variant.method != "noise":
            assert change.kept == kept
        found = agreement(weight, base, instruct, variant, name=NAME)
        assert found.holds, (variant, result.record, found)
    return result.record


@pytest.mark.usefixtures("_single_first")
@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_edits_of_one_pass_agree_with_the_oracle(
    pairs: Any, shape: tuple[int, int], kind: str
) -> None:
    rng = np.random.default_rng([*shape, *map(ord, kind)])
    values = spectrum_of(kind, min(shape), rng)
    exact = pairs.planted(*shape, values, seed=int(rng.integers(1000)), dtype=F64)
    for base_dtype, instruct_dtype, dtype in DTYPES:
        assert_agree(exact[0].to(base_dtype), exact[1].to(instruct_dtype), dtype=dtype)


@pytest.mark.parametrize("variant", EDITS, ids=lambda variant: variant.method)
@pytest.mark.parametrize("spikes", [0.0, 30.0])
@pytest.mark.parametrize("shape", [(320, 280), (264, 600)])
def test_each_edit_alone_agrees_where_single_precision_is_tried(
    pairs: Any, shape: tuple[int, int], spikes: float, variant: AnyVariant
) -> None:
    base, instruct = pairs.noise(*shape, seed=1, spikes=spikes)
    assert_agree(base, instruct, (variant,))


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6, 1e-9, 0.0])
@pytest.mark.parametrize("dtype", [BF16, F32])
def test_near_ties_agree_under_gains_far_apart_and_hardly_apart(
    pairs: Any, dtype: torch.dtype, gap: float
) -> None:
    values = 0.01 * np.linspace(2.0, 0.1, 300)
    values[75] = values[74] * (1.0 - gap)  # the two ends of the band, inside the linear gains
    values[150] = values[149] * (1.0 - gap)
    base, instruct = pairs.planted(310, 300, np.sort(values)[::-1], seed=4, dtype=F64, weight=0.01)
    for text in ("band:start=0.25,stop=0.5,gain=-9", "linear:first=1,last=0.2"):
        assert_agree(base.to(dtype), instruct.to(dtype), parse_variants([text]))


def test_gains_far_apart_leave_single_precision_before_those_in_the_unit_interval(
    pairs: Any,
) -> None:
    base, instruct = pairs.noise(400, 300, seed=1)
    routes = []
    for gain in (0.0, 0.9, 1.9, 10.0, -10.0):
        chosen = parse_variants([f"band:start=0.3,stop=0.6,gain={gain}"])
        routes.append(assert_agree(base, instruct, chosen).route)
    assert routes == ["float32", "float32", "float32", "float64", "float64"]


def test_gradual_gains_take_single_precision(pairs: Any) -> None:
    # Every direction has another gain: counted as steps of 1, nothing but an SVD would do.
    base, instruct = pairs.noise(320, 280, seed=1)
    record = assert_agree(base, instruct, parse_variants(["linear:first=1,last=0.2"]))
    assert (record.route, record.unique) == ("float32", True)


@pytest.mark.parametrize("shape", [(330, 60), (60, 330)])
@pytest.mark.parametrize("dtype", [BF16, F32])
def test_whether_a_delta_is_held_and_in_which_blocks_it_is_read_changes_no_byte(
    pairs: Any, shape: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, instruct = pairs.noise(*shape, seed=2, spikes=2.0, dtype=dtype)
    assert_agree(base, instruct)
    monkeypatch.setattr(delta_module, "ROW_BLOCK_ELEMENTS", 7 * 60)
    monkeypatch.setattr(decompose_module, "BLOCK_ELEMENTS", 20 * 60)
    held = refine_matrix(base, instruct, EDITS, name=NAME)
    monkeypatch.setattr(delta_module, "HELD_ELEMENTS", 1)
    monkeypatch.setattr(decompose_module, "HELD_ELEMENTS", 1)
    streamed = refine_matrix(base, instruct, EDITS, name=NAME)
    assert held.record == streamed.record
    for first, second in zip(held.weights, streamed.weights, strict=True):
        assert torch.equal(first, second)
    for variant, weight in zip(EDITS, streamed.weights, strict=True):
        assert agreement(weight, base, instruct, variant, name=NAME).holds


@pytest.mark.parametrize("dtype", [BF16, F32, F64])
@pytest.mark.parametrize(
    "edit",
    [
        "timber:lam=0.2",
        "shrink",
        "linear:first=2,last=-1",
        "band:start=0,stop=1,gain=9",
        "rank-one",
        "steps:edges=4,gains=0.3+1.2",
        "steps:gains=1.5",
        "base-subspace:share=0.2,inside=0",
        "base-subspace:share=0.5,inside=2,outside=0.9",
    ],
)
def test_controls_move_a_weight_exactly_as_far_as_their_edit(
    pairs: Any, dtype: torch.dtype, edit: str
) -> None:
    base, instruct = (weight.to(dtype) for weight in pairs.noise(90, 70, seed=5, spikes=2.0))
    chosen = parse_variants([edit, f"matched-merge:of={edit}", f"noise:seed=1,of={edit}"])
    result = refine_matrix(base, instruct, chosen, dtype=F64, name=NAME)
    lengths = [
        float(torch.linalg.vector_norm(weight - instruct.double())) for weight in result.weights
    ]
    assert lengths[1:] == pytest.approx([lengths[0]] * 2, rel=1e-9)
    merged, before = result.weights[1] - instruct.double(), base.double() - instruct.double()
    # Along the delta, towards Base.
    cosine = float((merged * before).sum() / torch.linalg.vector_norm(before)) / lengths[1]
    assert cosine == pytest.approx(1.0)
    reported = [change.correction for change in result.record.changes]
    assert reported == pytest.approx([reported[0]] * 3)


def test_controls_of_an_edit_that_changes_nothing_copy_instruct_bit_for_bit(pairs: Any) -> None:
    base, instruct = pairs.noise(30, 20, seed=6)
    instruct[0, :2] = torch.tensor([-0.0, 0.0])
    chosen = parse_variants(
        ["noise:of=timber:lam=1", "matched-merge:of=linear:first=1,last=1", "noise:of=merge:mu=1"]
    )
    for weights in (refine_matrix(base, instruct, chosen, name=NAME).weights, [
        refine_matrix(base, instruct, [variant], name=NAME).weights[0] for variant in chosen
    ], refine_matrix(instruct, instruct, chosen, name=NAME).weights):  # fmt: skip
        for weight in weights:
            assert torch.equal(weight.view(torch.int16), instruct.view(torch.int16))


def test_noise_without_a_name_is_refused(pairs: Any) -> None:
    base, instruct = pairs.noise(6, 4, seed=0)
    for edit in ("timber", "merge:mu=0.5"):
        with pytest.raises(ValueError, match="noise needs the name"):
            refine_matrix(base, instruct, parse_variants([f"noise:of={edit}"]))
