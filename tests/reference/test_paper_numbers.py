"""Numbers of the paper that follow from definitions, held against ours (arXiv 2509.23595).

Its checkpoints are no part of this repository, so only what holds without them is asserted: its
Pass@k curves must be averages over whole problems of the standard estimate, its methods must have
recipes, and its energies must lie where noise of these shapes puts them.
"""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy.optimize import nnls

from timberkit.config import TimberL, parse_variants
from timberkit.metrics import pass_curve
from timberkit.spectral.filters import Spectrum, gains
from timberkit.spectral.rank import effective_rank, effective_rank_cut, energy_share

# Pass@k of Qwen3-0.6B, thinking, in percent: 320 rollouts of the 30 problems of AIME24.
KS = [1, 2, 4, 8, 32, 64, 128, 256, 320]
AIME24 = {
    "Instruct": [10.79, 16.31, 23.14, 31.20, 48.08, 54.72, 60.23, 65.17, 66.67],
    "Timber-L": [11.04, 16.55, 23.12, 30.75, 49.02, 57.43, 64.00, 68.94, 70.00],
    "Timber": [11.39, 17.02, 23.78, 31.50, 48.36, 56.55, 63.88, 70.64, 73.33],
}
ROLLOUTS, PROBLEMS = 320, 30
# Table 3, Qwen3-8B: share of directions kept, and energy kept, both in percent.
TRUNCATED = [(95, 99.60), (90, 99.04), (85, 98.30), (80, 97.39)]
TIMBER_ENERGY = 98.82


def estimate(solved: int, k: int) -> float:
    """The unbiased estimate of Pass@k from ``solved`` of 320 rollouts."""
    return 1.0 - comb(ROLLOUTS - solved, k) / comb(ROLLOUTS, k)


@pytest.mark.parametrize("name", AIME24)
def test_published_curves_are_averages_of_the_standard_estimate(name: str) -> None:
    curve = np.array(AIME24[name]) / 100
    counts = range(ROLLOUTS + 1)
    columns = np.array([[estimate(count, k) for count in counts] for k in KS])
    shares, _ = nnls(np.vstack([columns, np.ones(len(counts))]), np.append(curve, 1.0))
    assert shares.sum() == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(columns @ shares, curve, atol=3e-4)
    # With k = n the estimate only asks whether a problem was ever solved: whole problems.
    assert curve[-1] * PROBLEMS == pytest.approx(round(curve[-1] * PROBLEMS), abs=2e-3)
    # From the probabilities behind these counts the exact formula gives nearly the same curve.
    small = [k for k in KS if k <= 8]
    exact = dict.fromkeys(small, 0.0)
    for count, share in zip(counts, shares, strict=True):
        for k, value in pass_curve([count / ROLLOUTS], small).items():
            exact[k] += share * value
    for k in small:
        assert exact[k] == pytest.approx(curve[KS.index(k)], abs=0.01)


def test_every_method_of_the_paper_has_a_recipe() -> None:
    grid = [f"timber:lam={lam}" for lam in (0.2, 0.5, 0.8)]
    ratios = [f"truncate-rank:ratio={kept / 100}" for kept, _ in TRUNCATED]
    energies = [f"truncate-energy:energy={energy}" for energy in (0.995, 0.99, 0.98, 0.95)]
    assert len(parse_variants([*grid, "timber-l", *ratios, *energies, "merge:mu=0.95"])) == 13


def noise(beta: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.linalg.svd(rng.standard_normal((int(400 * beta), 400)), compute_uv=False)


def test_published_energies_of_truncations_lie_near_those_of_noise() -> None:
    # Linear layers of Qwen3-8B have short over long sides between 1/4 and 1.
    for kept, energy in TRUNCATED:
        found = []
        for beta in (0.25, 1.0):
            values = noise(beta)
            head = int(np.ceil(kept / 100 * values.size))
            found.append(100 * energy_share(values, head))
        assert found[0] - 0.5 <= energy <= found[1] + 0.5


def test_the_published_energy_of_timber_is_that_of_a_cut_at_the_effective_rank_of_noise() -> None:
    for beta in (1 / 3, 1 / 2, 3 / 4, 1.0):
        values = noise(beta)
        cut = effective_rank_cut(values)
        assert cut == int(gains(TimberL(), Spectrum.exact(values)).values.sum())
        assert 0.75 < effective_rank(values) / values.size < 0.97
        assert 100 * energy_share(values, cut) == pytest.approx(TIMBER_ENERGY, abs=0.6)
