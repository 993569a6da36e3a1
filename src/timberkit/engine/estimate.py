"""What a run will take: memory of a worker, disk, and time from a short calibration.

Time is modelled as ``cost / rate(r)``: operations, with those of the reduction to tridiagonal form
counted ``REDUCTION_WEIGHT`` times because half of them wait for memory, over a rate that is
measured on a few sizes of matrices, on all cores at once as a run uses them, and interpolated in
``log r``. To that come the start of the workers and one pass over the output to hash it. The
measurement takes seconds and is kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy

from timberkit.config import AnyVariant, Linear, Timber, at
from timberkit.dtypes import narrow, raw_dtype
from timberkit.engine.execute import one_thread
from timberkit.engine.fork_server import context as fork_server_context
from timberkit.engine.fork_server import usable_cores
from timberkit.engine.job import HELD_BYTES
from timberkit.engine.plan import RefinementPlan
from timberkit.engine.tasks import RefineTask, SharedTask, Task
from timberkit.spectral.decompose import BLOCK_ELEMENTS
from timberkit.spectral.delta import HELD_ELEMENTS, ROW_BLOCK_ELEMENTS
from timberkit.spectral.filters import in_base_subspace, needs_decomposition
from timberkit.spectral.refine import StoredMatrix, refine_rows

PROCESS_BYTES = 400 << 20
"""A worker before its first matrix: Python, NumPy, SciPy; torch where it is needed."""
COPY_BYTES_PER_SECOND = 400e6
"""Assumed for copying and hashing where nothing was measured."""
WRITE_BYTES_PER_SECOND = 400e6
"""Assumed of the disk: slower than most, faster than some networks."""
REDUCTION_WEIGHT = 2.5
"""Time of an operation of the reduction and the eigenvectors over that of a matrix product."""
DOUBLE_WEIGHT = 1.4
"""Time of an operation in float64 over that of one in float32."""
BLEND_OPERATIONS = 300.0
"""Operations of a matrix product in the time that blending and writing one element takes."""
WORTH_A_WORKER_SECONDS = 3.0
"""Expected work that pays for starting more than one process."""
LEADING = 8
"""Directions above the bulk in the deltas of a calibration."""
MOST_DRAWS = 3
"""Deltas that a calibration tries of each shape."""
CALIBRATION_SHAPES = ((256, 512), (768, 1536), (1536, 3072), (3072, 4608))


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a machine does: cost of refinements per second and worker, for each short side ``r``.

    ``start_seconds`` is what a process needs before its first matrix; hashing is for one worker.
    """

    machine: str
    sides: tuple[int, ...]
    cost_per_second: tuple[float, ...]
    start_seconds: float = 0.0
    hash_bytes_per_second: float = COPY_BYTES_PER_SECOND

    def rate(self, r: int) -> float:
        """Interpolated rate for a short side; the nearest measured one outside the range."""
        return float(np.exp(np.interp(np.log(r), np.log(self.sides), np.log(self.cost_per_second))))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a plan takes. ``seconds`` is None without a calibration."""

    workers: int
    memory_per_worker_bytes: int
    disk_bytes: int
    seconds: float | None


def tail_share(rows: int, columns: int) -> float:
    """Assumed share of the directions in Timber's tail: noise of that shape and a little more.

    Noise of a square matrix has 0.2 of its directions there, noise of a 1:3 one 0.05
    (Marchenko-Pastur); leading directions add some.

    >>> round(tail_share(1024, 3072), 2)
    0.1
    """
    return 0.03 + 0.2 * min(rows, columns) / max(rows, columns)


def _parts(rows: int, columns: int) -> tuple[float, float]:
    """Operations of matrix products, and of the reduction with its vectors."""
    r = min(rows, columns)
    k = tail_share(rows, columns) * r
    return rows * columns * r + 4 * rows * columns * k, 4 / 3 * r**3 + 4 * r**2 * k


def matrix_flops(rows: int, columns: int) -> float:
    """Operations of one refinement: Gram ``m n r``, reduction ``4/3 r^3``, tail and projection.

    ``4 m n k + 4 r^2 k`` for the ``k`` directions of ``tail_share``.
    """
    return sum(_parts(rows, columns))


def matrix_cost(rows: int, columns: int) -> float:
    """``matrix_flops``, with the slow ones weighted."""
    products, reduction = _parts(rows, columns)
    return products + REDUCTION_WEIGHT * reduction


def base_subspace_cost(rows: int, columns: int, share: float) -> float:
    """Cost of an edit in Base's subspaces, in the unit of ``matrix_cost``: all of it in float64."""
    r = min(rows, columns)
    k = share * r
    products = rows * columns * (r + 6 * k) + 4 * max(rows, columns) * k**2
    return DOUBLE_WEIGHT * (products + REDUCTION_WEIGHT * (4 / 3 * r**3 + 4 * r**2 * k))


def pass_cost(rows: int, columns: int, variants: Sequence[AnyVariant]) -> float:
    """Cost of one pass over a matrix for all ``variants``, as they are at its place.

    ``matrix_cost`` once if the delta has to be decomposed for any of them, and once what Base's
    subspaces take; merges and copies cost their elements.
    """
    cost = BLEND_OPERATIONS * rows * columns * len(variants)
    if any(map(needs_decomposition, variants)):
        cost = max(cost, matrix_cost(rows, columns))
    share = largest_share(variants)
    return cost + (base_subspace_cost(rows, columns, share) if share else 0.0)


def largest_share(variants: Iterable[AnyVariant]) -> float:
    """Largest share of Base's directions that any method asks for, 0.0 if none does."""
    return max((edit.share for v in variants if (edit := in_base_subspace(v))), default=0.0)


def relative_cost(task: Task) -> float:
    """Expected time of a task in arbitrary units, for progress bars."""
    if isinstance(task, RefineTask):
        return matrix_cost(task.rows, task.columns) / 60e9
    if isinstance(task, SharedTask):
        return sum(relative_cost(part.task) for part in task.parts)
    return task.work_bytes / COPY_BYTES_PER_SECOND


def task_memory_bytes(
    task: RefineTask, variants: int, *, all_directions: bool = False, share: float = 0.0
) -> int:
    """Peak memory of one matrix by the float64 Gram route, sources included.

    Up to half of the directions are assumed to be needed, or all; and of Base's a ``share``, in a
    step of its own. A large tall weight is read,
    computed and written in blocks. The rare full SVD (a tie at the cut, a delta of low rank) takes
    about ``24 m n`` bytes more.
    """
    elements, r, longest = (
        task.rows * task.columns,
        min(task.rows, task.columns),
        max(task.rows, task.columns),
    )
    narrow = max(task.base.size_bytes, task.instruct.size_bytes) <= 2 * elements
    tall = task.rows >= task.columns
    sources = sum(
        place.size_bytes for place in (task.base, task.instruct) if place.size_bytes <= HELD_BYTES
    )
    held = 0 if tall and elements > HELD_ELEMENTS else elements * (4 if narrow else 8)
    exact = elements * 8 if narrow and not tall else 0
    gram = 3 * 8 * r * r
    vectors = (r if all_directions else r // 2) * (3 * 8 * r + (0 if tall else 8 * longest))
    blocks = (6 + variants) * 8 * min(elements, ROW_BLOCK_ELEMENTS)
    # Of Base's directions: on both sides, while they are computed, and what is made of them; and
    # the blocks that become float64 for them.
    subspaces = int(share * r) * 3 * 8 * (task.rows + task.columns)
    subspaces += 3 * 8 * min(elements, BLOCK_ELEMENTS) if share else 0
    return sources + held + exact + gram + max(vectors, subspaces) + blocks


def estimate(
    plan: RefinementPlan, *, workers: int | None = None, calibration: Calibration | None = None
) -> Estimate:
    """What a plan takes with so many workers (all usable cores when None). O(number of tasks)."""
    count = workers if workers is not None else default_workers(plan)
    return Estimate(
        workers=count,
        memory_per_worker_bytes=worker_memory_bytes(plan),
        disk_bytes=plan.output_bytes,
        seconds=None if calibration is None else _seconds(plan, count, calibration),
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
    largest, layers = 0, plan.layers
    for task in plan.refine_tasks:
        position = task.position(layers)
        variants = [at(variant, position) for variant in plan.recipe.variants]
        every = any(isinstance(variant, Linear) for variant in variants)
        found = task_memory_bytes(
            task, len(variants), all_directions=every, share=largest_share(variants)
        )
        largest = max(largest, found)
    return PROCESS_BYTES + largest


def refinement_seconds(plan: RefinementPlan, calibration: Calibration) -> list[float]:
    """Expected time of one core for each matrix of a plan, in its order: largest first."""
    found, layers, rates = [], plan.layers, dict[int, float]()
    for task in plan.refine_tasks:
        position = task.position(layers)
        variants = [at(variant, position) for variant in plan.recipe.variants]
        r = min(task.rows, task.columns)
        if r not in rates:
            rates[r] = calibration.rate(r)
        found.append(pass_cost(task.rows, task.columns, variants) / rates[r])
    return found


def _seconds(plan: RefinementPlan, workers: int, calibration: Calibration) -> float:
    """Start, the longest queue of work, and hashes: each output file by one worker."""
    queues = [0.0] * workers
    for seconds in refinement_seconds(plan, calibration):
        place = queues.index(min(queues))
        queues[place] += seconds
    written = plan.output_bytes / WRITE_BYTES_PER_SECOND  # beside the work, until the disk is full
    hashed = plan.output_bytes / calibration.hash_bytes_per_second / min(workers, 2)
    return calibration.start_seconds + max(max(queues), written) + hashed


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
            tuple(float(rate) for rate in kept["cost_per_second"]),
            float(kept["start_seconds"]),
            float(kept["hash_bytes_per_second"]),
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
    rates = (*found.cost_per_second, found.hash_bytes_per_second)
    return (
        ascending
        and len(rates) == len(found.sides) + 1 > 1
        and all(0 < rate < 1e18 for rate in rates)
        and 0 <= found.start_seconds < 1e6
    )


def _measure(machine: str) -> Calibration:
    cores = usable_cores()
    if cores == 1:
        measured = [_measure_shapes(CALIBRATION_SHAPES)]
    else:
        with ProcessPoolExecutor(cores, mp_context=fork_server_context()) as pool:
            asked = [pool.submit(_measure_shapes, CALIBRATION_SHAPES) for _ in range(cores)]
            measured = [answer.result() for answer in asked]
    rates = tuple(float(np.mean(rates)) for rates in zip(*measured, strict=True))
    return Calibration(
        machine,
        tuple(min(shape) for shape in CALIBRATION_SHAPES),
        rates,
        start_seconds=_time_to_start(),
        hash_bytes_per_second=_hash_rate(),
    )


def _measure_shapes(shapes: Sequence[tuple[int, int]]) -> list[float]:
    """Cost per second of one refinement of each shape, with one thread.

    One delta in ten needs a finer route, which would make a whole model look dear: another is
    drawn then.
    """
    generator = np.random.default_rng(0)
    rates = []
    with one_thread():
        for shape in shapes:
            for _ in range(MOST_DRAWS):
                rate, route = _measure_shape(generator, *shape)
                if route == "float32":
                    break
            rates.append(rate)
    return rates


def _measure_shape(generator: np.random.Generator, rows: int, columns: int) -> tuple[float, str]:
    base = 0.02 * generator.standard_normal((rows, columns), dtype=np.float32)
    delta = 0.0006 * generator.standard_normal((rows, columns), dtype=np.float32)
    # 3 % of the weight; real deltas have directions far above the rest, and these cost time.
    left = generator.standard_normal((rows, LEADING), dtype=np.float32)
    delta += 0.00018 * left @ generator.standard_normal((LEADING, columns), dtype=np.float32)
    first = StoredMatrix(narrow(base, "bfloat16"), "bfloat16")
    second = StoredMatrix(narrow(base + delta, "bfloat16"), "bfloat16")
    out = np.empty((rows, columns), dtype=raw_dtype("bfloat16"))
    # The largest takes seconds, and is not disturbed by a single hiccup.
    times = 1 if rows * columns > 1 << 23 else 3
    started = time.perf_counter()
    for _ in range(times):
        record = refine_rows(first, second, [Timber()], [out])
    seconds = time.perf_counter() - started
    return matrix_cost(rows, columns) * times / seconds, record.route


def _time_to_start() -> float:
    """Seconds that a fresh process needs to import what a worker needs."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "import timberkit.engine.execute"], check=True, capture_output=True
    )
    return time.perf_counter() - started


def _hash_rate() -> float:
    content = bytes(32 << 20)
    started = time.perf_counter()
    hashlib.sha256(content).digest()
    return len(content) / (time.perf_counter() - started)


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "timberkit"


def _machine() -> str:
    """What a measurement is valid for: processor, cores, library versions."""
    processor = platform.processor() or platform.machine()
    return f"{processor} x{os.cpu_count()} scipy {scipy.__version__} numpy {np.__version__}"
