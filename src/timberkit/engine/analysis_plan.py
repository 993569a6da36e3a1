"""Before an analysis: which weights are measured, how many workers pay off, what it takes.

What is paired with what, and which tensors are selected, is decided as for ``refine``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from timberkit.config import AnalyzeRecipe
from timberkit.engine.adapter_plan import plan_pair
from timberkit.engine.estimate import (
    PROCESS_BYTES,
    REDUCTION_WEIGHT,
    WORTH_A_WORKER_SECONDS,
    Calibration,
    matrix_cost,
    relative_cost,
    task_memory_bytes,
)
from timberkit.engine.fork_server import usable_cores
from timberkit.engine.plan import RefinementPlan
from timberkit.engine.sources import OpenPair
from timberkit.engine.tasks import MeasureTask, RefineTask, Task
from timberkit.errors import UsageError

VECTORS_FLOPS = 27.0
"""Times r^3: all eigenvectors of three Gram matrices."""


DOUBLE_PRECISION = 2.2
"""Time of an operation here over that of one of a refinement, where most are in float32."""
BLOCKS_BYTES = 64 << 20
"""Blocks of a matrix on their way to float64."""


@dataclass(frozen=True, slots=True)
class AnalysisPlan:
    """What an analysis will measure; ``tasks`` are ordered by cost, the most expensive first."""

    recipe: AnalyzeRecipe
    refinement: RefinementPlan
    tasks: tuple[MeasureTask, ...]


@dataclass(frozen=True, slots=True)
class AnalysisEstimate:
    """What an analysis takes, hidden states and drawing aside.

    ``seconds`` is None without a calibration.
    """

    workers: int
    memory_per_worker_bytes: int
    seconds: float | None


def plan_analysis(pair: OpenPair, recipe: AnalyzeRecipe) -> AnalysisPlan:
    """Plan the analysis of an open pair; raises as ``plan_refinement``. O(number of tensors)."""
    if pair.adapter is not None and (recipe.hidden_states or "rounding" in recipe.measure):
        raise UsageError(
            "Instruct is an adapter, which has no stored weights and no model of its own: leave out"
            " --hidden-states and the measure rounding, or merge it first with timberkit refine"
            " --method merge --mu 1"
        )
    refinement = plan_pair(pair)
    tasks = (_measure_task(task, recipe) for task in refinement.refine_tasks)
    ordered = sorted(tasks, key=lambda task: (-analysis_cost(task), task.key))
    return AnalysisPlan(recipe, refinement, tuple(ordered))


def analysis_cost(task: Task) -> float:
    """Expected time of a task in the units of ``relative_cost``."""
    if not isinstance(task, MeasureTask):
        return relative_cost(task)
    return measure_cost(task) / 60e9


def measure_cost(task: MeasureTask) -> float:
    """Operations of a measurement, weighted as those of a refinement are (``matrix_cost``).

    Three values-only solves, ``m n r`` and ``4/3 r^3`` each; ``subspaces`` adds ``6 m n r`` and all
    eigenvectors, ``rounding`` a refinement.
    """
    m, n, r = task.rows, task.columns, min(task.rows, task.columns)
    products, reduction = 3.0 * m * n * r, 4.0 * r**3
    if "subspaces" in task.measure:
        products += 6.0 * m * n * r
        reduction += VECTORS_FLOPS * r**3
    refined = matrix_cost(m, n) if "rounding" in task.measure else 0.0
    return DOUBLE_PRECISION * (products + REDUCTION_WEIGHT * reduction) + refined


def analysis_memory_bytes(task: MeasureTask) -> int:
    """Peak memory of one weight: as stored twice, one matrix of the three, its Gram matrix."""
    elements, r = task.rows * task.columns, min(task.rows, task.columns)
    stored = task.base.size_bytes + task.instruct.size_bytes
    wide = max(task.base.size_bytes, task.instruct.size_bytes) > 2 * elements
    needed = [elements * (8 if wide else 4) + 16 * r * r + BLOCKS_BYTES]
    if "rounding" in task.measure:
        needed.append(task_memory_bytes(_refinement(task), 1) - stored)
    if "subspaces" in task.measure:
        vectors = 2 * 8 * (task.rows + task.columns) * r
        needed.append(needed[0] + 48 * r * r + vectors)
    return stored + max(needed)


def estimate_analysis(
    plan: AnalysisPlan, *, workers: int | None = None, calibration: Calibration | None = None
) -> AnalysisEstimate:
    """What a plan takes with so many workers (``default_analysis_workers`` when None)."""
    count = workers if workers is not None else default_analysis_workers(plan)
    seconds = None
    if calibration is not None:
        costs = (
            measure_cost(task) / calibration.rate(min(task.rows, task.columns))
            for task in plan.tasks
        )
        seconds = sum(costs) / count
    return AnalysisEstimate(count, _worker_memory_bytes(plan), seconds)


def default_analysis_workers(plan: AnalysisPlan) -> int:
    """One worker for each usable core, if the work is worth starting processes for and they fit.

    The rule of ``estimate.default_workers``: all within four fifths of the memory.
    """
    worth = int(sum(map(analysis_cost, plan.tasks)) / WORTH_A_WORKER_SECONDS)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fit = int(0.8 * memory / _worker_memory_bytes(plan))
    return max(1, min(usable_cores(), worth, fit, len(plan.tasks)))


def _worker_memory_bytes(plan: AnalysisPlan) -> int:
    return PROCESS_BYTES + max(map(analysis_memory_bytes, plan.tasks), default=0)


def _measure_task(task: RefineTask, recipe: AnalyzeRecipe) -> MeasureTask:
    return MeasureTask(
        name=task.name,
        index=task.index,
        family=task.family,
        layer=task.layer,
        rows=task.rows,
        columns=task.columns,
        base=task.base,
        instruct=task.instruct,
        measure=recipe.measure,
        keep_values=recipe.keep_values,
        part=task.part,
    )


def _refinement(task: MeasureTask) -> RefineTask:
    """The refinement that measuring the rounding does."""
    return RefineTask(
        *(task.name, task.index, task.family, task.layer, task.rows, task.columns),
        *(task.base, task.instruct, task.instruct),
    )
