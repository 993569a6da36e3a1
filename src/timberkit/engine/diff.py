"""Which tensors of two checkpoints differ, and by how much: any two, sharded and stored anyhow.

    report = diff("org/model", "refined")
    report.equal, [tensor.name for tensor in report.differing]

Nothing is written, and no tensor is held: both sides are read once, in blocks (``diff_job``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from timberkit.checkpoint.companions import FileDifference, compare_files
from timberkit.checkpoint.layout import Checkpoint, TensorEntry
from timberkit.checkpoint.reader import check_unchanged, fingerprint
from timberkit.checkpoint.source import public_name, resolve
from timberkit.config import Source
from timberkit.engine.diff_job import Distance
from timberkit.engine.diff_plan import (
    TensorPair,
    Tolerance,
    compare_tasks,
    pair_tensors,
    parse_tolerance,
)
from timberkit.engine.execute import executor_for
from timberkit.engine.fork_server import usable_cores
from timberkit.engine.job import JobContext
from timberkit.engine.progress import Meter, ProgressCallback
from timberkit.engine.sources import Opening, open_model
from timberkit.engine.tasks import CompareTask
from timberkit.errors import UsageError

BYTES_WORTH_A_WORKER = 4 << 30
"""Bytes that one process compares in some seconds: less is not worth another process."""

Verdict: TypeAlias = Literal[
    "equal", "other bits", "tolerated", "values", "dtype", "shape", "only in A", "only in B"
]
"""``other bits``: equal values, but zeros of another sign or NaNs of other bits."""
EQUAL: frozenset[Verdict] = frozenset({"equal", "other bits", "tolerated"})


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """What was found of one tensor; ``distance`` is None where no values were compared.

    Dtypes and shapes are None in the checkpoint that lacks it.
    """

    name: str
    family: str
    layer: int | None
    verdict: Verdict
    dtype_a: str | None
    dtype_b: str | None
    shape_a: tuple[int, ...] | None
    shape_b: tuple[int, ...] | None
    distance: Distance | None

    @property
    def equal(self) -> bool:
        """Whether it counts as equal."""
        return self.verdict in EQUAL

    @property
    def rank(self) -> tuple[float, ...]:
        """Sorts what is furthest apart first: numbers lost or made, then relative size."""
        far = self.distance or Distance(numeric=False)
        share = far.differing / far.elements if far.elements else 0.0
        return (-float(far.not_finite > 0), -far.relative, -share, -far.ulps)


@dataclass(frozen=True, slots=True)
class DiffReport:
    """What ``diff`` found. ``a`` and ``b`` are names, never paths.

    ``tensors`` are all that were compared, in the order of A, then of B; ``files`` are those that
    differ, beside the weights. ``values_read`` is False after ``only_names``.
    """

    a: str
    b: str
    tensors: tuple[TensorDifference, ...]
    files: tuple[FileDifference, ...]
    tolerance: Tolerance | None
    values_read: bool

    @property
    def equal(self) -> bool:
        """Whether every tensor counts as equal, and every file beside them."""
        return not self.differing and all(file.equal for file in self.files)

    @property
    def differing(self) -> tuple[TensorDifference, ...]:
        """The tensors that do not count as equal, those furthest apart first."""
        apart = [tensor for tensor in self.tensors if not tensor.equal]
        return tuple(sorted(apart, key=lambda tensor: tensor.rank))

    @property
    def verdicts(self) -> dict[Verdict, int]:
        """How many tensors each verdict was given."""
        return dict(Counter(tensor.verdict for tensor in self.tensors))

    @property
    def total(self) -> Distance:
        """Of all tensors together that were compared as numbers."""
        return _sum(self.tensors)

    @property
    def families(self) -> dict[str, Distance]:
        """The same for each family, in the order in which they come up."""
        names = dict.fromkeys(tensor.family for tensor in self.tensors)
        return {
            name: _sum(tensor for tensor in self.tensors if tensor.family == name) for name in names
        }

    def family_counts(self, family: str) -> tuple[int, int]:
        """How many tensors of a family were compared, and how many of them differ."""
        found = [tensor.equal for tensor in self.tensors if tensor.family == family]
        return len(found), found.count(False)


def diff(
    a: str | Path | Source,
    b: str | Path | Source,
    *,
    families: Collection[str] | None = None,
    layers: str | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    tolerance: str | float | None = None,
    only_names: bool = False,
    weights_only: bool = False,
    workers: int | None = 1,
    allow_pickle: bool = False,
    on_progress: ProgressCallback | None = None,
) -> DiffReport:
    """Compare two checkpoints tensor by tensor, and the files beside their weights.

    Args:
        a, b: a folder, or a hub id with an optional ``@revision``; weights of any dtype, also
            quantised ones, whose codes are compared as bytes.
        families, layers, include, exclude: which tensors, as for ``refine``; families are any of
            ``diff_plan.FAMILIES``, all when None.
        tolerance: tensors of plain floats no further apart count as equal, whatever their dtypes:
            ``"2ulp"`` (largest distance of any element) or ``1e-3`` (``||A - B|| / ||A||``).
            A tensor in which a NaN or infinity stands against another value never does.
        only_names: compare names, shapes and dtypes; read no values.
        weights_only: leave the files beside the weights alone.
        workers: processes that share the work; as many as pay off when None. Nothing that is
            found depends on it.
        allow_pickle: as for ``refine``.
        on_progress: called after every piece, in this process.

    Returns:
        A ``DiffReport``. Without a tolerance, tensors of one name count as equal when shape, dtype
        and all values are: -0.0 equals 0.0 and a NaN any NaN, with the verdict ``other bits``.

    Raises:
        UsageError: options that mean nothing, or leave no tensor.
        InputError: a checkpoint that cannot be found or read, or is broken.
        InterruptedRunError: a worker died.

    Cost: one read of both; about a second for each GB that differs, half of it for what is
    equal; memory of some blocks (a few MB) for each worker.
    """
    allowed = None if tolerance is None else parse_tolerance(tolerance)
    given = [model if isinstance(model, Source) else _source(model) for model in (a, b)]
    resolved = [resolve(source, allow_pickle=allow_pickle) for source in given]
    opening = Opening(allow_pickle, write=not only_names, on_progress=on_progress)
    first, second = (open_model(source, opening)[0] for source in resolved)
    pairs = pair_tensors(
        first, second, families=families, layers=layers, include=include, exclude=exclude
    )
    distances = {} if only_names else _compare(pairs, first, second, workers, on_progress)
    files = () if weights_only else compare_files(*(source.folder for source in resolved))
    return DiffReport(
        a=public_name(resolved[0]),
        b=public_name(resolved[1]),
        tensors=tuple(_judge(pair, distances.get(pair.name), allowed) for pair in pairs),
        files=files,
        tolerance=allowed,
        values_read=not only_names,
    )


def _source(given: str | Path) -> Source:
    """A path is a path, whatever its name looks like."""
    if not str(given):
        raise UsageError("'' is no model; give a folder, or a hub id such as org/name")
    return Source(location=str(given)) if isinstance(given, Path) else Source.parse(given)


def _compare(
    pairs: Sequence[TensorPair],
    a: Checkpoint,
    b: Checkpoint,
    workers: int | None,
    on_progress: ProgressCallback | None,
) -> dict[str, Distance]:
    """What the values of each comparable tensor say, by name."""
    before = fingerprint(a), fingerprint(b)
    tasks = compare_tasks(pairs, a, b)
    found: dict[str, Distance] = {}
    with executor_for(JobContext(), workers or default_workers(tasks)) as executor:
        meter = Meter("diff", tasks, frozenset(), on_progress)
        with closing(executor.run(tasks)) as outcomes:
            for outcome in outcomes:
                if outcome.distance is not None:
                    found[outcome.key] = outcome.distance
                meter.advance(outcome.key)
    for checkpoint, expected in zip((a, b), before, strict=True):
        check_unchanged(checkpoint, expected)
    together = {pair.name: Distance() for pair in pairs if pair.comparable}
    for task in tasks:  # in this order, so that no sum depends on who was first
        part = found[task.key]
        together[task.name] = together[task.name].plus(part)
    return together


def default_workers(tasks: Iterable[CompareTask]) -> int:
    """One worker for each usable core, if there is enough to read."""
    worth = sum(task.work_bytes for task in tasks) // BYTES_WORTH_A_WORKER
    return max(1, min(usable_cores(), worth))


def _judge(
    pair: TensorPair, distance: Distance | None, tolerance: Tolerance | None
) -> TensorDifference:
    return TensorDifference(
        name=pair.name,
        family=pair.family,
        layer=pair.layer,
        verdict=_verdict(pair.a, pair.b, distance, tolerance),
        dtype_a=None if pair.a is None else pair.a.dtype,
        dtype_b=None if pair.b is None else pair.b.dtype,
        shape_a=None if pair.a is None else pair.a.shape,
        shape_b=None if pair.b is None else pair.b.shape,
        distance=distance,
    )


def _verdict(
    a: TensorEntry | None,
    b: TensorEntry | None,
    distance: Distance | None,
    tolerance: Tolerance | None,
) -> Verdict:
    if a is None or b is None:
        return "only in B" if a is None else "only in A"
    if a.shape != b.shape:
        return "shape"
    found = distance or Distance()
    if a.dtype == b.dtype and not found.differing:
        return "other bits" if found.other_bits else "equal"
    if distance is not None and _within(distance, tolerance):
        return "tolerated"
    return "values" if a.dtype == b.dtype else "dtype"


def _within(distance: Distance, tolerance: Tolerance | None) -> bool:
    if tolerance is None or distance.not_finite or not distance.numeric:
        return False
    if tolerance.ulps is not None:
        return distance.ulps <= tolerance.ulps
    return distance.relative <= (tolerance.relative or 0.0)


def _sum(tensors: Iterable[TensorDifference]) -> Distance:
    """Counts of all, sizes of those that are numbers."""
    found = Distance()
    for tensor in tensors:
        if tensor.distance is not None:
            found = found.plus(replace(tensor.distance, numeric=True))
    return found
