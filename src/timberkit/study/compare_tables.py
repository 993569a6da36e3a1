"""A comparison as tables: for the terminal, and for every form of ``report.tables``.

    tables = [scores_table(comparison, "aime24"), differences_table(comparison, "aime24")]
    markdown(tables)

Percent and points everywhere, but for tokens, entropy and distinct answers. Names come from
strangers: what cannot be seen is spelled out here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from timberkit.metrics import Interval
from timberkit.report.tables import NONE, Table, interval_of, name_of, p_of, percent, signed
from timberkit.study.comparison import Comparison, ModelScores, Pair

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
) -> Table:
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
    return Table(
        title_of(comparison, task),
        ("model", *map(heading_of, names)),
        tuple(rows),
        f"Percent, with {level} intervals over problems; Mean is Pass@1.",
    )


def others_table(comparison: Comparison, task: str) -> Table | None:
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
    return Table(
        f"{name_of(task)}: answers, steadiness, failures",
        ("model", *map(heading_of, names)),
        tuple(rows),
        "Percent of problems or rollouts; distinct answers, entropy (nats) and tokens as they are.",
    )


def differences_table(
    comparison: Comparison, task: str, ks: Sequence[int] | None = None
) -> Table | None:
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
    return Table(
        f"{name_of(task)}: difference to {name_of(comparison.reference)}, in points",
        ("model", "score", "difference", "interval", "over all k", "p", "verdict"),
        tuple(rows),
        f"Paired {level} intervals over problems; the second interval, p (sign-flip) and the"
        " verdict hold for all k of a model together.",
    )


def averages_table(comparison: Comparison) -> Table | None:
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
    return Table(
        "Mean over " + ", ".join(map(name_of, comparison.average_over)),
        ("model", "Mean", "difference", "interval", "verdict"),
        tuple(rows),
        "Every task counts the same, whatever its number of problems.",
    )


def all_tables(comparison: Comparison) -> list[Table]:
    """Every table, task by task, the averages last."""
    found: list[Table | None] = []
    for task in comparison.tasks:
        found += [
            scores_table(comparison, task),
            differences_table(comparison, task),
            others_table(comparison, task),
        ]
    return [table for table in (*found, averages_table(comparison)) if table is not None]


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
