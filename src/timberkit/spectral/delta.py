"""The delta of a pair, ``(instruct - base) / scale``: held in memory, or made block by block.

What a solve needs of a delta is only its blocks along the long side. A wide delta, and one of
usual size, is computed once and held (float32 for 16-bit weights); a tall one beyond
``HELD_ELEMENTS``, an embedding, is never whole in memory: each pass reads its rows again.

Float64 blocks are always made from the weights themselves: the difference of two 16-bit weights
whose exponents lie far apart does not fit float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from timberkit.dtypes import SIXTEEN_BIT, Matrix, Raw, Working, widen
from timberkit.errors import SpectrumError

HELD_ELEMENTS = 1 << 26
"""A tall delta with more elements (256 MiB of float32) is not held. Fixed for all runs."""
ROW_BLOCK_ELEMENTS = 1 << 19
"""Elements handled at a time; two megabytes of float32 stay in the cache. Fixed for all runs."""
TINY_SQUARES = 1e-20
"""Sums of squares below this may have lost elements to underflow in float32."""


class Rows(Protocol):
    """A stored matrix of which blocks of rows can be had: in memory, or in a file."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    @property
    def dtype(self) -> str:
        """One of ``dtypes.FLOATING``."""
        ...

    def __getitem__(self, rows: slice, /) -> Raw:
        """A block of rows, raw (see ``dtypes``)."""
        ...


class Delta(Protocol):
    """An m x n matrix, r = min(m, n), whose blocks along the long side can be had."""

    @property
    def shape(self) -> tuple[int, int]:
        """m and n."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the blocks that cost nothing: float32 or float64."""
        ...

    def whole(self, dtype: Working) -> Matrix:
        """All of it, (m, n)."""
        ...

    def rows(self, part: slice, dtype: Working) -> Matrix:
        """A block of rows, (part, n); a view where possible, not to be written to."""
        ...


class HeldMatrix:
    """A matrix in memory as a ``Delta``."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix

    @property
    def shape(self) -> tuple[int, int]:
        """See ``Delta``."""
        rows, columns = self._matrix.shape
        return rows, columns

    @property
    def dtype(self) -> np.dtype[Any]:
        """See ``Delta``."""
        return self._matrix.dtype

    def whole(self, dtype: Working) -> Matrix:
        """See ``Delta``."""
        return np.ascontiguousarray(self._matrix, dtype=dtype)

    def rows(self, part: slice, dtype: Working) -> Matrix:
        """See ``Delta``."""
        return np.ascontiguousarray(self._matrix[part], dtype=dtype)


class PairDelta:
    """``(instruct - base) / scale`` with ``scale`` a power of two, 0.0 for a delta of zeros.

    For 16-bit weights ``dtype`` is float32: their difference is exact there while their exponents
    lie within 16 bits of each other, else rounded to half a unit of float32. The scale is 1 for the
    usual magnitudes and keeps the squares of tiny or huge deltas inside float32.

    Raises SpectrumError for NaN or Inf in a weight. Cost: one pass over both weights; memory
    4 bytes an element where it is held, 8 for weights of 32 bits and more.
    """

    def __init__(self, base: Rows, instruct: Rows) -> None:
        self._base, self._instruct = base, instruct
        self.shape = instruct.shape
        rows, columns = self.shape
        narrow = base.dtype in SIXTEEN_BIT and instruct.dtype in SIXTEEN_BIT
        self._working: Working = np.float32 if narrow else np.float64
        self.dtype: np.dtype[Any] = np.dtype(self._working)
        self.scale = 1.0
        self._held: Matrix | None = None
        self._exact: Matrix | None = None
        if rows < columns or rows * columns <= HELD_ELEMENTS:
            self._held = np.empty(self.shape, dtype=self.dtype)
        largest = self._first_pass()
        if largest == 0.0:
            self.scale = 0.0
        elif not 1e-12 < largest < 1e12:
            self.scale = math.ldexp(1.0, min(math.frexp(largest)[1], 1023))
            if self._held is not None:
                self._unscale(self._held)

    def _first_pass(self) -> float:
        """Largest magnitude; fills what is held, and the norm of Instruct."""
        largest, self.instruct_norm = 0.0, 0.0
        for part in row_blocks(self.shape):
            block = self._instruct_block(part, self._working)
            self.instruct_norm = math.hypot(self.instruct_norm, norm(block))
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is named below
                np.subtract(block, self._base_block(part, self._working), out=block)
            if self._held is not None:
                self._held[part] = block
            low, high = float(block.min()), float(block.max())
            if not math.isfinite(low) or not math.isfinite(high):
                raise SpectrumError(
                    culprit(
                        self._base_block(part, np.float64), self._instruct_block(part, np.float64)
                    )
                )
            largest = max(largest, -low, high)
        return largest

    def whole(self, dtype: Working) -> Matrix:
        """See ``Delta``. In float64 kept for the next call."""
        if self._held is not None and self._held.dtype == dtype:
            return self._held
        if self._exact is None:
            self._exact = np.concatenate(
                [self._computed(part, np.float64) for part in row_blocks(self.shape)]
            )
        return self._exact.astype(dtype, copy=False)

    def rows(self, part: slice, dtype: Working) -> Matrix:
        """See ``Delta``."""
        if self._held is not None and self._held.dtype == dtype:
            return self._held[part]
        if self._exact is not None and self._exact.dtype == dtype:
            return self._exact[part]
        return self._computed(part, dtype)

    def _computed(self, part: slice, working: Working) -> Matrix:
        # Of weights of 32 bits and more in float64 first, whatever is asked for.
        exact: Working = np.float64 if self._working is np.float64 else working
        block = self._instruct_block(part, exact)
        np.subtract(block, self._base_block(part, exact), out=block)
        if self.scale != 1.0:
            self._unscale(block)
        return block.astype(working, copy=False)

    def _instruct_block(self, part: slice, working: Working) -> Matrix:
        return widen(self._instruct[part], self._instruct.dtype, working)

    def _base_block(self, part: slice, working: Working) -> Matrix:
        return widen(self._base[part], self._base.dtype, working)

    def _unscale(self, block: Matrix) -> None:
        exponent = int(np.log2(self.scale)) if self.scale else 0
        # Two steps: 2^-exponent itself may not be representable.
        block *= 2.0 ** (-exponent // 2)
        block *= 2.0 ** (-exponent - (-exponent // 2))


def culprit(base: Matrix, instruct: Matrix) -> str:
    """Say which of two blocks, or their difference, holds NaN or Inf."""
    finite = [bool(np.isfinite(weight).all()) for weight in (base, instruct)]
    found = "delta (the difference overflows)"
    if not all(finite):
        found = "base" if finite[1] else "instruct"
    return f"{found}: found NaN or Inf, expected finite weights"


def row_blocks(shape: tuple[int, int], elements: int | None = None) -> list[slice]:
    """Blocks of rows of about so many elements, ``ROW_BLOCK_ELEMENTS`` when None."""
    rows, columns = shape
    step = max(1, (ROW_BLOCK_ELEMENTS if elements is None else elements) // columns)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def as_delta(matrix: Delta | Matrix) -> Delta:
    """A matrix in memory as a ``Delta``; a ``Delta`` as it is."""
    return HeldMatrix(matrix) if isinstance(matrix, np.ndarray) else matrix


def long_blocks(delta: Delta, elements: int, dtype: Working) -> Iterator[tuple[slice, Matrix]]:
    """Blocks of a delta along its long side, of about so many elements: of rows if it is tall.

    Views where a delta of that dtype is held.
    """
    rows, columns = delta.shape
    step = max(1, elements // min(rows, columns))
    if rows >= columns:
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            yield part, delta.rows(part, dtype)
    else:
        matrix = delta.whole(dtype)
        for start in range(0, columns, step):
            part = slice(start, min(start + step, columns))
            yield part, matrix[:, part]


def norm(values: Matrix) -> float:
    """Frobenius norm of a block, summed in its own dtype; of the extremes too, where squares fail.

    Not finite where the values are not.
    """
    flat = values.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = float(np.dot(flat, flat))
    if TINY_SQUARES < squares < math.inf:
        return math.sqrt(squares)
    largest = float(np.abs(flat).max()) if flat.size else 0.0
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    return largest * float(np.linalg.norm(flat.astype(np.float64) / largest))
