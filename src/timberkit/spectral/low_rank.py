"""A delta that is known as a product of thin factors: decomposed, and refined, as one.

    found = decompose_factors(left, right)          # (m, k) and (k, n): U, s, V^T of left @ right
    refine_factors(base, found, variants, sinks, …)

With ``left = Q_1 R_1`` and ``right^T = Q_2 R_2``, the singular values of the delta are those of the
k x k matrix ``R_1 R_2^T``, and all others are zero. No m x n matrix is decomposed, and no weight of
16 bits stands between the delta and its factors. Effective ranks, cuts and shares are those of the
whole matrix: zeros count among its min(m, n) singular values.

Cost: ``2 k^2 (m + n)`` flops and one k x k SVD; writing takes ``2 m n k`` a method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from timberkit.config import AnyVariant, Noise, variant_name
from timberkit.dtypes import Raw, narrow, widen
from timberkit.errors import SpectrumError
from timberkit.records import ChangeRecord, MatrixRecord
from timberkit.spectral.assemble import Sink, Written, rounded
from timberkit.spectral.delta import Rows, norm, row_blocks
from timberkit.spectral.filters import Gains, Spectrum, gains, in_base_subspace
from timberkit.spectral.noise import NamedNoise
from timberkit.spectral.oracle import singular_value_decomposition
from timberkit.spectral.rank import effective_rank, effective_rank_cut, energy_share
from timberkit.spectral.refine import refine_rows

ROUTE = "low rank"


@dataclass(frozen=True, slots=True)
class Factors:
    """``U diag(s) V^T`` of a delta of shape (m, n): (m, k), (k,) descending, (k, n), float64.

    k is at most min(m, n).
    """

    left: NDArray[np.float64]
    values: NDArray[np.float64]
    right: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the delta."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def singular_values(self) -> NDArray[np.float64]:
        """All min(m, n) of them, zeros at the end."""
        found = np.zeros(min(self.shape))
        found[: self.values.size] = self.values
        return found

    def rows(self, rows: slice) -> NDArray[np.float64]:
        """A block of rows of the delta, (rows, n)."""
        return np.asarray((self.left[rows] * self.values) @ self.right)

    def scaled(self, factors: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """(m, k) and (k, n) whose product is the delta with its directions times ``factors``."""
        return self.left * (factors[: self.values.size] * self.values), self.right


def decompose_factors(left: NDArray[np.float64], right: NDArray[np.float64]) -> Factors:
    """Singular value decomposition of ``left @ right``, (m, k) times (k, n), float64.

    Raises SpectrumError for NaN or Inf. See the module for method and cost.
    """
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise SpectrumError("the factors of its delta hold NaN or Inf, expected finite numbers")
    first, core_left = scipy.linalg.qr(left, mode="economic")
    second, core_right = scipy.linalg.qr(right.T, mode="economic")
    with np.errstate(over="ignore", invalid="ignore"):
        core = core_left @ core_right.T
    if not np.isfinite(core).all():
        raise SpectrumError("the product of the factors of its delta overflows float64")
    u, values, vt = singular_value_decomposition(core)
    return Factors(first @ u, values, vt @ second.T)


@dataclass(frozen=True, slots=True)
class Sum:
    """Base plus a delta of factors as ``Rows`` of float64: the Instruct weight, not rounded."""

    base: Rows
    delta: Factors
    dtype: str = "float64"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.base.shape

    def __getitem__(self, rows: slice) -> Raw:
        first = widen(self.base[rows], self.base.dtype, np.float64)
        return first + self.delta.rows(rows)


def refine_factors(
    base: Rows,
    delta: Factors,
    variants: Sequence[AnyVariant],
    sinks: Sequence[Sink],
    *,
    dtype: str,
    name: str,
    device: str = "cpu",
) -> MatrixRecord:
    """``refine_rows`` for a delta of factors: ``W_base + U diag(g(s) s) V^T``, rounded once.

    In float64. Edits in Base's subspaces, and their controls, go through ``refine_rows``, on the
    sum in float64. Arguments and errors as there; ``changed`` counts elements unlike those of the
    sum as it would be rounded.
    """
    dense = [
        i for i, variant in enumerate(variants) if in_base_subspace(variant) is not None
    ]  # fmt: skip
    found = _Spectral(base, delta, variants, sinks, dtype, name)
    changes = found.write([i for i in range(len(variants)) if i not in dense])
    if dense:
        record = refine_rows(
            base, Sum(base, delta), [variants[i] for i in dense], [sinks[i] for i in dense],
            dtype=dtype, device=device, name=name,
        )  # fmt: skip
        changes |= dict(zip(dense, record.changes, strict=True))
        if found.instruct_norm == 0.0:
            found.instruct_norm = record.instruct_norm
    values = delta.singular_values
    cut = effective_rank_cut(values) if values.any() else 0
    return MatrixRecord(
        rows=base.shape[0],
        columns=base.shape[1],
        route=ROUTE,
        delta_norm=float(np.linalg.norm(values)),
        instruct_norm=found.instruct_norm,
        changes=tuple(changes[i] for i in range(len(variants))),
        effective_rank=effective_rank(values),
        effective_rank_error=0.0,
        cut=cut,
        head_energy=energy_share(values, cut),
        unique=True,
    )


def filtered_factors(
    delta: Factors, variant: AnyVariant, rank: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factors (m, rank) and (rank, n) of the delta as a method leaves it; both of equal size.

    Raises ValueError for a method whose result is not of low rank: noise, edits in Base's
    subspaces.
    """
    if isinstance(variant, Noise) or in_base_subspace(variant) is not None:
        raise ValueError(f"{variant_name(variant)} leaves no delta of low rank")
    found = gains(variant, Spectrum.exact(delta.singular_values, delta.shape)).values
    values = found[: delta.values.size] * delta.values
    root = np.sqrt(np.abs(values))
    left = np.zeros((delta.shape[0], rank))
    right = np.zeros((rank, delta.shape[1]))
    left[:, : values.size] = delta.left * (np.sign(values) * root)
    right[: values.size] = root[:, None] * delta.right
    return left, right


class _Spectral:
    """The methods that are gains on singular values, or noise, written in one pass."""

    def __init__(
        self,
        base: Rows,
        delta: Factors,
        variants: Sequence[AnyVariant],
        sinks: Sequence[Sink],
        dtype: str,
        name: str,
    ) -> None:
        self._base, self._delta, self._dtype, self._name = base, delta, dtype, name
        self._variants, self._sinks = variants, sinks
        self.instruct_norm = 0.0

    def write(self, places: Sequence[int]) -> dict[int, ChangeRecord]:
        """Write these methods' weights; what changed, by their places."""
        if not places:
            return {}
        spectrum = Spectrum.exact(self._delta.singular_values, self._delta.shape)
        found = {i: gains(self._variants[i], spectrum) for i in places}
        factors = {i: self._delta.scaled(found[i].values) for i in places}
        written = {i: Written() for i in places}
        for rows in row_blocks(self._base.shape):
            first = widen(self._base[rows], self._base.dtype, np.float64)
            instruct = first + self._delta.rows(rows)
            self.instruct_norm = math.hypot(self.instruct_norm, norm(instruct))
            seen = widen(narrow(instruct, self._dtype), self._dtype, np.float64)
            for i in places:
                if isinstance(self._variants[i], Noise):
                    continue
                value = instruct if found[i].constant == 1.0 else (
                    first + factors[i][0][rows] @ factors[i][1]
                )  # fmt: skip
                self._sinks[i][rows] = rounded(value, seen, written[i], self._dtype)
        self._add_noise({i: found[i] for i in places}, written)
        return {i: self._change(i, found[i], spectrum, written[i]) for i in places}

    def _add_noise(self, found: dict[int, Gains], written: dict[int, Written]) -> None:
        for i, gain in found.items():
            variant = self._variants[i]
            if not isinstance(variant, Noise):
                continue
            noise = NamedNoise(variant.seed, self._name, self._base.shape)
            share = gain.noise / noise.norm() if gain.noise else 0.0
            for rows, drawn in noise.blocks():
                first = widen(self._base[rows], self._base.dtype, np.float64)
                instruct = first + self._delta.rows(rows)
                seen = widen(narrow(instruct, self._dtype), self._dtype, np.float64)
                value = instruct + drawn * share
                self._sinks[i][rows] = rounded(value, seen, written[i], self._dtype)

    def _change(self, place: int, found: Gains, spectrum: Spectrum, done: Written) -> ChangeRecord:
        removed = float(np.linalg.norm((1.0 - found.values) * spectrum.singular_values))
        correction = removed + found.noise  # one of the two is 0
        return ChangeRecord(
            variant=variant_name(self._variants[place]),
            kept=int((found.values == 1.0).sum()),
            correction=correction / self.instruct_norm if self.instruct_norm else None,
            rounding=done.rounding / correction if correction else None,
            changed=done.changed / (self._base.shape[0] * self._base.shape[1]),
        )
