"""The slow truth: float64 full SVD, for tests, ``verify`` and doubtful cases.

Everything fast in this package must agree with these few lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from timberkit.config import AnyVariant, BaseSubspace, MatchedMerge, Noise
from timberkit.spectral.filters import (
    Spectrum,
    constant_gain,
    gains,
    in_base_subspace,
    matched_gain,
)
from timberkit.spectral.noise import NamedNoise
from timberkit.spectral.rank import leading_count

if TYPE_CHECKING:
    import torch

TIE = 1e-6
"""Singular values this close, in units of the largest, have no directions of their own."""


def singular_value_decomposition(
    matrix: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """``U (m, r), s (r,) descending, V^T (r, n)`` by LAPACK ``gesdd``, or ``gesvd`` where it fails.

    Cost: about 20 m n r flops, three matrices of the size of the input.
    """
    try:
        left, values, right = scipy.linalg.svd(matrix, full_matrices=False)
    except np.linalg.LinAlgError:
        left, values, right = scipy.linalg.svd(matrix, full_matrices=False, lapack_driver="gesvd")
    return left, values, right


@dataclass(frozen=True, slots=True)
class OracleResult:
    """Refined weight (m, n) before rounding, and what a filter saw; None for constant gains.

    ``free`` bounds half of what another choice of Base's subspaces, where these are not unique,
    would move the weight by, in the Frobenius norm.
    """

    weight: NDArray[np.float64]
    singular_values: NDArray[np.float64] | None
    gains: NDArray[np.float64] | None
    free: float = 0.0


def oracle_refine(
    base: torch.Tensor, instruct: torch.Tensor, variant: AnyVariant, *, name: str | None = None
) -> NDArray[np.float64]:
    """Refined weight before rounding: ``W_base + U diag(g * s) V^T`` in float64.

    Args:
        base, instruct: (m, n), any floating dtype, finite.
        variant: the method.
        name: of the tensor, which decides what ``noise`` draws.

    Returns:
        (m, n) float64. Cost: a full float64 SVD.
    """
    return consult(base, instruct, variant, name=name).weight


def consult(
    base: torch.Tensor, instruct: torch.Tensor, variant: AnyVariant, *, name: str | None = None
) -> OracleResult:
    """``oracle_refine`` with the singular values (r,) of the delta and the gains (r,)."""
    base64, instruct64 = (np.asarray(w.double()) for w in (base, instruct))
    delta = instruct64 - base64
    constant = constant_gain(variant)
    if constant is not None:
        return OracleResult(_interpolated(base64, instruct64, constant), None, None)
    within = in_base_subspace(variant)
    if within is not None:
        return _consult_subspaces(base64, instruct64, within, variant, name)
    left, values, right = singular_value_decomposition(delta)
    found = gains(variant, Spectrum.exact(values, delta.shape))
    # The form with the fewer rounding errors, since most gains are 1: what is removed.
    refined = instruct64 - (left * ((1.0 - found.values) * values)) @ right
    if isinstance(variant, Noise):
        refined = _noisy(instruct64, variant, name, found.noise)
    return OracleResult(refined, values, found.values)


def _interpolated(
    base: NDArray[np.float64], instruct: NDArray[np.float64], gain: float
) -> NDArray[np.float64]:
    """The sources themselves at 0 and 1; otherwise the plain formula."""
    return instruct if gain == 1.0 else base + gain * (instruct - base)


def _noisy(
    instruct: NDArray[np.float64], variant: Noise, name: str | None, norm: float
) -> NDArray[np.float64]:
    if name is None:
        raise ValueError("noise needs the name of the tensor")
    rows, columns = instruct.shape
    drawn = [values for _, values in NamedNoise(variant.seed, name, (rows, columns)).blocks()]
    unit = np.concatenate(drawn)
    return instruct + norm / np.linalg.norm(unit) * unit


def _consult_subspaces(
    base: NDArray[np.float64],
    instruct: NDArray[np.float64],
    edit: BaseSubspace,
    variant: AnyVariant,
    name: str | None,
) -> OracleResult:
    """``base + inside P_U delta P_V + outside (delta - P_U delta P_V)``, or a control of that.

    With U and V from a full SVD of Base. Where its singular values are tied across the cut, the
    result depends on U and V by no more than twice what the tied directions add to the part inside.
    """
    delta = instruct - base
    left, values, right = singular_value_decomposition(base)
    count = leading_count(values, edit.share)
    inside = _between(left, right, delta, count)
    everything = count == base.shape[0] == base.shape[1]
    constant = edit.outside if count == 0 else edit.inside if everything else None
    correction = (edit.inside - 1.0) * inside + (edit.outside - 1.0) * (delta - inside)
    weight, norm = instruct + correction, float(np.linalg.norm(correction))
    if constant is not None:
        weight = _interpolated(base, instruct, constant)
    if isinstance(variant, MatchedMerge):
        whole = float(np.linalg.norm(delta))
        share = norm / whole if whole else 0.0
        gain = 1.0 - share if constant is None else matched_gain(constant)
        weight = _interpolated(base, instruct, gain)
    if isinstance(variant, Noise):
        weight = _noisy(instruct, variant, name, norm)
    free = 0.0
    if 0 < count < values.size and values[count - 1] - values[count] <= TIE * values[0]:
        tied = np.flatnonzero(np.abs(values - values[count]) <= TIE * values[0])
        first, last = (_between(left, right, delta, n) for n in (int(tied[0]), int(tied[-1]) + 1))
        free = abs(edit.inside - edit.outside) * float(np.linalg.norm(last - first))
    return OracleResult(weight, None, None, free)


def _between(
    left: NDArray[np.float64], right: NDArray[np.float64], delta: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """``P_U delta P_V`` for the leading directions: columns of ``left``, rows of ``right``."""
    u, v = left[:, :count], right[:count]
    return np.asarray(u @ (u.T @ delta @ v.T) @ v)
