"""The main job on real weights: refine the embedded pair, verify it, and measure what it did.

Seven variants from one pass, each checked, then the exact Pass@k of every one on held-out puzzles
(no sampling: ``sapling.exact``), with paired intervals over the problems. The verdict is computed
from the intervals; nothing in it is written beforehand.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from timberkit.engine.progress import ProgressCallback
from timberkit.engine.run import refine
from timberkit.engine.verify import verify
from timberkit.errors import MissingExtraError
from timberkit.metrics import Interval, exact_pass_at_k, paired_difference
from timberkit.report.figures import pass_at_k_figure
from timberkit.sapling import (
    base_folder,
    instruct_folder,
    load_problems,
    success_probabilities,
)
from timberkit.study.analysis import analyze
from timberkit.study.pictures import PAGE
from timberkit.study.published import published

VARIANTS = (
    "timber-l", "timber:lam=0.2", "timber:lam=0.5", "timber:lam=0.8",
    "merge:mu=0.9", "merge:mu=0.8", "merge:mu=0.6",
)  # fmt: skip
KS = (1, 4, 16, 64, 256)
MATTERS = 0.5
"""Points of Pass@k below which a difference, though told apart, is called negligible."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model: Pass@k in percent, and the difference to Instruct with its 95 % interval."""

    name: str
    pass_at_k: dict[int, float]
    difference: dict[int, Interval]


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """All that the demo found.

    ``crossing`` is the first k at which Base passes Instruct; ``figure`` the picture of the curves;
    ``analysis`` what the spectra say in plain sentences, ``page`` the page that shows them.
    """

    output: str
    figure: str | None
    rows: tuple[ModelRow, ...]
    problems: int
    crossing: int | None
    verified: bool
    failed_checks: tuple[str, ...]
    checks: int
    verdict: tuple[str, ...]
    analysis: tuple[str, ...]
    page: str | None
    seconds: float


def run_demo(output: Path, *, on_progress: ProgressCallback | None = None) -> DemoOutcome:
    """Refine, verify, analyse and measure the embedded pair; replaces a demo in ``output``.

    ``output`` gets ``models/`` (a folder for each variant), ``analysis/``, ``results.json`` and,
    where the extra ``report`` is installed, ``pass_at_k.svg`` and the analysis as a page. Raises as
    ``refine`` and ``verify``; MissingExtraError without transformers. About half a minute.
    """
    started = time.perf_counter()
    models = output / "models"
    result = refine(
        base_folder(), instruct_folder(), models,
        variants=VARIANTS, overwrite=models.exists(), on_progress=on_progress,
    )  # fmt: skip
    report = verify(models, every=True)
    analysed = analyze(
        base_folder(), instruct_folder(), output / "analysis",
        measure=("rounding", "subspaces"), hidden_states=True,
        overwrite=(output / "analysis").exists(), on_progress=on_progress,
    )  # fmt: skip
    page = output / "analysis" / PAGE
    problems = load_problems("held-out")
    folders = {"Base": base_folder(), "Instruct": instruct_folder(), **result.folders}
    probabilities = {
        name: success_probabilities(folder, problems, threads=1) for name, folder in folders.items()
    }
    rows = tuple(_row(name, p, probabilities["Instruct"]) for name, p in probabilities.items())
    outcome = DemoOutcome(
        output=str(output),
        figure=_draw(probabilities, output / "pass_at_k.svg"),
        rows=rows,
        problems=len(problems),
        crossing=crossing_point(probabilities["Base"], probabilities["Instruct"]),
        verified=report.passed,
        failed_checks=tuple(
            f"{check.folder}: {check.name}: {check.detail}"
            for check in report.checks
            if not check.passed
        ),
        checks=len(report.checks),
        verdict=tuple(_verdict(rows)),
        analysis=tuple(map(str, cast(list[str], analysed.analysis.summary["verdicts"]))),
        page=str(page) if page.exists() else None,
        seconds=time.perf_counter() - started,
    )
    (output / "results.json").write_text(json.dumps(asdict(outcome), indent=2), encoding="utf-8")
    return outcome


def _draw(probabilities: dict[str, NDArray[np.float64]], path: Path) -> str | None:
    try:
        return str(pass_at_k_figure(probabilities, path))
    except MissingExtraError:
        return None


def crossing_point(
    first: NDArray[np.float64], second: NDArray[np.float64], *, largest: int = 4096
) -> int | None:
    """Smallest k >= 1 at which the first model's exact Pass@k exceeds the second's, or None."""
    for k in range(1, largest + 1):
        if exact_pass_at_k(first, k).mean() > exact_pass_at_k(second, k).mean():
            return k
    return None


def _row(name: str, p: NDArray[np.float64], instruct: NDArray[np.float64]) -> ModelRow:
    scores = {k: 100 * exact_pass_at_k(p, k) for k in KS}
    return ModelRow(
        name=name,
        pass_at_k={k: float(score.mean()) for k, score in scores.items()},
        difference={
            k: paired_difference(score, 100 * exact_pass_at_k(instruct, k))
            for k, score in scores.items()
        },
    )


def _verdict(rows: Sequence[ModelRow]) -> list[str]:
    """What the intervals at the smallest and the largest k say, method by method."""
    low, high = KS[0], KS[-1]
    lines = [
        f"{row.name}: Pass@{low} {_word(row.difference[low])},"
        f" Pass@{high} {_word(row.difference[high])}"
        for row in rows
        if row.name not in ("Base", "Instruct")
    ]
    timber = [row for row in rows if row.name.startswith("timber")]
    largest = max(abs(row.difference[k].value) for row in timber for k in KS)
    merged = [row for row in rows if row.name.startswith("merge")]
    best = max(merged, key=lambda row: row.pass_at_k[high])
    if largest < MATTERS:
        lines.append(
            "On this pair Timber is a null result: no setting moves any Pass@k by more than"
            f" {largest:.2f} points. Plain merging does: {best.name} moves Pass@{high} by"
            f" {_signed(best.difference[high].value)} points and Pass@{low} by"
            f" {_signed(best.difference[low].value)}."
        )
    else:
        lines.append(f"On this pair Timber moves Pass@k by up to {largest:.1f} points.")
    return lines


def _word(interval: Interval) -> str:
    shown = f"({_signed(interval.value)})"
    if interval.contains_zero:
        return f"not told apart {shown}"
    if abs(interval.value) < MATTERS:
        return f"negligibly different {shown}"
    return f"{'better' if interval.value > 0 else 'worse'} {shown}"


def _signed(value: float, digits: int = 2) -> str:
    """With a sign, and no sign for what rounds to zero."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def paper_says() -> str:
    """The paper's own numbers for the smallest model of which it gives Pass@k."""
    curves = published()["pass_at_k_qwen3_0_6b_thinking"]["AIME24"]
    low, high = curves["k"][0], curves["k"][-1]
    said = "; ".join(
        f"{name} {curves[name][0]:.1f} at Pass@{low} and {curves[name][-1]:.1f} at Pass@{high}"
        for name in ("Instruct", "Timber")
    )
    return (
        f"The paper reports, for Qwen3-0.6B on AIME'24: {said}. Its models are more than a thousand"
        " times larger; this one neither confirms nor refutes it."
    )


def show_demo(console: Console, outcome: DemoOutcome) -> None:
    """The table and the verdict, in plain words."""
    table = Table(
        title=f"Exact Pass@k in percent, {outcome.problems} held-out puzzles; the difference to"
        " Instruct in points, with its paired 95 % interval over problems",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("model")
    for k in KS:
        table.add_column(f"Pass@{k}", justify="right")
    for row in outcome.rows:
        table.add_row(row.name, *(f"{row.pass_at_k[k]:.1f}" for k in KS))
        if row.name != "Instruct":
            table.add_row("  to Instruct", *(_signed(row.difference[k].value) for k in KS))
            table.add_row("  interval", *(_shown(row.difference[k]) for k in KS), style="dim")
    console.print(table)
    if outcome.crossing is not None:
        console.print(
            f"Post-training bought Pass@1 with exploration: Base passes Instruct from"
            f" k = {outcome.crossing}.",
        )
    console.print("Compared with Instruct:")
    for line in outcome.verdict[:-1]:
        console.print(f"  {line}")
    for line in (outcome.verdict[-1], paper_says()):
        console.print(line)
    console.print("What the weights say:")
    for line in outcome.analysis:
        console.print(f"  {line}")
    for failure in outcome.failed_checks:
        console.print(f"FAIL  {failure}")
    console.print(
        f"{outcome.checks} checks {'passed' if outcome.verified else 'made, not all passed'};"
        f" models and results.json in {outcome.output}; {outcome.seconds:.0f} s.",
    )
    if outcome.figure is not None:
        console.print(f"The curves as a picture: {outcome.figure}")
    if outcome.page is not None:
        console.print(f"The analysis as one page, to be opened in a browser: {outcome.page}")


def _shown(interval: Interval) -> str:
    digits = 2 if max(abs(interval.low), abs(interval.high)) < 1 else 1
    return f"[{_signed(interval.low, digits)}, {_signed(interval.high, digits)}]"
