"""Plain result records: what was done to each weight, and the JSON that keeps them (no torch).

A manifest, a journal line and a summary on screen all hold these. Ratios are fractions, sizes end
in ``_bytes``, times in ``_seconds``; a value that has no meaning for a matrix is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from timberkit.errors import CheckpointError

_EXACTLY = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class ChangeRecord:
    """What one method did to one matrix.

    Attributes:
        variant: folder name of the method with its parameters.
        kept: directions of the delta whose gain is 1; None where none was decomposed.
        correction: ``||refined - instruct||_F / ||instruct||_F`` before rounding.
        rounding: error of rounding to the output dtype over the correction, as norms; near or above
            1 the output dtype cannot show the correction. None without a correction.
        changed: share of elements that differ from Instruct's after rounding.
    """

    __pydantic_config__ = _EXACTLY

    variant: str
    kept: int | None
    correction: float | None
    rounding: float | None
    changed: float


@dataclass(frozen=True, slots=True)
class MatrixRecord:
    """Spectrum of one delta and how it was solved.

    Attributes:
        rows, columns: shape of the weight.
        route: one of ``spectral.ladder``: ``float32``, ``ritz``, …, ``svd``; ``zero delta`` and
            ``no decomposition`` need none, whatever was decomposed of Base.
        delta_norm, instruct_norm: Frobenius norms.
        effective_rank: of the delta, with a bound on its error.
        cut: Timber's K; None where no method asked for it and the route taken leaves it in doubt.
        head_energy: share of the delta's energy in its first K directions.
        unique: whether directions on both sides of every cut are told apart by the route taken.
    """

    __pydantic_config__ = _EXACTLY

    rows: int
    columns: int
    route: str
    delta_norm: float
    instruct_norm: float
    changes: tuple[ChangeRecord, ...]
    effective_rank: float | None = None
    effective_rank_error: float | None = None
    cut: int | None = None
    head_energy: float | None = None
    unique: bool | None = None


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """What became of one matrix of a checkpoint: a whole tensor, or one matrix of a fused one.

    ``index`` is the number of an expert, ``part`` the name of a projection in a fused weight.
    """

    __pydantic_config__ = _EXACTLY

    name: str
    index: int | None
    family: str
    layer: int | None
    seconds: float
    matrix: MatrixRecord
    part: str | None = None


_TENSOR = TypeAdapter(TensorRecord)


def to_json(record: TensorRecord) -> dict[str, Any]:
    """The record as JSON values."""
    return asdict(record)


def from_json(values: object) -> TensorRecord:
    """The record that ``to_json`` wrote; CheckpointError for anything else."""
    if not isinstance(values, Mapping):
        raise CheckpointError(
            f"record of a tensor: found a {type(values).__name__}, expected an object; the file was"
            " not written by this version of timberkit"
        )
    try:
        return _TENSOR.validate_python(dict(values))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise CheckpointError(
            f"record of a tensor: {'.'.join(map(str, problem['loc']))}: {problem['msg']}; the file"
            " was not written by this version of timberkit"
        ) from None
