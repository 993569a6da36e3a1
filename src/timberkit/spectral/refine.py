"""One weight: (base, instruct, methods) -> refined weights, as exact as the output dtype can show.

With gains ``g`` over the singular directions, cut into bands of equal gain, a refined weight is

    W_base + sum_b g_b P_b,      P_b = delta V_b V_b^T   (wide: U_b U_b^T delta),

and since ``sum_b P_b = delta`` the widest band needs no vectors: it is taken from the others, from
``W_instruct`` when its gain is 1. All methods of a pass share the bands, each adds a scaled
subtraction and a rounding. Gains all 1, or all 0, copy the source: no arithmetic touches it.

How precisely the delta is solved for that is decided in ``ladder``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from timberkit.config import AnyVariant, variant_name
from timberkit.errors import InputError, SpectrumError
from timberkit.records import ChangeRecord, MatrixRecord
from timberkit.spectral.decompose import Matrix, decompose
from timberkit.spectral.deflate import Leading
from timberkit.spectral.filters import constant_gain
from timberkit.spectral.ladder import SIXTEEN_BIT, Band, Solved, solve
from timberkit.spectral.rank import (
    effective_rank,
    effective_rank_cut,
    effective_rank_error,
    energy_share,
)

ROW_BLOCK_ELEMENTS = 1 << 18
"""Elements assembled at a time; a megabyte of float32 stays in the cache. Fixed for all runs."""
FLOATING = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True, slots=True)
class Refinement:
    """Refined weights, one for each method in the order given, and what is known of them."""

    weights: tuple[torch.Tensor, ...]
    record: MatrixRecord


def refine_matrix(
    base: torch.Tensor,
    instruct: torch.Tensor,
    variants: Sequence[AnyVariant],
    *,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> Refinement:
    """Refine one weight with several methods: ``W_base + U diag(g(s) * s) V^T`` for each.

    Args:
        base, instruct: (m, n) on the CPU, floating (bfloat16, float16, float32 or float64).
        variants: the methods, at least one.
        dtype: of the results; Instruct's when None. Rounded once, from the working precision.
        device: ``cpu``, or a torch device that takes the eigen-solve.

    Returns:
        The weights, (m, n) each, and a record of spectrum, route, and size of every change. A
        delta of zeros gives copies of Instruct.

    Raises:
        SpectrumError: NaN or Inf in a weight.
        InputError: a result that overflows another ``dtype``.
        ValueError: shapes that differ or are not 2-D, another dtype.

    Cost: ``m n r`` flops for the Gram matrix, ``4/3 r^3`` for its reduction, ``4 m n k`` for the
    projection on the ``k`` directions outside the widest band; memory 4 bytes an element for the
    delta besides inputs and outputs (8 when a weight has 32 bits or more), and two r x r matrices.

    Source: eqs. 1 to 4 of arXiv 2509.23595; the solve is described in the module header.
    """
    _check_arguments(base, instruct, variants)
    out_dtype = instruct.dtype if dtype is None else dtype
    if out_dtype not in FLOATING:
        raise ValueError(f"found {out_dtype} for the output, expected a floating dtype of 16+ bits")
    if out_dtype not in FLOATING:
        raise ValueError(f"found {out_dtype}, expected a floating dtype of 16 bits or more")
    delta, scale = _scaled_delta(base, instruct)
    found: Solved | None = None
    if scale != 0.0 and any(constant_gain(variant) is None for variant in variants):
        exact = partial(_exact_delta, base, instruct, scale)
        found = solve(delta, exact, scale, instruct, variants, out_dtype, device)
    constants = _constant_gains(variants, found, zero=scale == 0.0)
    results = [
        _blend(base, instruct, constant, out_dtype) if constant is not None else None
        for constant in constants
    ]
    for result, variant in zip(results, variants, strict=True):
        if result is not None and found is not None and constant_gain(variant) is None:
            result.kept = found.spectrum.r  # decomposed, and found to keep every direction
    filtered = [i for i, constant in enumerate(constants) if constant is None]
    if filtered:
        assert found is not None  # a gain that varies comes from a spectrum
        assembled = _assemble(base, instruct, scale, found, out_dtype)
        for i, result in zip(filtered, assembled, strict=True):
            results[i] = result
    weights = tuple(result.weight for result in results if result is not None)
    if out_dtype != instruct.dtype:
        _refuse_overflow(weights)
    return Refinement(weights, _record(delta, scale, instruct, variants, found, results))


def spectrum(base: torch.Tensor, instruct: torch.Tensor) -> NDArray[np.float64]:
    """Singular values of ``instruct - base``, descending, (min(m, n),) float64.

    Float64 Gram matrix, values only; errors of about ``1e-8 s_1`` near zero, ``1e-15 s_1`` above.
    Arguments and errors as in ``refine_matrix``. Cost: ``m n r + 4/3 r^3`` flops.
    """
    _check_arguments(base, instruct, [None])
    delta, scale = _scaled_delta(base, instruct)
    if scale == 0.0:
        return np.zeros(min(delta.shape))
    return decompose(delta, "float64").spectrum.singular_values * scale


def _check_arguments(
    base: torch.Tensor, instruct: torch.Tensor, variants: Sequence[object]
) -> None:
    if base.ndim != 2 or base.shape != instruct.shape or 0 in base.shape:
        raise ValueError(
            f"found shapes {tuple(base.shape)} and {tuple(instruct.shape)}, expected two equal, 2-D"
        )
    for weight in (base, instruct):
        if weight.dtype not in FLOATING:
            raise ValueError(f"found {weight.dtype}, expected a floating dtype of 16 bits or more")
    if not variants:
        raise ValueError("name at least one variant")


def _scaled_delta(base: torch.Tensor, instruct: torch.Tensor) -> tuple[Matrix, float]:
    """``(instruct - base) / scale`` and ``scale``, a power of two (0.0 for a delta of zeros).

    The difference of two 16-bit weights fits float32; wider weights need float64. The scale
    (1.0 for ordinary weights) keeps squares of tiny or huge deltas inside float32.
    """
    sixteen = base.dtype in SIXTEEN_BIT and instruct.dtype in SIXTEEN_BIT
    working = torch.float32 if sixteen else torch.float64
    delta = instruct.to(working)
    delta = delta.sub_(base) if delta is not instruct else delta.sub(base)
    largest = float(delta.abs().amax())
    if not np.isfinite(largest):
        culprit = "instruct" if not bool(torch.isfinite(instruct).all()) else "base"
        if bool(torch.isfinite(base).all()) and bool(torch.isfinite(instruct).all()):
            culprit = "delta (the difference overflows)"
        raise SpectrumError(f"{culprit}: found NaN or Inf, expected finite weights")
    if largest == 0.0:
        return delta.numpy(), 0.0
    if 1e-12 < largest < 1e12:
        return delta.numpy(), 1.0
    exponent = int(np.frexp(largest)[1])
    # Two steps: 2^-exponent itself may not be representable.
    delta.mul_(2.0 ** (-exponent // 2)).mul_(2.0 ** (-exponent - (-exponent // 2)))
    return delta.numpy(), float(2.0**exponent)


def _exact_delta(base: torch.Tensor, instruct: torch.Tensor, scale: float, delta: Matrix) -> Matrix:
    """The delta itself where float32 holds it exactly, else in float64.

    16-bit weights whose exponents lie far apart have a difference of more than 24 bits.
    """
    if delta.dtype == np.float64:
        return delta
    wide = np.empty(0)
    for rows in _row_blocks(*delta.shape):
        block = (instruct[rows].to(torch.float64) - base[rows].to(torch.float64)).numpy() / scale
        if wide.size == 0 and not np.array_equal(block, delta[rows]):
            wide = delta.astype(np.float64)  # the rows so far were exact
        if wide.size:
            wide[rows] = block
    return wide if wide.size else delta


def _refuse_overflow(weights: Sequence[torch.Tensor]) -> None:
    if not all(bool(torch.isfinite(weight).all()) for weight in weights):
        dtype = str(weights[0].dtype).removeprefix("torch.")
        raise InputError(
            f"values overflow {dtype}, expected them to fit; choose bfloat16 or float32"
        )


def _constant_gains(
    variants: Sequence[AnyVariant], found: Solved | None, *, zero: bool
) -> list[float | None]:
    """For each method the one gain of all directions, or None where it is a true filter.

    Without a delta every method gives Instruct.
    """
    if zero:
        return [1.0] * len(variants)
    if found is None:
        return [constant_gain(variant) for variant in variants]
    return [gain.constant for gain in found.gains]


@dataclass(slots=True)
class _Result:
    """A refined weight and sums over its elements that ``ChangeRecord`` needs."""

    weight: torch.Tensor
    correction_squared: float = 0.0
    rounding_squared: float = 0.0
    changed: int = 0
    kept: int | None = None

    def put(self, rows: slice, value: torch.Tensor, instruct: torch.Tensor) -> None:
        """Round a block of rows into place; ``instruct`` is the block in the working dtype."""
        rounded = value.to(self.weight.dtype)
        self.weight[rows] = rounded
        self.correction_squared += _squared_norm(value - instruct)
        back = rounded.to(value.dtype)
        self.changed += int(torch.count_nonzero(back != instruct))
        self.rounding_squared += _squared_norm(back - value)  # back may be a view of a source


def _squared_norm(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2


def _row_blocks(rows: int, columns: int) -> list[slice]:
    step = max(1, ROW_BLOCK_ELEMENTS // columns)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _blend(
    base: torch.Tensor, instruct: torch.Tensor, mu: float, out_dtype: torch.dtype
) -> _Result:
    """``base + mu * (instruct - base)``; a copy of the source at 1 and 0.

    In float64: with a decimal mu such as 0.9 exact rounding ties are frequent on the grid of 16-bit
    weights, and float32 would break them at random.
    """
    result = _Result(torch.empty_like(instruct, dtype=out_dtype), kept=None)
    if mu == 1.0 and instruct.dtype == out_dtype:
        result.weight.copy_(instruct)
        return result
    for rows in _row_blocks(*instruct.shape):
        first, second = base[rows].to(torch.float64), instruct[rows].to(torch.float64)
        if mu in (0.0, 1.0):
            value = second if mu == 1.0 else first
        else:
            # Not lerp, not add(alpha): a fused multiply-add would break ties otherwise than NumPy.
            value = (second - first).mul_(mu).add_(first)
        result.put(rows, value, second)
    return result


def _assemble(
    base: torch.Tensor,
    instruct: torch.Tensor,
    scale: float,
    solved: Solved,
    out_dtype: torch.dtype,
) -> list[_Result]:
    """Project on every band but the widest, combine, round, block of rows by block of rows."""
    working, widest = solved.working, solved.widest
    others = [band for band in solved.bands if band is not widest]
    factors = [
        _factors(solved.delta, solved.leading, vectors, working) for vectors in solved.vectors
    ]
    results = [
        _Result(torch.empty_like(instruct, dtype=out_dtype), kept=_kept(solved.bands, i))
        for i in range(len(widest.gains))
    ]
    for rows in _row_blocks(*instruct.shape):
        first, second = base[rows].to(working), instruct[rows].to(working)
        projections = [left[rows] @ right for left, right in factors]
        for i, (result, gain) in enumerate(zip(results, widest.gains, strict=True)):
            value = second.clone() if gain == 1.0 else torch.lerp(first, second, gain)
            for band, projection in zip(others, projections, strict=True):
                # A gain equal to the widest band's is in the reference already.
                if band.gains[i] != gain:
                    value.add_(projection, alpha=(band.gains[i] - gain) * scale)
            result.put(rows, value, second)
    return results


def _kept(bands: Sequence[Band], i: int) -> int:
    return sum(band.width for band in bands if band.gains[i] == 1.0)


def _factors(
    delta: Matrix, leading: Leading | None, vectors: Matrix, working: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """``L (m, k)`` and ``R (k, n)`` with ``L R = P_b``, the delta projected on the vectors.

    Vectors rounded to float32 are not quite orthogonal to the leading directions, which are large:
    what of these got into the projection is taken out again.
    """
    short = torch.from_numpy(np.ascontiguousarray(vectors)).to(working)
    matrix = torch.from_numpy(delta)
    tall = delta.shape[0] >= delta.shape[1]
    if matrix.dtype == working:
        image = matrix @ short if tall else matrix.T @ short
        if leading is not None:
            overlap = torch.from_numpy(leading.vectors).to(working).T @ short
            image.addmm_(torch.from_numpy(leading.images).to(working), overlap, alpha=-1.0)
        return (image, short.T) if tall else (short, image.T)
    # Converted in blocks, so that no second full copy of the delta exists.
    blocks = _row_blocks(*delta.shape)
    if tall:
        return torch.cat([matrix[rows].to(working) @ short for rows in blocks]), short.T
    right = torch.zeros((short.shape[1], delta.shape[1]), dtype=working)
    for rows in blocks:
        right.addmm_(short[rows].T, matrix[rows].to(working))
    return short, right


def _record(
    delta: Matrix,
    scale: float,
    instruct: torch.Tensor,
    variants: Sequence[AnyVariant],
    found: Solved | None,
    results: Sequence[_Result | None],
) -> MatrixRecord:
    rows, columns = delta.shape
    delta_norm = float(np.linalg.norm(delta.reshape(-1))) * scale
    instruct_norm = float(torch.linalg.vector_norm(instruct, dtype=torch.float64))
    changes = tuple(
        ChangeRecord(
            variant=variant_name(variant),
            kept=result.kept,
            correction=_ratio(np.sqrt(result.correction_squared), instruct_norm),
            rounding=_ratio(np.sqrt(result.rounding_squared), np.sqrt(result.correction_squared)),
            changed=result.changed / (rows * columns),
        )
        for variant, result in zip(variants, results, strict=True)
        if result is not None
    )
    record = MatrixRecord(
        rows=rows,
        columns=columns,
        route="zero delta" if scale == 0.0 else "no decomposition",
        delta_norm=delta_norm,
        instruct_norm=instruct_norm,
        changes=changes,
    )
    if found is None:
        return record
    spectrum = found.spectrum
    cut = effective_rank_cut(spectrum.singular_values)
    return replace(
        record,
        route=found.route,
        effective_rank=effective_rank(spectrum.singular_values),
        effective_rank_error=effective_rank_error(spectrum.singular_values, spectrum.errors),
        cut=cut,
        head_energy=energy_share(spectrum.singular_values, cut),
        unique=found.unique,
    )


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None
