"""How well a refined weight agrees with the oracle, and how well it has to.

Two rounding errors may never be told apart exactly, so the promise is a bound:

- 16-bit weights: at least 99.9 % of the elements are those of the oracle, rounded (one element is
  always allowed), and none is further off than one unit in the last place or 1e-6 of the largest
  element, whichever is more;
- 32- and 64-bit weights, and any weight whose cut goes through a tie: the norm of the difference is
  at most ``1e-6 ||delta|| + u ||W||`` plus ``2 ||d s_tied||``, where ``s_tied`` are the singular
  values within ``1e-6 s_1`` of a cut that has such on both of its sides, and ``d`` is how far their
  gains differ: among them the directions are not unique, and any choice is as right as the
  oracle's. For edits in subspaces of Base that are cut through a tie of its singular values, the
  bound grows by what any other choice of them could move the weight (``OracleResult.free``). A tie
  that could round no more than ``HARMLESS_SHARE`` of the elements otherwise, such as one of gains
  that differ by a hair, is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from timberkit.config import AnyVariant
from timberkit.spectral.oracle import TIE, OracleResult, consult

IDENTICAL_SHARE = 0.999
LARGEST_ELEMENT_SHARE = 1e-6
HARMLESS_SHARE = 1e-4


@dataclass(frozen=True, slots=True)
class Agreement:
    """A refined weight against the oracle.

    ``identical`` is the share of equal elements, ``worst`` the largest difference over what is
    allowed for its element, ``distance`` the Frobenius norm of the difference, ``bound`` what it
    may be; ``elementwise`` says which of the two promises applies.
    """

    identical: float
    worst: float
    distance: float
    bound: float
    elementwise: bool
    holds: bool


def agreement(
    weight: torch.Tensor,
    base: torch.Tensor,
    instruct: torch.Tensor,
    variant: AnyVariant,
    *,
    name: str | None = None,
) -> Agreement:
    """Compare a refined weight, (m, n), with the oracle's for the same method and tensor name.

    Cost: a float64 full SVD, in memory of about ten times the weight.
    """
    found = consult(base, instruct, variant, name=name)
    exact = torch.from_numpy(found.weight)
    rounded = exact.to(weight.dtype)
    difference = (weight.to(torch.float64) - rounded.to(torch.float64)).abs()
    identical = float((weight == rounded).to(torch.float64).mean())
    info = torch.finfo(weight.dtype)
    magnitude = rounded.to(torch.float64).abs().clamp(min=float(info.tiny))
    allowed = torch.exp2(torch.floor(torch.log2(magnitude))) * info.eps
    largest = float(rounded.to(torch.float64).abs().max())
    worst = float((difference / allowed.clamp(min=LARGEST_ELEMENT_SHARE * largest)).max())
    tied = found.free + _tied_norm(found)
    delta = instruct.to(torch.float64) - base.to(torch.float64)
    distance = float(torch.linalg.vector_norm(weight.to(torch.float64) - exact))
    bound = (
        LARGEST_ELEMENT_SHARE * float(torch.linalg.vector_norm(delta))
        + info.eps / 2 * float(torch.linalg.vector_norm(exact))
        + 2 * tied
    )
    # An error of mean size a moves an element across a rounding boundary with probability a / ulp.
    moved = float((2 * tied / weight.numel() ** 0.5 / allowed).clamp(max=1.0).mean())
    elementwise = info.bits == 16 and moved <= HARMLESS_SHARE
    enough = max(IDENTICAL_SHARE - 1e-12, 0.0) * weight.numel() - 1
    close = identical * weight.numel() >= enough and worst <= 1.0
    return Agreement(
        identical, worst, distance, bound, elementwise, close if elementwise else distance <= bound
    )


def _tied_norm(found: OracleResult) -> float:
    """Norm of the singular values that are tied across a cut, each times how far gains differ."""
    values, gains = found.singular_values, found.gains
    if values is None or gains is None or values[0] == 0:
        return 0.0
    reach = np.zeros(values.size)
    for cut in np.flatnonzero(np.diff(gains)) + 1:
        if values[cut - 1] - values[cut] <= TIE * values[0]:
            tied = np.abs(values - values[cut]) <= TIE * values[0]
            reach[tied] = np.maximum(reach[tied], np.ptp(gains[tied]))
    return float(np.linalg.norm(reach * values))
