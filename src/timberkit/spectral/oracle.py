"""The slow truth: float64 full SVD, for tests, ``verify`` and doubtful cases.

Everything fast in this package must agree with these few lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from timberkit.config import AnyVariant, Noise
from timberkit.spectral.filters import Spectrum, constant_gain, gains
from timberkit.spectral.noise import NamedNoise

if TYPE_CHECKING:
    import torch


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
    """Refined weight (m, n) before rounding, and what a filter saw; None for constant gains."""

    weight: NDArray[np.float64]
    singular_values: NDArray[np.float64] | None
    gains: NDArray[np.float64] | None


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
        # The sources themselves at 0 and 1; otherwise the plain formula.
        blended = base64 + constant * delta if constant < 1.0 else instruct64
        return OracleResult(blended, None, None)
    left, values, right = singular_value_decomposition(delta)
    found = gains(variant, Spectrum.exact(values, delta.shape))
    # The form with the fewer rounding errors, since most gains are 1: what is removed.
    refined = instruct64 - (left * ((1.0 - found.values) * values)) @ right
    if isinstance(variant, Noise):
        if name is None:
            raise ValueError("noise needs the name of the tensor")
        drawn = np.concatenate([v for _, v in NamedNoise(variant.seed, name, delta.shape).blocks()])
        refined = instruct64 + found.noise / np.linalg.norm(drawn) * drawn
    return OracleResult(refined, values, found.values)
