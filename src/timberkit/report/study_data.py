"""What the figures of a study's page show, as JSON values; page/study_*.js draws it.

Models and tasks are told by their place; numbers are rounded to six significant digits.
"""

from __future__ import annotations

from typing import Any

from timberkit.findings import (
    ControlledEffect,
    Curve,
    Findings,
    PaperTable,
    PlanePoint,
    Selection,
    StudyTask,
)
from timberkit.metrics import Interval
from timberkit.report.findings_tables import contrasts_of, digits_of, is_published
from timberkit.report.study_groups import STYLES, first_shown, groups_of, members, plane_of
from timberkit.report.tables import name_of, sentence_of
from timberkit.report.text import significant

DIGITS = 6


def study_data(findings: Findings) -> dict[str, Any]:
    """Everything that the figures show.

    Returns:
        ``groups`` (words and marker), ``models``, ``tasks`` (each with its ``curves``,
        ``contrasts``, ``plane``, ``controls`` and ``first``, the models shown first),
        ``selections``, ``paper``, ``costs``.
    """
    places = {model.key: place for place, model in enumerate(findings.models)}
    return {
        "groups": {
            group: {"label": STYLES[group].label, "symbol": STYLES[group].symbol}
            for group in groups_of(findings)
        },
        "series": {
            group: [places[model.key] for model in members(findings, group)]
            for group in groups_of(findings)
        },
        "models": [
            {"label": name_of(model.label), "group": model.group} for model in findings.models
        ],
        "reference": places.get(findings.reference),
        "tasks": [_task(findings, task, places) for task in findings.tasks],
        "selections": [_selection(one, places) for one in findings.selections],
        "paper": [_paper(table) for table in findings.paper],
        "costs": [
            {
                "step": name_of(cost.step),
                "what": name_of(cost.what),
                "seconds": significant(cost.seconds, DIGITS),
                "written": cost.written_bytes,
                "peak": cost.peak_bytes,
            }
            for cost in findings.costs
        ],
    }


def _task(findings: Findings, task: StudyTask, places: dict[str, int]) -> dict[str, Any]:
    curves: list[Any] = [None] * len(places)
    for curve in findings.curves:
        if curve.task == task.key and curve.model in places:
            curves[places[curve.model]] = _curve(curve)
    contrasts: list[Any] = [None] * len(places)
    for contrast in contrasts_of(findings, task.key):
        if contrast.model in places:
            crossing = contrast.crossing
            contrasts[places[contrast.model]] = {
                "k": [point.k for point in contrast.points],
                "difference": [_ends(point.difference) for point in contrast.points],
                "words": [point.verdict for point in contrast.points],
                "behind": places.get(contrast.behind or ""),
                "ahead": places.get(contrast.ahead or ""),
                "crossing": None
                if crossing is None or crossing.k is None
                else {"k": crossing.k, "low": crossing.low, "high": crossing.high,
                      "text": crossing.text},
            }  # fmt: skip
    plane = plane_of(findings, task.key)
    return {
        "label": name_of(task.label),
        "digits": digits_of(task),
        "curves": curves,
        "contrasts": contrasts,
        "first": [places[key] for key in first_shown(findings, task.key)],
        "plane": None
        if plane is None
        else {
            "low_k": plane.low_k,
            "high_k": plane.high_k,
            "frontier": [places[key] for key in plane.frontier if key in places],
            "points": [_point(point, places) for point in plane.points if point.model in places],
        },
        "controls": [
            _control(one, places)
            for one in findings.controls
            if one.task == task.key and one.edit in places
        ],
    }


def _curve(curve: Curve) -> dict[str, Any]:
    points = [(point.k, point.score) for point in curve.points] or [(1, curve.mean)]
    return {"k": [k for k, _ in points]} | {
        name: [significant(getattr(score, name), DIGITS) for _, score in points]
        for name in ("value", "low", "high")
    }


def _point(point: PlanePoint, places: dict[str, int]) -> dict[str, Any]:
    return {
        "model": places[point.model],
        "low": _ends(point.low),
        "high": _ends(point.high),
        "gap": _ends(point.gap),
        "word": point.verdict,
    }


def _control(one: ControlledEffect, places: dict[str, int]) -> dict[str, Any]:
    return {
        "k": one.k,
        "edit": places[one.edit],
        "effect": _ends(one.effect),
        "merge": _ends(one.merge_effect),
        "seeds": [_ends(effect) for effect in one.noise_effects],
        "noise": _ends(one.noise_effect),
        "says": sentence_of(one.says),
    }


def _selection(one: Selection, places: dict[str, int]) -> dict[str, Any]:
    return {
        "candidates": [places[key] for key in one.candidates if key in places],
        "picks": [n for key, n in zip(one.candidates, one.picks, strict=True) if key in places],
        "halves": one.halves,
        "chosen": places.get(one.chosen),
    }


def _paper(table: PaperTable) -> dict[str, Any] | None:
    """Of a figure of the paper; a table is not drawn."""
    if table.axis is None:
        return None
    return {
        "axis": [significant(value, DIGITS) for value in table.axis],
        "axis_label": name_of(table.axis_label or ""),
        "ticks": [name_of(column) for column in table.columns],
        "published": is_published(table),
        "rows": [
            {
                "label": name_of(row.label),
                "published": [
                    None if cell.published is None else significant(cell.published / 100, DIGITS)
                    for cell in row.cells
                ],
                "ours": [_ends(cell.ours) for cell in row.cells],
            }
            for row in table.rows
        ],
    }


def _ends(interval: Interval | None) -> list[float | None] | None:
    """[value, low, high]."""
    if interval is None:
        return None
    return [significant(x, DIGITS) for x in (interval.value, interval.low, interval.high)]
