"""One weight measured: (base, instruct) -> spectra, cut, bulk; on request rounding and subspaces.

Values alone take three float64 solves (base, instruct, delta). Each matrix is made when its turn
comes and forgotten after it, so that beside the two weights as stored no more than one of the three
is in memory. The routes with vectors cost more: ``rounding`` refines the weight with Timber at
lambda 0.2, ``subspaces`` takes all eigenvectors of three Gram matrices.

    found = measure_matrix(base, instruct, rounding=True)
    found.delta.ratio, found.null.ratio, found.rounding.error_over_correction
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from timberkit.config import Timber, TruncateEnergy, TruncateRank
from timberkit.dtypes import FLOATING
from timberkit.errors import SpectrumError
from timberkit.measurements import (
    LEADING_COUNTS,
    TRUNCATE_ENERGIES,
    TRUNCATE_RANK_RATIOS,
    BulkMeasurement,
    CutMeasurement,
    NullMeasurement,
    RoundingMeasurement,
    SpectrumMeasurement,
    SubspaceMeasurement,
)
from timberkit.spectral.filters import Spectrum, gains
from timberkit.spectral.null import measure_bulk, noise_null
from timberkit.spectral.rank import effective_rank, effective_rank_cut, energy_share
from timberkit.spectral.refine import refine_matrix
from timberkit.spectral.subspaces import Directions, overlaps, singular_directions
from timberkit.spectral.values import singular_values

VARIANT = Timber(lam=0.2)
"""The correction that is compared with rounding: the paper's default."""
BLOCK_ELEMENTS = 1 << 20
"""Elements converted at a time."""
ROUNDED = 1e-9
"""Share of its norm that a matrix may lose to rounding: less than values of the Gram matrix do."""
SAFE_MAGNITUDES = (1e-120, 1e120)
"""Largest elements outside are scaled by a power of two, so that squares stay in float64."""


@dataclass(frozen=True, slots=True)
class MatrixMeasurement:
    """What the numbers of one weight say; where they come from is added by ``engine``."""

    base: SpectrumMeasurement
    instruct: SpectrumMeasurement
    delta: SpectrumMeasurement
    null: NullMeasurement
    relative_delta: float | None
    cut: CutMeasurement
    bulk: BulkMeasurement
    rounding: RoundingMeasurement | None
    subspaces: SubspaceMeasurement | None


def measure_matrix(
    base: torch.Tensor,
    instruct: torch.Tensor,
    *,
    rounding: bool = False,
    subspaces: bool = False,
    keep_all: bool = False,
    delta_values: NDArray[np.float64] | None = None,
) -> MatrixMeasurement:
    """Measure one weight.

    Args:
        base, instruct: (m, n) on the CPU, of one shape, floating (16 to 64 bits).
        rounding: refine with Timber at lambda 0.2 and compare the correction with rounding to
            Instruct's dtype.
        subspaces: compare leading singular subspaces. Dimensions that exceed the numerical rank of
            either matrix are left out.
        keep_all: keep the singular values of base and instruct too, not the delta's only.
        delta_values: (min(m, n),) descending, of the delta, where they are known exactly.

    Returns:
        A ``MatrixMeasurement``. A delta of zeros has effective rank 0, K = 0 and all its energy in
        the head.

    Raises:
        SpectrumError: NaN or Inf in a weight, or a norm that overflows float64.
        ValueError: shapes that differ or are not 2-D, another dtype.

    Cost: three times ``m n r + 4/3 r^3`` flops in float64; ``rounding`` adds ``refine_matrix``,
    ``subspaces`` about ``27 r^3 + 6 m n r``. Memory: the two weights, one matrix of 4 bytes an
    element (8 where float32 does not hold it) and ``16 r^2`` bytes; with ``subspaces``
    ``48 r^2 + 16 (m + n) K`` bytes.

    Source: eqs. 1 to 4 and table 3 of arXiv 2509.23595; the null as in ``null``.
    """
    _check(base, instruct)
    rows, columns = base.shape
    values = _values(base, instruct) if delta_values is None else delta_values
    base_values, instruct_values, found = None, None, None
    cut = _cut(values)
    if subspaces:
        base_values, instruct_values, found = _compare_subspaces(base, instruct, cut.cut)
    base_spectrum = _spectrum(_values(base) if base_values is None else base_values, keep_all)
    instruct_spectrum = _spectrum(
        _values(instruct) if instruct_values is None else instruct_values, keep_all
    )
    delta = _spectrum(values, keep=True)
    norms = (base_spectrum.norm, instruct_spectrum.norm, delta.norm)
    return MatrixMeasurement(
        base=base_spectrum,
        instruct=instruct_spectrum,
        delta=delta,
        null=noise_null(rows, columns),
        relative_delta=_ratio(delta.norm, base_spectrum.norm),
        cut=cut,
        bulk=measure_bulk(values, rows, columns),
        rounding=_measure_rounding(base, instruct, norms) if rounding else None,
        subspaces=found,
    )


def rounding_noise(weight: torch.Tensor) -> float:
    """Expected norm of the error of rounding to the dtype of a weight, over its own norm.

    An element of magnitude in ``[2^e, 2^(e+1))`` lies on a grid of step ``u = eps 2^e``; rounded
    to it from values spread evenly, its error has the mean square ``u^2 / 12``.

    Args:
        weight: (m, n), floating and finite.

    Returns:
        ``sqrt(sum u^2 / 12) / ||weight||``; 0.0 for a weight of zeros. Cost: two passes.

    >>> f"{rounding_noise(torch.ones(8, 8, dtype=torch.bfloat16)):.5f}"
    '0.00226'
    """
    info = torch.finfo(weight.dtype)
    smallest = float(np.log2(info.tiny))
    largest = _largest(weight)
    if largest == 0.0:
        return 0.0
    squares = noise = 0.0
    for part in _row_blocks(weight):
        block = part.to(torch.float64).abs_()
        # frexp has mantissas in [1/2, 1): the exponent of [2^e, 2^(e+1)) is one more than e.
        exponent = torch.frexp(block).exponent.sub_(1).to(torch.float64)
        exponent.masked_fill_(block == 0, smallest).clamp_(min=smallest)
        noise += float(torch.exp2(2 * (exponent - np.log2(largest))).sum())
        squares += float(torch.square(block / largest).sum())
    return float(info.eps) * float(np.sqrt(noise / 12 / squares))


def _measure_rounding(
    base: torch.Tensor, instruct: torch.Tensor, norms: tuple[float, float, float]
) -> RoundingMeasurement:
    base_norm, instruct_norm, delta_norm = norms
    change = refine_matrix(base, instruct, [VARIANT]).record.changes[0]
    base_noise, instruct_noise = rounding_noise(base), rounding_noise(instruct)
    both = float(np.hypot(base_noise * base_norm, instruct_noise * instruct_norm))
    correction = change.correction or 0.0
    return RoundingMeasurement(
        base_noise=base_noise,
        instruct_noise=instruct_noise,
        delta_noise=_ratio(both, delta_norm),
        correction_over_delta=_ratio(correction * instruct_norm, delta_norm),
        correction_over_weight=correction,
        error_over_correction=change.rounding,
        changed=change.changed,
    )


def _compare_subspaces(
    base: torch.Tensor, instruct: torch.Tensor, cut: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], SubspaceMeasurement]:
    """Values of base and of instruct, and the comparison; two matrices' directions at a time."""
    r = min(base.shape)
    dimensions = [*(count for count in LEADING_COUNTS if count <= r), cut]
    first = _directions(dimensions, base)
    second = _directions(dimensions, base, instruct)
    delta_left = overlaps(second.left, first.left, dimensions)
    delta_right = overlaps(second.right, first.right, dimensions)
    second = _directions(dimensions, instruct)
    measured = SubspaceMeasurement(
        left=overlaps(first.left, second.left, dimensions),
        right=overlaps(first.right, second.right, dimensions),
        delta_left=delta_left,
        delta_right=delta_right,
    )
    return first.singular_values, second.singular_values, measured


def _directions(dimensions: list[int], *weights: torch.Tensor) -> Directions:
    matrix, scale = _working(*weights)
    found = singular_directions(matrix, max(dimensions))
    return Directions(_scaled(found.singular_values, scale), found.left, found.right)


def _values(*weights: torch.Tensor) -> NDArray[np.float64]:
    matrix, scale = _working(*weights)
    return _scaled(singular_values(matrix), scale)


def _scaled(values: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    if not np.isfinite(float(values[0]) * scale):
        raise _beyond_float64()
    return values * scale


def _spectrum(values: NDArray[np.float64], keep: bool) -> SpectrumMeasurement:
    largest = float(values[0])
    share = float(np.linalg.norm(values / largest)) if largest > 0 else 0.0
    norm = share * largest
    if not np.isfinite(norm):
        raise _beyond_float64()
    rank = effective_rank(values)
    return SpectrumMeasurement(
        norm=norm,
        largest=largest,
        effective_rank=rank,
        ratio=rank / values.size,
        stable_rank=share**2,
        singular_values=tuple(values.tolist()) if keep else None,
    )


def _beyond_float64() -> SpectrumError:
    return SpectrumError("found a norm beyond float64, expected weights of a usual size")


def _cut(values: NDArray[np.float64]) -> CutMeasurement:
    cut = effective_rank_cut(values)
    spectrum = Spectrum.exact(values)
    ranks = [gains(TruncateRank(ratio=ratio), spectrum) for ratio in TRUNCATE_RANK_RATIOS]
    energies = [gains(TruncateEnergy(energy=energy), spectrum) for energy in TRUNCATE_ENERGIES]
    largest = float(values[0])
    shares = values / largest if largest > 0 else np.ones_like(values)
    return CutMeasurement(
        cut=cut,
        head_energy=energy_share(values, cut),
        tail_sum=float(shares[cut:].sum() / shares.sum()) if largest > 0 else 0.0,
        truncate_rank=tuple(int((gain.values == 1).sum()) for gain in ranks),
        truncate_energy=tuple(int((gain.values == 1).sum()) for gain in energies),
    )


def _check(base: torch.Tensor, instruct: torch.Tensor) -> None:
    if base.ndim != 2 or base.shape != instruct.shape or 0 in base.shape:
        raise ValueError(
            f"found shapes {tuple(base.shape)} and {tuple(instruct.shape)}, expected two equal, 2-D"
        )
    for name, weight in (("base", base), ("instruct", instruct)):
        if str(weight.dtype).removeprefix("torch.") not in FLOATING:
            raise ValueError(f"found {weight.dtype}, expected a floating dtype of 16 bits or more")
        if not all(bool(torch.isfinite(part).all()) for part in _row_blocks(weight)):
            raise SpectrumError(f"{name}: found NaN or Inf, expected finite weights")


def _working(*weights: torch.Tensor) -> tuple[NDArray[np.floating[Any]], float]:
    """A weight, or the delta of two (base, instruct), over a scale.

    In float32 where rounding to it costs at most ``ROUNDED`` of the norm: always for a 16-bit
    weight, and for the delta of two, of which only a few elements have exponents far apart. Else in
    float64. The scale is a power of two, 1.0 for the usual magnitudes.
    """
    matrix = np.empty(tuple(weights[0].shape), dtype=np.float32)
    start, lost, total = 0, 0.0, 0.0
    for block in _blocks(*weights):
        stop = start + block.shape[0]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            matrix[start:stop] = block
            total += float(np.vdot(block, block))
            block -= matrix[start:stop]
            lost += float(np.vdot(block, block))
        start = stop
    # Not for sums of squares that over- or underflow: a NaN compares as false, too.
    if total == lost == 0.0 and not matrix.any() and not _largest(*weights):
        return matrix, 1.0
    if 1e-60 < total < 1e60 and lost <= ROUNDED**2 * total:
        return matrix, 1.0
    return _in_float64(*weights)


def _in_float64(*weights: torch.Tensor) -> tuple[NDArray[np.float64], float]:
    matrix = np.empty(tuple(weights[0].shape))
    start = 0
    for block in _blocks(*weights):
        matrix[start : start + block.shape[0]] = block
        start += block.shape[0]
    largest = max(float(matrix.max()), -float(matrix.min()))
    if not np.isfinite(largest):
        raise SpectrumError(
            "delta: the difference overflows float64, expected weights of a usual size"
        )
    low, high = SAFE_MAGNITUDES
    if largest == 0.0 or low < largest < high:
        return matrix, 1.0
    # At most 1000, so that the scale and its inverse are both numbers.
    exponent = min(int(np.frexp(largest)[1]), 1000)
    return np.ldexp(matrix, -exponent, out=matrix), float(np.ldexp(1.0, exponent))


def _blocks(*weights: torch.Tensor) -> Iterator[NDArray[np.float64]]:
    """Some rows after the other in float64: of a weight, or of (base, instruct) their difference.

    In memory of their own.
    """
    for parts in zip(*map(_row_blocks, weights), strict=True):
        block = parts[-1].to(torch.float64, copy=True)
        if len(parts) == 2:
            block.sub_(parts[0])
        yield block.numpy()


def _row_blocks(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    step = max(1, BLOCK_ELEMENTS // weight.shape[1])
    for start in range(0, weight.shape[0], step):
        yield weight[start : start + step]


def _largest(*weights: torch.Tensor) -> float:
    return max(float(np.abs(block).max()) for block in _blocks(*weights))


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None
