"""What ``timberkit eval`` shows: a live table while models answer, and the results.

Progress goes to stderr, results to stdout. Names and messages may hold what a stranger's model or
server wrote: they are shown as plain text without control characters.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from timberkit.terminal import duration, messages, one_line

if TYPE_CHECKING:
    from timberkit.evaluation.needs import EvaluationNeeds
    from timberkit.evaluation.progress import EvaluationProgress, ProgressCallback
    from timberkit.evaluation.run import EvaluationResult

LINES = 20
"""Progress lines of a whole run where there is no terminal to redraw."""
QUIET_SECONDS = 60.0
"""Without a terminal, one line at least this often."""
MOST_ROWS = 30
_RATES = {"truncated": "cut off", "no_answer": "no answer", "failed": "failed"}


@contextmanager
def progress_table(*, shown: bool) -> Iterator[ProgressCallback | None]:
    """A live table on stderr that a run feeds, or lines where stderr is no terminal."""
    if not shown:
        yield None
        return
    console = messages()
    if not console.is_terminal:
        yield _Lines(console).show
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(progress: EvaluationProgress) -> None:
            live.update(_live(progress), refresh=True)

        yield show


class _Lines:
    """Plain lines, some for a whole run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._step = -1
        self._doing = ""
        self._told = time.monotonic()

    def show(self, progress: EvaluationProgress) -> None:
        step = LINES * progress.answered // max(progress.lacking, 1)
        late = time.monotonic() - self._told > QUIET_SECONDS
        if step == self._step and progress.doing == self._doing and not late:
            return
        self._step, self._doing, self._told = step, progress.doing, time.monotonic()
        self._console.print(_status(progress), soft_wrap=True)


def _status(progress: EvaluationProgress) -> str:
    pieces = [one_line(progress.doing)]
    if progress.lacking:
        pieces.append(f"{progress.answered}/{progress.lacking} rollouts")
    if progress.seconds > 0 and progress.output_tokens:
        pieces.append(f"{progress.output_tokens / progress.seconds:,.0f} tokens/s")
    right = sum(unit.tally.correct for unit in progress.units)
    judged = sum(unit.tally.rollouts for unit in progress.units)
    if judged:
        pieces.append(f"{right / judged:.1%} right")
    failed = sum(unit.tally.failed for unit in progress.units)
    if failed:
        pieces.append(f"{failed} failed")
    left = progress.seconds_left
    if left is not None:
        pieces.append(f"{duration(left)} left")
    return ", ".join(pieces)


def _live(progress: EvaluationProgress) -> Group:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    table.add_column("task", overflow="fold")
    for heading in ("rollouts", "right", "cut off", "failed"):
        table.add_column(heading, justify="right")
    # The ones that are under way first, where not all have room.
    units = sorted(progress.units, key=lambda unit: not 0 < unit.tally.rollouts < unit.planned)
    for unit in units[:MOST_ROWS] if len(units) > MOST_ROWS else progress.units:
        tally = unit.tally
        mean = "" if unit.mean is None else f"{unit.mean:.1%}"
        cut = f"{tally.truncated / tally.rollouts:.1%}" if tally.truncated else ""
        table.add_row(
            Text(one_line(unit.model)),
            Text(one_line(unit.task)),
            f"{tally.rollouts}/{max(unit.planned, tally.rollouts)}",
            mean,
            cut,
            str(tally.failed) if tally.failed else "",
        )
    return Group(table, Text(_status(progress)))


def show_evaluation(console: Console, result: EvaluationResult) -> None:
    """The results of a run: a line for each model and task."""
    units: Sequence[Mapping[str, Any]] = result.summary["units"]
    console.print(_results_table(units))
    console.print(
        "Mean over problems of the share of right rollouts, with its 95 % interval over problems;"
        " Pass@k at the most rollouts that all problems have; rates are shares of rollouts."
    )
    for notice in result.notices:
        console.print(f"Note: {one_line(notice)}")
    resumed = ", continued from an earlier run" if result.resumed else ""
    console.print(
        f"{result.output}: {result.new} new rollouts in {duration(result.seconds)}{resumed}."
    )
    console.print(f"Compare models: timberkit compare {result.output}")
    console.print(f"Read the answers: inspect view --log-dir {result.output / 'logs'}")


def _results_table(units: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    table.add_column("task", overflow="fold")
    rates = [name for name in _RATES if any(unit[name] for unit in units)]
    headings = ("problems", "n", "mean", "interval", "Pass@k", *(_RATES[name] for name in rates))
    for heading in (*headings, "tokens"):
        table.add_column(heading, justify="right")
    for unit in units:
        fewest, most = unit["rollouts_per_problem"]
        mean, last = unit["mean"], list(unit["pass_at_k"])[-1]
        table.add_row(
            Text(one_line(unit["model"])),
            Text(one_line(f"{unit['task']}:{unit['setting']}")),
            str(unit["problems"]),
            str(most) if fewest == most else f"{fewest}-{most}",
            f"{mean['value']:.1%}",
            f"{100 * mean['low']:.1f}-{100 * mean['high']:.1f}",
            f"{unit['pass_at_k'][last]['value']:.1%} @{last}",
            *(f"{unit[name]:.1%}" for name in rates),
            f"{unit['output_tokens_per_rollout']:,.0f}",
        )
    return table


def show_evaluation_plan(console: Console, needs: EvaluationNeeds) -> None:
    """What a run would ask, how answers would be drawn, and what is missing."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    table.add_column("task", overflow="fold")
    table.add_column("prompt")
    for heading in ("problems", "rollouts", "there", "requests", "tokens"):
        table.add_column(heading, justify="right")
    for unit in needs.units:
        tokens = "" if unit.most_tokens is None else f"up to {_short(unit.most_tokens)}"
        table.add_row(
            Text(one_line(unit.model)),
            Text(one_line(unit.task)),
            unit.prompt,
            str(unit.problems),
            str(unit.planned),
            str(unit.there),
            str(unit.requests),
            tokens if unit.tokens is None else f"about {_short(unit.tokens)}",
        )
    console.print(table)
    console.print(_sampling_table(needs))
    for name, reason in needs.not_ready:
        named = reason.startswith(name.partition(":")[0])
        console.print(f"Not ready: {one_line(reason if named else f'{name}: {reason}')}")
    for unit in needs.units:
        if unit.conflict is not None:
            console.print(f"Refused: {one_line(unit.conflict)}")
    for notice in needs.notices:
        console.print(f"Note: {one_line(notice)}")
    console.print(f"{needs.requests} requests in all. Nothing was asked or written.")


def _sampling_table(needs: EvaluationNeeds) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    table.add_column("sampling")
    table.add_column("value", overflow="fold")
    table.add_column("from", overflow="fold")
    shown: set[tuple[str, tuple[tuple[str, str, str], ...]]] = set()
    for unit in needs.units:
        if (unit.model, unit.sampling) in shown:
            continue
        shown.add((unit.model, unit.sampling))
        for field, value, origin in unit.sampling:
            table.add_row(
                Text(one_line(unit.model)), field, Text(one_line(value)), Text(one_line(origin))
            )
    return table


def _short(count: int) -> str:
    for size, suffix in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.1f}{suffix}"
    return str(count)
