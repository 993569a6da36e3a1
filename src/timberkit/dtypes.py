"""Floating weights as they are stored, and as numbers: bfloat16 and the others, in NumPy alone.

Importing torch takes seconds of processor time in every process; refining on a CPU does not need
it. A block of weights is *raw*: an array of what the file holds, ``uint16`` where the dtype is
bfloat16, which NumPy does not know. ``widen`` makes numbers of it, ``narrow`` rounds numbers back,
``ulp_distance`` counts the numbers between two.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Raw: TypeAlias = NDArray[Any]
Matrix: TypeAlias = NDArray[np.floating[Any]]
Working: TypeAlias = type[np.float32] | type[np.float64]

FLOATING = ("bfloat16", "float16", "float32", "float64")
"""Names of the dtypes that weights are refined in, as torch has them."""
SIXTEEN_BIT = ("bfloat16", "float16")
EPSILON = {
    "bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52,
}  # fmt: skip
"""Distance from 1 to the next larger number."""
SMALLEST_NORMAL = {
    "bfloat16": 2.0**-126, "float16": 2.0**-14, "float32": 2.0**-126, "float64": 2.0**-1022,
}  # fmt: skip


def raw_dtype(dtype: str) -> np.dtype[Any]:
    """Element type of a raw block, little-endian as in a file.

    >>> raw_dtype("bfloat16"), raw_dtype("float32")
    (dtype('uint16'), dtype('float32'))
    """
    return np.dtype("<u2" if dtype == "bfloat16" else f"<f{np.dtype(dtype).itemsize}")


def widen(raw: Raw, dtype: str, working: Working) -> Matrix:
    """The numbers that a raw block holds, exactly, in float32 or float64; in memory of their own.

    From 16 bits both are exact, from 64 bits float32 is not. O(elements).

    >>> widen(np.array([0x3FC0], dtype=np.uint16), "bfloat16", np.float32).tolist()
    [1.5]
    """
    with np.errstate(invalid="ignore"):  # a NaN stays one; who must not have it looks for it
        if dtype != "bfloat16":
            return raw.astype(working)
        bits = raw.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32).astype(working, copy=False)


def narrow(values: Matrix, dtype: str) -> Raw:
    """Round to the nearest number of a dtype, ties to even; too large becomes infinite.

    To 16 bits by way of float32, as torch does. Not for NaN. O(elements).

    >>> narrow(np.array([1.5], dtype=np.float32), "bfloat16").tolist() == [0x3FC0]
    True
    """
    with np.errstate(over="ignore", under="ignore"):  # what overflows is infinite, as said
        if dtype not in SIXTEEN_BIT:
            return values.astype(raw_dtype(dtype))
        single = np.ascontiguousarray(values, dtype=np.float32)
        if dtype == "float16":
            return single.astype(np.float16)
    bits = single.view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    return rounded.astype(np.uint16)


def coarser(first: str, second: str) -> str:
    """The one of two dtypes with fewer significant bits.

    >>> coarser("float32", "bfloat16"), coarser("bfloat16", "float16")
    ('bfloat16', 'bfloat16')
    """
    return max(first, second, key=EPSILON.__getitem__)


def ulp_distance(first: Raw, second: Raw, dtype: str) -> NDArray[np.unsignedinteger[Any]]:
    """How many numbers of a dtype lie between two raw blocks of it, element by element.

    ``|o(first) - o(second)|``, where ``o`` numbers what the dtype can hold from the smallest to the
    largest: 1 for neighbours, through subnormals, across zero and from one binade into the next;
    both zeros are number 0, and infinity is the neighbour of the largest number. Both blocks have
    one shape. Returns unsigned integers as wide as the dtype, which hold every distance. A NaN
    counts by its bits, which says nothing: look for it beforehand. O(elements).

    >>> ulp_distance(np.array([0x3F80], np.uint16), np.array([0x3F82], np.uint16), "bfloat16")
    array([2], dtype=uint16)
    >>> ulp_distance(np.float32([-0.0]), np.float32([1e-45]), "float32")
    array([1], dtype=uint32)
    """
    bits = raw_dtype(dtype).itemsize * 8
    unsigned = np.dtype(f"<u{bits // 8}")
    x, y = (np.ascontiguousarray(raw).view(unsigned) for raw in (first, second))
    sign = unsigned.type(1 << (bits - 1))
    size_x, size_y = x & ~sign, y & ~sign
    # Both sizes are below 2^(bits - 1), so their sum fits.
    beside = np.maximum(size_x, size_y) - np.minimum(size_x, size_y)
    apart: NDArray[np.unsignedinteger[Any]]
    apart = np.where((x ^ y) & sign != 0, size_x + size_y, beside)
    return apart
