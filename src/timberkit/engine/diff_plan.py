"""Which tensors of two checkpoints are held against each other, and in which pieces.

Pure: reads nothing but what ``checkpoint.index`` has validated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import get_args

from timberkit.checkpoint.families import classify, in_families, is_within
from timberkit.checkpoint.layout import DTYPE_BITS, FLOAT_DTYPES, Checkpoint, TensorEntry
from timberkit.config import build_selection
from timberkit.engine.tasks import CompareTask, Place
from timberkit.errors import RecipeError, UsageError
from timberkit.parts import Kind

PART_ELEMENTS = 1 << 24
"""Elements of one task, a multiple of 8: enough to be worth sending, few enough to be shared."""
FAMILIES = (*get_args(Kind), "all-linear", "authors")


@dataclass(frozen=True, slots=True)
class TensorPair:
    """One name in both checkpoints, or in one: then the other entry is None."""

    name: str
    family: str
    layer: int | None
    a: TensorEntry | None
    b: TensorEntry | None

    @property
    def comparable(self) -> bool:
        """Whether values can be compared: one shape; one dtype, or two of plain floats."""
        if self.a is None or self.b is None or self.a.shape != self.b.shape:
            return False
        return self.a.dtype == self.b.dtype or {self.a.dtype, self.b.dtype} <= FLOAT_DTYPES


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a tensor may be off by and still count as equal: one of the two is given.

    ``ulps``: its largest distance in units in the last place. ``relative``: ``||A - B|| / ||A||``.
    """

    ulps: int | None = None
    relative: float | None = None

    def __str__(self) -> str:
        return f"{self.ulps} ulp" if self.relative is None else f"{self.relative:g} relative"


def parse_tolerance(text: str | float) -> Tolerance:
    """Read ``2ulp``, or a relative size such as ``1e-3`` (0 or more, below 1).

    Raises UsageError for anything else.

    >>> parse_tolerance("2ulp"), parse_tolerance("1e-3")
    (Tolerance(ulps=2, relative=None), Tolerance(ulps=None, relative=0.001))
    """
    match = re.fullmatch(r"\s*(\d{1,18})\s*ulps?\s*", str(text), re.ASCII | re.IGNORECASE)
    if match is not None:
        return Tolerance(ulps=int(match[1]))
    try:
        relative = float(text)
    except ValueError:
        relative = math.nan
    if not 0 <= relative < 1:
        raise UsageError(
            f"tolerance {str(text)[:80]!r}: expected units in the last place, such as 2ulp, or a"
            " relative size from 0 to below 1, such as 1e-3"
        )
    return Tolerance(relative=relative)


def pair_tensors(
    a: Checkpoint,
    b: Checkpoint,
    *,
    families: Collection[str] | None = None,
    layers: str | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
) -> tuple[TensorPair, ...]:
    """Every tensor of either checkpoint that the options take, in the order of A, then of B.

    ``families``: any of ``FAMILIES``; all tensors when None. Raises RecipeError for options that
    mean nothing, UsageError when no tensor is left.
    """
    _check_families(families)
    selection = build_selection(layers=layers, include=include, exclude=exclude)
    found = []
    for name in dict.fromkeys((*a.tensors, *b.tensors)):
        first, second = a.tensors.get(name), b.tensors.get(name)
        shapes = [entry.shape for entry in (first, second) if entry is not None]
        roles = [classify(name, shape) for shape in shapes]
        wanted = any(
            families is None or in_families(role, shape, families)
            for role, shape in zip(roles, shapes, strict=True)
        )
        if wanted and is_within(roles[0], selection, name):
            found.append(TensorPair(name, roles[0].kind, roles[0].layer, first, second))
    if not found:
        raise UsageError(
            f"none of the {len(a.tensors.keys() | b.tensors.keys())} tensors is left to compare;"
            " widen --families, --layers or --include"
        )
    return tuple(found)


def compare_tasks(pairs: Iterable[TensorPair], a: Checkpoint, b: Checkpoint) -> list[CompareTask]:
    """The pieces in which all comparable tensors with any element are compared, in order."""
    paths = [{shard.name: str(shard.path) for shard in checkpoint.shards} for checkpoint in (a, b)]
    tasks = []
    for pair in pairs:
        if pair.comparable and pair.a is not None and pair.b is not None:
            places = [
                _parts(entry, known[entry.shard])
                for entry, known in zip((pair.a, pair.b), paths, strict=True)
            ]
            tasks += [
                CompareTask(pair.name, part, first, second)
                for part, (first, second) in enumerate(zip(*places, strict=True))
            ]
    return tasks


def _parts(entry: TensorEntry, path: str) -> Iterator[Place]:
    step = PART_ELEMENTS * DTYPE_BITS[entry.dtype] // 8
    for start in range(0, entry.size_bytes, step):
        size = min(step, entry.size_bytes - start)
        yield Place(path, entry.start_byte + start, size, entry.dtype)


def _check_families(families: Collection[str] | None) -> None:
    unknown = [name for name in families or () if name not in FAMILIES]
    if unknown or (families is not None and not families):
        raise RecipeError(
            f"families: found {', '.join(repr(name[:40]) for name in unknown) or 'none'}, expected"
            f" some of {', '.join(FAMILIES)}"
        )
