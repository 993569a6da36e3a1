"""Rollouts: what a model answered to a problem, and the Parquet file that keeps them (no torch).

    write_rollouts(path, rollouts)
    [rollout.correct for rollout in read_rollouts(path, texts=False)]

One row is one rollout, its columns are the fields of ``Rollout``. The file is made for statistics:
whole texts stand in columns of their own, so that who only counts does not read them. Rows keep
their order. What is read may come from anyone: columns, types and ranges are checked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from timberkit.errors import InputError, InterruptedRunError

ROLLOUTS_NAME = "rollouts.parquet"
STOPS = ("stop", "length", "content_filter", "error", "unknown")
"""Why a generation ended: by itself, cut off at the token limit, filtered, failed, not recorded."""
TEXTS = ("text", "reasoning", "response")
"""The long columns."""
MOST_ROWS = 1 << 27
ROWS_TOGETHER = 4096
BYTES_TOGETHER = 32 << 20
"""A row group is written when it holds so many rows or so many characters."""
_TEXT_ROWS_TOGETHER = 64
_TEXT_BYTES_TOGETHER = 128 << 20
_SCHEMA_KEY, _SCHEMA_VERSION = b"timberkit_rollouts", b"1"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_AGAIN = "the file is broken, or not one that timberkit eval wrote; make it again"


@dataclass(frozen=True, slots=True)
class Rollout:
    """One answer of one model to one problem, and its grade.

    Attributes:
        model: the name the user gave it, with ``@T=1.0`` after it where temperatures are swept.
        task, setting: the benchmark and how it was asked.
        problem: key of the problem, the same for every model.
        rollout: which of the answers to this problem, from 1.
        correct: the grade; whatever failed or was cut off is wrong.
        answer: what the grader took as the answer, None where it found none.
        reason: why it is wrong, in words; empty for a right one.
        stop: one of ``STOPS``.
        text: all that was generated.
        reasoning, response: its parts; the response is what is graded.
        seed, temperature: of the sampling.
        input_tokens, output_tokens, seconds: what it took; None where not recorded.
        error: of a request that failed for good, which counts as wrong.
    """

    model: str
    task: str
    setting: str
    problem: str
    rollout: int
    correct: bool
    answer: str | None
    reason: str = ""
    stop: str = "stop"
    text: str = ""
    reasoning: str = ""
    response: str = ""
    seed: int | None = None
    temperature: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float | None = None
    error: str | None = None


_TYPES: Mapping[str, pa.DataType] = {
    "str": pa.string(),
    "str | None": pa.string(),
    "int": pa.int64(),
    "int | None": pa.int64(),
    "bool": pa.bool_(),
    "float | None": pa.float64(),
}
_SCHEMA = pa.schema(
    [
        pa.field(
            field.name,
            pa.large_string() if field.name in TEXTS else _TYPES[str(field.type)],
            nullable="None" in str(field.type),
        )
        for field in fields(Rollout)
    ],
    metadata={_SCHEMA_KEY: _SCHEMA_VERSION},
)
_STRINGS = [
    field.name for field in _SCHEMA if pa.types.is_string(field.type) and field.name not in TEXTS
]


def write_rollouts(path: str | Path, rollouts: Iterable[Rollout]) -> None:
    """Write rollouts as Parquet (zstd), in one step: an older file is replaced, or nothing is.

    ``rollouts``: consumed once; memory for one row group (about ``BYTES_TOGETHER``), whatever
    their number. Equal rollouts in equal order give equal bytes. A lone surrogate, which no file
    can hold, becomes U+FFFD.

    Raises ValueError for a rollout that ``read_rollouts`` would refuse, InterruptedRunError when
    the disk is full or fails. Nothing is left behind, whatever is raised.
    """
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with pq.ParquetWriter(beside, _SCHEMA, compression="zstd") as writer:
            for rows in _groups(rollouts):
                writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(target)
    except OSError as error:
        raise InterruptedRunError(
            f"{target}: cannot be written: {error}; free some space and run the same command again"
        ) from None
    finally:
        beside.unlink(missing_ok=True)


def read_rollouts(path: str | Path, *, texts: bool = True) -> Iterator[Rollout]:
    """The rollouts of a file, in its order, a few thousand at a time.

    ``texts``: False leaves ``TEXTS`` empty and does not read them from the disk.

    Raises InputError, naming the file and the row: a file that is missing or no Parquet, other
    columns, empty required values, impossible numbers. About a second for 300,000 rows without
    texts.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: found no such file, expected rollouts of timberkit eval")
    columns = [name for name in _SCHEMA.names if texts or name not in TEXTS]
    done = 0
    try:
        with pq.ParquetFile(path) as file:
            _check_table(path, file)
            step = _text_rows(file.metadata) if texts else ROWS_TOGETHER
        # As dictionaries: one long string that stands in every row is then held once.
        with pq.ParquetFile(path, read_dictionary=_STRINGS) as file:
            for batch in file.iter_batches(batch_size=step, columns=columns):
                batch.validate(full=True)  # places in a dictionary may lie beyond it
                values = {name: _values(batch.column(name)) for name in columns}
                for row in zip(*values.values(), strict=True):
                    done += 1
                    rollout = Rollout(**dict(zip(columns, row, strict=True)))
                    problem = problem_in(rollout)
                    if problem:
                        raise InputError(f"{path}: row {done}: {problem}; {_AGAIN}")
                    yield rollout
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}; {_AGAIN}") from None


def count_rollouts(path: str | Path) -> int:
    """How many rows a file has, from its footer; InputError as ``read_rollouts``."""
    try:
        with pq.ParquetFile(path) as file:
            _check_table(Path(path), file)
            return int(file.metadata.num_rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}; {_AGAIN}") from None


def storable(text: str) -> str:
    """The text with U+FFFD in place of lone surrogates, which no file can hold.

    >>> storable("a\\ud800")
    'a\ufffd'
    """
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)


def problem_in(rollout: Rollout) -> str:
    """What is wrong with a rollout, in words that name the field; empty where nothing is."""
    for name in ("model", "task", "problem"):
        if not getattr(rollout, name):
            return f"{name}: found none, expected a name"
    for name in ("setting", "reason", "correct"):
        if getattr(rollout, name) is None:
            return f"{name}: found none"
    if rollout.rollout is None or rollout.rollout < 1:
        return f"rollout: found {rollout.rollout}, expected a number from 1"
    if rollout.stop not in STOPS:
        return f"stop: found {rollout.stop!r:.40}, expected one of {', '.join(STOPS)}"
    for name in ("input_tokens", "output_tokens", "seconds"):
        value = getattr(rollout, name)
        if value is not None and not 0 <= value < float("inf"):
            return f"{name}: found {value}, expected a number from 0"
    return ""


def _groups(rollouts: Iterable[Rollout]) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    characters = 0
    for rollout in rollouts:
        problem = problem_in(rollout)
        if problem:
            raise ValueError(f"{rollout.model}, {rollout.problem}: {problem}")
        row = {name: _stored(getattr(rollout, name)) for name in _SCHEMA.names}
        rows.append(row)
        characters += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(rows) >= ROWS_TOGETHER or characters >= BYTES_TOGETHER:
            yield rows
            rows, characters = [], 0
    if rows:
        yield rows


def _stored(value: Any) -> Any:
    return storable(value) if isinstance(value, str) else value


def _values(column: Any) -> list[Any]:
    if not pa.types.is_dictionary(column.type):
        return list(column.to_pylist())
    words = column.dictionary.to_pylist()
    return [None if place is None else words[place] for place in column.indices.to_pylist()]


def _check_table(path: Path, file: pq.ParquetFile) -> None:
    found = file.schema_arrow
    types = {field.name: _plain(field.type) for field in found}
    wanted = {field.name: _plain(field.type) for field in _SCHEMA}
    if types != wanted or len(found) != len(wanted):
        names = sorted({name for name, _ in set(types.items()) ^ set(wanted.items())})
        which = f"such as {names[0]!r:.80}" if names else "one of them twice"
        raise InputError(f"{path}: found other columns than rollouts have, {which}; {_AGAIN}")
    version = (found.metadata or {}).get(_SCHEMA_KEY)
    if version != _SCHEMA_VERSION:
        raise InputError(
            f"{path}: found version {version!r:.40} of rollouts, expected {_SCHEMA_VERSION!r}; read"
            " it with the version of timberkit that wrote it"
        )
    if file.metadata.num_rows > MOST_ROWS:
        raise InputError(f"{path}: found {file.metadata.num_rows} rows, expected up to {MOST_ROWS}")


def _text_rows(facts: pq.FileMetaData) -> int:
    """Rows to read at a time with their texts, so that they fit whatever the file unpacks to.

    One text may stand in every row of a group and lie in the file once, as its dictionary.
    """
    groups = (facts.row_group(i) for i in range(facts.num_row_groups))
    columns = (group.column(j) for group in groups for j in range(group.num_columns))
    sizes = [int(each.total_uncompressed_size) for each in columns if each.path_in_schema in TEXTS]
    return max(1, min(_TEXT_ROWS_TOGETHER, _TEXT_BYTES_TOGETHER // max(1, 1, *sizes)))


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
