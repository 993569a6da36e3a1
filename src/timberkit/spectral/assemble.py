"""Refined weights from a solved delta, block of rows by block of rows.

With gains ``g`` over the singular directions, cut into bands of equal gain, a refined weight is

    W_base + sum_b g_b P_b,      P_b = delta V_b V_b^T   (wide: U_b U_b^T delta),

and since ``sum_b P_b = delta`` the widest band needs no vectors: it is taken from the others, from
``W_instruct`` when its gain is 1. All methods of a pass share the bands; each adds a scaled
subtraction and a rounding. Gains all 1, or all 0, copy the source: no arithmetic touches it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from timberkit.dtypes import Matrix, Raw, narrow, raw_dtype, widen
from timberkit.errors import InputError, SpectrumError
from timberkit.spectral.delta import Delta, PairDelta, Rows, culprit, norm, row_blocks
from timberkit.spectral.ladder import Solved

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
    """Write the weights of all methods ``chosen`` of a solve, by their places among its bands.

    Raises InputError where a value overflows ``dtype``. Cost: ``4 m n k`` flops for the ``k``
    directions outside the widest band, a few passes over a block for each method.
    """
    project = _Projector(delta, solved)
    written = [Written() for _ in chosen]
    others = [band for band in solved.bands if band is not solved.widest]
    for rows in row_blocks(delta.shape):
        second = widen(instruct[rows], instruct.dtype, solved.working)
        first = None  # read for methods whose widest band is not kept as it is
        projections = project(rows)
        for place, sink, result in zip(chosen, sinks, written, strict=True):
            gain = solved.widest.gains[place]
            value = second
            if gain != 1.0:
                if first is None:
                    first = widen(base[rows], base.dtype, solved.working)
                value = first + (second - first) * gain
            for band, projection in zip(others, projections, strict=True):
                # A gain equal to the widest band's is in the reference already.
                if band.gains[place] != gain:
                    factor = (band.gains[place] - gain) * delta.scale
                    value = projection * factor + value
            sink[rows] = _rounded(value, second, result, dtype)
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
            if not math.isfinite(float(delta.min())) or not math.isfinite(float(delta.max())):
                raise SpectrumError(culprit(start, end))
            norms.delta_norm = math.hypot(norms.delta_norm, norm(delta))
            norms.instruct_norm = math.hypot(norms.instruct_norm, norm(end))
            for mu, block, copy, result in zip(gains, blocks, copies, written, strict=True):
                if not copy:
                    value = end if mu == 1.0 else start if mu == 0.0 else delta * mu + start
                    block[part] = _rounded(value, end, result, dtype)
        for block, sink in zip(blocks, sinks, strict=True):
            sink[rows] = block
    return written, norms


def _rounded(value: Matrix, instruct: Matrix, result: Written, dtype: str) -> Raw:
    """A block rounded, and counted; ``instruct`` is the block in the working dtype."""
    rounded = narrow(value, dtype)
    back = widen(rounded, dtype, np.float32 if value.dtype == np.float32 else np.float64)
    if not math.isfinite(float(back.min())) or not math.isfinite(float(back.max())):
        raise InputError(
            f"values overflow {dtype}, expected them to fit; choose bfloat16 or float32"
        )
    result.rounding = math.hypot(result.rounding, norm(back - value))
    result.changed += int(np.count_nonzero(back != instruct))
    return rounded


class _Projector:
    """``P_b[rows]`` for every band that has vectors.

    Vectors in float32 are not quite orthogonal to the leading directions, which are large: what of
    these gets into a projection is taken out again, ``P_b - (delta V_p) (V_p^T V_b) V_b^T``.
    """

    def __init__(self, delta: Delta, solved: Solved) -> None:
        self._delta = delta
        self._tall = delta.shape[0] >= delta.shape[1]
        self._dtype = solved.working
        self._bands = [self._cast(vectors) for vectors in solved.vectors]
        leading = None if solved.leading is None else solved.leading.vectors
        self._overlaps = [
            np.empty((0, band.shape[1]), dtype=self._dtype)
            if leading is None
            else self._cast(leading.T @ vectors)
            for band, vectors in zip(self._bands, solved.vectors, strict=True)
        ]
        parts = self._bands if leading is None else [*self._bands, self._cast(leading)]
        self._stacked = np.concatenate(parts, axis=1)
        self._widths = [band.shape[1] for band in self._bands]
        self._transposed = [np.ascontiguousarray(band.T) for band in self._bands]
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
        """The image of each band without what the leading directions put into it."""
        edges = np.cumsum([0, *self._widths])
        lead = image[:, edges[-1] :]
        images = [image[:, a:b] for a, b in pairwise(edges)]
        if lead.shape[1] == 0:
            return images
        return [part - lead @ overlap for part, overlap in zip(images, self._overlaps, strict=True)]

    def __call__(self, rows: slice) -> list[Matrix]:
        """(rows, n) for each band."""
        if self._tall:
            images = self._split(self._delta.rows(rows, self._dtype) @ self._stacked)
            return [image @ band for image, band in zip(images, self._transposed, strict=True)]
        return [band[rows] @ image.T for band, image in zip(self._bands, self._images, strict=True)]
