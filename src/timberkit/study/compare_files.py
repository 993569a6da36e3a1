"""A comparison on the disk: one folder, whole or not at all.

======================  ==================================================================
``comparison.json``     everything, as the dataclasses of ``comparison``; shares, not percent
``pass_at_k.parquet``   a row for each model, task and k; ``pass_at_k.csv`` the same
``differences.parquet`` a row for each pair, task and score
``tables.md``           the tables, for a page; ``tables.tex`` for a paper (booktabs)
``pass_at_k_TASK.svg``  the curves of each task, and as ``.png`` (extra ``report``)
``timberkit.json``      that this is a comparison, of which version, and hashes of the files
======================  ==================================================================

The same rollouts, options and seed give the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from timberkit.checkpoint.manifest import hash_file, list_output_files, write_manifest
from timberkit.checkpoint.stage import Stage
from timberkit.checkpoint.writer import write_file
from timberkit.errors import InterruptedRunError
from timberkit.home import from_home
from timberkit.report.pass_at_k_figures import Mark, pass_at_k_figures
from timberkit.report.tables import latex, markdown, name_of
from timberkit.study.compare_tables import all_tables, title_of
from timberkit.study.compare_words import about_pair
from timberkit.study.comparison import Comparison

COMPARISON_NAME = "comparison.json"
KIND = "comparison"
SCHEMA_VERSION = 1

_CURVES = pa.schema(
    [
        ("model", pa.string()), ("task", pa.string()), ("k", pa.int64()),
        ("pass_at_k", pa.float64()), ("low", pa.float64()), ("high", pa.float64()),
        ("problems", pa.int64()), ("fewest_rollouts", pa.int64()), ("most_rollouts", pa.int64()),
    ]
)  # fmt: skip
_DIFFERENCES = pa.schema(
    [
        ("task", pa.string()), ("model", pa.string()), ("reference", pa.string()),
        ("score", pa.string()), ("k", pa.int64()), ("problems", pa.int64()),
        ("difference", pa.float64()), ("low", pa.float64()), ("high", pa.float64()),
        ("simultaneous_low", pa.float64()), ("simultaneous_high", pa.float64()),
        ("p_value", pa.float64()), ("corrected_p_value", pa.float64()), ("verdict", pa.string()),
    ]
)  # fmt: skip


def write_comparison(comparison: Comparison, output: Path, *, overwrite: bool = False) -> Path:
    """Write the folder and return it. Figures need the extra ``report``; all else does not.

    Raises OutputExistsError where something stands that may not be replaced (with ``overwrite`` an
    earlier output of timberkit may), InterruptedRunError when the disk is full or fails. About a
    second, and another for each figure.
    """
    content = json.dumps(
        comparison_fields(comparison), indent=2, allow_nan=False, ensure_ascii=False
    )
    digest = hashlib.sha256(content.encode()).hexdigest()
    description = {"recipe": {"kind": KIND}}
    with Stage.open(output, digest=digest, description=description, overwrite=overwrite) as stage:
        if not stage.published:
            stage.empty_tree()
            write_file(stage.tree / COMPARISON_NAME, content.encode() + b"\n")
            _write_rest(comparison, stage.tree)
            _write_manifest(stage.tree)
            stage.publish()
    return output


def can_draw() -> bool:
    """Whether figures can be drawn: the extra ``report`` is installed."""
    return find_spec("matplotlib") is not None


def comparison_fields(comparison: Comparison) -> dict[str, Any]:
    """Everything as JSON values; shares, and None where there is no value."""
    fields = asdict(comparison)
    fields["sources"] = [_without_home(source) for source in comparison.sources]
    for row, pair in zip(fields["pairs"], comparison.pairs, strict=True):
        for at_k, difference in zip(row["pass_at_k"], pair.pass_at_k, strict=True):
            at_k["verdict"] = difference.verdict
        row["words"] = about_pair(pair)
    for plan, own in zip(fields["plans"].values(), comparison.plans.values(), strict=True):
        plan |= {"voters": own.voters, "g_pass": own.g_pass}
    found = {"schema_version": SCHEMA_VERSION, "kind": KIND, **fields}
    # Tuples become lists, so that it equals what is read back.
    return dict(from_home(json.loads(json.dumps(found, allow_nan=False))))


def curve_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Pass@k of every model on every task; None where a problem has fewer than k rollouts."""
    return [
        {
            "model": result.model,
            "task": result.task,
            "k": k,
            "pass_at_k": None if found is None else found.value,
            "low": None if found is None else found.low,
            "high": None if found is None else found.high,
            "problems": result.problems,
            "fewest_rollouts": result.fewest,
            "most_rollouts": result.most,
        }
        for result in comparison.results
        for k in comparison.plans[result.task].ks
        for found in (result.scores[f"pass@{k}"],)
    ]


def difference_rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Every difference of every pair; what holds over all k only for Pass@k."""
    for pair in comparison.pairs:
        same = {
            "task": pair.task,
            "model": pair.model,
            "reference": pair.reference,
            "problems": pair.problems,
        }
        for row in pair.pass_at_k:
            yield {
                **same,
                "score": f"pass@{row.k}",
                "k": row.k,
                "difference": row.difference.value,
                "low": row.difference.low,
                "high": row.difference.high,
                "simultaneous_low": row.simultaneous.low,
                "simultaneous_high": row.simultaneous.high,
                "p_value": row.p_value,
                "corrected_p_value": row.corrected_p_value,
                "verdict": row.verdict,
            }
        for score, interval in pair.others.items():
            yield {
                **same,
                "score": score,
                "difference": interval.value,
                "low": interval.low,
                "high": interval.high,
            }


def _write_rest(comparison: Comparison, folder: Path) -> None:
    curves = curve_rows(comparison)
    _write_parquet(folder / "pass_at_k.parquet", curves, _CURVES)
    _write_parquet(folder / "differences.parquet", list(difference_rows(comparison)), _DIFFERENCES)
    write_file(folder / "pass_at_k.csv", _csv(curves).encode())
    tables = all_tables(comparison)
    write_file(folder / "tables.md", markdown(tables, notes=comparison.notices).encode())
    write_file(folder / "tables.tex", latex(tables).encode())
    if can_draw():
        _draw(comparison, folder)


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    try:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, compression="zstd")
    except OSError as error:
        raise _no_room(path, error) from None


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _CURVES.names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def _cell(value: object) -> object:
    """A spreadsheet would take a name that begins like this for a formula, and run it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value


def _draw(comparison: Comparison, folder: Path) -> None:
    taken: set[str] = set()
    for task in comparison.tasks:
        curves = {
            result.model: {
                k: found
                for k in comparison.plans[task].ks
                if (found := result.scores[f"pass@{k}"]) is not None
            }
            for result in comparison.results
            if result.task == task
        }
        marks = [
            Mark(
                pair.overtaking.crossing.k,
                f"{name_of(pair.overtaking.behind)} passes {name_of(pair.overtaking.ahead)}:"
                f" k = {pair.overtaking.crossing.text}",
            )
            for pair in comparison.pairs
            if pair.task == task and pair.overtaking and pair.overtaking.crossing.k is not None
        ]
        try:
            pass_at_k_figures(
                {model: points for model, points in curves.items() if points},
                folder / f"pass_at_k_{_slug(task, taken)}",
                title=title_of(comparison, task),
                reference=comparison.reference,
                marks=marks,
            )
        except OSError as error:
            raise _no_room(folder, error) from None


def _slug(task: str, taken: set[str]) -> str:
    """A name for a file: nothing that a shell, a path or another system would take amiss."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", task)[:80].strip("_") or "task"
    slug, number = plain, 1
    while slug.casefold() in taken:
        number += 1
        slug = f"{plain}_{number}"
    taken.add(slug.casefold())
    return slug


def _write_manifest(folder: Path) -> None:
    write_manifest(
        folder,
        {
            "kind": KIND,
            "tool": {"name": "timberkit", "version": version("timberkit")},
            "files": {name: hash_file(folder / name) for name in list_output_files(folder)},
        },
    )


def _without_home(source: Mapping[str, Any]) -> dict[str, Any]:
    home = os.path.expanduser("~").rstrip(os.sep) + os.sep
    path = str(source["path"])
    shown = os.path.join("~", path[len(home) :]) if path.startswith(home) else path
    return {**source, "path": shown}


def _no_room(path: Path, error: OSError) -> InterruptedRunError:
    return InterruptedRunError(
        f"{path}: cannot be written: {error}; free some space and run the same command again"
    )
