"""Refined weights from a solved delta, block of rows by block of rows.

With gains ``g`` over the singular directions, cut into blocks, a refined weight is

    W_base + g_0 delta + sum_b P_b,   P_b = delta V_b diag(g_b - g_0) V_b^T   (wide: U_b ... U_b^T
    delta),

with a reference gain ``g_0`` for which most directions need no vectors (``blocks``); it is
``W_instruct`` that is added to when that is 1. All methods of a pass share the blocks, and where
their gains are equal within one, its projection: each then adds a scaled subtraction and a
rounding. Gains all 1, or all 0, copy the source: no arithmetic touches it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from timberkit.dtypes import Matrix, Raw, narrow, raw_dtype, widen
from timberkit.errors import InputError, SpectrumError
from timberkit.spectral.delta import Delta, PairDelta, Rows, culprit, norm, row_blocks
from timberkit.spectral.ladder import Solved
from timberkit.spectral.noise import NamedNoise

CACHE_ELEMENTS = 1 << 15
"""Elements blended at a time: a dozen arrays of float64 stay in the cache; three times quicker."""


class Sink(Protocol):
    """Where a refined weight goes, by blocks of rows, raw: into memory, or a part of a file."""

    def __setitem__(self, rows: slice, values: Raw, /) -> None: ...


@dataclass(slots=True)
class Written:
    """Of one method's weight: norm of its rounding error, number of elements unlike Instruct's."""

    rounding: float = 0.0
    changed: int = 0


@dataclass(slots=True)
class Norms:
    """Shape and Frobenius norms of a pair that is read without a decomposition."""

    shape: tuple[int, int]
    delta_norm: float = 0.0
    instruct_norm: float = 0.0


def filtered(
    base: Rows,
    instruct: Rows,
    delta: PairDelta,
    solved: Solved,
    chosen: Sequence[int],
    sinks: Sequence[Sink],
    dtype: str,
) -> list[Written]:
    """Write the weights of all methods ``chosen`` of a solve, by their places in its blocks.

    Raises InputError where a value overflows ``dtype``. Cost: ``4 m n k`` flops for the ``k``
    directions that are projected, ``2 m n k`` more for each method whose gains differ among those
    of one block, and a few passes over a block for each method.
    """
    project = _Projector(delta, solved)
    written = [Written() for _ in chosen]
    for rows in row_blocks(delta.shape):
        second = widen(instruct[rows], instruct.dtype, solved.working)
        first = None  # read for methods whose reference is not Instruct as it is
        projections = project(rows)
        for place, sink, result in zip(chosen, sinks, written, strict=True):
            gain = solved.reference[place]
            value = second
            if gain != 1.0:
                if first is None:
                    first = widen(base[rows], base.dtype, solved.working)
                value = first + (second - first) * gain
            for term, projection in zip(project.terms, projections, strict=True):
                if place in term.factors:
                    value = projection * (term.factors[place] * delta.scale) + value
            sink[rows] = rounded(value, second, result, dtype)
    return written


def blended(
    base: Rows, instruct: Rows, gains: Sequence[float], sinks: Sequence[Sink], dtype: str
) -> tuple[list[Written], Norms]:
    """Write ``base + mu * (instruct - base)`` for each gain mu; a copy of the source at 1 and 0.

    In float64: with a decimal mu such as 0.9 exact rounding ties are frequent on the grid of 16-bit
    weights, and float32 would break them at random. Raises SpectrumError for NaN or Inf, InputError
    where a value overflows ``dtype``.
    """
    written, norms = [Written() for _ in gains], Norms(instruct.shape)
    for rows in row_blocks(instruct.shape):
        first, second = base[rows], instruct[rows]
        copies = [mu == 1.0 and instruct.dtype == dtype for mu in gains]
        blocks = [
            second if copy else np.empty(second.shape, dtype=raw_dtype(dtype)) for copy in copies
        ]
        for part in row_blocks((len(second), second.shape[1]), CACHE_ELEMENTS):
            start = widen(first[part], base.dtype, np.float64)
            end = widen(second[part], instruct.dtype, np.float64)
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is named below
                delta = end - start
            size = norm(delta)
            if not math.isfinite(size):
                raise SpectrumError(culprit(start, end))
            norms.delta_norm = math.hypot(norms.delta_norm, size)
            norms.instruct_norm = math.hypot(norms.instruct_norm, norm(end))
            for mu, block, copy, result in zip(gains, blocks, copies, written, strict=True):
                if not copy:
                    value = end if mu == 1.0 else start if mu == 0.0 else delta * mu + start
                    block[part] = rounded(value, end, result, dtype)
        for block, sink in zip(blocks, sinks, strict=True):
            sink[rows] = block
    return written, norms


def noised(
    instruct: Rows,
    noise: NamedNoise,
    norms: Sequence[float],
    sinks: Sequence[Sink],
    dtype: str,
) -> list[Written]:
    """Write ``instruct + Z * norm / ||Z||`` for each norm, in float64; one Z for all.

    Raises InputError where a value overflows ``dtype``. Cost: the noise is drawn twice, so that its
    norm is exact; memory of a few blocks.
    """
    unit = noise.norm()
    written = [Written() for _ in norms]
    for rows, values in noise.blocks():
        weight = widen(instruct[rows], instruct.dtype, np.float64)
        for size, sink, result in zip(norms, sinks, written, strict=True):
            value = values * (size / unit) + weight if size else weight  # a zero keeps its sign
            sink[rows] = rounded(value, weight, result, dtype)
    return written


def rounded(value: Matrix, instruct: Matrix, result: Written, dtype: str) -> Raw:
    """A block rounded to ``dtype``, and counted; ``instruct`` is the block in the working dtype.

    Raises InputError where a value overflows.
    """
    raw = narrow(value, dtype)
    back = widen(raw, dtype, np.float32 if value.dtype == np.float32 else np.float64)
    with np.errstate(invalid="ignore"):  # the error of what overflowed is not finite either
        error = norm(back - value)
    if not math.isfinite(error):
        raise InputError(
            f"values overflow {dtype}, expected them to fit; choose bfloat16 or float32"
        )
    result.rounding = math.hypot(result.rounding, error)
    result.changed += int(np.count_nonzero(back != instruct))
    return raw


@dataclass(frozen=True, slots=True)
class _Term:
    """``delta V_b diag(weights) V_b^T`` of one block, and the factor each method adds it with.

    No weights stand for 1 everywhere: a projection that methods share.
    """

    block: int
    weights: Matrix | None
    factors: dict[int, float]


def _terms(solved: Solved) -> Iterator[_Term]:
    for index, block in enumerate(solved.blocks):
        shared = {}
        for place, reference in enumerate(solved.reference):
            level = block.level(place)
            if level is None:
                excess = block.gains[place] - reference
                yield _Term(index, excess.astype(solved.working), {place: 1.0})
            elif level != reference:
                shared[place] = level - reference
        if shared:
            yield _Term(index, None, shared)


class _Projector:
    """The terms of all methods, ``delta V_b diag(weights) V_b^T``, by blocks of rows.

    Vectors in float32 are not quite orthogonal to the leading directions, which are large: what of
    these gets into a projection is taken out again, ``P_b - (delta V_p) (V_p^T V_b) V_b^T``.
    """

    def __init__(self, delta: Delta, solved: Solved) -> None:
        self.terms = tuple(_terms(solved))
        self._delta = delta
        self._tall = delta.shape[0] >= delta.shape[1]
        self._dtype = solved.working
        self._blocks = [self._cast(vectors) for vectors in solved.vectors]
        leading = None if solved.leading is None else solved.leading.vectors
        self._overlaps = [
            np.empty((0, block.shape[1]), dtype=self._dtype)
            if leading is None
            else self._cast(leading.T @ vectors)
            for block, vectors in zip(self._blocks, solved.vectors, strict=True)
        ]
        parts = self._blocks if leading is None else [*self._blocks, self._cast(leading)]
        self._stacked = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        self._widths = [block.shape[1] for block in self._blocks]
        self._transposed = [np.ascontiguousarray(block.T) for block in self._blocks]
        self._images = [] if self._tall else self._split(self._image_of_wide())

    def _cast(self, matrix: Matrix) -> Matrix:
        return np.ascontiguousarray(matrix, dtype=self._dtype)

    def _image_of_wide(self) -> Matrix:
        """``delta^T [V | V_p]``, (n, k + p), for a wide delta."""
        image = np.zeros((self._delta.shape[1], self._stacked.shape[1]), dtype=self._dtype)
        for rows in row_blocks(self._delta.shape):
            image += self._delta.rows(rows, self._dtype).T @ self._stacked[rows]
        return image

    def _split(self, image: Matrix) -> list[Matrix]:
        """The image of each block without what the leading directions put into it."""
        edges = np.cumsum([0, *self._widths])
        lead = image[:, edges[-1] :]
        images = [image[:, a:b] for a, b in pairwise(edges)]
        if lead.shape[1] == 0:
            return images
        return [part - lead @ overlap for part, overlap in zip(images, self._overlaps, strict=True)]

    def __call__(self, rows: slice) -> list[Matrix]:
        """(rows, n) for each term."""
        if self._tall:
            images = self._split(self._delta.rows(rows, self._dtype) @ self._stacked)
            return [
                _weighted(images[term.block], term) @ self._transposed[term.block]
                for term in self.terms
            ]
        return [
            _weighted(self._blocks[term.block][rows], term) @ self._images[term.block].T
            for term in self.terms
        ]


def _weighted(columns: Matrix, term: _Term) -> Matrix:
    return columns if term.weights is None else columns * term.weights
