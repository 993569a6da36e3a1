"""What independent noise of a shape would show: the Marchenko-Pastur law of singular values.

For an m x n matrix of independent noise of standard deviation ``sigma``, with ``c^2 = min / max``
of the sides and ``N = max``, the singular values fill, as the sides grow,

    s = sigma sqrt(N y),   y = 1 + c^2 + 2 c cos(theta),   0 <= theta <= pi

with the density ``2 sin(theta)^2 / (pi y)`` in ``theta``: the largest stand at ``theta = 0``.
In ``theta`` the number and the energy above a value have closed forms, and what has none (the
effective rank) is a smooth integral. The sides of a real matrix are finite: its effective rank
lies below the limit by about 0.3 directions at ``c = 1`` and 0.1 at ``c^2 = 1/2``.

    >>> round(noise_null(4096, 4096).ratio, 4), round(noise_null(2048, 4096).ratio, 4)
    (0.805, 0.9261)

Source: Marchenko & Pastur 1967; Johnstone, Annals of Statistics 29 (2001), for the largest value.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timberkit.measurements import BulkMeasurement, NullMeasurement
from timberkit.spectral.rank import ceil_within_tolerance

NODES = 600
"""Of Gauss and Legendre: the ratio is good to 1e-9, also at c = 1 where the integrand has a kink
in its derivative."""
BISECTIONS = 54
"""Halvings of [0, pi]: the angle of a quantile to the last digits."""
TRACY_WIDOM = 3.2724
"""The value that the law of the largest eigenvalue (Tracy-Widom, real matrices) exceeds once in a
thousand matrices of pure noise."""
VALUE_FLOOR = 1e-7
"""Values below this share of the largest are rounding of the Gram matrix, not spectrum."""


@lru_cache(maxsize=1024)
def noise_null(rows: int, columns: int) -> NullMeasurement:
    """Effective rank over r, and energy after the cut there, of noise of this shape.

    With ``mu = E[sqrt y]`` and ``h = E[sqrt y ln sqrt y]``: ``ratio = mu exp(-h / mu)``. The cut is
    ``K = ceil(ratio r)``, and ``tail_energy`` what the law has in its smallest ``r - K`` of r.

    Args:
        rows, columns: >= 1.

    Returns:
        Both in [0, 1]; a single row or column has ratio 1. Raises ValueError for a side below 1.

    Cost: ``NODES`` evaluations, once for each shape.

    >>> noise_null(1, 512)
    NullMeasurement(ratio=1.0, tail_energy=0.0)
    """
    r, c = _shape(rows, columns)
    if r == 1:
        return NullMeasurement(1.0, 0.0)
    nodes, weights = _quadrature()
    angle = (nodes + 1.0) * (math.pi / 2)
    eigenvalue = 1.0 + c * c + 2.0 * c * np.cos(angle)
    value = np.sqrt(eigenvalue)
    mass = weights * np.square(np.sin(angle)) / eigenvalue
    mean = float((mass * value).sum())
    entropy = float((mass * value * np.log(value)).sum())
    ratio = min(mean * math.exp(-entropy / mean), 1.0)
    cut = min(ceil_within_tolerance(ratio * r, r), r)
    angle_of_cut = _angles_above(np.array([cut / r]), c)
    return NullMeasurement(ratio, max(1.0 - float(_energy_above(angle_of_cut)[0]), 0.0))


def noise_quantiles(rows: int, columns: int, shares: ArrayLike) -> NDArray[np.float64]:
    """Singular values of unit noise of which the given shares lie above.

    Args:
        rows, columns: >= 1.
        shares: any shape, in [0, 1]; 0 is the upper edge of the bulk, 1 the lower.

    Returns:
        As many values, in the unit of the noise's standard deviation.

    Raises:
        ValueError: a side below 1, a share outside [0, 1].

    >>> float(noise_quantiles(100, 100, 0.0)), float(noise_quantiles(100, 100, 1.0))
    (20.0, 0.0)
    """
    _, c = _shape(rows, columns)
    wanted = np.asarray(shares, dtype=np.float64)
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise ValueError("shares: found a value outside [0, 1]")
    angle = _angles_above(wanted, c)
    eigenvalue = np.maximum(1.0 + c * c + 2.0 * c * np.cos(angle), 0.0)
    values: NDArray[np.float64] = np.sqrt(eigenvalue * max(rows, columns))
    return values


def noise_values(rows: int, columns: int) -> NDArray[np.float64]:
    """Typical singular values of unit noise, descending (r,): the quantiles ``(i + 1/2) / r``."""
    r = min(rows, columns)
    return noise_quantiles(rows, columns, (np.arange(r) + 0.5) / r)


def noise_edge(rows: int, columns: int) -> float:
    """Upper edge of the bulk of unit noise, ``sqrt(m) + sqrt(n)``.

    >>> noise_edge(9, 16)
    7.0
    """
    return math.sqrt(rows) + math.sqrt(columns)


def largest_of_noise(rows: int, columns: int) -> float:
    """What the largest singular value of unit noise of this shape exceeds once in a thousand times.

    With ``a, b = sqrt(m - 1/2), sqrt(n - 1/2)``:
    ``sqrt((a + b)^2 + TRACY_WIDOM (a + b) (1/a + 1/b)^(1/3))``.
    """
    a, b = math.sqrt(rows - 0.5), math.sqrt(columns - 0.5)
    return math.sqrt((a + b) ** 2 + TRACY_WIDOM * (a + b) * (1 / a + 1 / b) ** (1 / 3))


def median_of_noise(rows: int, columns: int) -> float:
    """Median singular value of unit noise of this shape. Cost: a bisection."""
    return float(noise_quantiles(rows, columns, 0.5))


def measure_bulk(singular_values: NDArray[np.float64], rows: int, columns: int) -> BulkMeasurement:
    """Where a spectrum leaves the bulk of noise that has the same median.

    ``noise_scale = median(s) / median of unit noise``: robust, because fewer than half of the
    values are spikes. A value counts as outside when noise of this scale reaches it once in a
    thousand matrices (``largest_of_noise``); the scale itself being estimated, a few of a thousand
    small matrices of pure noise (r < 100) show one.

    Args:
        singular_values: (r,), descending, finite, r = min(rows, columns).
        rows, columns: of the matrix.

    Returns:
        All zero for a matrix of zeros. Where half of the values vanish, there is no noise, and
        every value that is not rounding stands outside.
    """
    largest = float(singular_values[0])
    if largest == 0.0:
        return BulkMeasurement(0.0, 0.0, 0, 0.0)
    values = np.where(singular_values > VALUE_FLOOR * largest, singular_values / largest, 0.0)
    scale = float(np.median(values)) / median_of_noise(rows, columns)
    outside = values > scale * largest_of_noise(rows, columns)
    squares = np.square(values)
    return BulkMeasurement(
        noise_scale=scale * largest,
        edge=scale * largest * noise_edge(rows, columns),
        spikes=int(outside.sum()),
        energy_outside=min(float(squares[outside].sum() / squares.sum()), 1.0),
    )


def _shape(rows: int, columns: int) -> tuple[int, float]:
    if rows < 1 or columns < 1:
        raise ValueError(f"found shape ({rows}, {columns}), expected sides of at least 1")
    r = min(rows, columns)
    return r, math.sqrt(r / max(rows, columns))


@lru_cache(maxsize=1)
def _quadrature() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return nodes, weights


def _share_above(angle: NDArray[np.float64], c: float) -> NDArray[np.float64]:
    """``int_0^angle 2 sin^2 / (pi y)``, from the Fourier series of ``1 / |1 + c e^(i t)|^2``.

    Cancels for small c: the error is about ``1e-16 / c^2``.
    """
    sine = c * np.sin(angle)
    phase = np.arctan2(sine, 1.0 + c * np.cos(angle))
    found: NDArray[np.float64] = (angle - sine - (1.0 - c * c) / (c * c) * (sine - phase)) / math.pi
    return found


def _energy_above(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """``int_0^angle 2 sin^2 / pi``: the energy of a value is ``y``, which cancels the density's."""
    found: NDArray[np.float64] = (angle - np.sin(angle) * np.cos(angle)) / math.pi
    return found


def _angles_above(shares: NDArray[np.float64], c: float) -> NDArray[np.float64]:
    """Angles of which the given shares of the law lie above; the share grows with the angle."""
    low, high = np.zeros_like(shares), np.full_like(shares, math.pi)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = _share_above(middle, c) < shares
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    # The ends exactly, whatever rounding says of them.
    angle = np.where(shares <= 0.0, 0.0, np.where(shares >= 1.0, math.pi, (low + high) / 2))
    return angle
