"""What a study found, as tables: for its page, and for files that other programs read.

    [scores_table(findings, task) for task in findings.tasks]

Percent and points as shown; in CSV every score is a share with all its digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from timberkit.findings import Cell as PaperCell
from timberkit.findings import Contrast, Findings, PaperTable, Selection, StudyTask
from timberkit.report.study_groups import ABLATIONS, STYLES, groups_of, members, plane_of
from timberkit.report.tables import (
    Cell,
    Number,
    Table,
    difference_cell,
    name_of,
    percent,
    plain_cell,
    sentence_of,
    share_cell,
)

NO_GAP = "The frontier does not reach as far, or the model is part of it, where no gap is given."


def digits_of(task: StudyTask) -> int:
    """Decimals of percent that a task's scores deserve: exact ones more than sampled ones."""
    return 2 if task.how == "exact" else 1


def labels_of(findings: Findings) -> dict[str, str]:
    """Key to label of every model, as they may be shown."""
    return {model.key: name_of(model.label) for model in findings.models}


def contrasts_of(findings: Findings, task: str) -> list[Contrast]:
    """The contrasts with the reference on a task."""
    return [
        contrast
        for contrast in findings.contrasts
        if contrast.task == task and contrast.reference == findings.reference
    ]


def task_table(findings: Findings) -> Table:
    """What was asked, and whether it is what the paper asks."""
    rows: list[tuple[Cell, ...]] = [
        (
            name_of(task.label),
            plain_cell(task.problems, "{:,}"),
            Number("exact") if task.rollouts is None else plain_cell(task.rollouts, "{:,}"),
            {True: "yes", False: "no", None: "by itself"}[task.thinking],
            "yes" if task.whole else "in part",
            name_of(task.benchmark) if task.benchmark else "not in the paper",
        )
        for task in findings.tasks
    ]
    return Table(
        "What was asked",
        ("task", "problems", "rollouts each", "thinking", "whole", "in the paper"),
        tuple(rows),
        "Exact: success probabilities are known, no rollout was drawn. Whole: all problems of the"
        " benchmark, as often as the paper asks them.",
        "tasks",
    )


def scores_table(findings: Findings, task: StudyTask) -> Table:
    """Pass@k of every model with its interval."""
    curves = [curve for curve in findings.curves if curve.task == task.key]
    ks = sorted({point.k for curve in curves for point in curve.points})
    rows: list[tuple[Cell, ...]] = []
    for curve in curves:
        model = findings.model(curve.model)
        at = {point.k: point.score for point in curve.points}
        if not at:
            at = {1: curve.mean}
        cells = (share_cell(at.get(k), digits=digits_of(task)) for k in ks or [1])
        rows.append((name_of(model.label), STYLES[model.group].label, *cells))
    return Table(
        f"{name_of(task.label)}: Pass@k",
        ("model", "group", *(f"Pass@{k}" for k in ks or [1])),
        tuple(rows),
        "Percent of problems solved at least once in k attempts, with intervals over problems;"
        " Pass@1 is the mean.",
        "pass-at-k",
    )


def differences_table(findings: Findings, task: StudyTask) -> Table:
    """Every model minus the reference at each k, with a word that holds for all k together."""
    contrasts = contrasts_of(findings, task.key)
    ks = sorted({point.k for contrast in contrasts for point in contrast.points})
    labels = labels_of(findings)
    rows: list[tuple[Cell, ...]] = []
    for contrast in contrasts:
        at = {
            p.k: difference_cell(p.difference, p.verdict, digits_of(task)) for p in contrast.points
        }
        name = labels.get(contrast.model, name_of(contrast.model))
        rows.append((name, *(at.get(k, Number()) for k in ks), _crossing(labels, contrast)))
    reference = labels.get(findings.reference, name_of(findings.reference))
    return Table(
        f"{name_of(task.label)}: difference to {reference}",
        ("model", *(f"Pass@{k}" for k in ks), "crossing"),
        tuple(rows),
        "Points, on the same problems. Each interval is for its k alone; the word holds for all k"
        " of a model together.",
        "differences",
    )


def _crossing(labels: Mapping[str, str], contrast: Contrast) -> str:
    crossing = contrast.crossing
    if crossing is None or contrast.behind is None or contrast.ahead is None:
        return "–"
    behind, ahead = (labels.get(key, name_of(key)) for key in (contrast.behind, contrast.ahead))
    if crossing.k is None:
        return f"{behind} does not pass {ahead} up to k = {crossing.up_to}"
    return f"{behind} passes {ahead} from k = {crossing.text}"


def averages_table(findings: Findings) -> Table | None:
    """Mean@k averaged over tasks; None where nothing is averaged."""
    if not findings.averages:
        return None
    tasks = {task.key: name_of(task.label) for task in findings.tasks}
    over = ", ".join(tasks.get(key, name_of(key)) for key in findings.average_over)
    labels = labels_of(findings)
    return Table(
        f"Mean over {over}",
        ("model", "mean"),
        tuple(
            (labels.get(curve.model, name_of(curve.model)), share_cell(curve.mean))
            for curve in findings.averages
        ),
        "Percent; every task counts the same.",
        "averages",
    )


def plane_table(findings: Findings, task: StudyTask) -> Table | None:
    """Both scores of every model and its gap to the plain merges, the greatest gap first."""
    plane = plane_of(findings, task.key)
    if plane is None:
        return None
    digits = digits_of(task)
    points = sorted(plane.points, key=lambda p: -p.gap.value if p.gap else float("inf"))
    rows = []
    for point in points:
        model = findings.model(point.model)
        rows.append(
            (
                name_of(model.label),
                STYLES[model.group].label,
                share_cell(point.low, digits=digits),
                share_cell(point.high, digits=digits),
                difference_cell(point.gap, point.verdict or "", digits),
                _percent_cell(model.correction),
                _percent_cell(model.energy),
            )
        )
    return Table(
        f"{name_of(task.label)}: Pass@{plane.low_k} against Pass@{plane.high_k}",
        (
            "model", "group", f"Pass@{plane.low_k}", f"Pass@{plane.high_k}",
            "gap to plain merges", "correction", "energy kept",
        ),
        tuple(rows),
        f"Gap: points of Pass@{plane.high_k} above the line of plain merges at equal"
        f" Pass@{plane.low_k}. {NO_GAP} Correction: percent of the weights’ norm that the edit"
        " moves.",
        "trade-off",
    )  # fmt: skip


def _percent_cell(share: float | None) -> Number:
    return Number() if share is None else Number(percent(share, 2), share)


def glance_table(findings: Findings, task: StudyTask) -> Table | None:
    """Group by group: how many models lie above the plain merges, and the greatest gap."""
    plane = plane_of(findings, task.key)
    if plane is None:
        return None
    at = {point.model: point for point in plane.points}
    labels = labels_of(findings)
    rows: list[tuple[Cell, ...]] = []
    for group in groups_of(findings):
        found = [at[m.key] for m in members(findings, group) if m.key in at]
        told = [point for point in found if point.gap is not None]
        if not told:
            continue
        best = max(told, key=lambda point: point.gap.value if point.gap else float("-inf"))
        counts = [sum(p.verdict == word for p in told)
                  for word in ("better", "not distinguishable", "worse")]  # fmt: skip
        rows.append(
            (
                STYLES[group].label,
                *(plain_cell(count, "{}") for count in counts),
                difference_cell(best.gap, best.verdict or "", digits_of(task)),
                labels[best.model],
            )
        )
    return Table(
        f"{name_of(task.label)}: who beats plain merging?",
        ("group", "above", "not distinguishable", "below", "greatest gap", "of"),
        tuple(rows),
        f"Points of Pass@{plane.high_k} at equal Pass@{plane.low_k}. The greatest of several gaps"
        " is flattered: it was chosen after looking.",
        "groups",
    )


def controls_table(findings: Findings, task: StudyTask) -> Table | None:
    """Every edit beside its matched merge and its noise; None where the task has no controls."""
    labels, digits = labels_of(findings), digits_of(task)
    rows = [
        (
            labels.get(one.edit, name_of(one.edit)),
            plain_cell(one.k, "{}"),
            difference_cell(one.effect, digits=digits),
            difference_cell(one.merge_effect, digits=digits),
            difference_cell(one.beyond_merge, digits=digits),
            difference_cell(one.noise_effect, digits=digits),
            difference_cell(one.beyond_noise, digits=digits),
            plain_cell(len(one.noise), "{}"),
            sentence_of(one.says),
        )
        for one in findings.controls
        if one.task == task.key
    ]
    if not rows:
        return None
    return Table(
        f"{name_of(task.label)}: edits beside controls of the same size",
        (
            "edit", "k", "effect", "matched merge", "beyond the merge", "noise, mean",
            "beyond the noise", "seeds", "in words",
        ),
        tuple(rows),
        "Points of Pass@k, each a difference to Instruct on the same problems; beyond: the edit"
        " minus its control.",
        "controls",
    )  # fmt: skip


def ablations_table(findings: Findings, task: StudyTask) -> Table | None:
    """Parts of the weights: difference to the reference at the plane's two k; None without any."""
    plane = plane_of(findings, task.key)
    contrasts = {contrast.model: contrast for contrast in contrasts_of(findings, task.key)}
    ks = (plane.low_k, plane.high_k) if plane else _ends(contrasts.values())
    rows: list[tuple[Cell, ...]] = []
    for group in ABLATIONS:
        for model in members(findings, group):
            if model.key not in contrasts:
                continue
            at = {p.k: difference_cell(p.difference, p.verdict, digits_of(task))
                  for p in contrasts[model.key].points}  # fmt: skip
            rows.append((name_of(model.label), STYLES[group].label,
                         *(at.get(k, Number()) for k in ks),
                         _percent_cell(model.correction)))  # fmt: skip
    if not rows:
        return None
    return Table(
        f"{name_of(task.label)}: parts of the weights, difference to Instruct",
        ("model", "part", *(f"Pass@{k}" for k in ks), "correction"),
        tuple(rows),
        "Points, on the same problems; the word holds for all k of a model together.",
        "ablations",
    )


def _ends(contrasts: Iterable[Contrast]) -> tuple[int, ...]:
    ks = sorted({point.k for contrast in contrasts for point in contrast.points})
    return tuple(dict.fromkeys((ks[0], ks[-1]))) if ks else ()


def selection_table(findings: Findings, selection: Selection) -> Table:
    """Every candidate: its mean on the task, and how often a half of the problems chose it."""
    means = {c.model: c.mean for c in findings.curves if c.task == selection.task}
    labels = labels_of(findings)
    tasks = {task.key: name_of(task.label) for task in findings.tasks}
    rows = [
        (
            labels.get(key, name_of(key)),
            share_cell(means.get(key)),
            plain_cell(picks, "{:,}"),
            "chosen" if key == selection.chosen else "",
        )
        for key, picks in zip(selection.candidates, selection.picks, strict=True)
    ]
    return Table(
        f"Chosen on {tasks.get(selection.task, name_of(selection.task))}",
        ("candidate", "mean", "picked by halves", "by all problems"),
        tuple(rows),
        f"Percent, with intervals over problems; picks of {selection.halves:,} random halves.",
        "selection",
    )


def costs_table(findings: Findings) -> Table:
    """What every step took."""
    rows = [
        (
            name_of(cost.step),
            name_of(cost.what),
            plain_cell(cost.seconds, "{:,.1f}"),
            Number(size_of(cost.written_bytes), cost.written_bytes),
            Number()
            if cost.peak_bytes is None
            else Number(size_of(cost.peak_bytes), cost.peak_bytes),
            plain_cell(cost.rollouts, "{:,}"),
            plain_cell(cost.output_tokens, "{:,}"),
        )
        for cost in findings.costs
    ]
    return Table(
        "What each step took",
        ("step", "what", "seconds", "written", "peak memory", "rollouts", "output tokens"),
        tuple(rows),
        "Peak memory: largest resident memory of the process and its children during the step; in"
        " CSV bytes.",
        "costs",
    )


def size_of(count: float) -> str:
    """Bytes in a unit that people read.

    >>> size_of(41_000_000_000), size_of(512)
    ('41.0 GB', '512 B')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def is_published(table: PaperTable) -> bool:
    """Whether the paper has any number of it for this pair."""
    return any(cell.published is not None for row in table.rows for cell in row.cells)


def paper_heads(table: PaperTable) -> list[str]:
    """What the pairs of columns of ``paper_table`` show: its columns, or its rows on an axis."""
    across = table.columns if table.axis is None else tuple(row.label for row in table.rows)
    return [name_of(text) for text in across]


def paper_table(table: PaperTable) -> Table:
    """A table of the paper, each column twice: as published, and ours with what may be said.

    One on an axis is turned, so that the axis runs down. Where nothing is published of this pair
    only ours stand, in the same layout.
    """
    if table.axis is None:
        first = "method"
        lines = [(name_of(row.label), row.cells) for row in table.rows]
    else:
        first = name_of(table.axis_label or "")
        lines = [
            (name_of(column), tuple(row.cells[place] for row in table.rows))
            for place, column in enumerate(table.columns)
        ]
    heads = paper_heads(table)
    both = ("{}, paper (%)", "{}, ours") if is_published(table) else ("{}",)
    return Table(
        f"{name_of(table.title)} ({name_of(table.source)})",
        (first, *(text.format(head) for head in heads for text in both)),
        tuple(
            (label, *(cell for one in cells for cell in _both(one)[-len(both) :]))
            for label, cells in lines
        ),
        sentence_of(table.over),
        name_of(table.key),
    )


def _both(cell: PaperCell) -> tuple[Number, Number]:
    """As published (percent, as printed), and ours with its difference to our Instruct."""
    told = cell.published
    published = Number() if told is None else Number(f"{told:.2f}", told)
    ours = share_cell(cell.ours, cell.verdict or "", 2)
    if cell.difference is None:
        return published, ours
    shown = difference_cell(cell.difference, digits=2)
    return published, replace(ours, difference=f"{shown.text} {shown.interval}")


def joined(tables: Sequence[tuple[str, Table]], *, first: str = "task") -> Table:
    """Several tables (at least one) as one, with a first column that tells them apart.

    Columns that a table has not are empty in its rows.
    """
    columns = list(dict.fromkeys(column for _, table in tables for column in table.columns))
    rows = []
    for name, table in tables:
        for row in table.rows:
            cells = dict(zip(table.columns, row, strict=True))
            rows.append((name, *(cells.get(column, Number()) for column in columns)))
    return Table(tables[0][1].title, (first, *columns), tuple(rows), key=tables[0][1].key)
