"""A comparison as tables of words: for the terminal, for Markdown and for LaTeX.

    tables = [scores_table(comparison, "aime24"), differences_table(comparison, "aime24")]
    markdown(tables)

Percent and points everywhere, but for tokens, entropy and distinct answers. Names come from
strangers: what cannot be seen is spelled out here, markup is escaped by each form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from timberkit.metrics import Interval
from timberkit.report.text import visible
from timberkit.study.comparison import Comparison, ModelScores, Pair

NONE = "–"
LONGEST_NAME = 60
HEADINGS: Mapping[str, str] = {
    "mean": "Mean",
    "entropy": "entropy",
    "truncated": "cut off",
    "no_answer": "no answer",
    "failed": "failed",
    "output_tokens": "tokens",
    "input_tokens": "prompt tokens",
}
_DIGITS = {"entropy": 2, "output_tokens": 0, "input_tokens": 0}
OTHERS = (
    "majority@", "cover@", "g-pass@", "distinct@", "entropy", "truncated", "no_answer", "failed",
    "output_tokens",
)  # fmt: skip
"""Scores beside Mean and Pass@k, in the order of columns."""


@dataclass(frozen=True, slots=True)
class WordTable:
    """Cells of plain text; the first column are names. ``note`` stands below."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def name_of(text: str) -> str:
    """A name as it may be shown."""
    return visible(text, longest=LONGEST_NAME)


def percent(share: float, digits: int = 1) -> str:
    """A share as percent, without the sign: 0.312 is 31.2."""
    return f"{100 * share:.{digits}f}"


def signed(share: float, digits: int = 1) -> str:
    """A difference in points, with its sign, and none for what rounds to zero.

    >>> signed(0.0123), signed(-0.0001)
    ('+1.2', '0.0')
    """
    rounded = round(100 * share, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def interval_of(interval: Interval, shown: Callable[[float], str]) -> str:
    """``[low, high]``."""
    return f"[{shown(interval.low)}, {shown(interval.high)}]"


def p_of(value: float) -> str:
    """A p-value with two telling digits.

    >>> p_of(0.04), p_of(0.00001), p_of(1.0)
    ('0.040', '<0.001', '1.00')
    """
    return "<0.001" if value < 0.001 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def heading_of(score: str) -> str:
    """The name of a score as a column shows it.

    >>> heading_of("pass@8"), heading_of("g-pass@16/0.5")
    ('Pass@8', 'G-Pass@16 τ=0.5')
    """
    if score in HEADINGS:
        return HEADINGS[score]
    kind, _, number = score.partition("@")
    if kind == "cover":
        return f"Cover@{number}"
    if kind == "g-pass":
        return "G-Pass@{} τ={}".format(*number.split("/"))
    return f"{'Pass' if kind == 'pass' else kind}@{number}"


def results_of(comparison: Comparison, task: str) -> list[ModelScores]:
    """What every model scored on a task, in the order of the models."""
    return [result for result in comparison.results if result.task == task]


def pairs_of(comparison: Comparison, task: str) -> list[Pair]:
    """The pairs on a task."""
    return [pair for pair in comparison.pairs if pair.task == task]


def title_of(comparison: Comparison, task: str) -> str:
    """Task, problems and rollouts in one line."""
    results = results_of(comparison, task)
    problems = _range({result.problems for result in results})
    rollouts = _range({n for result in results for n in (result.fewest, result.most)})
    each = "rollout" if rollouts == "1" else "rollouts"
    return f"{name_of(task)}: {problems} problems, {rollouts} {each} each"


def scores_table(
    comparison: Comparison, task: str, ks: Sequence[int] | None = None, *, break_cells: bool = False
) -> WordTable:
    """Mean@k and Pass@k of every model, in percent, with intervals over problems.

    ``ks``: which to show; None for all. ``break_cells`` puts the interval on a line of its own.
    """
    plan = comparison.plans[task]
    names = ["mean", *(f"pass@{k}" for k in (plan.ks if ks is None else ks) if k != 1)]
    joint = "\n" if break_cells else " "
    rows = [
        (
            name_of(result.model),
            *(_cell(result.scores.get(name), percent, joint) for name in names),
        )
        for result in results_of(comparison, task)
    ]
    level = f"{100 * comparison.options.confidence:g} %"
    return WordTable(
        title_of(comparison, task),
        ("model", *map(heading_of, names)),
        tuple(rows),
        f"Percent, with {level} intervals over problems; Mean is Pass@1.",
    )


def others_table(comparison: Comparison, task: str) -> WordTable | None:
    """The other scores of every model, without intervals; None where there are none."""
    results = results_of(comparison, task)
    there = list(dict.fromkeys(name for result in results for name in result.scores))
    names = [name for start in OTHERS for name in there if name.startswith(start)]
    # Nothing failed, nothing to see.
    if all(result.scores["failed"] is not None and not result.scores["failed"].value
           for result in results):  # fmt: skip
        names.remove("failed")
    if not names:
        return None
    rows = [
        (name_of(result.model), *(_plain(name, result.scores.get(name)) for name in names))
        for result in results
    ]
    return WordTable(
        f"{name_of(task)}: answers, steadiness, failures",
        ("model", *map(heading_of, names)),
        tuple(rows),
        "Percent of problems or rollouts; distinct answers, entropy (nats) and tokens as they are.",
    )


def differences_table(
    comparison: Comparison, task: str, ks: Sequence[int] | None = None
) -> WordTable | None:
    """Each model minus the reference at each k, in points; None without a pair on this task."""
    pairs = pairs_of(comparison, task)
    if not pairs:
        return None
    rows = [
        (
            name_of(pair.model),
            f"Pass@{row.k}",
            signed(row.difference.value),
            interval_of(row.difference, signed),
            interval_of(row.simultaneous, signed),
            p_of(row.corrected_p_value),
            row.verdict,
        )
        for pair in pairs
        for row in pair.pass_at_k
        if ks is None or row.k in ks
    ]
    level = f"{100 * comparison.options.confidence:g} %"
    return WordTable(
        f"{name_of(task)}: difference to {name_of(comparison.reference)}, in points",
        ("model", "score", "difference", "interval", "over all k", "p", "verdict"),
        tuple(rows),
        f"Paired {level} intervals over problems; the second interval, p (sign-flip) and the"
        " verdict hold for all k of a model together.",
    )


def averages_table(comparison: Comparison) -> WordTable | None:
    """The mean over tasks; None below two tasks that all models have."""
    if not comparison.averages:
        return None
    rows = []
    for average in comparison.averages:
        difference = average.difference
        if difference is None or average.verdict is None:
            told: tuple[str, ...] = ("reference", "", "")
        else:
            told = (signed(difference.value), interval_of(difference, signed), average.verdict)
        rows.append((name_of(average.model), _cell(average.mean, percent, " "), *told))
    return WordTable(
        "Mean over " + ", ".join(map(name_of, comparison.average_over)),
        ("model", "Mean", "difference", "interval", "verdict"),
        tuple(rows),
        "Every task counts the same, whatever its number of problems.",
    )


def all_tables(comparison: Comparison) -> list[WordTable]:
    """Every table, task by task, the averages last."""
    found: list[WordTable | None] = []
    for task in comparison.tasks:
        found += [
            scores_table(comparison, task),
            differences_table(comparison, task),
            others_table(comparison, task),
        ]
    return [table for table in (*found, averages_table(comparison)) if table is not None]


def markdown(tables: Sequence[WordTable], *, notes: Sequence[str] = ()) -> str:
    """GitHub tables, one after another, and a list of notes below."""
    parts = []
    for table in tables:
        lines = [f"### {_in_markdown(table.title)}", ""]
        for row in (table.headings, ("---", *["---:"] * (len(table.headings) - 1)), *table.rows):
            cells = row if row[0] == "---" else tuple(map(_in_markdown, row))
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join([*lines, "", _in_markdown(table.note)]))
    if notes:
        parts.append("\n".join(f"- {_in_markdown(visible(note, longest=1000))}" for note in notes))
    return "\n\n".join(parts) + "\n"


def latex(tables: Sequence[WordTable]) -> str:
    """``tabular`` environments with booktabs rules, one after another; needs ``booktabs``."""
    parts = ["% Needs \\usepackage{booktabs}"]
    for table in tables:
        columns = "l" + "r" * (len(table.headings) - 1)
        body = [" & ".join(map(_in_latex, row)) + r" \\" for row in (table.headings, *table.rows)]
        parts.append(
            "\n".join(
                [
                    f"% {_in_comment(table.title)}",
                    f"\\begin{{tabular}}{{{columns}}}",
                    r"\toprule",
                    body[0],
                    r"\midrule",
                    *body[1:],
                    r"\bottomrule",
                    r"\end{tabular}",
                    f"% {_in_comment(table.note)}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def _cell(interval: Interval | None, shown: Callable[[float], str], joint: str) -> str:
    if interval is None:
        return NONE
    return f"{shown(interval.value)}{joint}{interval_of(interval, shown)}"


def _plain(score: str, interval: Interval | None) -> str:
    if interval is None:
        return NONE
    if score in _DIGITS:
        return f"{interval.value:.{_DIGITS[score]}f}"
    return f"{interval.value:.1f}" if score.startswith("distinct@") else percent(interval.value)


def _range(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _in_markdown(text: str) -> str:
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", text)
    # An entity would become a letter, and an address a link.
    return escaped.replace("&", "&amp;").replace("://", r":\//")


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--",
    "τ": r"$\tau$", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "[": "{[}", "]": "{]}", '"': r"\textquotedbl{}", "…": r"\ldots{}",
}  # fmt: skip


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _in_comment(text: str) -> str:
    return " ".join(text.split())
