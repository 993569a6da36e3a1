"""What is noise in a delta, if its bulk is: its level, its edge, and singular values without it.

A delta is taken for a few directions that mean something, plus independent noise of standard
deviation ``sigma``. The level of the noise follows from the median singular value, which a few
directions above the bulk do not move, and the Marchenko-Pastur law (``null``) gives the rest: noise
alone ends at ``sigma (sqrt m + sqrt n)``, and a direction above that edge has been lengthened and
turned by the noise. With ``N = max(m, n)``, ``beta = min / max`` and ``t = s^2 / (sigma^2 N)`` the
gain that brings ``U diag(s) V^T`` closest, in Frobenius norm, to what lies under the noise is

    sqrt((t - (1 + sqrt beta)^2) (t - (1 - sqrt beta)^2)) / t     above the edge, 0 below.

Source: Gavish & Donoho, Optimal Shrinkage of Singular Values, IEEE Trans. Inf. Theory 63 (2017),
eq. 7 and section III-E; level of the noise: Gavish & Donoho, ibid. 60 (2014), section III-B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timberkit.spectral.null import VALUE_FLOOR, median_of_noise, noise_edge


@dataclass(frozen=True, slots=True)
class NoiseLevel:
    """Standard deviation of the noise in a matrix of this shape, and a bound on its error.

    ``value`` is 0.0 where half of the singular values vanish: there is no noise. ``certain`` says
    whether every spectrum within the errors agrees about that.
    """

    shape: tuple[int, int]
    value: float
    error: float
    certain: bool

    @property
    def edge(self) -> float:
        """Upper edge of the bulk."""
        return self.value * noise_edge(*self.shape)


def noise_level(
    values: NDArray[np.float64], errors: NDArray[np.float64], shape: tuple[int, int]
) -> NoiseLevel:
    """``median(s) / median of unit noise``, as ``null.measure_bulk`` has it.

    Args:
        values: (r,), singular values, descending, the first above 0.
        errors: (r,), bounds on their errors.
        shape: of the matrix, r = min(shape).

    Cost: O(r) and a bisection.
    """
    r, unit = values.size, median_of_noise(*shape)
    middle = slice((r - 1) // 2, r // 2 + 1)
    floor, doubt = VALUE_FLOOR * values[0], errors[middle] + VALUE_FLOOR * errors[0]
    exact = not doubt.any()
    certain = exact or bool((np.abs(values[middle] - floor) > doubt).all())
    found = np.where(values[middle] > floor, values[middle], 0.0)
    return NoiseLevel(
        shape, float(found.mean()) / unit, float(errors[middle].max()) / unit, certain
    )


def count_above_edge(
    values: NDArray[np.float64], errors: NDArray[np.float64], level: NoiseLevel
) -> tuple[int, bool]:
    """Number of singular values above the edge of the noise, and whether it is certain.

    Values that are rounding of a Gram matrix (``null.VALUE_FLOOR``) count as none.
    """
    floor = VALUE_FLOOR * values[0]
    edge = max(level.edge, floor)
    doubt = level.error * noise_edge(*level.shape) if level.value else VALUE_FLOOR * errors[0]
    clear = not errors.any() or bool((np.abs(values - edge) > errors + doubt).all())
    return int((values > edge).sum()), level.certain and clear


def shrinkage(values: NDArray[np.float64], level: NoiseLevel) -> NDArray[np.float64]:
    """Optimal gains for Frobenius loss, (r,) in [0, 1]; all 1 without noise. See the header.

    >>> level = NoiseLevel((4, 4), value=0.5, error=0.0, certain=True)
    >>> shrinkage(np.array([4.0, 2.0, 1.0, 0.0]), level).round(3).tolist()
    [0.866, 0.0, 0.0, 0.0]
    """
    if level.value <= 0.0:
        return np.ones_like(values)
    longest = max(level.shape)
    root = math.sqrt(min(level.shape) / longest)
    with np.errstate(over="ignore", invalid="ignore"):  # far above the noise, see below
        squares = np.square(values / level.value) / longest
        upper, lower = squares - (1.0 + root) ** 2, squares - (1.0 - root) ** 2
        gains = np.sqrt(np.maximum(upper, 0.0) / squares) * np.sqrt(
            np.maximum(lower, 0.0) / squares
        )
    # Without a value there is nothing to gain; beyond all numbers the noise does not show.
    return np.where(upper > 0.0, np.where(np.isfinite(squares), gains, 1.0), 0.0)


def shrinkage_error(
    values: NDArray[np.float64],
    errors: NDArray[np.float64],
    level: NoiseLevel,
) -> float:
    """Bound on ``||(g' - g) s||`` over the gains g' of every spectrum and level within the errors.

    Gains rise with the value and fall with the level, so that the two extremes bound them all.
    """
    if not errors.any():
        return 0.0
    found = shrinkage(values, level)
    low, high = (
        shrinkage(
            np.maximum(values + sign * errors, 0.0),
            NoiseLevel(level.shape, max(level.value - sign * level.error, 0.0), 0.0, True),
        )
        if level.value
        else found
        for sign in (-1.0, 1.0)
    )
    return float(np.linalg.norm(np.maximum(high - found, found - low) * values))
