"""An analysis on the disk: ``spectra.parquet``, one row a weight, and ``summary.json``.

    write_analysis(folder, analysis)
    read_analysis(folder) == analysis

Columns are the fields of ``measurements.WeightMeasurement``; those of its parts bear the part's
name before them (``delta_ratio``, ``rounding_changed``). What is read may come from anyone: types,
shapes and ranges are checked, and a summary must be that of the spectra beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from timberkit.checkpoint.json_size import refuse_expanding
from timberkit.checkpoint.writer import write_file
from timberkit.errors import CheckpointError, InterruptedRunError
from timberkit.measurements import (
    Analysis,
    BulkMeasurement,
    CutMeasurement,
    HiddenStateMeasurement,
    NullMeasurement,
    RoundingMeasurement,
    SpectrumMeasurement,
    SubspaceMeasurement,
    WeightMeasurement,
)
from timberkit.metrics.summary import summarise

SPECTRA_NAME = "spectra.parquet"
SUMMARY_NAME = "summary.json"
ANALYSIS_KIND = "analysis"
"""What the manifest beside the two files says it is of."""
SCHEMA_VERSION = 1
LARGEST_BYTES = 8 << 30
"""Of either file. Singular values of a model with 20,000 matrices take about 0.1 GB."""
MOST_ROWS = 1 << 20
MOST_VALUES = 1 << 30
"""Rows, and values in all columns together: what a small file may unpack to."""
ROWS_TOGETHER = 512
_AGAIN = "the file is broken, or from another version of timberkit; make the analysis again"

_PARTS: Mapping[str, type] = {
    "base": SpectrumMeasurement,
    "instruct": SpectrumMeasurement,
    "delta": SpectrumMeasurement,
    "null": NullMeasurement,
    "cut": CutMeasurement,
    "bulk": BulkMeasurement,
    "rounding": RoundingMeasurement,
    "subspaces": SubspaceMeasurement,
}
_OPTIONAL_PARTS = frozenset({"rounding", "subspaces"})
_OVERLAP = pa.struct(
    [
        ("dimension", pa.int64()),
        ("overlap", pa.float64()),
        ("smallest_cosine", pa.float64()),
        ("chance", pa.float64()),
    ]
)
_TYPES: Mapping[str, pa.DataType] = {
    "str": pa.string(),
    "str | None": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "int | None": pa.int64(),
    "float | None": pa.float64(),
    "tuple[int, ...]": pa.list_(pa.int64()),
    "tuple[float, ...] | None": pa.list_(pa.float64()),
    "tuple[OverlapMeasurement, ...]": pa.list_(_OVERLAP),
}
_WEIGHT = TypeAdapter(WeightMeasurement)
_HIDDEN = TypeAdapter(tuple[HiddenStateMeasurement, ...])


def weight_to_json(weight: WeightMeasurement) -> dict[str, Any]:
    """A measurement as JSON values, as a journal keeps it."""
    return asdict(weight)


def weight_from_json(values: Mapping[str, Any]) -> WeightMeasurement:
    """The measurement that ``weight_to_json`` wrote; CheckpointError for anything else."""
    try:
        return _WEIGHT.validate_python(dict(values))
    except ValidationError as error:
        raise CheckpointError(f"measurement of a weight: {_problem(error)}; {_AGAIN}") from None


def hidden_states_from_json(values: object) -> tuple[HiddenStateMeasurement, ...]:
    """Hidden states as ``dataclasses.asdict`` gives them; CheckpointError for anything else."""
    try:
        found = _HIDDEN.validate_python(values)
    except ValidationError as error:
        raise CheckpointError(f"hidden states: {_problem(error)}; {_AGAIN}") from None
    if not all(math.isfinite(x) for row in found for x in (row.base, row.instruct, row.difference)):
        raise CheckpointError(f"hidden states: found NaN or infinity; {_AGAIN}")
    return found


def write_analysis(folder: Path, analysis: Analysis) -> None:
    """Write both files into an existing folder; equal analyses give equal bytes. Not synced.

    Raises InterruptedRunError when the disk is full or fails, ValueError for NaN and infinity.
    """
    try:
        with pq.ParquetWriter(folder / SPECTRA_NAME, _schema(), compression="zstd") as writer:
            for start in range(0, len(analysis.weights), ROWS_TOGETHER):
                part = analysis.weights[start : start + ROWS_TOGETHER]
                rows = [_flat(weight_to_json(weight)) for weight in part]
                writer.write_table(pa.Table.from_pylist(rows, schema=_schema()))
    except OSError as error:
        raise InterruptedRunError(
            f"{folder / SPECTRA_NAME}: cannot be written: {error}; free some space and run the same"
            " command again"
        ) from None
    content = {
        "schema_version": SCHEMA_VERSION,
        "title": analysis.title,
        "facts": analysis.facts,
        **analysis.summary,
    }
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    write_file(folder / SUMMARY_NAME, text.encode() + b"\n")


def read_analysis(folder: str | Path) -> Analysis:
    """Read an analysis back from its folder.

    Raises CheckpointError for a file that is missing, broken, too large or of another version, for
    numbers that are not finite or out of range, and for a summary that is not that of the spectra.
    Cost: both files whole in memory, 32 bytes for each singular value kept.
    """
    root = Path(folder)
    weights = _read_spectra(root / SPECTRA_NAME)
    path = root / SUMMARY_NAME
    content = _read_summary(path)
    title, facts = content.pop("title", None), content.pop("facts", None)
    if not isinstance(title, str) or not _are_facts(facts):
        raise CheckpointError(f"{path}: found no title or no facts of plain values; {_AGAIN}")
    try:
        hidden = hidden_states_from_json(content.get("hidden_states"))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if content != json.loads(json.dumps(summarise(weights, hidden))):
        raise CheckpointError(
            f"{path}: is not the summary of {SPECTRA_NAME} beside it; one of the two was exchanged"
            " or edited: take both from one analysis, or make it again"
        )
    return Analysis(title, facts, content, weights, hidden)


def _columns() -> Iterator[tuple[str, str, str]]:
    """Part (or nothing), field and annotation of each column."""
    for field in fields(WeightMeasurement):
        if field.name in _PARTS:
            for inner in fields(_PARTS[field.name]):
                yield field.name, inner.name, str(inner.type)
        else:
            yield "", field.name, str(field.type)


def _column(part: str, field: str) -> str:
    return f"{part}_{field}" if part else field


def _schema() -> pa.Schema:
    return pa.schema([(_column(part, field), _TYPES[kind]) for part, field, kind in _columns()])


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """One row: the parts' fields beside the weight's own; a part that is None leaves nulls."""
    return {
        _column(part, field): (values[part] or {}).get(field) if part else values[field]
        for part, field, _ in _columns()
    }


def _nested(row: Mapping[str, Any]) -> dict[str, Any]:
    """What ``_flat`` was given."""
    values: dict[str, Any] = {}
    for part, field, _ in _columns():
        inside = values.setdefault(part, {}) if part else values
        inside[field] = row[_column(part, field)]
    for part in _OPTIONAL_PARTS:
        if all(value is None for value in values[part].values()):
            values[part] = None
    return values


def _read_spectra(path: Path) -> tuple[WeightMeasurement, ...]:
    _check_file(path)
    weights = []
    try:
        with pq.ParquetFile(path) as file:
            _check_table(path, file)
            for batch in file.iter_batches(batch_size=ROWS_TOGETHER):
                batch.validate(full=True)
                _check_finite(path, batch)
                weights += [_WEIGHT.validate_python(_nested(row)) for row in batch.to_pylist()]
    except ValidationError as error:
        raise CheckpointError(f"{path}: row {len(weights)}: {_problem(error)}; {_AGAIN}") from None
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: cannot be read as Parquet: {error}; {_AGAIN}") from None
    if not weights:  # a footer may promise rows that the pages do not hold
        raise CheckpointError(f"{path}: holds no weights; {_AGAIN}")
    seen: set[tuple[str, int | None, str | None]] = set()
    for weight in weights:
        place = (weight.name, weight.index, weight.part)
        if place in seen:
            raise CheckpointError(f"{path}: tensor {weight.name!r} stands there twice; {_AGAIN}")
        seen.add(place)
        _check_ranges(path, weight)
    return tuple(weights)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(
            f"{path}: found no such file, expected one written by timberkit analyze; give the"
            " folder that was its output"
        )
    if path.stat().st_size > LARGEST_BYTES:
        raise CheckpointError(f"{path}: over {LARGEST_BYTES} bytes; {_AGAIN}")


def _check_table(path: Path, file: pq.ParquetFile) -> None:
    if not file.schema_arrow.remove_metadata().equals(_schema()):
        raise CheckpointError(f"{path}: found other columns than an analysis has; {_AGAIN}")
    facts = file.metadata
    groups = (facts.row_group(i) for i in range(facts.num_row_groups))
    values = sum(group.column(j).num_values for group in groups for j in range(group.num_columns))
    if not 1 <= facts.num_rows <= MOST_ROWS or values > MOST_VALUES:
        raise CheckpointError(f"{path}: found {facts.num_rows} rows, {values} values; {_AGAIN}")


def _check_finite(path: Path, batch: pa.RecordBatch) -> None:
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        values = column.flatten() if pa.types.is_list(column.type) else column
        parts = values.flatten() if pa.types.is_struct(values.type) else [values]
        for part in parts:
            if not pa.types.is_floating(part.type):
                continue
            if pc.all(pc.is_finite(part), skip_nulls=True).as_py() is False:
                raise CheckpointError(f"{path}: {name}: found NaN or infinity; {_AGAIN}")


def _check_ranges(path: Path, weight: WeightMeasurement) -> None:
    r = min(weight.rows, weight.columns)
    spectra = (weight.base, weight.instruct, weight.delta)
    kept = [found.singular_values for found in spectra if found.singular_values is not None]
    if (
        r < 1
        or not 0 <= weight.cut.cut <= r
        or weight.delta.singular_values is None
        or any(len(values) != r for values in kept)
        or any(found.norm < 0 or not 0 <= found.ratio <= 1 for found in spectra)
    ):
        raise CheckpointError(
            f"{path}: tensor {weight.name!r}: its numbers do not fit a matrix of"
            f" {weight.rows} x {weight.columns}; {_AGAIN}"
        )


def _read_summary(path: Path) -> dict[str, Any]:
    _check_file(path)
    try:
        raw = path.read_bytes()
        refuse_expanding(raw, str(path))
        content = json.loads(raw, parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}; {_AGAIN}") from None
    version = content.pop("schema_version", None) if isinstance(content, dict) else None
    if not isinstance(content, dict) or version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path}: found schema_version {version!r}, expected {SCHEMA_VERSION}; {_AGAIN}"
        )
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _are_facts(facts: object) -> bool:
    """A flat object of plain values, or lists of them."""
    if not isinstance(facts, dict):
        return False
    single = [
        value for found in facts.values() for value in (found if _is_list(found) else [found])
    ]
    return all(value is None or isinstance(value, str | int | float) for value in single)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
