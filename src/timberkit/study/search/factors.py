"""The leading singular directions of every delta, found once: a candidate then costs a product.

With ``K`` the last edge, ``V`` the K leading singular vectors of the delta's short side and
``P = delta V``, the weight of a candidate with gains g for the bands and h behind the last edge is

    h W_instruct + (1 - h) W_base + sum over bands b of (g_b - h) P_b V_b^T

(for a wide matrix ``U`` and ``delta^T U`` alike). So only P and V are kept, K columns each, in a
file a matrix in the folder of the run; a search of thousands of candidates decomposes nothing
again, and what was found is found again after a restart. One matrix is in memory at a time.
Small matrices are computed in float64, as ``refine`` does, all others in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from timberkit.checkpoint.reader import TORCH_NAMES
from timberkit.dtypes import Matrix, Raw, Working, narrow, widen
from timberkit.engine.execute import called_apart
from timberkit.engine.job import rows_of
from timberkit.engine.tasks import RefineTask
from timberkit.errors import CheckpointError, InterruptedRunError, SpectrumError
from timberkit.spectral.decompose import decompose
from timberkit.spectral.delta import PairDelta, Rows
from timberkit.spectral.refine import StoredMatrix
from timberkit.study.search.candidates import Candidate

SMALL = 256
"""Short side below which everything is computed in float64."""


@dataclass(frozen=True, slots=True)
class Factor:
    """``left`` (m, K) and ``right`` (n, K) of one delta: K leading directions of ``left right^T``.

    K is the last edge, or the short side where that is shorter.
    """

    left: Matrix
    right: Matrix

    @classmethod
    def of(cls, base: Rows, instruct: Rows, directions: int) -> Factor:
        """Decompose the delta of two stored matrices (m, n).

        Raises SpectrumError for NaN or Inf. Cost: a float64 Gram matrix of the short side, its
        tridiagonal form and K vectors; two products with the delta.
        """
        rows, columns = instruct.shape
        kept = min(directions, rows, columns)
        working: Working = np.float64 if min(rows, columns) < SMALL else np.float32
        delta = PairDelta(base, instruct)
        if not kept or delta.scale == 0.0:
            return cls(np.zeros((rows, kept), working), np.zeros((columns, kept), working))
        vectors = decompose(delta, "float64").vectors(0, kept)
        whole = delta.whole(np.float64)
        tall = rows >= columns
        products = (whole if tall else whole.T) @ vectors * delta.scale
        left, right = (products, vectors) if tall else (vectors, products)
        return cls(left.astype(working), right.astype(working))

    def weight(
        self, base: Rows, instruct: Rows, edges: tuple[int, ...], gains: tuple[float, ...]
    ) -> Matrix:
        """The weight of a candidate before rounding, (m, n).

        All gains 1 give Instruct, all gains 0 Base, exactly.
        """
        working: Working = np.float64 if self.left.dtype == np.float64 else np.float32
        after = widen(instruct[0 : instruct.shape[0]], instruct.dtype, working)
        rest = gains[-1]
        if rest != 1.0:
            before = widen(base[0 : base.shape[0]], base.dtype, working)
            after = before if rest == 0.0 else rest * after + (1.0 - rest) * before
        start, lifts = 0, np.zeros(self.left.shape[1], dtype=working)
        for edge, gain in zip(edges, gains, strict=False):
            lifts[start:edge] = gain - rest
            start = edge
        if lifts.any():
            after += (self.left * lifts) @ self.right.T
        return after


class Factors:
    """The factors of all matrices of a plan, in a folder: made where they lack, else read."""

    def __init__(self, folder: Path, tasks: tuple[RefineTask, ...], directions: int) -> None:
        self._folder = folder
        self._tasks = tasks
        self._directions = directions
        self._held: dict[str, Factor] = {}
        self._sources: dict[str, tuple[Rows, Rows]] = {}

    def make(self, on_done: Callable[[int, int], None] | None = None) -> None:
        """Decompose what has no file yet; ``on_done`` hears how many of how many are there.

        Raises SpectrumError, naming the tensor, InterruptedRunError where the disk is full.
        """
        self._folder.mkdir(exist_ok=True)
        with called_apart(min(task.rows, task.columns) for task in self._tasks) as call:
            for done, task in enumerate(self._tasks, start=1):
                if self._read(task) is None:
                    call(self._make, task)
                if on_done is not None:
                    on_done(done, len(self._tasks))

    def hold(self) -> None:
        """Keep factors and weights of all matrices in memory: for models that are small."""
        for task in self._tasks:
            self._held[task.key] = self._factor(task)
            self._sources[task.key] = tuple(  # type: ignore[assignment]
                StoredMatrix(rows[0 : rows.shape[0]], rows.dtype) for rows in _sources(task)
            )

    def weights(self, candidate: Candidate) -> Iterator[tuple[RefineTask, Raw]]:
        """Each matrix of a candidate, (m, n), rounded to the dtype of the output, raw.

        Raises SpectrumError where a value overflows that dtype.
        """
        for task in self._tasks:
            base, instruct = self._sources.get(task.key) or _sources(task)
            weight = self._factor(task).weight(
                base, instruct, candidate.edges, candidate.gains[task.name]
            )
            dtype = TORCH_NAMES[task.target.dtype]
            raw = narrow(weight, dtype)
            if not np.isfinite(widen(raw, dtype, np.float64)).all():
                raise SpectrumError(
                    f"tensor {task.matrix!r}: the gains of {candidate.label!r} overflow {dtype};"
                    " search a narrower range of gains"
                )
            yield task, raw

    def _path(self, task: RefineTask) -> Path:
        return self._folder / f"{hashlib.sha256(task.matrix.encode()).hexdigest()[:24]}.safetensors"

    def _make(self, task: RefineTask) -> None:
        try:
            factor = Factor.of(*_sources(task), self._directions)
        except SpectrumError as error:
            raise SpectrumError(f"tensor {task.matrix!r}: {error}") from None
        path = self._path(task)
        draft = path.with_suffix(".part")
        arrays = {"left": factor.left, "right": factor.right}
        try:
            save_file(
                {name: np.ascontiguousarray(array) for name, array in arrays.items()},
                draft,
                {"matrix": task.matrix, "directions": str(self._directions)},
            )
            draft.replace(path)
        except (OSError, SafetensorError) as error:
            draft.unlink(missing_ok=True)
            raise InterruptedRunError(
                f"{path}: cannot be written ({error}); free some space and run the same command"
                " again"
            ) from None

    def _factor(self, task: RefineTask) -> Factor:
        found = self._held.get(task.key) or self._read(task)
        if found is None:
            raise CheckpointError(
                f"{self._path(task)}: the factors of {task.matrix!r} are gone or broken; run the"
                " same command again, which makes them anew"
            )
        return found

    def _read(self, task: RefineTask) -> Factor | None:
        """A file that is whole and of this matrix, else None: it is made again."""
        wanted = {"matrix": task.matrix, "directions": str(self._directions)}
        try:
            with safe_open(self._path(task), framework="numpy") as file:
                if file.metadata() != wanted:
                    return None
                return Factor(file.get_tensor("left"), file.get_tensor("right"))
        except (OSError, SafetensorError):
            return None


def _sources(task: RefineTask) -> tuple[Rows, Rows]:
    base, instruct = (
        rows_of(place, (task.rows, task.columns)) for place in (task.base, task.instruct)
    )
    return base, instruct
