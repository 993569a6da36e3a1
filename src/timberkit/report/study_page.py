"""One offline page of a study: what it found, its cases, and the analysis of its pair below.

    write_study_page(findings, "report.html", analysis=analysis, published=published())

``page_file`` makes it a file and keeps it safe; ``findings_tables`` makes the tables, which a
reader without JavaScript sees too; ``study_data`` and ``page/study*.js`` the figures.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timberkit.errors import UsageError
from timberkit.findings import Findings, PaperTable, Selection, StudyTask
from timberkit.measurements import Analysis
from timberkit.report.analysis_part import SCRIPTS, analysis_words, fitting_data, titles_of
from timberkit.report.case_section import CaseSection
from timberkit.report.findings_tables import (
    ablations_table,
    averages_table,
    controls_table,
    costs_table,
    differences_table,
    glance_table,
    is_published,
    labels_of,
    paper_heads,
    paper_table,
    plane_table,
    scores_table,
    selection_table,
    size_of,
    task_table,
)
from timberkit.report.page_file import (
    LARGEST_PAGE_BYTES,
    MOST_FACTS,
    PageParts,
    flat_facts,
    page_parts,
    render,
    write_html,
)
from timberkit.report.study_data import study_data
from timberkit.report.study_groups import ABLATIONS, STYLES, groups_of, members
from timberkit.report.tables import name_of, percent, sentence_of, signed
from timberkit.report.text import script_json

STUDY_SCRIPTS = ("study", "study_pass", "study_plane", "study_effects", "study_paper")
SECTIONS = {
    "short": "In short",
    "pass": "Pass@k",
    "plane": "The trade",
    "beside": "The paper",
    "controlled": "Controls",
    "parts": "Parts",
    "selection": "Choosing lambda",
    "cases": "Cases",
    "cost": "Cost",
}
OF_WEIGHTS = {"summary": "The weights", "paper": "Ranks in the paper"}
"""Words for sections of the analysis where those of its own page would be taken for the study's."""
LAST_SECTION = ("run-facts", "What was run")
SPARE_BYTES = 20_000


def write_study_page(
    findings: Findings,
    path: str | os.PathLike[str],
    *,
    analysis: Analysis | None,
    published: Mapping[str, Any] | None,
    case_section: CaseSection | None = None,
) -> Path:
    """Write the page of a study, one offline HTML file.

    Args:
        findings: what the study found; every text in it may come from a stranger.
        path: the file to write; an older one is replaced, in one step. Its folder must exist.
        analysis: of the pair, shown below; None leaves its sections out.
        published: the paper's numbers, in the form of ``study/published.json``, for the analysis;
            those beside scores stand in the findings. None leaves that comparison out.
        case_section: the case browser; None leaves it out.

    Returns:
        ``path``. Equal inputs give equal bytes. The page is under 8 MB: what the analysis shows is
        thinned as ``offline_page.write_page`` does it until all fits.

    Raises:
        MissingExtraError: plotly or jinja2 is not installed.
        UsageError: more than fits on a page.
        OSError: the file cannot be written.

    Cost: O(models * tasks * k + matrices), about a second.
    """
    scripts = ["theme", "sorting", *STUDY_SCRIPTS, *(SCRIPTS if analysis else ()), "main"]
    parts = page_parts(
        scripts,
        ["page", "study"],
        more_script=case_section.script if case_section else "",
        more_style=case_section.style if case_section else "",
        style_sources=case_section.style_sources if case_section else (),
    )
    analyses = [] if analysis is None else [analysis]
    words = _words(findings, analyses, published, case_section)
    more = {"study-data": script_json(study_data(findings))}
    if case_section is not None:
        more["case-data"] = case_section.data
    bare = '{"runs":[],"columns":[]}'
    page = render("study.html", parts, {"data": bare, **more}, **words, limits="")
    room = LARGEST_PAGE_BYTES - SPARE_BYTES - len(page.encode())
    if room < 0:
        raise UsageError(_too_large(findings, parts, case_section, -room))
    if analyses:
        data, limits = fitting_data(analyses, titles_of(analyses), largest_bytes=room)
        page = render("study.html", parts, {"data": data, **more}, **words, limits=limits)
    return write_html(Path(path), page)


def _too_large(findings: Findings, parts: PageParts, cases: CaseSection | None, over: int) -> str:
    own = len(cases.data) + len(cases.html) if cases else 0
    return (
        f"report: {len(findings.models)} models on {len(findings.tasks)} tasks, {size_of(own)} of"
        f" cases and {size_of(parts.size_bytes)} of scripts are {size_of(over)} more than fit on"
        " one page of 8 MB; show fewer cases, or fewer models"
    )


def _words(
    findings: Findings,
    analyses: list[Analysis],
    published: Mapping[str, Any] | None,
    case_section: CaseSection | None,
) -> dict[str, Any]:
    """What the template shows as text; all of it is escaped there, but for the cases' HTML."""
    study = _study_words(findings)
    there = {
        "plane": study["has_planes"],
        "beside": study["paper"],
        "controlled": study["has_controls"],
        "parts": study["has_ablations"],
        "selection": study["selections"],
        "cases": case_section,
        "cost": study["costs"],
    }
    sections = [
        (id, case_section.title if id == "cases" and case_section else words)
        for id, words in SECTIONS.items()
        if there.get(id, True)
    ]
    words = analysis_words(analyses, titles_of(analyses), published if analyses else None)
    own = [(id, OF_WEIGHTS.get(id, text)) for id, text in words["analysis_sections"]]
    pair = findings.pair
    return {
        **words,
        "study": study,
        "case_section": case_section,
        "heading": f"What the edits did: {name_of(pair.name)}",
        "subtitle": f"{name_of(pair.base)} → {name_of(pair.instruct)}",
        "kicker": "a study of edits",
        "sections": [*sections, *(own if analyses else ()), LAST_SECTION],
        "summary_title": "The weights in short",
        "paper_title": "Effective ranks beside the paper",
    }


def _study_words(findings: Findings) -> dict[str, Any]:
    tasks = [_task_words(findings, task) for task in findings.tasks]
    model = findings.pair.paper_model
    return {
        "words": [sentence_of(text) for text in findings.words],
        "paper_says": sentence_of(findings.paper_says),
        "notices": [sentence_of(text) for text in findings.notices],
        "stats": _stats(findings),
        "asked": task_table(findings),
        "averages": averages_table(findings),
        "models": len(findings.models),
        "groups": _group_words(findings),
        "tasks": tasks,
        "has_planes": bool(findings.planes),
        "has_controls": any(task["controls"] for task in tasks),
        "has_ablations": any(task["ablations"] for task in tasks),
        "paper_model": None if model is None else name_of(model),
        "paper": [_paper_words(table, place) for place, table in enumerate(findings.paper)],
        "selections": [
            {
                "words": selection_words(findings, one),
                "table": selection_table(findings, one),
            }
            for one in findings.selections
        ],
        "costs": costs_table(findings) if findings.costs else None,
        "total": _total(findings),
        "settings": list(flat_facts(findings.settings))[:MOST_FACTS],
        "version": name_of(findings.tool_version),
    }


def _task_words(findings: Findings, task: StudyTask) -> dict[str, Any]:
    return {
        "label": name_of(task.label),
        "scores": scores_table(findings, task),
        "differences": differences_table(findings, task),
        "plane": plane_table(findings, task),
        "glance": glance_table(findings, task),
        "controls": controls_table(findings, task),
        "ablations": ablations_table(findings, task),
    }


def _group_words(findings: Findings) -> list[dict[str, Any]]:
    places = {model.key: place for place, model in enumerate(findings.models)}
    return [
        {
            "key": group,
            "label": STYLES[group].label,
            "symbol": STYLES[group].symbol,
            "first": group not in ABLATIONS,
            "models": [
                {"place": places[model.key], "label": name_of(model.label)}
                for model in members(findings, group)
            ],
        }
        for group in groups_of(findings)
    ]


def _stats(findings: Findings) -> list[tuple[str, str]]:
    """What was run, in numbers."""
    sampled = {task.key: task.problems * (task.rollouts or 0) for task in findings.tasks}
    rollouts = sum(sampled.get(curve.task, 0) for curve in findings.curves)
    keys = {curve.model for curve in findings.curves}
    asked = [model for model in findings.models if model.key in keys]
    found = [
        ("models asked", f"{len(asked):,}"),
        ("of them edits", f"{sum(model.role == 'variant' for model in asked):,}"),
        ("controls", f"{sum(model.role == 'control' for model in asked):,}"),
        ("tasks", f"{len(findings.tasks):,}"),
    ]
    return [*found, ("rollouts", f"{rollouts:,}")] if rollouts else found


def _total(findings: Findings) -> str:
    seconds = sum(cost.seconds for cost in findings.costs)
    written = sum(cost.written_bytes for cost in findings.costs)
    time = f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.1f} minutes"
    return f"In all: {time}, {size_of(written)} written."


def _paper_words(table: PaperTable, place: int) -> dict[str, Any]:
    return {
        "id": f"paper-{place}",
        "title": name_of(table.title),
        "source": sentence_of(table.source),
        "over": sentence_of(table.over),
        "heads": paper_heads(table),
        "table": paper_table(table),
        "figure": None if table.axis is None else f"figure-paper-{place}",
        "published": is_published(table),
    }


def selection_words(findings: Findings, one: Selection) -> str:
    """A selection in a sentence or two.

    The chosen model, its flattered score, what choosing on a held-out half gives, and Instruct's.
    """
    labels = labels_of(findings)
    tasks = {task.key: name_of(task.label) for task in findings.tasks}
    return (
        f"On {tasks.get(one.task, name_of(one.task))} the best mean has"
        f" {labels.get(one.chosen, name_of(one.chosen))}: {percent(one.score)}\u00a0%."
        f" Chosen on one half of the problems and judged on the other, the choice has"
        f" {percent(one.held_out)}\u00a0%:"
        f" {signed(one.flattery)} points are flattery. Instruct has {percent(one.instruct)}\u00a0%."
    )
