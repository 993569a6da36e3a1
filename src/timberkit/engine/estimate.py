"""What a run will take: memory of a worker, disk, and time from a short calibration.

Time is modelled as ``flops / rate(r)``: the rate of the whole solve is measured on three sizes of
matrices and interpolated in ``log r``, because small matrices run far below the speed of large
ones. The measurement takes seconds and is kept in the user's cache.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy
import torch

from timberkit.config import Timber
from timberkit.engine.execute import one_thread, usable_cores
from timberkit.engine.plan import RefinementPlan
from timberkit.engine.tasks import RefineTask, Task
from timberkit.spectral.refine import refine_matrix

PROCESS_BYTES = 400 << 20
"""A worker before its first matrix: Python, torch, SciPy."""
COPY_BYTES_PER_SECOND = 400e6
"""Assumed for copying and hashing where nothing was measured."""
TAIL_SHARE = 0.2
"""Assumed share of the directions in Timber's tail; noise gives 0.05 to 0.2 (facts of the null)."""
WORTH_A_WORKER_SECONDS = 3.0
"""Expected work that pays for starting one more process, which takes a second or two."""
CALIBRATION_SHAPES = ((256, 512), (768, 1536), (1536, 3072))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured floating-point rate of a whole refinement, for each short side ``r``."""

    machine: str
    sides: tuple[int, ...]
    flops_per_second: tuple[float, ...]

    def rate(self, r: int) -> float:
        """Interpolated rate for a short side; the nearest measured one outside the range."""
        return float(
            np.exp(np.interp(np.log(r), np.log(self.sides), np.log(self.flops_per_second)))
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a plan takes. ``seconds`` is None without a calibration."""

    workers: int
    memory_per_worker_bytes: int
    disk_bytes: int
    seconds: float | None


def matrix_flops(rows: int, columns: int) -> float:
    """Operations of one refinement: Gram ``m n r``, reduction ``4/3 r^3``, tail and projection.

    ``4 m n k + 4 r^2 k`` for ``k = TAIL_SHARE * r`` directions.
    """
    r = min(rows, columns)
    k = TAIL_SHARE * r
    return rows * columns * r + 4 / 3 * r**3 + 4 * rows * columns * k + 4 * r**2 * k


def relative_cost(task: Task) -> float:
    """Expected time of a task in arbitrary units, for progress bars."""
    if isinstance(task, RefineTask):
        return matrix_flops(task.rows, task.columns) / 30e9
    return task.work_bytes / COPY_BYTES_PER_SECOND


def task_memory_bytes(task: RefineTask, variants: int) -> int:
    """Peak memory of one matrix by the float64 Gram route, sources and outputs included.

    Up to half of the directions are assumed to be needed. The rare full SVD (a tie at the cut, a
    delta of low rank) takes about ``24 m n`` bytes more.
    """
    elements, r = task.rows * task.columns, min(task.rows, task.columns)
    wide = max(task.base.size_bytes, task.instruct.size_bytes) > 2 * elements
    delta = elements * (8 if wide else 4)
    gram = 3 * 8 * r * r
    vectors = r // 2 * (2 * 8 * r + 4 * (task.rows + task.columns))
    sources = task.base.size_bytes + task.instruct.size_bytes
    return sources + delta + gram + vectors + variants * task.target.size_bytes


def estimate(
    plan: RefinementPlan, *, workers: int | None = None, calibration: Calibration | None = None
) -> Estimate:
    """What a plan takes with so many workers (all usable cores when None). O(number of tasks)."""
    count = workers if workers is not None else default_workers(plan)
    return Estimate(
        workers=count,
        memory_per_worker_bytes=worker_memory_bytes(plan),
        disk_bytes=plan.output_bytes,
        seconds=None
        if calibration is None
        else _seconds(plan, plan.refine_tasks, count, calibration),
    )


def default_workers(plan: RefinementPlan) -> int:
    """One worker for each usable core, if the work is worth starting processes for and they fit.

    Two processes and more only where all of them fit into four fifths of the memory.
    """
    worth = int(sum(map(relative_cost, plan.tasks)) / WORTH_A_WORKER_SECONDS)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fit = int(0.8 * memory / worker_memory_bytes(plan))
    return max(1, min(usable_cores(), worth, fit, len(plan.refine_tasks)))


def worker_memory_bytes(plan: RefinementPlan) -> int:
    """Peak memory of a worker: the process and its largest matrix."""
    variants = len(plan.recipe.variants)
    largest = (task_memory_bytes(task, variants) for task in plan.refine_tasks)
    return PROCESS_BYTES + max(largest, default=0)


def _seconds(
    plan: RefinementPlan, tasks: Sequence[RefineTask], workers: int, calibration: Calibration
) -> float:
    flops = [
        matrix_flops(task.rows, task.columns) / calibration.rate(min(task.rows, task.columns))
        for task in tasks
    ]
    files = 2 * plan.output_bytes / COPY_BYTES_PER_SECOND  # written, then read again to be hashed
    return sum(flops) / workers + files


def calibrate(*, cache: Path | None = None) -> Calibration:
    """Measure this machine, or read what was measured before.

    ``cache``: the file to keep it in; ``calibration.json`` in the user's cache folder when None.
    An unreadable cache is measured again; an unwritable one is no error. Takes a few seconds.
    """
    path = cache if cache is not None else _cache_folder() / "calibration.json"
    machine = _machine()
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        found = Calibration(
            str(kept["machine"]),
            tuple(int(side) for side in kept["sides"]),
            tuple(float(rate) for rate in kept["flops_per_second"]),
        )
        if found.machine == machine and _is_plausible(found):
            return found
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        pass
    measured = _measure(machine)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(measured)), encoding="utf-8")
    except OSError:
        pass
    return measured


def _is_plausible(found: Calibration) -> bool:
    ascending = all(0 < a < b for a, b in pairwise((*found.sides, sys.maxsize)))
    rates = found.flops_per_second
    return ascending and len(rates) == len(found.sides) > 0 and all(0 < r < 1e18 for r in rates)


def _measure(machine: str) -> Calibration:
    generator = torch.Generator().manual_seed(0)
    sides, rates = [], []
    with one_thread():
        for rows, columns in CALIBRATION_SHAPES:
            base = torch.randn(rows, columns, generator=generator).mul_(0.02).bfloat16()
            delta = torch.randn(rows, columns, generator=generator).mul_(0.001)
            instruct = (base.float() + delta).bfloat16()
            best = float("inf")
            for _ in range(2):
                started = time.perf_counter()
                refine_matrix(base, instruct, [Timber()])
                best = min(best, time.perf_counter() - started)
            sides.append(min(rows, columns))
            rates.append(matrix_flops(rows, columns) / best)
    return Calibration(machine, tuple(sides), tuple(rates))


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "timberkit"


def _machine() -> str:
    """What a measurement is valid for: processor, cores, library versions."""
    processor = platform.processor() or platform.machine()
    return (
        f"{processor} x{os.cpu_count()} torch {torch.__version__} scipy {scipy.__version__}"
        f" numpy {np.__version__}"
    )
