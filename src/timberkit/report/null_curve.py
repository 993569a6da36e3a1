"""The spectrum that independent noise would show: quantiles of the Marchenko-Pastur law (NumPy).

    curve = null_singular_values(2048, 1024, noise_scale=2e-5, positions=[1, 512, 1024])

The law has a closed density and no closed distribution function; one integral of a smooth function
gives it to ten digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_STEPS = 4096


def null_singular_values(
    rows: int, columns: int, *, noise_scale: float, positions: Sequence[int]
) -> NDArray[np.float64]:
    """Expected singular values of rows x columns noise, at these places of the descending order.

    With ``beta = r / max(rows, columns)``, the squares ``x = s^2 / (noise_scale^2 max)`` have the
    density ``sqrt((b - x)(x - a)) / (2 pi beta x)`` on ``[a, b] = (1 -+ sqrt(beta))^2``; the i-th
    of r values is taken as the quantile ``1 - (i - 1/2) / r``.

    Args:
        rows, columns: of the matrix, at least 1; r is the smaller.
        noise_scale: standard deviation of an element, >= 0.
        positions: (p,), places in 1 to r, 1 for the largest.

    Returns:
        (p,) float64, in the unit of ``noise_scale``; all zero for a scale of zero.

    Raises:
        ValueError: a position outside 1 to r.

    Cost: O(p + 4096). Fluctuations of a finite matrix at the edges are not in it. Source: Marchenko
    and Pastur, Math. USSR Sbornik 1 (1967) 457.

    >>> null_singular_values(400, 100, noise_scale=1.0, positions=[1, 100]).round()
    array([30., 10.])
    """
    r, long = min(rows, columns), max(rows, columns)
    places = np.asarray(positions, dtype=np.float64)
    if places.size and (places.min() < 1 or places.max() > r):
        raise ValueError(f"positions: found {places.min()} to {places.max()}, expected 1 to {r}")
    squares, share_below = _distribution(r / long)
    found = np.interp(1 - (places - 0.5) / r, share_below, squares)
    return noise_scale * math.sqrt(long) * np.sqrt(found)


def _distribution(beta: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(x, share of the law below x); x = centre - width cos(t) takes out the density's root."""
    centre, width = 1 + beta, 2 * math.sqrt(beta)
    angle = np.linspace(0.0, math.pi, _STEPS + 1)
    x = centre - width * np.cos(angle)
    middle = (angle[1:] + angle[:-1]) / 2
    # At beta = 1 the density grows without bound at x = 0; midpoints never touch it.
    density = (width * np.sin(middle)) ** 2 / (centre - width * np.cos(middle))
    below = np.concatenate([[0.0], np.cumsum(density)])
    return np.maximum(x, 0.0), below / below[-1]
