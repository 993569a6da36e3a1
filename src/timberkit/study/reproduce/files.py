"""What a study found, on the disk: one folder ``report/``, whole or not at all.

======================  ==================================================================
``results.json``        everything, as ``findings.Findings``; shares, not percent
``scores.parquet``      a row for each model, task and k, with differences; ``scores.csv`` too
``tables/``             the tables of the page as CSV, Markdown and LaTeX (booktabs)
``figures/``            the trade-off plane and the curves, SVG and PNG (extra ``report``)
``report.html``         one offline page of all of it (extra ``report``)
``timberkit.json``      that this is the report of a study, of which version, and hashes
======================  ==================================================================
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timberkit.checkpoint.manifest import hash_file, list_output_files, write_manifest
from timberkit.checkpoint.stage import Stage
from timberkit.checkpoint.writer import write_file
from timberkit.engine.analysis_files import read_analysis
from timberkit.errors import InputError
from timberkit.findings import Findings, findings_from_json, findings_to_json
from timberkit.measurements import Analysis
from timberkit.report.case_section import CaseSection
from timberkit.report.study_figures import study_figures
from timberkit.report.study_page import write_study_page
from timberkit.report.study_tables import write_study_tables
from timberkit.study.pictures import PAGE, can_draw
from timberkit.study.published import published as published_numbers

RESULTS_NAME = "results.json"
KIND = "study-report"
LARGEST_RESULTS_BYTES = 256 << 20

MakeCases = Callable[[Path], CaseSection | None]


def write_report_folder(
    findings: Findings, folder: Path, *, analysis: Analysis | None, make_cases: MakeCases
) -> Path | None:
    """Write ``report/``, replacing an older one in one step; the path of its page, if there is one.

    ``make_cases``: gets the path of the page, writes what belongs beside it, and returns the
    section; None for no cases. Page and figures need the extra ``report``.
    Raises InterruptedRunError when the disk is full or fails: the older report is then still there.
    """
    content = json.dumps(
        findings_to_json(findings), indent=1, allow_nan=False, ensure_ascii=False
    ).encode()
    # Whatever an earlier run left of a report is made anew, so all reports share one stage.
    stage_of: dict[str, Any] = {
        "digest": hashlib.sha256(KIND.encode()).hexdigest(),
        "description": {"kind": KIND},
    }
    published = True
    while published:  # an older report that was killed on its way is put in its place first
        with Stage.open(folder, overwrite=True, **stage_of) as stage:
            published = stage.published
            if published:
                continue
            stage.empty_tree()
            write_file(stage.tree / RESULTS_NAME, content + b"\n")
            write_study_tables(findings, stage.tree)
            if can_draw():
                _draw(findings, stage.tree, analysis, make_cases)
            files = {name: hash_file(stage.tree / name) for name in list_output_files(stage.tree)}
            tool = {"name": "timberkit", "version": findings.tool_version}
            write_manifest(stage.tree, {"kind": KIND, "tool": tool, "files": files})
            stage.publish()
    return folder / PAGE if (folder / PAGE).exists() else None


def _draw(findings: Findings, tree: Path, analysis: Analysis | None, make_cases: MakeCases) -> None:
    figures = tree / "figures"
    figures.mkdir()
    study_figures(findings, figures)
    page = tree / PAGE
    write_study_page(
        findings,
        page,
        analysis=analysis,
        published=published_numbers(),
        case_section=make_cases(page),
    )


def read_results(path: Path) -> Findings:
    """The findings of a study: its folder, its ``report/``, or the file itself.

    Raises InputError for what is missing or is no study's results.
    """
    places = [path, path / RESULTS_NAME, path / "report" / RESULTS_NAME]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(f"{path}: found no {RESULTS_NAME}, expected the folder of a study")
    if found.stat().st_size > LARGEST_RESULTS_BYTES:
        raise InputError(f"{found}: over 256 MiB; that is no study's results")
    try:
        values = json.loads(found.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{found}: cannot be read as JSON: {error!s:.200}") from None
    if not isinstance(values, dict):
        raise InputError(f"{found}: found a {type(values).__name__}, expected a JSON object")
    return findings_from_json(values, where=str(found))


def read_analysis_of(folder: Path) -> Analysis | None:
    """The analysis of a study, None where it has none."""
    return read_analysis(folder) if folder.exists() else None
