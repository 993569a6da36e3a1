"""Figures of a study for paper (matplotlib, extra ``report``): the trade-off plane, and Pass@k.

study_figures(findings, folder)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timberkit.findings import Findings, Plane, PlanePoint
from timberkit.report.drawing import figure_label, figure_style, save_figure
from timberkit.report.pass_at_k_figures import Mark, pass_at_k_figures
from timberkit.report.study_groups import STYLES, first_shown, groups_of

_LONGEST_TITLE = 60
NEAR_SHARE = 0.8
"""Of the models but Base: those nearest to Instruct make the second panel."""


def study_figures(findings: Findings, folder: Path) -> list[Path]:
    """Draw the plane and Pass@k of every task, each as SVG and PNG.

    Args:
        findings: what the study found.
        folder: where to write; it exists. Files are ``plane-1.svg``, ``pass-at-k-1.svg`` and so
            on, by the place of the task.

    Returns:
        The files written. Equal findings give equal SVG bytes.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: a file cannot be written.
    """
    written = []
    planes = {plane.task: plane for plane in findings.planes}
    for place, task in enumerate(findings.tasks, start=1):
        if task.key in planes:
            stem = folder / f"plane-{place}"
            written += plane_figure(findings, planes[task.key], stem, title=task.label)
        written += _pass_figure(findings, task.key, folder / f"pass-at-k-{place}", task.label)
    return written


def plane_figure(findings: Findings, plane: Plane, stem: Path, *, title: str) -> list[Path]:
    """Pass@low against Pass@high of all models: everything, and near Instruct.

    The line of plain merges is drawn through; bars are intervals over problems, of Base and
    Instruct alone. Files and errors as in ``study_figures``; ``stem`` has no suffix.
    """
    with figure_style() as new_figure:
        figure = new_figure(figsize=(9.6, 4.8))
        whole, near = figure.subplots(1, 2)
        for axes in (whole, near):
            _draw_plane(axes, findings, plane)
            axes.set_xlabel(f"Pass@{plane.low_k}: solved at the first attempt (%)")
            axes.grid(True, color="#e3e6e8", linewidth=0.5)
        whole.set_ylabel(f"Pass@{plane.high_k}: solved in {plane.high_k} attempts (%)")
        whole.set_title(figure_label(title, longest=_LONGEST_TITLE))
        near.set_title("Near Instruct")
        _show(whole, plane.points)
        _show(near, _nearest(findings, plane))
        handles, labels = whole.get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower left", ncols=5)
        return save_figure(figure, stem)


def _draw_plane(axes: Any, findings: Findings, plane: Plane) -> None:
    at = {point.model: point for point in plane.points}
    line = [at[key] for key in plane.frontier if key in at]
    axes.plot(*_scores(line), color=STYLES["merge"].ink, linewidth=1.4, zorder=1)
    for group in groups_of(findings):
        style = STYLES[group]
        own = [at[m.key] for m in findings.models if m.group == group and m.key in at]
        if not own:
            continue
        source = group in ("base", "instruct")
        if source:
            _bars(axes, own, style.ink)
        axes.plot(
            *_scores(own), style.marker, color=style.ink, markersize=8 if source else 6,
            markerfacecolor=style.ink if style.filled else "white", linestyle="none",
            markeredgecolor=style.ink if not style.filled else "white", markeredgewidth=0.7,
            label=figure_label(style.label, longest=_LONGEST_TITLE), zorder=3 if source else 2,
        )  # fmt: skip


def _bars(axes: Any, points: Sequence[PlanePoint], ink: str) -> None:
    for point in points:
        spans = {
            f"{name}err": [[100 * (s.value - s.low)], [100 * (s.high - s.value)]]
            for name, s in (("x", point.low), ("y", point.high))
        }
        x, y = _scores([point])
        axes.errorbar(x, y, **spans, color=ink, alpha=0.4, linewidth=0.8, fmt="none", zorder=1)


def _scores(points: Sequence[PlanePoint]) -> tuple[list[float], list[float]]:
    """Percent, for both axes."""
    return [100 * p.low.value for p in points], [100 * p.high.value for p in points]


def _nearest(findings: Findings, plane: Plane) -> list[PlanePoint]:
    """Instruct, and the models that lie no farther from it, in both scores, than most do."""
    instruct = next((p for p in plane.points if p.model == findings.reference), None)
    others = [p for p in plane.points if findings.model(p.model).group != "base"]
    if instruct is None or not others:
        return list(plane.points)
    centre = (instruct.low.value, instruct.high.value)
    far = [
        [abs(value - middle) for value, middle in zip((p.low.value, p.high.value), centre,
                                                      strict=True)]
        for p in others
    ]  # fmt: skip
    last = int(NEAR_SHARE * (len(others) - 1))
    reach = [sorted(values)[last] for values in zip(*far, strict=True)]
    return [p for p, own in zip(others, far, strict=True) if own[0] <= reach[0]
            and own[1] <= reach[1]]  # fmt: skip


def _show(axes: Any, points: Sequence[PlanePoint]) -> None:
    """Set the limits so that these points fill the axes."""
    for set_limits, values in zip((axes.set_xlim, axes.set_ylim), _scores(points), strict=True):
        more = max(0.12 * (max(values) - min(values)), 0.4)
        set_limits(min(values) - more, max(values) + more)


def _pass_figure(findings: Findings, task: str, stem: Path, title: str) -> list[Path]:
    """Pass@k of the models that the page shows first.

    Bands of Base and Instruct, crossings of Base and Timber alone: more would hide the lines.
    """
    first = first_shown(findings, task)
    found = [c for c in findings.curves if c.task == task and c.model in first and c.points]
    labels = _told_apart({curve.model: findings.model(curve.model).label for curve in found})
    curves = {
        labels[curve.model]: {point.k: point.score for point in curve.points} for curve in found
    }
    if not curves:
        return []
    groups = {key: findings.model(key).group for key in labels}
    marks = [
        Mark(c.crossing.k, f"{labels[c.behind]} passes {labels[c.ahead]} at k = {c.crossing.k}")
        for c in findings.contrasts
        if c.task == task and groups.get(c.model) in ("base", "timber") and c.crossing is not None
        and c.crossing.k is not None and c.behind in labels and c.ahead in labels
    ]  # fmt: skip
    reference = labels.get(findings.reference, "")
    bands = [labels[key] for key, group in groups.items() if group in ("base", "instruct")]
    return pass_at_k_figures(
        curves, stem, title=title, reference=reference, marks=marks, bands=bands
    )


def _told_apart(labels: Mapping[str, str]) -> dict[str, str]:
    """Key to label; a label that stands twice has its key beside it."""
    texts = list(labels.values())
    return {
        key: text if texts.count(text) == 1 else f"{text} ({key})" for key, text in labels.items()
    }
