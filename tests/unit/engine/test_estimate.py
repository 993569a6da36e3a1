"""Estimates: they grow with the work, and the calibration is kept, checked and made anew."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from timberkit.config import Timber, parse_variants
from timberkit.engine import estimate as module
from timberkit.engine.estimate import (
    PROCESS_BYTES,
    Calibration,
    base_subspace_cost,
    calibrate,
    matrix_cost,
    matrix_flops,
    pass_cost,
    relative_cost,
    task_memory_bytes,
)
from timberkit.engine.tasks import CopyTask, Place, RefineTask


def refine_task(rows: int, columns: int, bytes_each: int = 2, target_bytes: int = 2) -> RefineTask:
    def place(size: int) -> Place:
        return Place("file", 0, rows * columns * size, {2: "BF16", 4: "F32", 8: "F64"}[size])

    sources = place(bytes_each), place(bytes_each)
    return RefineTask("w", None, "ffn", 0, rows, columns, *sources, place(target_bytes))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Measurements made, on matrices that take no time."""
    made: list[str] = []
    measure = module._measure

    def counted(machine: str) -> Calibration:
        made.append(machine)
        return measure(machine)

    monkeypatch.setattr(module, "CALIBRATION_SHAPES", ((8, 16), (16, 24)))
    monkeypatch.setattr(module, "_time_to_start", lambda: 1.5)
    monkeypatch.setattr(module, "_measure", counted)
    return made


def test_a_calibration_is_measured_once_and_read_afterwards(
    measured: list[str], tmp_path: Path
) -> None:
    cache = tmp_path / "new" / "folder" / "calibration.json"
    first = calibrate(cache=cache)
    assert first.sides == (8, 16)
    assert all(rate > 0 for rate in first.cost_per_second)
    assert json.loads(cache.read_text()) == json.loads(json.dumps(asdict(first)))
    assert calibrate(cache=cache) == first
    assert len(measured) == 1


def kept(**changed: str) -> str:
    """A cache file of machine M, with some fields written otherwise."""
    fields = {
        "machine": '"M"', "sides": "[8]", "cost_per_second": "[1e9]", "start_seconds": "1",
        "hash_bytes_per_second": "1e9",
    }  # fmt: skip
    return "{" + ", ".join(f'"{name}": {text}' for name, text in (fields | changed).items()) + "}"


BROKEN: dict[str, str | bytes] = {
    "empty": "",
    "not JSON": "{",
    "not UTF-8": b"\xff\xfe",
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "deep": "[" * 100_000,
    "no fields": "{}",
    "another machine": kept(machine='"x"'),
    "no rates": kept(sides="[]", cost_per_second="[]"),
    "fewer rates": kept(sides="[8, 16]"),
    "text": kept(sides='["a"]'),
    "a rate of zero": kept(cost_per_second="[0]"),
    "a negative rate": kept(cost_per_second="[-1e9]"),
    "rate is no number": kept(cost_per_second="[NaN]"),
    "infinite side": kept(sides="[Infinity]"),
    "a side of zero": kept(sides="[0]"),
    "sides descend": kept(sides="[16, 8]", cost_per_second="[1e9, 2e9]"),
    "null sides": kept(sides="null", cost_per_second="null"),
    "a negative start": kept(start_seconds="-1"),
    "an endless start": kept(start_seconds="Infinity"),
    "no hashing": kept(hash_bytes_per_second="0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_cache_is_measured_again_and_replaced(
    name: str, measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_machine", lambda: "M")
    cache = tmp_path / "calibration.json"
    content = BROKEN[name]
    cache.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = calibrate(cache=cache)
    assert measured == ["M"]
    assert found.sides == (8, 16)
    assert calibrate(cache=cache) == found
    assert measured == ["M"]


def test_a_cache_that_cannot_be_written_is_no_error(measured: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert calibrate(cache=tmp_path / "file" / "calibration.json").sides == (8, 16)
    assert calibrate(cache=tmp_path).sides == (8, 16)
    assert len(measured) == 2


def test_the_cache_lies_in_the_cache_folder_of_the_user(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    calibrate()
    assert (tmp_path / "xdg" / "timberkit" / "calibration.json").is_file()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    calibrate()
    assert (tmp_path / ".cache" / "timberkit" / "calibration.json").is_file()
    assert len(measured) == 2


def test_rates_are_interpolated_between_and_held_outside_the_measured_sides() -> None:
    found = Calibration("M", (100, 10_000), (1e9, 4e9))
    assert found.rate(100) == pytest.approx(1e9)
    assert found.rate(1000) == pytest.approx(2e9)
    assert found.rate(10_000) == found.rate(50_000) == pytest.approx(4e9)
    assert found.rate(1) == pytest.approx(1e9)


def test_operations_are_those_of_the_formula_and_of_the_shorter_side() -> None:
    # Gram 2048 * 1024^2, reduction 4/3 1024^3, then 4 m n k + 4 r^2 k for the tail of a 2:1 weight.
    k = 0.13 * 1024
    expected = 2048 * 1024**2 + 4 / 3 * 1024**3 + 4 * 2048 * 1024 * k + 4 * 1024**2 * k
    assert matrix_flops(2048, 1024) == pytest.approx(expected)
    assert matrix_flops(1024, 2048) == matrix_flops(2048, 1024)
    assert matrix_flops(2048, 2048) > matrix_flops(2048, 1024)


def test_the_reduction_counts_for_more_than_its_operations() -> None:
    for shape in ((1024, 1024), (4096, 1024)):
        assert 1.0 < matrix_cost(*shape) / matrix_flops(*shape) < module.REDUCTION_WEIGHT
    assert matrix_cost(1024, 1024) / matrix_flops(1024, 1024) > (
        matrix_cost(4096, 1024) / matrix_flops(4096, 1024)
    )


def test_memory_grows_with_rows_columns_dtype_and_variants() -> None:
    small = task_memory_bytes(refine_task(1024, 512), 1)
    assert task_memory_bytes(refine_task(2048, 512), 1) > small
    assert task_memory_bytes(refine_task(1024, 1024), 1) > small
    assert task_memory_bytes(refine_task(1024, 512, bytes_each=4), 1) > small
    assert task_memory_bytes(refine_task(512, 1024), 1) > small  # its float64 delta is whole
    block = 8 * module.ROW_BLOCK_ELEMENTS
    assert small < task_memory_bytes(refine_task(1024, 512), 4) <= small + 3 * block


def test_a_tall_embedding_takes_the_memory_of_blocks() -> None:
    found = task_memory_bytes(refine_task(151_936, 1024), 1)
    assert found < 100 << 20
    assert task_memory_bytes(refine_task(2 * 151_936, 1024), 1) == found


@pytest.mark.parametrize("shape", [(4096, 4096), (12288, 4096), (4096, 12288)])
def test_memory_covers_sources_delta_and_gram_matrices_but_no_full_svd(
    shape: tuple[int, int],
) -> None:
    rows, columns = shape
    elements, r = rows * columns, min(shape)
    found = task_memory_bytes(refine_task(*shape), 1)
    assert found >= elements * (2 + 2 + 4) + 2 * 8 * r * r
    assert found < 40 * elements + 40 * r * r


def test_a_pass_costs_a_decomposition_only_for_methods_that_need_one() -> None:
    def cost(*texts: str) -> float:
        return pass_cost(2000, 1000, parse_variants(texts))

    merges, whole = cost("merge:mu=0.5"), matrix_cost(2000, 1000)
    assert cost("merge:mu=0.5", "steps:gains=1", "noise:of=merge:mu=0.5") == 3 * merges
    assert cost("timber") == cost("timber", "merge:mu=0.5", "steps:gains=1") == whole > merges
    subspace = base_subspace_cost(2000, 1000, 0.1)
    assert cost("base-subspace:share=0.1,inside=0") == merges + subspace
    assert cost("noise:of=base-subspace:share=0.1,inside=0", "timber") == whole + subspace
    assert base_subspace_cost(2000, 1000, 0.5) > subspace > whole
    assert cost("base-subspace:share=0.1,inside=0.5,outside=0.5") == merges


def test_memory_grows_with_the_share_of_base_and_is_that_of_the_larger_step() -> None:
    task = refine_task(4096, 2048)
    plain = task_memory_bytes(task, 1)
    # Small shares take less than half of the delta's vectors, or the blocks of the conversion.
    assert task_memory_bytes(refine_task(8192, 8192), 1, share=0.01) == task_memory_bytes(
        refine_task(8192, 8192), 1
    )
    assert task_memory_bytes(task, 1, share=1.0) > task_memory_bytes(task, 1, share=0.5) > plain


def test_cost_orders_matrices_by_work_and_copies_by_bytes() -> None:
    costs = [relative_cost(refine_task(*shape)) for shape in ((8, 8), (64, 64), (512, 64))]
    assert costs == sorted(costs)
    assert all(cost > 0 for cost in costs)
    copies = [relative_cost(CopyTask("a", 0, "b", 0, size)) for size in (0, 10, 10**9)]
    assert copies == sorted(copies)
    assert copies[0] == 0.0


class Plan:
    """As much of a plan as an estimate looks at."""

    def __init__(self, tasks: list[Any], variants: int, output_bytes: int) -> None:
        self.tasks = self.refine_tasks = tuple(tasks)
        self.output_bytes = output_bytes
        self.recipe = self
        self.layers = 1
        self.variants = (Timber(),) * variants


def test_estimate_is_start_longest_queue_and_hashing_and_takes_the_largest_memory() -> None:
    tasks = [refine_task(2000, 1000), refine_task(1000, 1000), refine_task(1000, 1000)]
    plan: Any = Plan(tasks, 2, 10**8)
    machine = Calibration("M", (1000,), (1e9,), start_seconds=3.0, hash_bytes_per_second=1e8)
    one, two = (module.estimate(plan, workers=count, calibration=machine) for count in (1, 2))
    large, small = (matrix_cost(rows, 1000) / 1e9 for rows in (2000, 1000))
    assert one.seconds == pytest.approx(3.0 + large + 2 * small + 1.0)
    assert two.seconds == pytest.approx(3.0 + max(large, 2 * small) + 0.5)
    assert one.memory_per_worker_bytes == PROCESS_BYTES + task_memory_bytes(tasks[0], 2)
    assert (one.workers, two.workers, one.disk_bytes) == (1, 2, 10**8)
    assert module.estimate(plan, workers=1).seconds is None
    # A slow disk, not the work, decides on large outputs of little work.
    large_output: Any = Plan(tasks[:1], 1, 10**12)
    slow = module.estimate(large_output, workers=1, calibration=machine).seconds
    assert slow is not None
    assert slow > 10**12 / module.WRITE_BYTES_PER_SECOND


def test_small_plans_get_one_worker_and_large_ones_all_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 6)
    small: Any = Plan([refine_task(8, 8)] * 10, 1, 0)
    large: Any = Plan([refine_task(4096, 4096)] * 100, 1, 0)
    few: Any = Plan([refine_task(8192, 8192)] * 2, 1, 0)
    nothing: Any = Plan([], 1, 0)
    counts = [module.default_workers(plan) for plan in (small, large, few, nothing)]
    assert counts == [1, 6, 2, 1]
    assert module.estimate(large).workers == 6
