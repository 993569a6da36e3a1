"""What ``timberkit search`` shows: progress with a time estimate, the plan, and the outcome.

Progress goes to stderr, results to stdout.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from timberkit.pairs.cost import ASSUMED_TOKENS_PER_SECOND
from timberkit.report.text import visible
from timberkit.terminal import duration, messages

if TYPE_CHECKING:
    from timberkit.metrics import Interval
    from timberkit.study.search.book import ProgressCallback, SearchProgress
    from timberkit.study.search.findings import Findings, Point
    from timberkit.study.search.run import SearchResult

LINES = 20
"""Progress lines of a whole search where there is no terminal to redraw."""
QUIET_SECONDS = 60.0
ASSUMED_TOKENS = 1_000
"""Of an answer with its prompt, where a plan tells hours."""
_LONGEST = 60


@contextmanager
def search_progress(*, shown: bool) -> Iterator[ProgressCallback | None]:
    """A bar on stderr that a search feeds, or lines where stderr is no terminal."""
    if not shown:
        yield None
        return
    console = messages()
    if not console.is_terminal:
        yield _Lines(console).show
        return
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", detail="")

        def show(progress: SearchProgress) -> None:
            bar.update(
                task, description=progress.doing, completed=progress.done, total=progress.total,
                detail=_detail(progress),
            )  # fmt: skip

        yield show


class _Lines:
    """Plain lines, some for a whole search."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._step, self._doing = -1, ""
        self._told = time.monotonic()

    def show(self, progress: SearchProgress) -> None:
        step = LINES * progress.done // max(progress.total, 1)
        late = time.monotonic() - self._told > QUIET_SECONDS
        if step == self._step and progress.doing == self._doing and not late:
            return
        self._step, self._doing, self._told = step, progress.doing, time.monotonic()
        self._console.print(f"{progress.doing}, {_detail(progress)}", soft_wrap=True)


def _detail(progress: SearchProgress) -> str:
    left = progress.seconds_left
    shown = f"{progress.done}/{progress.total} evaluations"
    return shown if left is None else f"{shown}, {duration(left)} left"


def show_search_plan(console: Console, plan: dict[str, Any]) -> None:
    """What a search would do."""
    splits = ", ".join(f"{count} to {split}" for split, count in plan["problems"].items())
    console.print(f"Problems: {splits}.")
    console.print(
        f"{plan['numbers']} numbers for {plan['tensors']} tensors; about {plan['evaluations']}"
        f" evaluations, {plan['effort']}."
    )
    if plan["seconds"] is not None:
        console.print(f"About {duration(plan['seconds'])}, by one evaluation made now.")
    if plan.get("requests"):
        hours = plan["requests"] * ASSUMED_TOKENS / ASSUMED_TOKENS_PER_SECOND / 3600
        console.print(
            f"Up to {plan['requests']:,} requests; with {ASSUMED_TOKENS:,} tokens an answer and"
            f" {ASSUMED_TOKENS_PER_SECOND:,.0f} tokens a second, both assumed, {hours:,.0f} hours."
            " Fewer: --evaluations, --limit, -n."
        )
    console.print(f"Factors on the disk: {plan['factor_bytes'] / 1e6:.1f} MB.")


def show_search(console: Console, result: SearchResult) -> None:
    """The trade-off on problems never searched on, and what may be said of it."""
    findings = result.findings
    console.print(_table(findings))
    for sentence in findings.said:
        console.print(sentence)
    for notice in result.notices:
        console.print(notice)
    again = "continued from an earlier run, " if result.resumed else ""
    console.print(
        f"{result.output}: {again}{findings.evaluations} evaluations in"
        f" {duration(findings.seconds)}. Refine with it: timberkit refine --config"
        f" {result.output / 'winner.yaml'} -o OUT"
    )


def _table(findings: Findings) -> Table:
    table = Table(
        title=f"{findings.splits['confirm']} problems never searched on, in percent; the"
        f" difference to Instruct at Pass@{findings.keep} and the distance above the merges at"
        f" Pass@{findings.objective}, in points, with 95 % intervals",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", overflow="fold")
    headings = (
        f"Pass@{findings.keep}", "to Instruct", f"Pass@{findings.objective}", "above merges",
    )  # fmt: skip
    for heading in headings:
        table.add_column(heading, justify="right")
    for point in findings.of_split("confirm"):
        table.add_row(*_row(point))
    return table


def _row(point: Point) -> tuple[str, ...]:
    name = point.name if point.role in ("instruct", "merge") else f"{point.name} ({point.label})"
    return (
        visible(name, longest=_LONGEST),
        f"{point.low.value:.1f}",
        "" if point.role == "instruct" else _points(point.difference),
        f"{point.high.value:.1f}",
        "" if point.gap is None else _points(point.gap),
    )


def _points(interval: Interval) -> str:
    return f"{interval.value:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"
