"""What an analysis says of every weight: records that tables, summaries and pages hold (no torch).

One ``WeightMeasurement`` is one row of ``spectra.parquet``. Ratios and shares are fractions, norms
are Frobenius norms in the unit of the weights; a value that was not asked for is None.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ConfigDict

_EXACTLY = ConfigDict(extra="forbid")

TRUNCATE_RANK_RATIOS = (0.95, 0.9, 0.85, 0.8)
TRUNCATE_ENERGIES = (0.995, 0.99, 0.98, 0.95)
"""Thresholds of Truncate-R and Truncate-E in table 3 of arXiv 2509.23595."""
LEADING_COUNTS = (1, 8, 64)
"""Numbers of leading directions whose subspaces are compared; those above r are left out."""


@dataclass(frozen=True, slots=True)
class SpectrumMeasurement:
    """The spectrum of one matrix, r = min(rows, columns).

    Attributes:
        norm: ``sqrt(sum s_i^2)``.
        largest: ``s_1``.
        effective_rank: ``exp(entropy of s / sum s)``, in [0, r].
        ratio: ``effective_rank / r``.
        stable_rank: ``norm^2 / largest^2``; 0.0 for a matrix of zeros.
        singular_values: descending, (r,); None where they were not kept.
    """

    __pydantic_config__ = _EXACTLY

    norm: float
    largest: float
    effective_rank: float
    ratio: float
    stable_rank: float
    singular_values: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class NullMeasurement:
    """What independent noise of the same shape would show (Marchenko-Pastur).

    Attributes:
        ratio: effective rank over r.
        tail_energy: share of the energy after the first ``ceil(ratio * r)`` directions.
    """

    __pydantic_config__ = _EXACTLY

    ratio: float
    tail_energy: float


@dataclass(frozen=True, slots=True)
class CutMeasurement:
    """Where Timber and the paper's truncations cut the delta.

    Attributes:
        cut: Timber's K = ceil(effective rank).
        head_energy: share of ``sum s_i^2`` in the first K directions.
        tail_sum: share of ``sum s_i`` in the others.
        truncate_rank: directions that Truncate-R keeps at each of ``TRUNCATE_RANK_RATIOS``.
        truncate_energy: directions that Truncate-E keeps at each of ``TRUNCATE_ENERGIES``.
    """

    __pydantic_config__ = _EXACTLY

    cut: int
    head_energy: float
    tail_sum: float
    truncate_rank: tuple[int, ...]
    truncate_energy: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BulkMeasurement:
    """Where the delta leaves its random bulk.

    Attributes:
        noise_scale: standard deviation of an element of the bulk, estimated from the median
            singular value.
        edge: largest singular value of such noise, ``noise_scale * (sqrt(m) + sqrt(n))``.
        spikes: number of singular values above the edge (with the margin of a finite matrix).
        energy_outside: their share of ``sum s_i^2``.
    """

    __pydantic_config__ = _EXACTLY

    noise_scale: float
    edge: float
    spikes: int
    energy_outside: float


@dataclass(frozen=True, slots=True)
class RoundingMeasurement:
    """Timber's correction (lambda 0.2) against what the storage dtype can show.

    Attributes:
        base_noise, instruct_noise: expected norm of rounding to the storage dtype over that of the
            weight, from its elements' units in the last place.
        delta_noise: expected norm of both roundings over that of the delta.
        correction_over_delta, correction_over_weight: norm of ``refined - instruct`` before
            rounding over that of the delta, and of Instruct.
        error_over_correction: norm of the rounding error of the refined weight over that of the
            correction; None without a correction.
        changed: share of elements that differ from Instruct's after rounding.
    """

    __pydantic_config__ = _EXACTLY

    base_noise: float
    instruct_noise: float
    delta_noise: float | None
    correction_over_delta: float | None
    correction_over_weight: float
    error_over_correction: float | None
    changed: float


@dataclass(frozen=True, slots=True)
class OverlapMeasurement:
    """Two subspaces of the same dimension on one side of a weight.

    Attributes:
        dimension: k.
        overlap: ``||A^T B||_F^2 / k``, the mean squared cosine of the principal angles, in [0, 1].
        smallest_cosine: cosine of the largest principal angle.
        chance: expected overlap of two random subspaces, ``k / side``.
    """

    __pydantic_config__ = _EXACTLY

    dimension: int
    overlap: float
    smallest_cosine: float
    chance: float


@dataclass(frozen=True, slots=True)
class SubspaceMeasurement:
    """Leading singular subspaces compared.

    ``left`` and ``right``: of Base with Instruct at each of ``LEADING_COUNTS`` (those up to r),
    then at K. ``delta_left`` and ``delta_right``: the delta's leading directions with Base's,
    likewise (delta's head of K directions with Base's first K last). A dimension above the
    numerical rank of either matrix is left out, K too: the last entry is K's where its dimension
    is the cut.
    """

    __pydantic_config__ = _EXACTLY

    left: tuple[OverlapMeasurement, ...]
    right: tuple[OverlapMeasurement, ...]
    delta_left: tuple[OverlapMeasurement, ...]
    delta_right: tuple[OverlapMeasurement, ...]


@dataclass(frozen=True, slots=True)
class WeightMeasurement:
    """All that was measured of one weight: a 2-D tensor, or a matrix in a fused one.

    Attributes:
        module: last words of the name that say what it is, such as ``self_attn.q_proj``; with the
            part that it is of a fused weight (``self_attn.qkv_proj [q]``).
        index, part: number of the expert and name of the projection in a fused tensor.
        relative_delta: ``||instruct - base|| / ||base||``; None for a Base of zeros.
        base_dtype, instruct_dtype: as stored, in the words of safetensors (``BF16``).
    """

    __pydantic_config__ = _EXACTLY

    name: str
    index: int | None
    family: str
    layer: int | None
    module: str
    rows: int
    columns: int
    base_dtype: str
    instruct_dtype: str
    seconds: float
    base: SpectrumMeasurement
    instruct: SpectrumMeasurement
    delta: SpectrumMeasurement
    null: NullMeasurement
    relative_delta: float | None
    cut: CutMeasurement
    bulk: BulkMeasurement
    rounding: RoundingMeasurement | None = None
    subspaces: SubspaceMeasurement | None = None
    part: str | None = None


@dataclass(frozen=True, slots=True)
class HiddenStateMeasurement:
    """Effective rank of the hidden states after one layer, on the same texts (Diff-eRank).

    ``layer`` 0 is the embedding. ``difference = base - instruct``: positive where Instruct holds
    less. Source: Wei et al., arXiv 2401.17139.
    """

    __pydantic_config__ = _EXACTLY

    layer: int
    base: float
    instruct: float
    difference: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Analysis:
    """An analysis as it is read back: its facts, its weights, its hidden states if asked for.

    Attributes:
        title: of the run, for a reader; from outside, like all names: hostile text.
        facts: what was run, on what, with which versions; flat, JSON values.
        summary: the same numbers as ``summary.json``.
    """

    title: str
    facts: dict[str, object]
    summary: dict[str, object]
    weights: tuple[WeightMeasurement, ...]
    hidden_states: tuple[HiddenStateMeasurement, ...] = ()
