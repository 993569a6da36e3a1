"""Pure mathematics on matrices: spectra, filters, the exact fast solve. No files, no processes."""

from timberkit.spectral.filters import Gains, Spectrum, gains
from timberkit.spectral.oracle import oracle_refine
from timberkit.spectral.rank import effective_rank, effective_rank_cut, energy_share
from timberkit.spectral.refine import Refinement, refine_matrix, spectrum

__all__ = [
    "Gains",
    "Refinement",
    "Spectrum",
    "effective_rank",
    "effective_rank_cut",
    "energy_share",
    "gains",
    "oracle_refine",
    "refine_matrix",
    "spectrum",
]
