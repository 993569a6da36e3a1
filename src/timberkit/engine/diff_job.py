"""Two stored tensors held against each other, block by block: how far they are apart.

Floating dtypes are compared as numbers, anything else (integers, FP8 and packed weights, masks) by
its bytes. Memory is that of a block, whatever the tensor's size. Parts of a tensor add up
(``Distance.plus``) to what the whole would give, up to the rounding of sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timberkit.checkpoint.layout import DTYPE_BITS, FLOAT_DTYPES
from timberkit.checkpoint.reader import TORCH_NAMES, read_range
from timberkit.dtypes import Matrix, Raw, coarser, narrow, raw_dtype, ulp_distance, widen
from timberkit.engine.tasks import CompareTask, Place

READ_ELEMENTS = 1 << 19
"""Elements read at a time; one comparison of their bits is enough where nothing differs."""
BLOCK_ELEMENTS = 1 << 14
"""Elements compared at a time: three times as fast as more of them, whose float64 copies the
allocator would fetch from the kernel and give back each time."""


@dataclass(frozen=True, slots=True)
class Distance:
    """How far two blocks A and B of as many elements are apart.

    Attributes:
        elements: compared; bytes, where a dtype packs several elements into one.
        differing: elements of other value. Zeros of either sign are equal, so are NaNs of any bits;
            a NaN differs from every number. Without ``numeric`` other bits are another value.
        other_bits: elements of equal value, but of other bits: signs of zeros, bits of NaNs.
        not_finite: of ``differing``, those where A or B is NaN, infinite, or too large for the
            coarser of two dtypes. No size below counts them.
        measured: elements that are finite numbers in both.
        largest, total: of ``|A - B|`` over the measured elements.
        norm, norm_a: Frobenius norms of ``A - B`` and of A over the measured elements.
        ulps: largest distance of two measured elements in units in the last place of the coarser
            dtype, after rounding to it (``dtypes.ulp_distance``).
        over_one_ulp: measured elements further apart than one such unit, which rounding explains.
        numeric: whether sizes mean anything: both dtypes are plain floats.
    """

    elements: int = 0
    differing: int = 0
    other_bits: int = 0
    not_finite: int = 0
    measured: int = 0
    largest: float = 0.0
    total: float = 0.0
    norm: float = 0.0
    norm_a: float = 0.0
    ulps: int = 0
    over_one_ulp: int = 0
    numeric: bool = True

    @property
    def mean(self) -> float:
        """Mean of ``|A - B|`` over the measured elements, 0 where there are none."""
        return self.total / self.measured if self.measured else 0.0

    @property
    def relative(self) -> float:
        """``||A - B|| / ||A||``: 0 where nothing differs, infinite for a difference from zero."""
        if self.norm == 0.0:
            return 0.0
        return self.norm / self.norm_a if self.norm_a else math.inf

    def plus(self, other: Distance) -> Distance:
        """Of both blocks together."""
        return Distance(
            elements=self.elements + other.elements,
            differing=self.differing + other.differing,
            other_bits=self.other_bits + other.other_bits,
            not_finite=self.not_finite + other.not_finite,
            measured=self.measured + other.measured,
            largest=max(self.largest, other.largest),
            total=self.total + other.total,
            norm=math.hypot(self.norm, other.norm),
            norm_a=math.hypot(self.norm_a, other.norm_a),
            ulps=max(self.ulps, other.ulps),
            over_one_ulp=self.over_one_ulp + other.over_one_ulp,
            numeric=self.numeric and other.numeric,
        )


def compare_task(task: CompareTask) -> Distance:
    """Read both places of a task block by block and compare them.

    Raises CheckpointError when a file cannot be read, or ends early. Cost: both places once.
    """
    dtypes = task.first.dtype, task.second.dtype
    numeric = set(dtypes) <= FLOAT_DTYPES
    found = Distance(numeric=numeric)
    for first, second in zip(_blocks(task.first), _blocks(task.second), strict=True):
        if numeric:
            names = TORCH_NAMES[dtypes[0]], TORCH_NAMES[dtypes[1]]
            x, y = (
                np.frombuffer(first, raw_dtype(names[0])),
                np.frombuffer(second, raw_dtype(names[1])),
            )
            found = found.plus(compare_numbers(x, y, *names))
        else:
            found = found.plus(_compare_bytes(first, second, dtypes[0]))
    return found


def _blocks(place: Place) -> Iterator[bytearray]:
    """The bytes of a place in blocks of as many elements, whatever the dtype."""
    step = READ_ELEMENTS * DTYPE_BITS[place.dtype] // 8
    for start in range(0, place.size_bytes, step):
        size = min(step, place.size_bytes - start)
        yield read_range(Path(place.path), place.start_byte + start, size)


def _compare_bytes(first: bytearray, second: bytearray, dtype: str) -> Distance:
    bits = DTYPE_BITS[dtype]
    element = np.dtype("u1" if bits % 8 else f"<u{bits // 8}")
    x, y = np.frombuffer(first, element), np.frombuffer(second, element)
    return Distance(elements=x.size, differing=int(np.count_nonzero(x != y)), numeric=False)


def compare_numbers(first: Raw, second: Raw, dtype: str, other_dtype: str) -> Distance:
    """Compare two raw vectors of one length, of the dtypes named (each of ``dtypes.FLOATING``).

    See ``Distance`` for what is found and for zeros, NaN and infinity. Differences and norms are
    taken in float64. O(elements).
    """
    if dtype == other_dtype and np.array_equal(_bits(first), _bits(second)):
        return _equal(widen(first, dtype, np.float64))
    found = Distance()
    for start in range(0, first.size, BLOCK_ELEMENTS):
        block = slice(start, start + BLOCK_ELEMENTS)
        found = found.plus(_compare_block(first[block], second[block], dtype, other_dtype))
    return found


def _compare_block(first: Raw, second: Raw, dtype: str, other_dtype: str) -> Distance:
    same_dtype = dtype == other_dtype
    a, b = widen(first, dtype, np.float64), widen(second, other_dtype, np.float64)
    if same_dtype and _all_finite(a) and _all_finite(b):
        apart = ulp_distance(first, second, dtype)
        unequal = int(np.count_nonzero(_bits(first) != _bits(second)))
        differing = int(np.count_nonzero(apart))
        return _sizes(a, b, apart, a.size, differing, unequal - differing)
    differs = (a != b) & ~(np.isnan(a) & np.isnan(b))
    if same_dtype:
        other_bits = (_bits(first) != _bits(second)) & ~differs
    else:
        other_bits = (a == 0.0) & (b == 0.0) & (np.signbit(a) != np.signbit(b))
    coarse = coarser(dtype, other_dtype)
    rounded = _rounded(first, dtype, a, coarse), _rounded(second, other_dtype, b, coarse)
    finite = np.isfinite(widen(rounded[0], coarse, np.float64))
    finite &= np.isfinite(widen(rounded[1], coarse, np.float64))
    return replace(
        _sizes(
            np.where(finite, a, 0.0),
            np.where(finite, b, 0.0),
            np.where(finite, ulp_distance(*rounded, coarse), 0),
            int(np.count_nonzero(finite)),
            int(np.count_nonzero(differs)),
            int(np.count_nonzero(other_bits)),
        ),
        not_finite=int(np.count_nonzero(differs & ~finite)),
    )


def _sizes(
    a: Matrix,
    b: Matrix,
    apart: NDArray[np.unsignedinteger[Any]],
    measured: int,
    differing: int,
    other_bits: int,
) -> Distance:
    """The sizes of two blocks of finite numbers; ``b`` is used up."""
    norm_a = _norm(a)
    with np.errstate(over="ignore"):  # beyond float64 a difference is infinite
        gap = np.abs(np.subtract(a, b, out=b), out=b)
        total = float(gap.sum())
    return Distance(
        elements=a.size,
        differing=differing,
        other_bits=other_bits,
        measured=measured,
        largest=float(gap.max(initial=0.0)),
        total=total,
        norm=_norm(gap),
        norm_a=norm_a,
        ulps=int(apart.max(initial=0)),
        over_one_ulp=int(np.count_nonzero(apart > 1)),
    )


def _equal(values: Matrix) -> Distance:
    """Of a block whose bits are those of the other."""
    finite = np.isfinite(values)
    measured = int(np.count_nonzero(finite))
    if measured < values.size:
        values = np.where(finite, values, 0.0)
    return Distance(elements=values.size, measured=measured, norm_a=_norm(values))


def _all_finite(values: Matrix) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(np.dot(values, values)):
            return True
    return bool(np.isfinite(values).all())


def _bits(raw: Raw) -> NDArray[Any]:
    return raw.view(f"<u{raw.dtype.itemsize}")


def _rounded(raw: Raw, dtype: str, values: Matrix, coarse: str) -> Raw:
    """The block in the coarser dtype; a NaN, which ``narrow`` does not take, as infinity."""
    if dtype == coarse:
        return raw
    return narrow(np.where(np.isnan(values), np.inf, values), coarse)


def _norm(values: Matrix) -> float:
    """Euclidean norm of finite numbers, also where their squares are too large or too small."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares = float(np.dot(values, values))
        if 1e-200 < squares < 1e200:
            return math.sqrt(squares)
        largest = float(np.max(np.abs(values), initial=0.0))
        if largest == 0.0 or math.isinf(largest):
            return largest
        return largest * math.sqrt(float(np.square(values / largest).sum()))
