"""The groups of a study's models: their words, colours and markers, the same in every figure.

Colours alone tell no groups apart: each has a marker of its own too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from timberkit.findings import Findings, Group, Plane, StudyModel


@dataclass(frozen=True, slots=True)
class GroupStyle:
    """How a group is shown.

    Attributes:
        label: for people.
        ink: its colour on paper; page/study.css names those of screens ``--g-`` and the group.
        symbol: Plotly's marker; ``marker``: matplotlib's.
        filled: whether the marker is.
    """

    label: str
    ink: str
    symbol: str
    marker: str
    filled: bool = True


STYLES: Mapping[Group, GroupStyle] = {
    "base": GroupStyle("Base", "#0072b2", "circle", "o"),
    "instruct": GroupStyle("Instruct", "#1d2327", "square", "s"),
    "timber": GroupStyle("Timber", "#c4540a", "triangle-up", "^"),
    "merge": GroupStyle("Plain merge", "#7a3fd0", "diamond", "D"),
    "truncate-rank": GroupStyle("Truncation by rank", "#8a6410", "triangle-down", "v"),
    "truncate-energy": GroupStyle("Truncation by energy", "#5f6e00", "triangle-left", "<"),
    "temperature": GroupStyle("Higher temperature", "#c02f6b", "star", "*"),
    "edit": GroupStyle("Other edits", "#00795a", "pentagon", "p"),
    "family": GroupStyle("By family", "#2a7f9e", "hexagon", "h"),
    "depth": GroupStyle("By depth", "#2a7f9e", "triangle-right", ">"),
    "band": GroupStyle("By band", "#2a7f9e", "cross", "P"),
    "matched-merge": GroupStyle("Control: matched merge", "#7a3fd0", "diamond-open", "D", False),
    "noise": GroupStyle("Control: noise", "#6d757b", "x", "X"),
}
ABLATIONS: tuple[Group, ...] = ("family", "depth", "band")
RIVALS: tuple[Group, ...] = (
    "timber", "merge", "truncate-rank", "truncate-energy", "temperature", "edit"
)  # fmt: skip
"""Groups that a reader compares first."""


def groups_of(findings: Findings) -> list[Group]:
    """The groups that the study has models of, in the order of ``STYLES``."""
    there = {model.group for model in findings.models}
    return [group for group in STYLES if group in there]


def members(findings: Findings, group: Group) -> list[StudyModel]:
    """The models of a group, by parameter where all have one, else as they stand."""
    found = [model for model in findings.models if model.group == group]
    if all(model.parameter is not None for model in found):
        found.sort(key=lambda model: model.parameter or 0.0)
    return found


def plane_of(findings: Findings, task: str) -> Plane | None:
    """The trade-off plane of a task, None where there is none."""
    return next((plane for plane in findings.planes if plane.task == task), None)


def first_shown(findings: Findings, task: str) -> list[str]:
    """Keys of the models that a figure of curves begins with.

    Base, Instruct, and of each group of ``RIVALS`` the model with the greatest sum of Pass@low and
    Pass@high on this task; without a plane the first model of each.
    """
    plane = plane_of(findings, task)
    worth = {p.model: p.low.value + p.high.value for p in plane.points} if plane else {}
    best = [_best(members(findings, group), worth) for group in RIVALS]
    shown = [m.key for m in findings.models if m.group in ("base", "instruct")]
    return [*shown, *(key for key in best if key is not None)]


def _best(models: Sequence[StudyModel], worth: Mapping[str, float]) -> str | None:
    if not models:
        return None
    return max(models, key=lambda model: worth.get(model.key, float("-inf"))).key
