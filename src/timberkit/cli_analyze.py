"""``timberkit analyze``: flags of the command, and what it shows."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timberkit.cli_options import (
    Address,
    AllowPickle,
    Base,
    Config,
    Dequantise,
    Exclude,
    ExecutorName,
    Families,
    Fused,
    Include,
    Instruct,
    Json,
    Layers,
    PairName,
    Quiet,
    Workers,
    chosen_pair,
    fields_of,
    merged,
    print_json,
    split_names,
    stoppable,
)
from timberkit.config import AnalyzeRecipe, build_analyze_recipe
from timberkit.engine.cluster import cluster_of
from timberkit.engine.fork_server import start_early
from timberkit.errors import UsageError

if TYPE_CHECKING:
    from timberkit.engine.analyze import AnalysisResult
    from timberkit.engine.sources import Opening


@stoppable
def analyze(
    base: Base = None,
    instruct: Instruct = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write; must not exist.")
    ] = None,
    pair: PairName = None,
    config: Config = None,
    measure: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated, beside singular values: rounding (of Timber at lambda 0.2),"
            " subspaces. Each about doubles the time or more [neither]."
        ),
    ] = None,
    keep_values: Annotated[
        str | None,
        typer.Option(help="Whose singular values to keep: delta, or all three [delta]."),
    ] = None,
    hidden_states: Annotated[
        bool | None,
        typer.Option(
            "--hidden-states", help="Diff-eRank on texts, layer by layer (extra eval; on the CPU)."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Texts for it: one a line, or .jsonl with 'text' or 'prompt'."),
    ] = None,
    families: Families = None,
    layers: Layers = None,
    include: Include = None,
    exclude: Exclude = None,
    fused: Fused = None,
    workers: Workers = None,
    allow_pickle: AllowPickle = False,
    dequantise: Dequantise = False,
    executor: ExecutorName = "local",
    address: Address = None,
    overwrite: Annotated[
        bool, typer.Option(help="Replace an earlier output, once the new one is complete.")
    ] = False,
    page: Annotated[
        bool, typer.Option("--page/--no-page", help="Figures and report.html, or tables alone.")
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, write nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure spectra, effective ranks and what rounding hides; write tables, figures and a page.

    A killed run is continued by the same command.

    \b
    timberkit analyze org/model-base org/model -o analysis
    timberkit analyze BASE INSTRUCT -o OUT --measure rounding,subspaces --layers 4-20
    timberkit analyze BASE INSTRUCT -o OUT --hidden-states --prompts texts.txt
    timberkit analyze --pair qwen3-0.6b -o analysis
    """
    cluster = cluster_of(executor, address)
    chosen = chosen_pair(pair, base, instruct)
    if chosen is not None:
        base, instruct = chosen.base, chosen.instruct
    recipe = _recipe(
        config, base=base, instruct=instruct, measure=split_names(measure),
        keep_values=keep_values, hidden_states=hidden_states,
        prompts=None if prompts is None else str(prompts), families=split_names(families),
        layers=layers, include=include or None, exclude=exclude or None, fused=fused,
    )  # fmt: skip
    from timberkit.engine.sources import Opening

    opening = Opening(allow_pickle, dequantise)
    if dry_run:
        _show_plan(recipe, workers, as_json=as_json, quiet=quiet, opening=opening)
        return
    if output is None:
        raise UsageError("no output named; add: -o FOLDER")
    if cluster is None:
        start_early(recipe.instruct.location, workers, ["timberkit.engine.analysis_job"])
    from timberkit import terminal
    from timberkit.study.analysis import run_analysis
    from timberkit.study.pictures import can_draw

    with terminal.progress_bar(shown=not quiet and not as_json) as on_progress:
        result = run_analysis(
            recipe, output, page=page, workers=workers, overwrite=overwrite,
            opening=opening, on_progress=on_progress, cluster=cluster,
        )  # fmt: skip
    if as_json:
        print_json(_result_fields(result))
    else:
        terminal.show_analysis(terminal.results(quiet=quiet), result, can_draw=can_draw())


def _recipe(config: Path | None, **flags: Any) -> AnalyzeRecipe:
    fields, origin = fields_of(config)
    given = {name: value for name, value in flags.items() if value is not None}
    origin = origin.with_flags(given)
    return build_analyze_recipe(merged(fields, given, command="analyze"), where=origin)


def _show_plan(
    recipe: AnalyzeRecipe, workers: int | None, *, as_json: bool, quiet: bool, opening: Opening
) -> None:
    from timberkit import terminal
    from timberkit.engine.analysis_plan import estimate_analysis, plan_analysis
    from timberkit.engine.estimate import calibrate
    from timberkit.engine.sources import open_pair

    pair = open_pair(recipe.refinement(), replace(opening, write=False))
    planned = plan_analysis(pair, recipe)
    needs = estimate_analysis(planned, workers=workers, calibration=calibrate())
    if not as_json:
        console = terminal.results(quiet=quiet)
        terminal.show_analysis_plan(console, planned, needs)
        terminal.show_conversions(console, pair)
        return
    tensors = [asdict(tensor) for tensor in planned.refinement.tensors]
    print_json(
        {
            "recipe": recipe.model_dump(mode="json"),
            "estimate": asdict(needs),
            "measured": [tensor for tensor in tensors if tensor["action"] == "refine"],
            "left_out": [tensor for tensor in tensors if tensor["action"] == "copy"],
            "base_only": planned.refinement.base_only,
        }
    )


def _result_fields(result: AnalysisResult) -> dict[str, Any]:
    return {
        "output": str(result.output),
        "resumed": result.resumed,
        "seconds": result.seconds,
        "title": result.analysis.title,
        "facts": result.analysis.facts,
        "summary": result.analysis.summary,
    }
