"""The tables of a study as files: nothing lost, nothing run, the same bytes."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made_findings import hostile_findings, made_findings

from timberkit.findings import Findings
from timberkit.report.study_tables import write_study_tables


@pytest.fixture(scope="module")
def findings() -> Findings:
    return made_findings()


@pytest.fixture(scope="module")
def folder(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables")
    write_study_tables(findings, path)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_scores_come_back_as_they_were(folder: Path, findings: Findings) -> None:
    rows = pq.read_table(folder / "scores.parquet").to_pylist()
    expected = [
        (curve.model, curve.task, point.k, point.score.value, point.score.low, point.score.high)
        for curve in findings.curves
        for point in curve.points
    ]
    keys = ("model", "task", "k", "value", "low", "high")
    assert [tuple(row[key] for key in keys) for row in rows] == expected
    told = {
        (contrast.model, contrast.task, point.k): (point.difference.value, point.verdict)
        for contrast in findings.contrasts
        for point in contrast.points
    }
    for row in rows:
        expected_difference = told.get((row["model"], row["task"], row["k"]), (None, None))
        assert (row["difference"], row["verdict"]) == expected_difference


def test_csv_says_the_same_as_parquet(folder: Path) -> None:
    rows = pq.read_table(folder / "scores.parquet").to_pylist()
    shown = rows_of(folder / "scores.csv")
    for row, told in zip(rows, shown, strict=True):
        for key, value in row.items():
            assert told[key] == ("" if value is None else str(value))


def test_every_table_has_three_forms_and_figures_that_share_a_name_are_numbered(
    folder: Path,
) -> None:
    names = {path.stem for path in (folder / "tables").iterdir()}
    assert {
        "tasks", "pass-at-k", "differences", "trade-off", "groups", "controls", "ablations",
        "selection", "costs", "table-2", "table-3", "table-5", "figure-4", "figure-5",
        "figure-5-2", "figure-6",
    } <= names  # fmt: skip
    for name in names:
        for suffix in ("csv", "md", "tex"):
            assert (folder / "tables" / f"{name}.{suffix}").stat().st_size > 50


def test_gaps_and_published_numbers_have_all_their_digits(folder: Path, findings: Findings) -> None:
    labels = {findings.model(p.model).label: p for p in findings.planes[0].points}
    rows = [row for row in rows_of(folder / "tables" / "trade-off.csv") if row["task"] == "AIME’24"]
    for row in rows:
        gap = labels[row["model"]].gap
        assert row["gap to plain merges"] == ("" if gap is None else repr(gap.value))
    table = rows_of(folder / "tables" / "table-2.csv")
    assert [row["Average, paper (%)"] for row in table] == ["43.57", "43.74", "44.83"]


def test_latex_and_markdown_are_tables(folder: Path) -> None:
    latex = (folder / "tables" / "controls.tex").read_text(encoding="utf-8")
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 3
    markdown = (folder / "tables" / "controls.md").read_text(encoding="utf-8")
    assert markdown.count("### ") == 3


def test_hostile_texts_are_no_formula_and_no_path(tmp_path: Path) -> None:
    made = hostile_findings()
    paper = tuple(replace(table, key="../../etc/passwd") for table in made.paper)
    written = write_study_tables(replace(made, paper=paper), tmp_path)
    for path in written:
        assert path.resolve().is_relative_to(tmp_path.resolve())
        if path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                cells = [cell for row in csv.reader(file) for cell in row]
            assert not [cell for cell in cells if cell.lstrip()[:1] in {"=", "+", "@"}]
        if path.suffix == ".md":
            assert "<script" not in path.read_text(encoding="utf-8").replace(r"\<script", "")


def test_equal_findings_give_equal_bytes(folder: Path, findings: Findings, tmp_path: Path) -> None:
    for path in write_study_tables(findings, tmp_path):
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes()
    assert not list(tmp_path.rglob("*.part"))
