"""The main job on real weights: a short study of the embedded pair, with everything verified.

``timberkit demo`` is ``timberkit reproduce --pair sapling`` in a short setting: fewer edits,
controls for Timber alone. Pass@k is exact (no sampling: ``sapling.exact``), intervals are paired
over problems, and every word is computed from them; nothing in it is written beforehand. What it
adds: every model it wrote is verified against the full SVD, matrix by matrix.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from timberkit.engine.verify import verify
from timberkit.errors import UsageError
from timberkit.findings import Findings
from timberkit.metrics import Interval
from timberkit.pairs import find_pair
from timberkit.study.reproduce.files import RESULTS_NAME, read_analysis_of
from timberkit.study.reproduce.folder import hold_study
from timberkit.study.reproduce.run import StudyProgress, reproduce
from timberkit.study_recipe import StudyRecipe, build_study_recipe

KS = (1, 4, 16, 64, 256)
TASK = "sapling:held-out"
SHOWN_GROUPS = ("base", "instruct", "timber", "merge")
STUDY = "study"


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """All that the demo found. ``analysis``: what the spectra say, in plain sentences."""

    output: str
    findings: Findings
    page: str | None
    figure: str | None
    analysis: tuple[str, ...]
    verified: bool
    checks: int
    failed_checks: tuple[str, ...]
    seconds: float


def demo_recipe(scale: float = 1.0) -> StudyRecipe:
    """The study that the demo is; ``scale`` as in ``StudyRecipe``."""
    pair = find_pair("sapling")
    fields = {"pair": pair.name, "base": pair.base, "instruct": pair.instruct}
    return build_study_recipe(fields | {"catalogue": "short", "controls": "timber", "scale": scale})


def run_demo(
    output: Path,
    *,
    scale: float = 1.0,
    on_progress: Callable[[StudyProgress], None] | None = None,
) -> DemoOutcome:
    """Do the short study in ``output/study`` and verify every model it wrote.

    A finished demo there is done again; one that was stopped is continued, and what is no demo is
    refused. Raises as ``reproduce``
    and ``verify``; MissingExtraError without transformers. About a minute on two cores.
    """
    started = time.perf_counter()
    study, recipe = output / STUDY, demo_recipe(scale)
    if (study / "report" / RESULTS_NAME).exists():
        with hold_study(study, recipe):  # of this very recipe, and nobody at work in it
            pass
        shutil.rmtree(study)
    result = reproduce(recipe, study, on_progress=on_progress)
    if result.findings is None:
        raise UsageError(f"{study}: no report was made, expected one")
    report = verify(study / "models", every=True)
    analysed = read_analysis_of(study / "analysis")
    figure = study / "report" / "figures" / "plane-1.svg"
    said = [] if analysed is None else cast(list[str], analysed.summary["verdicts"])
    return DemoOutcome(
        output=str(study),
        findings=result.findings,
        page=None if result.page is None else str(result.page),
        figure=str(figure) if figure.exists() else None,
        analysis=tuple(map(str, said)),
        verified=report.passed,
        checks=len(report.checks),
        failed_checks=tuple(
            f"{check.folder}: {check.name}: {check.detail}"
            for check in report.checks
            if not check.passed
        ),
        seconds=time.perf_counter() - started,
    )


def show_demo(console: Console, outcome: DemoOutcome) -> None:
    """The table and the verdict, in plain words."""
    found = outcome.findings
    console.print(_table(found))
    for line in (*found.words, found.paper_says):
        console.print(line)
    for notice in found.notices:
        console.print(f"Note: {notice}")
    console.print("What the weights say:")
    for line in outcome.analysis:
        console.print(f"  {line}")
    for failure in outcome.failed_checks:
        console.print(f"FAIL  {failure}")
    verdict = "passed" if outcome.verified else "made, not all passed"
    console.print(
        f"{outcome.checks} checks of the models {verdict};"
        f" {outcome.seconds:.0f} s. Models, rollouts, tables and results.json: {outcome.output}"
    )
    if outcome.figure is not None:
        console.print(f"What each edit trades, as a picture: {outcome.figure}")
    if outcome.page is not None:
        console.print(f"All of it as one page, to be opened in a browser: {outcome.page}")


def _table(found: Findings) -> Table:
    problems = next(task.problems for task in found.tasks if task.key == TASK)
    table = Table(
        title=f"Exact Pass@k in percent, {problems} held-out puzzles; the difference to"
        " Instruct in points, with its paired 95 % interval over problems",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("model")
    for k in KS:
        table.add_column(f"Pass@{k}", justify="right")
    contrasts = {each.model: each for each in found.contrasts if each.task == TASK}
    for curve in found.curves:
        model = found.model(curve.model)
        if curve.task != TASK or model.group not in SHOWN_GROUPS:
            continue
        at = {point.k: point.score.value for point in curve.points}
        table.add_row(model.label, *(f"{100 * at[k]:.1f}" for k in KS))
        if model.key in contrasts:
            against = {point.k: point.difference for point in contrasts[model.key].points}
            table.add_row("  to Instruct", *(_signed(100 * against[k].value) for k in KS))
            table.add_row("  interval", *(_shown(against[k]) for k in KS), style="dim")
    return table


def _signed(value: float, digits: int = 2) -> str:
    """With a sign, and no sign for what rounds to zero."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def _shown(interval: Interval) -> str:
    low, high = 100 * interval.low, 100 * interval.high
    digits = 2 if max(abs(low), abs(high)) < 1 else 1
    return f"[{_signed(low, digits)}, {_signed(high, digits)}]"
