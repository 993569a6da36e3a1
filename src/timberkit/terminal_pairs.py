"""What ``timberkit pairs`` shows: a table with a line for each pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from timberkit.terminal import size

if TYPE_CHECKING:
    from timberkit.pairs import PairFacts

COLUMNS = 117
"""Width of the table where there is no terminal: hub ids are for copying, and stay whole."""


def count(number: int) -> str:
    """A large number for people.

    >>> count(30_532_122_624), count(596_049_920), count(462_080)
    ('30.5 B', '596.0 M', '0.5 M')
    """
    return f"{number / 1e9:.1f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def show_pairs(console: Console, found: Sequence[PairFacts]) -> None:
    """A line for each pair, and what to do with one."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("name", no_wrap=True)
    for heading in ("base", "instruct"):
        table.add_column(heading, overflow="fold")
    for heading in ("parameters", "BF16", "thinking", "matrices"):
        table.add_column(heading, justify="right")
    for facts in found:
        sources = (facts.base, facts.instruct) if facts.on_hub else ("shipped", "shipped")
        table.add_row(
            facts.name,
            *map(Text, sources),
            count(facts.parameters),
            size(facts.size_bytes),
            "yes" if facts.thinking else "no",
            f"{facts.matrices:,}",
        )
    console.print(table)
    console.print(
        "Parameters and bytes of one model; matrices: the linear weights that refine treats by"
        " default.\nWithout a network: timberkit plan --pair NAME. Others take --pair too: refine,"
        " analyze."
    )
