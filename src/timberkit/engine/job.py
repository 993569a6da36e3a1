"""One task: read, compute, write. What a worker does, and nothing it needs to remember between.

``perform`` returns what the journal should keep. The bytes it wrote are in the page cache only;
whoever keeps the journal syncs them first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from timberkit import records
from timberkit.checkpoint.manifest import hash_file
from timberkit.checkpoint.reader import TORCH_NAMES, RowReader, read_pieces, torch_dtype
from timberkit.checkpoint.writer import RowWriter, copy_range, write_at
from timberkit.config import AnyVariant, at, variant_name
from timberkit.dtypes import Raw, narrow, widen
from timberkit.engine.diff_job import Distance, compare_task
from timberkit.engine.tasks import (
    CastTask,
    CompareTask,
    CopyTask,
    HashTask,
    LowRankPlace,
    MeasureTask,
    OracleTask,
    Place,
    RefineTask,
    SharedTask,
    Task,
)
from timberkit.errors import CheckpointError, InputError, SpectrumError
from timberkit.measurements import WeightMeasurement
from timberkit.parts import matrix_name
from timberkit.spectral.assemble import Sink
from timberkit.spectral.delta import Rows
from timberkit.spectral.low_rank import (
    Factors,
    decompose_factors,
    filtered_factors,
    refine_factors,
)
from timberkit.spectral.refine import StoredMatrix, refine_rows

if TYPE_CHECKING:
    import torch

    from timberkit.spectral.agreement import Agreement

HELD_BYTES = 256 << 20
"""A source of more bytes is read in blocks, as often as it is needed, instead of once."""


@dataclass(frozen=True, slots=True)
class JobContext:
    """What all tasks of a run share: the methods, the folder that each writes to, the device.

    ``layers`` is the number of layers of the model, for methods that depend on the place.
    ``pairs`` are the contexts of the pairs that a ``SharedTask`` counts.
    """

    variants: tuple[AnyVariant, ...] = ()
    folders: tuple[str, ...] = ()
    layers: int = 0
    device: str = "cpu"
    preload: tuple[str, ...] = ()
    """Modules that every worker needs besides those of a refinement on the CPU."""
    pairs: tuple[JobContext, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished task says: files it wrote to, and what it found, if anything.

    That of a ``SharedTask`` has one for each of its parts, in order, with the number of the pair.
    """

    key: str
    written: tuple[str, ...] = ()
    record: records.TensorRecord | None = None
    sha256: str | None = None
    measurement: WeightMeasurement | None = None
    distance: Distance | None = None
    agreement: Agreement | None = None
    parts: tuple[Outcome, ...] = ()
    pair: int = 0


def perform(context: JobContext, task: Task) -> Outcome:
    """Do one task.

    Raises what reading, refining and writing raise, with the name of the tensor in the message.
    """
    match task:
        case RefineTask():
            return _refine(context, task, rows_of(task.base, (task.rows, task.columns)))
        case SharedTask():
            return _share(context, task)
        case CopyTask():
            return _copy(context, task)
        case CastTask():
            return _cast(context, task)
        case HashTask():
            return Outcome(task.key, sha256=hash_file(Path(task.path)))
        case CompareTask():
            return Outcome(task.key, distance=compare_task(task))
        case MeasureTask():
            # What only an analysis needs takes seconds to import.
            from timberkit.engine.analysis_job import measure_task

            # Here, because an analysis needs torch, which a refinement can do without.

            return Outcome(task.key, measurement=measure_task(task))
        case OracleTask():
            return _consult(task)


def load(place: Place, shape: tuple[int, ...]) -> torch.Tensor:
    """Read a place as a tensor of its own dtype; CheckpointError when the file fails.

    In float64 where a delta is added to what is stored.
    """
    import torch

    if place.added is not None:
        left, right = factors(place.added)
        stored = load(replace(place, added=None), shape).to(torch.float64)
        return stored + torch.from_numpy(left @ right)

    content = read_pieces(Path(place.path), place.pieces)
    found = torch.frombuffer(content, dtype=torch_dtype(place.dtype))
    return found.reshape(shape[::-1]).T.contiguous() if place.transposed else found.reshape(shape)


def factors(place: LowRankPlace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The factors of a delta, (m, k) and (k, n), the number between them in the first."""
    read = [
        RowReader(Path(part.path), part.start_byte, shape, TORCH_NAMES[part.dtype])
        for part, shape in (
            (place.a, (place.rank, place.inputs)),
            (place.b, (place.outputs, place.rank)),
        )
    ]
    a, b = (widen(part[0 : part.shape[0]], part.dtype, np.float64) for part in read)
    left, right = (a.T, b.T) if place.turned else (b, a)
    rows = np.concatenate([left[first:last] for first, last in place.rows]) * place.factor
    return rows, np.ascontiguousarray(right[:, slice(*place.columns)])


def _consult(check: OracleTask) -> Outcome:
    import torch

    from timberkit.spectral.agreement import agreement

    task = check.task
    shape = (task.rows, task.columns)
    weight, base, instruct = (
        load(place, shape) for place in (check.refined, task.base, task.instruct)
    )
    found = agreement(weight, base, instruct, check.variant, name=task.matrix)
    if check.refined.added is not None:
        # Factors are rounded, not their product: a part in 2^(bits of a factor) of the delta.
        stored = torch_dtype(check.refined.added.a.dtype)
        delta = float((instruct - base.double()).norm())
        bound = found.bound + 2 * torch.finfo(stored).eps * max(delta, found.distance)
        found = replace(found, holds=found.distance <= bound, bound=bound)
    return Outcome(check.key, agreement=found)


def _share(context: JobContext, shared: SharedTask) -> Outcome:
    """Every part in turn: beside the one matrix of Base, memory holds what one part takes."""
    base: Rows | None = None
    outcomes = []
    for part in shared.parts:
        own, task = context.pairs[part.pair], part.task
        if isinstance(task, RefineTask):
            base = rows_of(task.base, (task.rows, task.columns)) if base is None else base
            outcome = _refine(own, task, base)
        else:
            outcome = perform(own, task)
        outcomes.append(replace(outcome, pair=part.pair))
    written = tuple(path for outcome in outcomes for path in outcome.written)
    return Outcome(shared.key, written, parts=tuple(outcomes))


def _refine(context: JobContext, task: RefineTask, base: Rows) -> Outcome:
    started = time.perf_counter()
    shape = (task.rows, task.columns)
    targets = [Path(folder, task.target.path) for folder in context.folders]
    position = task.position(context.layers)
    variants = [at(variant, position) for variant in context.variants]
    sinks: list[Sink] = [
        RowWriter(path, task.target.start_byte, task.columns, task.target.blocks)
        for path in targets
    ]
    options: dict[str, Any] = {
        "dtype": TORCH_NAMES[task.target.dtype],
        "device": context.device,
        "name": task.matrix,
    }
    try:
        if task.instruct.added is not None:
            delta = decompose_factors(*factors(task.instruct.added))
            if task.target.added is not None:
                targets = _write_factors(context, task.target.added, delta, variants)
                sinks, options["dtype"] = [_Nowhere() for _ in variants], "float64"
            found = refine_factors(base, delta, variants, sinks, **options)
        else:
            found = refine_rows(base, rows_of(task.instruct, shape), variants, sinks, **options)
    except SpectrumError as error:
        where = matrix_name(repr(task.name), task.index, task.part)
        raise SpectrumError(
            f"tensor {where}: {error}; the checkpoint is damaged, or the training that made it"
            " diverged: restore it, or leave the tensor out with --exclude"
        ) from None
    except InputError as error:
        raise CheckpointError(f"tensor {task.name!r}: {error}") from None
    record = records.TensorRecord(
        name=task.name,
        index=task.index,
        family=task.family,
        layer=task.layer,
        seconds=time.perf_counter() - started,
        matrix=replace(found, changes=_named(found.changes, context.variants)),
        part=task.part,
    )
    return Outcome(task.key, tuple(map(str, targets)), record)


class _Nowhere:
    """For a weight that is only measured, since its factors are what is written."""

    def __setitem__(self, rows: slice, values: Raw) -> None:
        pass


def _write_factors(
    context: JobContext, place: LowRankPlace, delta: Factors, variants: Sequence[AnyVariant]
) -> list[Path]:
    """Write A and B of the delta as each method leaves it; the files written to."""
    targets = []
    for folder, variant in zip(context.folders, variants, strict=True):
        left, right = filtered_factors(delta, variant, place.rank)
        left = left / place.factor
        a, b = (left.T, right.T) if place.turned else (right, left)
        for part, values in ((place.a, a), (place.b, b)):
            raw = narrow(np.ascontiguousarray(values), TORCH_NAMES[part.dtype])
            write_at(Path(folder, part.path), part.start_byte, raw.data)
            targets.append(Path(folder, part.path))
    return list(dict.fromkeys(targets))


def _named(
    changes: Sequence[records.ChangeRecord], variants: Sequence[AnyVariant]
) -> tuple[records.ChangeRecord, ...]:
    """The changes under the names of the methods as they were asked for, whatever they are here."""
    return tuple(
        replace(change, variant=variant_name(variant))
        for change, variant in zip(changes, variants, strict=True)
    )


def rows_of(place: Place, shape: tuple[int, int]) -> Rows:
    """A matrix in memory; one so large that it is worked on in blocks is read in blocks.

    One that is stored as its transpose is in memory whatever its size: its rows lie in all of it.
    """
    dtype = TORCH_NAMES[place.dtype]
    path, start = Path(place.path), place.start_byte
    if place.transposed:
        stored = RowReader(path, start, shape[::-1], dtype, place.blocks)[0 : shape[1]]
        return StoredMatrix(np.ascontiguousarray(stored.T), dtype)
    reader = RowReader(path, start, shape, dtype, place.blocks)
    if place.size_bytes > HELD_BYTES:
        return reader
    return StoredMatrix(reader[0 : shape[0]], dtype)


def _copy(context: JobContext, task: CopyTask) -> Outcome:
    targets = [Path(folder, task.shard) for folder in context.folders]
    for target in targets:
        copy_range(Path(task.source), task.source_start, target, task.target_start, task.size_bytes)
    return Outcome(task.key, tuple(map(str, targets)))


def _cast(context: JobContext, task: CastTask) -> Outcome:
    import torch

    values = load(task.source, task.shape)
    cast = values.to(torch_dtype(task.target.dtype))
    finite = bool(torch.isfinite(values).all())
    if task.source.added is not None and not finite:
        raise CheckpointError(
            f"tensor {task.name!r}: its adapter's delta holds NaN or Inf, expected finite numbers;"
            " the training that made it diverged, or the file is damaged"
        )
    if finite:  # an Inf that Instruct itself holds stays one
        refuse_overflow(task.name, cast)
    return Outcome(task.key, tuple(_put(folder, task.target, cast) for folder in context.folders))


def refuse_overflow(name: str, tensor: torch.Tensor) -> None:
    """Raise CheckpointError where a change of dtype has made values infinite."""
    import torch

    if not bool(torch.isfinite(tensor).all()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"tensor {name!r}: values overflow {dtype}, expected them to fit; choose bfloat16 or"
            " float32"
        )


def _put(folder: str, target: Place, values: torch.Tensor) -> str:
    path = Path(folder, target.path)
    import torch

    content = values.contiguous().reshape(-1).view(torch.uint8).numpy()
    write_at(path, target.start_byte, content.data)
    return str(path)
