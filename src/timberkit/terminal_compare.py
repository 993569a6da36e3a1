"""What ``timberkit compare`` shows: a table of scores for each task, and what may be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Shown
from rich.text import Text

if TYPE_CHECKING:
    from timberkit.report.tables import Table
    from timberkit.study.comparison import Comparison

CELL_WIDTH = 15
"""Of a score with its interval below."""
NAME_WIDTH = 20
FEWEST_KS = 2


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Tables, sentences and notices; as many k as the width has room for."""
    from timberkit.report.tables import name_of
    from timberkit.report.text import visible
    from timberkit.study.compare_tables import (
        averages_table,
        others_table,
        pairs_of,
        scores_table,
    )
    from timberkit.study.compare_words import about_pair

    for task in comparison.tasks:
        ks = shown_ks(comparison.plans[task].ks, console.width, chosen=comparison.options.ks)
        _show(console, scores_table(comparison, task, ks, break_cells=True))
        others = others_table(comparison, task)
        if others is not None:
            for part in _in_parts(others, console.width):
                _show(console, part)
        for pair in pairs_of(comparison, task):
            console.print(f"{name_of(pair.model)} against {name_of(pair.reference)}:")
            for line in about_pair(pair):
                console.print(f"  {line}")
        console.print()
    averages = averages_table(comparison)
    if averages is not None:
        _show(console, averages)
    if comparison.pairs:
        level = f"{100 * comparison.options.confidence:g} %"
        console.print(
            f"Differences are in points, on the same problems; intervals ({level}), p and words"
            " hold for all k of a pair together, not for several models or tasks at once."
        )
    for notice in comparison.notices:
        console.print(f"Note: {visible(notice, longest=1000)}")


def shown_ks(ks: Sequence[int], width: int, *, chosen: Sequence[int] | None) -> list[int]:
    """As many as there is room for, the first and the last always, the others evenly between.

    ``chosen`` by the user: all of them, whatever the width.

    >>> shown_ks([1, 2, 4, 8, 16, 32], 80, chosen=None)
    [1, 4, 8, 32]
    """
    if chosen is not None:
        return list(ks)
    # Mean stands for k = 1.
    room = max(FEWEST_KS, (width - NAME_WIDTH) // CELL_WIDTH)
    if len(ks) <= room:
        return list(ks)
    return [ks[round(i * (len(ks) - 1) / (room - 1))] for i in range(room)]


def _show(console: Console, table: Table) -> None:
    shown = Shown(
        title=Text(table.title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for i, heading in enumerate(table.columns):
        shown.add_column(
            Text(heading), justify="right" if i else "left", overflow="fold", no_wrap=False
        )
    for row in table.rows:
        shown.add_row(*(Text(str(cell)) for cell in row))
    console.print(shown)


def _in_parts(table: Table, width: int) -> list[Table]:
    """The columns on as many tables as it takes, each with the names."""
    from dataclasses import replace

    longest = [
        max(len(str(row[i])) for row in (table.columns, *table.rows)) + 2
        for i in range(len(table.columns))
    ]
    parts: list[list[int]] = [[]]
    for i in range(1, len(table.columns)):
        used = min(longest[0], NAME_WIDTH) + sum(longest[j] for j in parts[-1])
        if parts[-1] and used + longest[i] > width:
            parts.append([])
        parts[-1].append(i)
    return [
        replace(
            table,
            title=table.title if part is parts[0] else "",
            columns=tuple(table.columns[i] for i in (0, *part)),
            rows=tuple(tuple(row[i] for i in (0, *part)) for row in table.rows),
        )
        for part in parts
    ]
