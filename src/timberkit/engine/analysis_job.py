"""One weight of an analysis: measured, and named for people."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from timberkit.checkpoint.families import module_path
from timberkit.engine.job import factors, load
from timberkit.engine.tasks import MeasureTask
from timberkit.errors import SpectrumError
from timberkit.measurements import WeightMeasurement
from timberkit.parts import matrix_name
from timberkit.spectral.low_rank import decompose_factors
from timberkit.spectral.measure import measure_matrix


def measure_task(task: MeasureTask) -> WeightMeasurement:
    """Read the two matrices of a task and measure them.

    Raises CheckpointError when a file fails, SpectrumError naming the tensor for NaN, Inf, or
    numbers that float64 does not hold.
    """
    started = time.perf_counter()
    added = task.instruct.added
    try:
        found = measure_matrix(
            load(task.base, (task.rows, task.columns)),
            load(task.instruct, (task.rows, task.columns)),
            rounding="rounding" in task.measure,
            subspaces="subspaces" in task.measure,
            keep_all=task.keep_values == "all",
            delta_values=None
            if added is None
            else decompose_factors(*factors(added)).singular_values,
        )
        if not _all_finite(asdict(found)):
            raise SpectrumError("found numbers beyond float64, expected weights of a usual size")
    except SpectrumError as error:
        where = matrix_name(repr(task.name), task.index, task.part)
        raise SpectrumError(
            f"tensor {where}: {error}; the checkpoint is damaged, or the training that made it"
            " diverged: restore it, or leave the tensor out with --exclude"
        ) from None
    return WeightMeasurement(
        name=task.name,
        index=task.index,
        family=task.family,
        layer=task.layer,
        module=matrix_name(module_path(task.name), None, task.part),
        rows=task.rows,
        columns=task.columns,
        base_dtype=task.base.dtype,
        instruct_dtype=task.instruct.dtype,
        seconds=time.perf_counter() - started,
        base=found.base,
        instruct=found.instruct,
        delta=found.delta,
        null=found.null,
        relative_delta=found.relative_delta,
        cut=found.cut,
        bulk=found.bulk,
        rounding=found.rounding,
        subspaces=found.subspaces,
        part=task.part,
    )


def _all_finite(value: object) -> bool:
    match value:
        case float():
            return math.isfinite(value)
        case Mapping():
            return all(map(_all_finite, value.values()))
        case str():
            return True
        case Sequence():
            return all(map(_all_finite, value))
        case _:
            return True
