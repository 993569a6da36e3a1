"""The tables of a study as files that other programs read.

    write_study_tables(findings, folder)

``scores.parquet`` and ``scores.csv`` hold every score of every model, a row for each k;
``tables/`` what the page shows, as CSV (full digits), Markdown and LaTeX.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from timberkit.findings import Findings, StudyTask
from timberkit.report.findings_tables import (
    ablations_table,
    controls_table,
    costs_table,
    differences_table,
    glance_table,
    joined,
    paper_table,
    plane_table,
    scores_table,
    selection_table,
    task_table,
)
from timberkit.report.tables import Table, comma_separated, csv_text, latex, markdown, name_of
from timberkit.report.whole_file import replacing, write_whole

BY_TASK: tuple[Callable[[Findings, StudyTask], Table | None], ...] = (
    scores_table, differences_table, plane_table, glance_table, controls_table, ablations_table,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One score: Pass@k of a model on a task, and its difference to the reference.

    Shares; the last six are None for the reference itself, and where nothing was compared.
    ``simultaneous_*``, ``corrected_p_value`` and ``verdict`` hold for all k together.
    """

    model: str
    label: str
    group: str
    task: str
    k: int
    value: float
    low: float
    high: float
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    simultaneous_low: float | None
    simultaneous_high: float | None
    corrected_p_value: float | None
    verdict: str | None


def score_rows(findings: Findings) -> list[ScoreRow]:
    """Every score of every model on every task, as they stand in the findings."""
    differences = {
        (contrast.model, contrast.task, point.k): point
        for contrast in findings.contrasts
        if contrast.reference == findings.reference
        for point in contrast.points
    }
    rows = []
    for curve in findings.curves:
        model = findings.model(curve.model)
        scores = {point.k: point.score for point in curve.points} or {1: curve.mean}
        for k, score in scores.items():
            told = differences.get((curve.model, curve.task, k))
            rows.append(
                ScoreRow(
                    curve.model, model.label, model.group, curve.task, k,
                    score.value, score.low, score.high,
                    *(
                        (None,) * 7 if told is None else (
                            told.difference.value, told.difference.low, told.difference.high,
                            told.simultaneous.low, told.simultaneous.high,
                            told.corrected_p_value, told.verdict,
                        )
                    ),
                )
            )  # fmt: skip
    return rows


def all_tables(findings: Findings) -> Iterator[tuple[str, list[tuple[str, Table]]]]:
    """(name of the files, tables with what tells them apart), in the order of the page."""
    yield "tasks", [("", task_table(findings))]
    for make in BY_TASK:
        found = [(name_of(task.label), make(findings, task)) for task in findings.tasks]
        tables = [(label, table) for label, table in found if table is not None]
        if tables:
            yield tables[0][1].key, tables
    for place, selection in enumerate(findings.selections):
        table = selection_table(findings, selection)
        yield "selection" + (f"-{place + 1}" if place else ""), [("", table)]
    if findings.costs:
        yield "costs", [("", costs_table(findings))]
    used: dict[str, int] = {}
    for place, paper in enumerate(findings.paper):
        # A key from a stranger's file is no file name.
        name = (
            paper.key if re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", paper.key) else f"paper-{place}"
        )
        used[name] = used.get(name, 0) + 1
        yield name + (f"-{used[name]}" if used[name] > 1 else ""), [("", paper_table(paper))]


def write_study_tables(findings: Findings, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``scores.parquet``, ``scores.csv`` and ``tables/`` into a folder that exists.

    Tables of several tasks share their files: in CSV the first column is the task, in Markdown and
    LaTeX they stand below one another. In CSV scores are shares, published numbers percent as
    printed, and no text is a formula.

    Returns:
        The files written. Equal findings give equal bytes. Older files are replaced one by one.

    Raises:
        OSError: a file cannot be written.

    Cost: O(models * tasks * k).
    """
    root = Path(folder)
    written = [*_write_scores(findings, root)]
    tables = root / "tables"
    tables.mkdir(exist_ok=True)
    for name, found in all_tables(findings):
        alone = [table for _, table in found]
        whole = joined(found) if any(label for label, _ in found) else alone[0]
        forms = {"csv": comma_separated(whole), "md": markdown(alone), "tex": latex(alone)}
        written += [
            write_whole(tables / f"{name}.{suffix}", text) for suffix, text in forms.items()
        ]
    return written


def _write_scores(findings: Findings, root: Path) -> Iterator[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = score_rows(findings)
    names = [field.name for field in fields(ScoreRow)]
    kinds = {"k": pa.int64()} | dict.fromkeys(("model", "label", "group", "task", "verdict"),
                                              pa.string())  # fmt: skip
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in names])
    path = root / "scores.parquet"
    with replacing(path) as beside:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=schema), beside)
    yield path
    lines = [names, *([getattr(row, name) for name in names] for row in rows)]
    yield write_whole(root / "scores.csv", csv_text(lines))
