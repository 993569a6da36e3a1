"""What timberkit reproduce shows: where it is, what it will take, and what it found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from timberkit.terminal import duration, new_bar, one_line, size

# Names in annotations only: importing them would import torch.
if TYPE_CHECKING:
    from timberkit.findings import Findings, Plane
    from timberkit.study.reproduce.outlook import Outlook
    from timberkit.study.reproduce.run import StudyProgress, StudyResult, Told

COLUMNS = 130
"""Where no terminal sets the width."""
MOST_ROWS = 40


@contextmanager
def study_progress(*, shown: bool) -> Iterator[Told | None]:
    """A bar on stderr for the step at hand; None when nothing is to be shown."""
    if not shown:
        yield None
        return
    with new_bar() as bar:
        step = ""
        task = bar.add_task("starting", total=None, detail="")

        def told(state: StudyProgress) -> None:
            nonlocal step
            if state.step != step:  # the estimate is of the step at hand
                step = state.step
                bar.reset(task, total=state.total)
            bar.update(
                task, description=state.step, total=state.total, completed=state.done,
                detail=one_line(state.doing),
            )  # fmt: skip

        yield told


def show_outlook(console: Console, planned: Outlook) -> None:
    """Steps with what each takes, and the assumptions behind it."""
    table = Table(
        title=f"{planned.pair}: what a study takes", title_justify="left", box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )  # fmt: skip
    for heading, justify in (
        ("step", "left"), ("what", "left"), ("disk", "right"), ("memory", "right"),
        ("GPU memory", "right"), ("requests", "right"), ("tokens", "right"), ("time", "right"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for step in planned.steps:
        table.add_row(
            step.step,
            step.what,
            size(step.disk_bytes) if step.disk_bytes else "–",
            "–" if step.memory_bytes is None else size(step.memory_bytes),
            "–" if step.gpu_bytes is None else size(step.gpu_bytes),
            "–" if step.requests is None else f"{step.requests:,}",
            "–" if step.tokens is None else f"{step.tokens / 1e6:,.0f} M",
            "–" if step.seconds is None else _long(step.seconds),
        )
    table.add_section()
    table.add_row("all", "", size(planned.disk_bytes), "", "", *_sums(planned))
    console.print(table)
    for group, keys in planned.models.items():
        shown = ", ".join(keys[:6]) + (f" … ({len(keys)})" if len(keys) > 6 else "")
        console.print(f"  {group}: {shown}")
    console.print(
        f"{planned.matrices} matrices a model, from {planned.weights}. Disk at the worst moment:"
        f" {size(planned.disk_bytes)}; free now: {size(planned.free_bytes)}."
    )
    if planned.disk_bytes > planned.free_bytes:
        console.print(
            "That does not fit: choose fewer models (--model), a share (--scale), or write one"
            " model at a time (--keep none, --keep best)."
        )
    for sentence in planned.assumed:
        console.print(sentence)


def _long(seconds: float) -> str:
    """As ``duration``, in days where there are more than two.

    >>> _long(13_294_000)
    '154 days'
    """
    return duration(seconds) if seconds < 172_800 else f"{seconds / 86_400:,.0f} days"


def _sums(planned: Outlook) -> tuple[str, str, str]:
    """Requests, tokens and time of all steps, as far as they are known."""
    requests = sum(step.requests or 0 for step in planned.steps)
    tokens = sum(step.tokens or 0 for step in planned.steps)
    known = all(step.seconds is not None for step in planned.steps)
    seconds = sum(step.seconds or 0.0 for step in planned.steps)
    return (
        f"{requests:,}",
        f"{tokens / 1e6:,.0f} M" if tokens else "–",
        _long(seconds) if known else "not known",
    )


def show_study(console: Console, result: StudyResult) -> None:
    """The trade-off of each benchmark, what was found in words, and where the page is."""
    found = result.findings
    if found is not None:
        for plane in found.planes:
            console.print(_plane_table(found, plane))
        on_planes = {plane.task for plane in found.planes}
        if any(task.key not in on_planes for task in found.tasks):
            console.print(_means_table(found, on_planes))
        for sentence in (*found.words, found.paper_says):
            console.print(one_line(sentence))
        for notice in found.notices:
            console.print(f"Note: {one_line(notice)}")
    continued = ", continued from an earlier run" if result.resumed else ""
    console.print(f"{result.output}: {duration(result.seconds)}{continued}.")
    if result.page is not None:
        console.print(f"The study as one page, to be opened in a browser: {result.page}")


def _means_table(found: Findings, but: set[str]) -> Table:
    """Mean@k of every model on the other benchmarks."""
    tasks = [task for task in found.tasks if task.key not in but]
    table = Table(
        title="Mean in percent, with its interval over problems", title_justify="left",
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("model")
    for task in tasks:
        table.add_column(one_line(task.label), justify="right")
    at = {(curve.model, curve.task): curve.mean for curve in found.curves}
    rows = [
        model
        for model in found.models
        if model.role != "control" and any((model.key, task.key) in at for task in tasks)
    ]
    for model in rows[:MOST_ROWS]:
        means = (at.get((model.key, task.key)) for task in tasks)
        table.add_row(
            one_line(model.label),
            *(
                "–"
                if mean is None
                else f"{100 * mean.value:.1f} [{100 * mean.low:.1f}, {100 * mean.high:.1f}]"
                for mean in means
            ),
        )
    return table


def _plane_table(found: Findings, plane: Plane) -> Table:
    label = next(task.label for task in found.tasks if task.key == plane.task)
    table = Table(
        title=f"{label}: Pass@k in percent; points above the frontier of plain merges at equal"
        f" Pass@{plane.low_k}, with {100 * float(found.settings['confidence']):g} % interval",
        title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("model")
    for heading in (f"Pass@{plane.low_k}", f"Pass@{plane.high_k}", "above merges", "interval"):
        table.add_column(heading, justify="right")
    table.add_column("")
    rows = [point for point in plane.points if found.model(point.model).role != "control"]
    for point in rows[:MOST_ROWS]:
        gap = point.gap
        table.add_row(
            one_line(found.model(point.model).label),
            f"{100 * point.low.value:.1f}",
            f"{100 * point.high.value:.1f}",
            "–" if gap is None else f"{100 * gap.value:+.2f}",
            "–" if gap is None else f"{100 * gap.low:+.2f} to {100 * gap.high:+.2f}",
            point.verdict or "",
        )
    return table
