"""An analysis on the disk: what is written is read back, and nothing else is taken for one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from measured_weights import HIDDEN, spectrum, weight

from timberkit.engine import analysis_files
from timberkit.engine.analysis_files import (
    hidden_states_from_json,
    read_analysis,
    weight_from_json,
    weight_to_json,
    write_analysis,
)
from timberkit.errors import CheckpointError
from timberkit.measurements import Analysis, HiddenStateMeasurement, WeightMeasurement
from timberkit.metrics.summary import summarise

HOSTILE = (
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "a,b;c\"d'e`f",
    "=HYPERLINK(1)",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe",
    "名前.weight",
    "x" * 5000,
)
WEIGHTS = (
    weight("a"),
    weight("b", index=3, layer=None, rounding=None),
    weight("c", subspaces=None, relative_delta=None, base=spectrum(0.5, kept=True)),
    *(weight(name, module=name) for name in HOSTILE),
)


def analysis(*weights: WeightMeasurement, hidden: tuple[Any, ...] = HIDDEN) -> Analysis:
    facts: dict[str, object] = {"base": "<b>", "revision": None, "measure": ["spectra"], "n": 1}
    return Analysis("a title", facts, summarise(weights, hidden), weights, hidden)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An analysis on the disk."""
    write_analysis(tmp_path, analysis(*WEIGHTS))
    return tmp_path


def test_what_is_written_is_read_back(folder: Path) -> None:
    assert read_analysis(folder) == read_analysis(str(folder)) == analysis(*WEIGHTS)


def test_one_row_a_weight_with_columns_that_anyone_can_read(folder: Path) -> None:
    table = pq.read_table(folder / "spectra.parquet")
    assert table.num_rows == len(WEIGHTS)
    row = table.to_pylist()[0]
    assert (row["name"], row["delta_ratio"], row["cut_cut"]) == ("a", 0.5, 5)
    assert row["delta_singular_values"] == [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    assert row["base_singular_values"] is None
    assert row["subspaces_left"][1]["dimension"] == 8


def test_equal_analyses_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    write_analysis(tmp_path / "again", analysis(*WEIGHTS))
    for name in ("spectra.parquet", "summary.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_more_rows_than_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis_files, "ROWS_TOGETHER", 3)
    made = analysis(*(weight(f"w{i}") for i in range(10)), hidden=())
    write_analysis(tmp_path, made)
    assert read_analysis(tmp_path) == made


def test_a_journal_entry_gives_the_measurement_again() -> None:
    for made in WEIGHTS:
        assert weight_from_json(json.loads(json.dumps(weight_to_json(made)))) == made
    with pytest.raises(CheckpointError, match="measurement of a weight: rows"):
        weight_from_json({**weight_to_json(WEIGHTS[0]), "rows": "many"})


@pytest.mark.parametrize("values", [None, [{"layer": 0}], [{**asdict(HIDDEN[0]), "base": 1e999}]])
def test_hidden_states_that_are_none_are_refused(values: object) -> None:
    with pytest.raises(CheckpointError, match="hidden states"):
        hidden_states_from_json(values)


@pytest.mark.parametrize("name", ["spectra.parquet", "summary.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: found no such file.*timberkit analyze"):
        read_analysis(folder)


@pytest.mark.parametrize("name", ["spectra.parquet", "summary.json"])
def test_a_pipe_is_no_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match="found no such file"):
        read_analysis(folder)


@pytest.mark.parametrize("name", ["spectra.parquet", "summary.json"])
def test_too_large_a_file_is_not_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    sizes = {file.name: file.stat().st_size for file in folder.iterdir()}
    monkeypatch.setattr(analysis_files, "LARGEST_BYTES", max(sizes.values()))
    with (folder / name).open("ab") as file:
        file.truncate(max(sizes.values()) + 1)
    with pytest.raises(CheckpointError, match=f"{name}: over"):
        read_analysis(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.99])
def test_a_torn_table_is_refused(folder: Path, keep: float) -> None:
    path = folder / "spectra.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    with pytest.raises(CheckpointError, match=r"spectra\.parquet: cannot be read as Parquet"):
        read_analysis(folder)


@pytest.mark.parametrize("seed", range(30))
def test_damaged_bytes_are_refused_or_change_nothing(folder: Path, seed: int) -> None:
    """No byte that is flipped may end in anything but an answer or a ``CheckpointError``."""
    path = folder / "spectra.parquet"
    content = bytearray(path.read_bytes())
    place = seed * 7919 % len(content)
    content[place] ^= 1 << seed % 8
    path.write_bytes(content)
    try:
        found = read_analysis(folder)
    except CheckpointError:
        return
    assert summarise(found.weights, found.hidden_states) == found.summary


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the first row of the table."""
    path = folder / "spectra.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows[0])
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"delta_norm": float("nan")}, "delta_norm: found NaN"),
        ({"bulk_edge": float("inf")}, "bulk_edge: found NaN"),
        ({"delta_singular_values": [1.0, float("nan")]}, "delta_singular_values: found NaN"),
        ({"name": None}, "row 0: name"),
        ({"rows": None}, "row 0: rows"),
        ({"rounding_changed": None}, "row 0: rounding.changed"),
        ({"subspaces_left": None}, "row 0: subspaces.left"),
        ({"rows": 0}, "do not fit a matrix of 0 x 32"),
        ({"rows": -8}, "do not fit a matrix"),
        ({"cut_cut": 9}, "do not fit a matrix of 8 x 32"),
        ({"delta_singular_values": [1.0]}, "do not fit a matrix"),
        ({"delta_singular_values": None}, "do not fit a matrix"),
        ({"base_ratio": 1.5}, "do not fit a matrix"),
        ({"name": "c"}, "'c' stands there twice"),
        ({"delta_ratio": 0.25}, "is not the summary of"),
    ],
)
def test_wrong_numbers_are_refused(folder: Path, changes: dict[str, Any], told: str) -> None:
    rewrite(folder, lambda row: row.update(changes))
    with pytest.raises(CheckpointError, match=told):
        read_analysis(folder)


def test_nan_inside_an_overlap_is_refused(folder: Path) -> None:
    rewrite(folder, lambda row: row["subspaces_left"][0].update(overlap=float("nan")))
    with pytest.raises(CheckpointError, match="subspaces_left: found NaN"):
        read_analysis(folder)


def test_other_columns_are_refused(folder: Path) -> None:
    path = folder / "spectra.parquet"
    table = pq.read_table(path)
    for other in (
        table.drop_columns(["delta_ratio"]),
        table.append_column("more", pa.array([1] * table.num_rows)),
        table.set_column(0, "name", pa.array([b"bytes"] * table.num_rows)),
    ):
        pq.write_table(other, path)
        with pytest.raises(CheckpointError, match="other columns"):
            read_analysis(folder)


def test_an_empty_or_a_huge_table_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "spectra.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(analysis_files, "MOST_VALUES", 10)
        with pytest.raises(CheckpointError, match="found 10 rows"):
            read_analysis(folder)
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(CheckpointError, match="found 0 rows"):
        read_analysis(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: [], "schema_version None"),
        (lambda content: {**content, "schema_version": 2}, "schema_version 2"),
        (lambda content: {**content, "title": 3}, "no title or no facts"),
        (lambda content: {**content, "facts": {"deep": {"er": 1}}}, "no title or no facts"),
        (lambda content: {**content, "facts": [1]}, "no title or no facts"),
        (lambda content: {**content, "hidden_states": [{}]}, "hidden states"),
        (lambda content: {**content, "model": {}}, "is not the summary"),
        (lambda content: {**content, "more": 1}, "is not the summary"),
        (lambda content: {**content, "verdicts": ["all is well"]}, "is not the summary"),
    ],
)
def test_another_summary_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    path = folder / "summary.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(CheckpointError, match=told):
        read_analysis(folder)


@pytest.mark.parametrize("text", ["", "{", "\xff", '{"a": NaN}', "[" * 100_000])
def test_what_is_no_json_is_refused(folder: Path, text: str) -> None:
    (folder / "summary.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        read_analysis(folder)


def test_nan_is_never_written(tmp_path: Path) -> None:
    bad = HiddenStateMeasurement(0, float("nan"), 1.0, 0.0, 1)
    made = replace(analysis(weight()), summary={"hidden_states": [asdict(bad)]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_analysis(tmp_path, made)
