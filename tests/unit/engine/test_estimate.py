"""Estimates: they grow with the work, and the calibration is kept, checked and made anew."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from timberkit.engine import estimate as module
from timberkit.engine.estimate import (
    PROCESS_BYTES,
    Calibration,
    calibrate,
    matrix_flops,
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
    monkeypatch.setattr(module, "_measure", counted)
    return made


def test_a_calibration_is_measured_once_and_read_afterwards(
    measured: list[str], tmp_path: Path
) -> None:
    cache = tmp_path / "new" / "folder" / "calibration.json"
    first = calibrate(cache=cache)
    assert first.sides == (8, 16)
    assert all(rate > 0 for rate in first.flops_per_second)
    assert json.loads(cache.read_text()) == json.loads(json.dumps(asdict(first)))
    assert calibrate(cache=cache) == first
    assert len(measured) == 1


BROKEN: dict[str, str | bytes] = {
    "empty": "",
    "not JSON": "{",
    "not UTF-8": b"\xff\xfe",
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "deep": "[" * 100_000,
    "no fields": "{}",
    "another machine": '{"machine": "x", "sides": [8], "flops_per_second": [1e9]}',
    "no rates": '{"machine": "M", "sides": [], "flops_per_second": []}',
    "fewer rates": '{"machine": "M", "sides": [8, 16], "flops_per_second": [1e9]}',
    "text": '{"machine": "M", "sides": ["a"], "flops_per_second": [1e9]}',
    "a rate of zero": '{"machine": "M", "sides": [8], "flops_per_second": [0]}',
    "a negative rate": '{"machine": "M", "sides": [8], "flops_per_second": [-1e9]}',
    "rate is no number": '{"machine": "M", "sides": [8], "flops_per_second": [NaN]}',
    "infinite side": '{"machine": "M", "sides": [Infinity], "flops_per_second": [1e9]}',
    "a side of zero": '{"machine": "M", "sides": [0], "flops_per_second": [1e9]}',
    "sides descend": '{"machine": "M", "sides": [16, 8], "flops_per_second": [1e9, 2e9]}',
    "null sides": '{"machine": "M", "sides": null, "flops_per_second": null}',
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
    # Gram 2048 * 1024^2, reduction 4/3 1024^3, then 4 m n k + 4 r^2 k for a fifth of 1024.
    k = 0.2 * 1024
    expected = 2048 * 1024**2 + 4 / 3 * 1024**3 + 4 * 2048 * 1024 * k + 4 * 1024**2 * k
    assert matrix_flops(2048, 1024) == pytest.approx(expected)
    assert matrix_flops(1024, 2048) == matrix_flops(2048, 1024)
    assert matrix_flops(2048, 2048) > matrix_flops(2048, 1024)


def test_memory_grows_with_rows_columns_dtype_and_variants() -> None:
    small = task_memory_bytes(refine_task(1024, 512), 1)
    assert task_memory_bytes(refine_task(2048, 512), 1) > small
    assert task_memory_bytes(refine_task(1024, 1024), 1) > small
    assert task_memory_bytes(refine_task(1024, 512, bytes_each=4), 1) > small
    assert task_memory_bytes(refine_task(1024, 512, target_bytes=4), 1) > small
    each = 1024 * 512 * 2
    assert task_memory_bytes(refine_task(1024, 512), 4) == small + 3 * each


@pytest.mark.parametrize("shape", [(4096, 4096), (12288, 4096), (4096, 12288)])
def test_memory_covers_sources_delta_and_gram_matrices_but_no_full_svd(
    shape: tuple[int, int],
) -> None:
    rows, columns = shape
    elements, r = rows * columns, min(shape)
    found = task_memory_bytes(refine_task(*shape), 1)
    assert found >= elements * (2 + 2 + 2 + 4) + 2 * 8 * r * r
    assert found < 40 * elements + 40 * r * r


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
        self.variants = (None,) * variants


def test_estimate_adds_up_tasks_divides_by_workers_and_takes_the_largest_memory() -> None:
    tasks = [refine_task(1000, 1000), refine_task(2000, 1000)]
    plan: Any = Plan(tasks, 2, 10**9)
    rate = Calibration("M", (1000,), (1e9,))
    one, four = (module.estimate(plan, workers=count, calibration=rate) for count in (1, 4))
    work = (matrix_flops(1000, 1000) + matrix_flops(2000, 1000)) / 1e9
    assert one.seconds is not None
    assert four.seconds is not None
    assert one.seconds - four.seconds == pytest.approx(0.75 * work)
    assert one.seconds > work
    assert one.memory_per_worker_bytes == PROCESS_BYTES + task_memory_bytes(tasks[1], 2)
    assert (one.workers, four.workers, one.disk_bytes) == (1, 4, 10**9)
    assert module.estimate(plan, workers=1).seconds is None


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
