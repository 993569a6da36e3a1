"""The pieces of work of a run: small, self-contained values that any process can take on.

A task says which bytes to read and where in each output the result goes. Tasks write disjoint byte
ranges and depend on no other task, so that their order, and who runs them, cannot matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from timberkit.checkpoint.layout import pieces
from timberkit.config import AnyVariant, KeepValues, Measure, Position
from timberkit.parts import matrix_name


@dataclass(frozen=True, slots=True)
class LowRankPlace:
    """Where the factors of a delta lie, ``factor * B A``: A is (rank, inputs), B (outputs, rank).

    ``turned``: the delta is the transpose of that. Of its rows those in ``rows``, pairs of first
    and last plus one, make the matrix, and of its columns those of ``columns``.
    """

    a: Place
    b: Place
    inputs: int
    outputs: int
    rank: int
    factor: float
    turned: bool
    rows: tuple[tuple[int, int], ...]
    columns: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Place:
    """``size_bytes`` bytes of one dtype from ``start_byte`` of a file.

    In one piece, or in blocks of ``block_bytes`` whose starts lie ``stride_bytes`` apart.
    ``transposed``: what is stored is the transpose of the matrix that is meant. ``added``: a delta
    that is to be added to what is stored, in float64.
    """

    path: str
    start_byte: int
    size_bytes: int
    dtype: str
    block_bytes: int = 0
    stride_bytes: int = 0
    transposed: bool = False
    added: LowRankPlace | None = None

    @property
    def blocks(self) -> tuple[int, int]:
        """Bytes of a block, and from one to the next; zeros where there is one piece."""
        return self.block_bytes, self.stride_bytes

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """Offset and length of each piece of the file, in order."""
        return pieces(self.start_byte, *self.blocks, 0, self.size_bytes)


@dataclass(frozen=True, slots=True)
class RefineTask:
    """Refine one matrix: a 2-D tensor, slice ``index`` or projection ``part`` of a fused one.

    ``target`` holds for every variant: its path is relative to the variant's folder.
    """

    name: str
    index: int | None
    family: str
    layer: int | None
    rows: int
    columns: int
    base: Place
    instruct: Place
    target: Place
    part: str | None = None

    @property
    def key(self) -> str:
        """Unique in a run, the same every time."""
        return f"refine {self.matrix}"

    @property
    def matrix(self) -> str:
        """Name of the matrix, the same in every run of any pair: see ``matrix_name``."""
        return matrix_name(self.name, self.index, self.part)

    def position(self, layers: int) -> Position:
        """Where the matrix stands in a model of so many layers."""
        return Position(self.name, self.family, self.layer, layers, self.index, self.part)

    @property
    def work_bytes(self) -> int:
        """Bytes of Instruct that the task stands for."""
        return self.instruct.size_bytes


@dataclass(frozen=True, slots=True)
class CopyTask:
    """Copy bytes of Instruct as they are, into the same shard of every variant."""

    source: str
    source_start: int
    shard: str
    target_start: int
    size_bytes: int

    @property
    def key(self) -> str:
        """Unique in a run, the same every time."""
        return f"copy {self.shard} {self.target_start}"

    @property
    def work_bytes(self) -> int:
        """Bytes copied for one variant."""
        return self.size_bytes


@dataclass(frozen=True, slots=True)
class CastTask:
    """Write one tensor of Instruct in another floating dtype.

    ``shape`` is needed where a delta is added to the source.
    """

    name: str
    source: Place
    target: Place
    shape: tuple[int, ...] = (-1,)

    @property
    def key(self) -> str:
        """Unique in a run, the same every time."""
        return f"cast {self.name}"

    @property
    def work_bytes(self) -> int:
        """Bytes read."""
        return self.source.size_bytes


@dataclass(frozen=True, slots=True)
class PairTask:
    """One piece of work of one pair: ``pair`` counts the pairs of a run from 0."""

    pair: int
    task: RefineTask | CopyTask | CastTask


@dataclass(frozen=True, slots=True)
class SharedTask:
    """What one worker does for several pairs in a row: see ``pair_tasks``.

    More than one part only where all of them refine against the same matrix of Base, which is read
    once for all.
    """

    parts: tuple[PairTask, ...]

    @property
    def key(self) -> str:
        """Unique in a run, the same every time."""
        return f"{self.parts[0].pair} {self.parts[0].task.key}"

    @property
    def work_bytes(self) -> int:
        """Bytes of all Instructs that the task stands for."""
        return sum(part.task.work_bytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class HashTask:
    """SHA-256 of one finished file."""

    path: str
    size_bytes: int

    @property
    def key(self) -> str:
        """Unique in a run, the same every time."""
        return f"hash {self.path}"

    @property
    def work_bytes(self) -> int:
        """Bytes read."""
        return self.size_bytes


@dataclass(frozen=True, slots=True)
class MeasureTask:
    """Measure one weight of an analysis; writes nothing. ``measure`` names what costs extra."""

    name: str
    index: int | None
    family: str
    layer: int | None
    rows: int
    columns: int
    base: Place
    instruct: Place
    measure: tuple[Measure, ...]
    keep_values: KeepValues
    part: str | None = None

    @property
    def key(self) -> str:
        """Unique in a run, the same every time."""
        return f"measure {self.matrix}"

    @property
    def matrix(self) -> str:
        """As that of a ``RefineTask``."""
        return matrix_name(self.name, self.index, self.part)

    @property
    def work_bytes(self) -> int:
        """Bytes of Instruct that the task stands for."""
        return self.instruct.size_bytes


@dataclass(frozen=True, slots=True)
class CompareTask:
    """Compare part number ``part`` of one tensor of two checkpoints; writes nothing.

    Both places hold the same number of elements: of one dtype, or of two floating ones.
    """

    name: str
    part: int
    first: Place
    second: Place

    @property
    def key(self) -> str:
        """Unique in a run, the same every time."""
        return f"compare {self.name} {self.part}"

    @property
    def work_bytes(self) -> int:
        """Bytes read."""
        return self.first.size_bytes + self.second.size_bytes


@dataclass(frozen=True, slots=True)
class OracleTask:
    """Hold the refined matrix in ``refined`` against the oracle's; writes nothing.

    ``variant`` is the method as it is at the place of the matrix.
    """

    task: RefineTask
    refined: Place
    variant: AnyVariant

    @property
    def key(self) -> str:
        """Unique in a check, the same every time."""
        return f"oracle {self.task.matrix}"

    @property
    def work_bytes(self) -> int:
        """Bytes of the output that are checked."""
        return self.refined.size_bytes


Task: TypeAlias = (
    RefineTask
    | CopyTask
    | CastTask
    | SharedTask
    | HashTask
    | MeasureTask
    | CompareTask
    | OracleTask
)
