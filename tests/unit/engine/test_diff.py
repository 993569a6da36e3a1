"""What is said of two checkpoints: verdicts, tolerances, sums, order; parts and workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from timberkit.checkpoint.index import open_checkpoint
from timberkit.engine import diff_plan
from timberkit.engine.diff import DiffReport, diff
from timberkit.engine.diff_plan import Tolerance, compare_tasks, pair_tensors, parse_tolerance
from timberkit.errors import CheckpointError, RecipeError, UsageError

L = "model.layers.0."
Q, UP, NORM = f"{L}self_attn.q_proj.weight", f"{L}mlp.up_proj.weight", f"{L}input_layernorm.weight"
Tensors = Mapping[str, torch.Tensor]
Diff = Callable[..., DiffReport]


def weight(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def diff_of(tmp_path: Path) -> Diff:
    """Write two checkpoints and compare them."""

    def run(a: Tensors, b: Tensors, **options: Any) -> DiffReport:
        for name, tensors in (("a", a), ("b", b)):
            (tmp_path / name).mkdir(exist_ok=True)
            copies = {key: tensor.clone() for key, tensor in tensors.items()}
            save_file(copies, tmp_path / name / "model.safetensors", {"format": "pt"})
        return diff(tmp_path / "a", tmp_path / "b", **options)

    return run


def verdicts(report: DiffReport) -> dict[str, str]:
    return {tensor.name: tensor.verdict for tensor in report.tensors}


def test_each_tensor_gets_the_verdict_that_fits_it(diff_of: Diff) -> None:
    same, zeros = weight(4, 4), torch.zeros(3)
    a = {"same": same, "value": same, "cast": same, "shape": same, "a": same, "zero": zeros}
    b = {
        "same": same, "value": same * 2, "cast": same.float(), "shape": weight(2, 8), "b": same,
        "zero": -zeros,
    }  # fmt: skip
    report = diff_of(a, b)
    assert verdicts(report) == {
        "same": "equal", "value": "values", "cast": "dtype", "shape": "shape", "a": "only in A",
        "zero": "other bits", "b": "only in B",
    }  # fmt: skip
    assert not report.equal
    found = {tensor.name: tensor for tensor in report.tensors}
    assert found["zero"].distance is not None
    assert (found["zero"].distance.other_bits, found["zero"].equal) == (3, True)
    assert found["cast"].distance is not None
    assert found["cast"].distance.differing == 0


def test_sizes_are_those_of_torch(diff_of: Diff) -> None:
    a, b = weight(31, 17), weight(31, 17, seed=1)
    (found,) = diff_of({Q: a}, {Q: b}).tensors
    gap = (a.double() - b.double()).abs()
    assert found.distance is not None
    assert found.distance.largest == float(gap.max())
    assert found.distance.mean == pytest.approx(float(gap.mean()))
    assert found.distance.relative == pytest.approx(float(gap.norm() / a.double().norm()))
    assert found.distance.differing == int((a != b).sum())


@pytest.mark.parametrize(
    ("first", "second", "unequal"),
    [
        (torch.int64, None, 1), (torch.uint8, None, 1), (torch.bool, None, 1),
        (torch.float8_e4m3fn, None, 1), (torch.int32, torch.int64, None),
        (torch.int32, torch.float32, None),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_plain_float_is_compared_by_its_bytes(
    diff_of: Diff, first: torch.dtype, second: torch.dtype | None, unequal: int | None
) -> None:
    a = torch.tensor([0.0, 1.0, 1.0]).to(first)
    b = torch.tensor([0.0, 1.0, 0.0]).to(second or first)
    (found,) = diff_of({"x": a}, {"x": b}, tolerance=0.5).tensors
    assert found.verdict == ("values" if second is None else "dtype")
    assert (found.distance and found.distance.differing) == unequal


def test_a_tolerance_forgives_rounding_and_no_more(diff_of: Diff) -> None:
    exact = weight(64, 64, dtype=torch.float32)
    rounded, beside = exact.bfloat16(), exact.bfloat16().view(torch.int16) + 1
    a, cast = {"x": exact}, {"x": rounded}
    off = {"x": beside.view(torch.bfloat16)}
    assert verdicts(diff_of(a, cast)) == {"x": "dtype"}
    assert verdicts(diff_of(a, cast, tolerance="0ulp")) == {"x": "tolerated"}
    assert diff_of(a, cast, tolerance="0ulp").equal
    assert verdicts(diff_of(cast, off, tolerance="0ulp")) == {"x": "values"}
    assert verdicts(diff_of(cast, off, tolerance="1ulp")) == {"x": "tolerated"}
    assert verdicts(diff_of(a, cast, tolerance=1e-2)) == {"x": "tolerated"}
    assert verdicts(diff_of(a, cast, tolerance=1e-5)) == {"x": "dtype"}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_tolerance_forgives_what_is_no_number(diff_of: Diff, bad: float) -> None:
    a = torch.tensor([1.0, 3e38])
    b = torch.tensor([1.0, bad])
    for tolerance in ("999999999999ulp", 0.999):
        (found,) = diff_of({"x": a}, {"x": b}, tolerance=tolerance).tensors
        assert found.verdict == "values"
        assert found.distance is not None
        assert (found.distance.not_finite, found.distance.largest) == (1, 0.0)
    assert diff_of({"x": b}, {"x": b}).equal


def test_zero_against_anything_is_infinitely_far(diff_of: Diff) -> None:
    (found,) = diff_of({"x": torch.zeros(2)}, {"x": torch.ones(2)}, tolerance=0.5).tensors
    assert found.distance is not None
    assert found.distance.relative == math.inf
    assert found.verdict == "values"


def test_empty_tensors_are_equal_unless_their_dtypes_differ(diff_of: Diff) -> None:
    empty = torch.zeros(0, 4)
    report = diff_of({"x": empty, "y": empty}, {"x": empty, "y": empty.half()})
    assert verdicts(report) == {"x": "equal", "y": "dtype"}
    assert diff_of({"y": empty}, {"y": empty.half()}, tolerance="0ulp").equal


def test_the_furthest_apart_come_first(diff_of: Diff) -> None:
    x = torch.ones(4)
    a = {"near": x, "far": x, "lost": x, "middle": x}
    b = {"near": x * 1.001, "far": x * 2, "lost": x * math.nan, "middle": x * 1.1}
    names = [tensor.name for tensor in diff_of(a, b).differing]
    assert names == ["lost", "far", "middle", "near"]


def test_families_and_the_whole_add_up(diff_of: Diff) -> None:
    a = {Q: weight(8, 8), UP: weight(16, 8, seed=1), NORM: weight(8, seed=2)}
    b = {**a, Q: weight(8, 8, seed=3), UP: a[UP] * 2}
    report = diff_of(a, b)
    assert list(report.families) == ["norm", "ffn", "attention"]
    assert {name: report.family_counts(name) for name in report.families} == {
        "norm": (1, 0), "ffn": (1, 1), "attention": (1, 1),
    }  # fmt: skip
    gap = math.sqrt(sum(float((a[n].double() - b[n].double()).norm()) ** 2 for n in a))
    norm = math.sqrt(sum(float(a[n].double().norm()) ** 2 for n in a))
    assert report.total.relative == pytest.approx(gap / norm)
    assert report.total.elements == 8 * 8 + 16 * 8 + 8


def test_a_selection_leaves_the_rest_alone(diff_of: Diff) -> None:
    head = "lm_head.weight"
    a = {name: weight(4, 4) for name in (Q, UP, head)} | {NORM: weight(4)}
    b = {**a, UP: a[UP] * 2, "extra": weight(2)}
    assert set(verdicts(diff_of(a, b))) == {Q, UP, head, NORM, "extra"}
    assert set(verdicts(diff_of(a, b, families=["norm"]))) == {NORM}
    assert set(verdicts(diff_of(a, b, families=["all-linear"]))) == {Q, UP, head}
    assert set(verdicts(diff_of(a, b, families=["authors"]))) == {Q, UP, head}
    assert set(verdicts(diff_of(a, b, layers="0"))) == {Q, UP, NORM}
    assert diff_of(a, b, exclude=["*.up_proj.*", "extra"]).equal
    assert set(verdicts(diff_of(a, b, include=["*.up_proj.*"]))) == {UP}


def test_options_that_mean_nothing_are_refused(diff_of: Diff) -> None:
    a = {Q: weight(2, 2)}
    for families in (["teapots"], []):
        with pytest.raises(RecipeError, match="families"):
            diff_of(a, a, families=families)
    with pytest.raises(UsageError, match="left to compare"):
        diff_of(a, a, layers="9")
    with pytest.raises(UsageError, match="is no model"):
        diff("", "b")


@pytest.mark.parametrize("text", ["", "2", "-1ulp", "1.5ulp", "nan", "inf", "1e0", "-0.1", "ulp"])
def test_a_tolerance_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="tolerance"):
        parse_tolerance(text)


def test_a_tolerance_is_read() -> None:
    assert parse_tolerance("0ulp") == Tolerance(ulps=0)
    assert parse_tolerance(" 12 ULPs ") == Tolerance(ulps=12)
    assert parse_tolerance(0) == Tolerance(relative=0.0)


def test_names_alone_read_no_value(diff_of: Diff, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timberkit.engine.diff._compare", None)
    report = diff_of({Q: weight(2, 2)}, {Q: weight(2, 2, seed=1)}, only_names=True)
    assert report.equal
    assert not report.values_read
    assert not diff_of({Q: weight(2, 2)}, {Q: weight(2, 3)}, only_names=True).equal


def test_pieces_of_any_size_give_the_same(diff_of: Diff, monkeypatch: pytest.MonkeyPatch) -> None:
    a = {"x": weight(50, 3, dtype=torch.float32), "y": weight(7), "z": torch.arange(40)}
    b = {"x": weight(50, 3, seed=1).half(), "y": weight(7), "z": torch.arange(40) // 2}
    whole = diff_of(a, b)
    monkeypatch.setattr(diff_plan, "PART_ELEMENTS", 16)
    parts = diff_of(a, b)
    assert verdicts(parts) == verdicts(whole)
    for one, other in zip(parts.tensors, whole.tensors, strict=True):
        assert one.distance is not None
        assert other.distance is not None
        assert one.distance.norm == pytest.approx(other.distance.norm)
        assert (one.distance.ulps, one.distance.differing) == (
            other.distance.ulps, other.distance.differing,
        )  # fmt: skip


def test_workers_find_what_one_process_finds_to_the_last_bit(
    diff_of: Diff, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diff_plan, "PART_ELEMENTS", 64)
    a = {f"t{i}": weight(20, 20, seed=i) for i in range(4)}
    b = {f"t{i}": weight(20, 20, seed=i + 1) for i in range(4)}
    seen: list[Any] = []
    assert diff_of(a, b, workers=2, on_progress=seen.append) == diff_of(a, b)
    assert seen[-1].tasks_done == seen[-1].tasks_total == 4 * 7
    assert seen[-1].bytes_done == 2 * 4 * 400 * 2


def test_tasks_cover_every_byte_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff_plan, "PART_ELEMENTS", 16)
    save_file({"x": weight(9, 9), "y": weight(5)}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    tasks = compare_tasks(pair_tensors(checkpoint, checkpoint), checkpoint, checkpoint)
    places = sorted((task.first.start_byte, task.first.size_bytes) for task in tasks)
    for (start, size), (following, _) in pairwise(places):
        assert start + size == following
    assert sum(size for _, size in places) == checkpoint.size_bytes
    assert len({task.key for task in tasks}) == len(tasks)


def test_a_source_that_changes_meanwhile_is_refused(diff_of: Diff, tmp_path: Path) -> None:
    def touch(_: Any) -> None:
        save_file({"x": weight(4), "y": weight(4)}, tmp_path / "b" / "model.safetensors")

    with pytest.raises(CheckpointError, match=r"in use|shorter"):
        diff_of({"x": weight(4)}, {"x": weight(4)}, on_progress=touch)
