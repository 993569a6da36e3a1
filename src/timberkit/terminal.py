"""What the command line shows: progress with a time estimate, and tables. Nothing is computed here.

Progress and messages go to stderr, results to stdout. Names from checkpoints are shown as plain
text, never as markup.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from timberkit.report.text import visible
from timberkit.safe_console import SafeConsole

# Names in annotations only: importing them would import torch.
if TYPE_CHECKING:
    from timberkit.engine.analysis_plan import AnalysisEstimate, AnalysisPlan
    from timberkit.engine.analyze import AnalysisResult
    from timberkit.engine.estimate import Estimate
    from timberkit.engine.module_check import ModuleCheck
    from timberkit.engine.plan import RefinementPlan
    from timberkit.engine.progress import Progress as RunProgress
    from timberkit.engine.progress import ProgressCallback
    from timberkit.engine.run import RefineResult
    from timberkit.engine.sources import OpenPair
    from timberkit.engine.verify import Check
    from timberkit.records import ChangeRecord


LONGEST_LINE = 2_000
MOST_PATTERNS = 20
"""Patterns of names that a plan lists."""


def results(*, quiet: bool = False, columns: int = 100) -> Console:
    """Console on stdout for results; ``columns`` for tables where no terminal sets the width."""
    width = None if sys.stdout.isatty() else columns
    return SafeConsole(quiet=quiet, width=width, soft_wrap=True)


def messages(*, quiet: bool = False) -> Console:
    """Console on stderr for progress and messages."""
    return SafeConsole(stderr=True, quiet=quiet)


def size(count: float) -> str:
    """Bytes for people, in powers of 1000.

    >>> size(3_600_000_000)
    '3.6 GB'
    """
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    power = min(int(math.log10(max(count, 1)) // 3), len(units) - 1)
    return f"{count / 1000**power:.{0 if power == 0 else 1}f} {units[power]}"


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(0.42), duration(75), duration(7500)
    ('0.4 s', '1 min 15 s', '2 h 05 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def one_line(text: str) -> str:
    """A text as one harmless line.

    >>> one_line("a\\x1b[31mb\\nc")
    'a\\\\u001b[31mb c'
    """
    return " ".join(visible(line, longest=LONGEST_LINE) for line in text.split("\n"))


def new_bar() -> Progress:
    """A bar on stderr with a time estimate; its task has a field ``detail``, shown as it is."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=messages(),
    )


@contextmanager
def progress_bar(*, shown: bool) -> Iterator[ProgressCallback | None]:
    """A bar on stderr that a run feeds; None when nothing is to be shown."""
    if not shown:
        yield None
        return
    with ExitStack() as started:
        bar = new_bar()
        task = bar.add_task("refine", total=1.0, detail="")

        def show(state: RunProgress) -> None:
            if not bar.live.is_started:  # nothing to see before the first sign of life
                started.enter_context(bar)
            bar.update(
                task,
                description=state.phase,
                total=max(state.cost_total, 1e-9),
                completed=state.cost_done,
                detail=_detail(state),
            )

        yield show


def _detail(state: RunProgress) -> str:
    pieces = f"{state.tasks_done}/{state.tasks_total} pieces"
    if not state.bytes_total:
        return pieces
    return f"{pieces}, {size(state.bytes_done)}/{size(state.bytes_total)}"


def show_plan(console: Console, plan: RefinementPlan, needs: Estimate) -> None:
    """What a run will do and what it takes."""
    console.print(_families_table(plan, "Refined"))
    copies = ", ".join(f"{reason} ({count})" for reason, count in plan.copy_reasons.items())
    if copies:
        kept = _kept(plan)
        console.print(f"{kept[0].upper()}{kept[1:]}: {copies}.")
    for tensor in plan.other_vocabulary:
        console.print(
            Text(
                f"{one_line(tensor.name)}: {tensor.shape[0]} rows in Instruct, {tensor.base_rows}"
                f" in Base; the first {tensor.refined_shape[0]} are refined, the others are"
                " Instruct's."
            )
        )
    if plan.other_layout:
        tensor = plan.other_layout[0]
        console.print(
            one_line(
                f"Stored in another layout in Base, and paired all the same:"
                f" {len(plan.other_layout)}, such as {tensor.name} with"
                f" {', '.join(tensor.base_names[:2])}{' …' if len(tensor.base_names) > 2 else ''}."
            )
        )
    _show_fused(console, plan)
    _show_unrecognised(console, plan)
    if plan.base_only:
        names = ", ".join(plan.base_only[:5]) + (" …" if len(plan.base_only) > 5 else "")
        console.print(f"Only in Base, not written: {len(plan.base_only)} ({names}).")
    variants = len(plan.recipe.variants)
    console.print(
        f"Takes {size(needs.memory_per_worker_bytes)} of memory for each of {needs.workers}"
        f" worker{'s' if needs.workers > 1 else ''} and {size(needs.disk_bytes)} of disk for"
        f" {variants} variant{'s' if variants > 1 else ''}"
        + ("." if needs.seconds is None else f"; about {duration(needs.seconds)}.")
    )


def show_conversions(console: Console, pair: OpenPair) -> None:
    """A line for each source that is converted: from what, and the disk that takes."""
    from timberkit.checkpoint.conversion import cache_folder

    found = {"base": pair.base, "instruct": pair.instruct}
    for which, kind in pair.conversions.items():
        console.print(
            f"{which.capitalize()} is converted from {kind}, once, into {cache_folder()}:"
            f" {size(found[which].size_bytes)}.",
            markup=False,
        )
    from timberkit.engine.sources import cautions

    _show_cautions(console, cautions(pair))


def _show_cautions(console: Console, sentences: Sequence[str]) -> None:
    for sentence in sentences:
        console.print(f"Warning: {sentence}", markup=False)


def _show_fused(console: Console, plan: RefinementPlan) -> None:
    """Weights that hold several projections: split into which, or left whole and why."""
    split = (f"{one_line(name)} ({', '.join(ps)})" for name, ps in plan.split_parts.items())
    if plan.split_parts:
        console.print(Text(f"Refined by projection: {', '.join(split)}."))
    for name, reason in list(plan.left_whole.items())[:MOST_PATTERNS]:
        console.print(Text(f"Fused, refined as one matrix: {one_line(name)}: {one_line(reason)}."))


def _show_unrecognised(console: Console, plan: RefinementPlan) -> None:
    """The tensors that no rule for names fits, as patterns: some may be worth refining."""
    found = plan.unrecognised
    if not found:
        return
    console.print(
        f"Not recognised by name, so copied: {sum(found.values())} tensors. If some of these are"
        " linear weights, --families authors --include PATTERN treats them."
    )
    for pattern, count in list(found.items())[:MOST_PATTERNS]:
        console.print(Text(f"  {one_line(pattern)}" + (f" ({count})" if count > 1 else "")))
    if len(found) > MOST_PATTERNS:
        console.print(f"  … and {len(found) - MOST_PATTERNS} patterns more; --json has every name")


def show_modules(console: Console, check: ModuleCheck) -> None:
    """How a plan compares with the modules of the model: what differs, as patterns of names."""
    if check.skipped:
        console.print(Text(f"Not checked against a model: {one_line(check.skipped)}."))
        return
    console.print(
        f"Checked against transformers' {check.model}: {check.agreed} tensors are what they are"
        " taken for."
    )
    for said, found in (
        ("Linear weights there, not recognised here", check.missed),
        ("Taken for linear weights here, none there", check.mistaken),
        ("Not compared, because the model has no such name", check.absent),
    ):
        if found:
            shown = [f"{one_line(name)} ({count})" for name, count in found.items()][:MOST_PATTERNS]
            console.print(Text(f"{said}: {', '.join(shown)}."))


def _families_table(plan: RefinementPlan, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("family", "tensors", "matrices", "parameters", "largest"):
        table.add_column(heading, justify="left" if heading == "family" else "right")
    families = Counter(tensor.family for tensor in plan.refined)
    for family, count in sorted(families.items()):
        members = [tensor for tensor in plan.refined if tensor.family == family]
        largest = max(members, key=lambda tensor: math.prod(tensor.shape))
        table.add_row(
            family,
            str(count),
            str(sum(tensor.matrices for tensor in members)),
            f"{sum(math.prod(tensor.shape) for tensor in members):,}",
            " x ".join(map(str, largest.shape)),
        )
    return table


def show_result(console: Console, result: RefineResult) -> None:
    """What a finished run did, one line for each variant."""
    table = Table(title="Written", title_justify="left")
    table.add_column("variant", overflow="fold")
    for heading in ("matrices", "correction", "rounding", "changed"):
        table.add_column(heading, justify="right")
    for variant in result.folders:
        changes = [
            change
            for tensor in result.tensors
            for change in tensor.matrix.changes
            if change.variant == variant
        ]
        table.add_row(Text(variant), str(len(changes)), *_medians(changes))
    console.print(table)
    for variant in result.folders:
        done = [c for t in result.tensors for c in t.matrix.changes if c.variant == variant]
        if done and not any(change.correction for change in done):
            console.print(f"{variant} changes nothing: its weights are Instruct's as they are.")
    copied = sum(tensor.action == "copy" for tensor in result.plan.tensors)
    reasons = ", ".join(f"{reason} ({n})" for reason, n in result.plan.copy_reasons.items())
    console.print(
        "Medians over matrices: size of the correction relative to the weight, rounding of the"
        " output relative to the correction, share of elements that differ from Instruct's.",
    )
    if copied:
        console.print(f"{copied} tensors {_kept(result.plan)}: {reasons}.")
    if result.plan.base_only:
        console.print(f"{len(result.plan.base_only)} tensors only in Base were not written.")
    _show_cautions(console, result.cautions)
    resumed = ", continued from an earlier run" if result.resumed else ""
    console.print(f"{result.output}: done in {duration(result.seconds)}{resumed}.")


def _kept(plan: RefinementPlan) -> str:
    """What becomes of the tensors that are not refined."""
    from timberkit.engine.adapter_plan import NOT_ADAPTED

    if NOT_ADAPTED in plan.copy_reasons:
        return "not refined (Base's, with the adapter's delta where they have one)"
    return "copied from Instruct bit for bit"


def _medians(changes: Sequence[ChangeRecord]) -> list[str]:
    corrections = [change.correction for change in changes if change.correction is not None]
    roundings = [change.rounding for change in changes if change.rounding is not None]
    return [
        f"{median(corrections):.2%}" if corrections else "none",
        f"{median(roundings):.0%}" if roundings else "none",
        f"{median(change.changed for change in changes):.0%}" if changes else "none",
    ]


def show_analysis_plan(console: Console, plan: AnalysisPlan, needs: AnalysisEstimate) -> None:
    """What an analysis will measure and what it takes."""
    console.print(_families_table(plan.refinement, "Measured"))
    left = plan.refinement.copy_reasons
    if left:
        shown = ", ".join(f"{reason} ({count})" for reason, count in left.items())
        console.print(f"Left out: {shown}.")
    hidden = ", without the hidden states" if plan.recipe.hidden_states else ""
    console.print(
        f"Takes {size(needs.memory_per_worker_bytes)} of memory for each of {needs.workers}"
        f" worker{'s' if needs.workers > 1 else ''}"
        + ("." if needs.seconds is None else f"; about {duration(needs.seconds)}{hidden}.")
    )


def show_analysis(console: Console, result: AnalysisResult, *, can_draw: bool) -> None:
    """What an analysis found: a line for each module, then the model in plain sentences."""
    summary: dict[str, Any] = result.analysis.summary
    console.print(_modules_table(summary))
    console.print(
        "null: independent noise of the same shape; tail: share of the delta's energy that Timber"
        " weakens; times rounding: size of Timber's correction (lambda 0.2) over that of rounding,"
        " of all matrices together."
    )
    for line in summary["verdicts"]:
        console.print(line)
    if result.analysis.hidden_states:
        console.print(_hidden_states_table(result))
    from timberkit.engine.sources import rounding_caution

    _show_cautions(console, [text for text in [rounding_caution(result.conversions)] if text])
    resumed = ", continued from an earlier run" if result.resumed else ""
    console.print(f"{result.output}: done in {duration(result.seconds)}{resumed}.")
    page = result.output / "report.html"
    if page.exists():
        console.print(f"The whole of it as one page: {page}")
    elif not can_draw:
        console.print("No page and no figures: they need pip install 'timberkit[report]'.")


def _modules_table(summary: Mapping[str, Any]) -> Table:
    table = Table(
        title="Effective rank over r, means",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("module", overflow="fold")
    columns = ("matrices", "base", "instruct", "delta", "null", "tail", "null tail")
    for heading in (*columns, "times rounding"):
        table.add_column(heading, justify="right")
    for name, found in (*summary["modules"].items(), ("all", summary["model"])):
        rounding = found["rounding"]
        times = None if rounding is None else rounding["correction_over_rounding"]
        table.add_row(
            Text(name),
            str(found["matrices"]),
            *(f"{found[f'{which}_ratio']['mean']:.3f}" for which in columns[1:5]),
            *(f"{found[f'{which}_tail_energy']['mean']:.2%}" for which in ("delta", "null")),
            "" if times is None else f"{times:.1f}",
        )
    return table


def _hidden_states_table(result: AnalysisResult) -> Table:
    table = Table(
        title="Effective rank of the hidden states",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("layer", "base", "instruct", "base - instruct"):
        table.add_column(heading, justify="right")
    for row in result.analysis.hidden_states:
        layer = "embedding" if row.layer == 0 else str(row.layer)
        values = (f"{row.base:.2f}", f"{row.instruct:.2f}", f"{row.difference:+.2f}")
        table.add_row(layer, *values)
    return table


def show_check(console: Console, check: Check) -> None:
    """One check, as it is made."""
    console.print(
        f"{'ok  ' if check.passed else 'FAIL'}  {check.folder}: {check.name}: {check.detail}"
    )
