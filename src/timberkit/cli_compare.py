"""``timberkit compare``: flags of the command, and what it reads, writes and shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from timberkit.cli_options import Json, Quiet, print_json, split_names, stoppable
from timberkit.errors import UsageError

MOST_K = 1_000_000


@stoppable
def compare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]PATH…",
            help="Runs of timberkit eval, inspect_ai logs, samples of lm-eval, rollouts.parquet or"
            " JSON lines; NAME= names the model anew.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for tables, figures and comparison.json."),
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE.html",
            help="Page of the problems and answers side by side, of runs of timberkit eval; long"
            " texts lie in PAGE-cases beside it.",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Model the others are set against [the one named instruct, else the first]."
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Only this model; may be repeated.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="Only this task, or TASK:SETTING; may be repeated."),
    ] = None,
    ks: Annotated[
        str | None,
        typer.Option(help="k of Pass@k, comma-separated [1, 2, 4, … up to the rollouts]."),
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            help="What counts as right where logs have several grades: a scorer, or a metric of"
            " lm-eval such as exact_match,strict-match; may be repeated."
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of all intervals, in (0, 1).")] = 0.95,
    points: Annotated[
        float, typer.Option(help="Difference, in points, for which the effort needed is told.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of bootstraps and sign flips.")] = 0,
    overwrite: Annotated[
        bool, typer.Option(help="Replace an earlier output, once the new one is complete.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare models on the same problems: Pass@k, paired differences, crossing points, power.

    \b
    timberkit compare RUN
    timberkit compare RUN OTHER-RUN --reference instruct -o compared
    timberkit compare instruct=logs/a.eval timber=logs/b.eval --scorer match
    timberkit compare lm_eval_output --scorer exact_match,strict-match
    timberkit compare rollouts.jsonl --task aime24 --ks 1,8,64 --json
    timberkit compare RUN --cases cases.html
    """
    chosen = None if ks is None else _ks(ks)
    if not 0 < confidence < 1:
        raise UsageError(f"--confidence {confidence}: expected between 0 and 1, such as 0.95")
    if not 0 < points <= 100:
        raise UsageError(f"--points {points}: expected points of percent, above 0 up to 100")
    from timberkit import terminal
    from timberkit.evaluation.readers import read_any
    from timberkit.study.compare import compare as compare_counts
    from timberkit.study.compare_cases import check_cases, write_compare_cases
    from timberkit.study.compare_files import can_draw, comparison_fields, write_comparison
    from timberkit.study.comparison import CompareOptions
    from timberkit.study.rollout_counts import collect
    from timberkit.terminal_compare import show_comparison

    console = terminal.messages(quiet=quiet or as_json)
    busy = console.status("reading rollouts") if console.is_terminal else nullcontext()
    with busy:
        named = [_named(text) for text in sources]
        opened = [(name, read_any(path, scorer or ())) for name, path in named]
        if cases is not None:
            check_cases(opened, cases, overwrite=overwrite)
        collected = collect(opened, models=model or (), tasks=task or ())
        options = CompareOptions(reference, chosen, confidence, seed, points)
        comparison = compare_counts(collected, options)
        if output is not None:
            write_comparison(comparison, output, overwrite=overwrite)
        if cases is not None:
            write_compare_cases(comparison, opened, cases)
    if as_json:
        print_json(comparison_fields(comparison))
        return
    results = terminal.results(quiet=quiet)
    show_comparison(results, comparison)
    if output is not None:
        without = "" if can_draw() else "; figures need: pip install 'timberkit[report]'"
        results.print(f"{output}: comparison.json, tables, curves{without}.")
    if cases is not None:
        results.print(f"{cases}: problems and answers, {terminal.size(cases.stat().st_size)}.")


def _named(text: str) -> tuple[str | None, Path]:
    """``NAME=PATH`` or ``PATH``; a path that is there is never taken apart."""
    path = Path(text)
    name, sign, rest = text.partition("=")
    if not sign or path.exists():
        return None, path
    if not name or not rest:
        raise UsageError(f"{text[:200]!r}: expected PATH or NAME=PATH")
    return name, Path(rest)


def _ks(text: str) -> tuple[int, ...]:
    found: Sequence[str] = split_names(text) or ()
    if not all(re.fullmatch(r"[0-9]{1,7}", word) and 0 < int(word) <= MOST_K for word in found):
        raise UsageError(f"--ks {text[:100]!r}: expected numbers from 1, such as 1,8,64")
    return tuple(sorted({int(word) for word in found}))
