"""The two discrete distributions behind all of this, with every digit: NumPy only.

Probabilities are products of the ratios of neighbours, taken from the mode outwards (all factors
are then at most 1) and divided by their sum. Nothing overflows and nothing is subtracted: tails
keep their relative accuracy up to n = 10,000 and beyond, which sums of log-gammas do not.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray


def binomial(n: int, p: float) -> NDArray[np.float64]:
    """Chances of 0 … n successes among n, each with chance p in [0, 1]: (n + 1,). O(n).

    >>> binomial(2, 0.5).round(12).tolist()
    [0.25, 0.5, 0.25]
    """
    if p in (0.0, 1.0):
        return np.asarray(np.arange(n + 1) == n * p, dtype=np.float64)
    j = np.arange(n, dtype=np.float64)
    return _from_ratios((n - j) / (j + 1) * (p / (1 - p)))


def hypergeometric(n: int, c: int, k: int) -> NDArray[np.float64]:
    """Chances of 0 … k right ones among k drawn of n, c of which are right: (k + 1,).

    0 <= c <= n and 0 <= k <= n. O(k).

    >>> hypergeometric(4, 2, 2).round(12).tolist()
    [0.166666666667, 0.666666666667, 0.166666666667]
    """
    low, high = max(0, k - (n - c)), min(k, c)
    j = np.arange(low, high, dtype=np.float64)
    chances = np.zeros(k + 1)
    chances[low : high + 1] = _from_ratios((c - j) * (k - j) / ((j + 1) * (n - c - k + j + 1)))
    return chances


def sum_of_binomials(
    n: NDArray[np.int64], p: NDArray[np.float64]
) -> tuple[int, NDArray[np.float64]]:
    """Chances of the sums of independent Binomial(n_i, p_i), as (first sum, chances from there on).

    The Fourier transform of the characteristic function, over a window of ten standard deviations
    and 40 counts on either side of the mean, outside of which less than 1e-15 lies. Absolute error
    about 1e-17 * sum n, so smaller chances are noise (of either sign). O(problems * window).
    Source: Hong 2013, Comput. Stat. Data Anal. 59.

    >>> start, chances = sum_of_binomials(np.array([1, 1]), np.array([0.5, 1.0]))
    >>> start, chances.round(12).tolist()
    (0, [0.0, 0.5, 0.5])
    """
    reach = ceil(10 * float((n * p * (1 - p)).sum()) ** 0.5) + 40
    middle = round(float(n @ p))
    start, end = max(0, middle - reach), min(int(n.sum()), middle + reach)
    length = end - start + 1
    wave = np.exp(2j * np.pi * np.arange(length // 2 + 1) / length)
    transform = wave**-start
    for rollouts, chance in zip(n.tolist(), p.tolist(), strict=True):
        transform *= (1 - chance + chance * wave) ** rollouts
    return start, np.asarray(np.fft.hfft(transform, length) / length)


def _from_ratios(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chances whose neighbours stand in these (falling) ratios, one more than there are ratios."""
    mode = int(np.count_nonzero(ratios > 1))
    up = np.cumprod(ratios[mode:])
    down = np.cumprod(1.0 / ratios[:mode][::-1])[::-1]
    weights = np.concatenate([down, [1.0], up])
    return np.asarray(weights / weights.sum())
