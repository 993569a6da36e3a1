"""``timberkit search``: flags of the command, and what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timberkit.cli_options import (
    Exclude,
    Families,
    Include,
    Json,
    Layers,
    Quiet,
    print_json,
    split_names,
    stoppable,
)
from timberkit.errors import UsageError

if TYPE_CHECKING:
    from timberkit.study.search.settings import SearchSettings

Base = Annotated[
    str, typer.Argument(help="Base: a folder, a hub id such as org/name[@revision], sapling:base.")
]
Instruct = Annotated[str, typer.Argument(help="Instruct, likewise; sapling:instruct.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder of the search; one that is there is continued."),
]
Task = Annotated[
    str | None,
    typer.Option(
        help="Benchmark whose problems are asked, NAME or NAME:SETTING [models on the Sapling"
        " vocabulary: exact probabilities of puzzles, nothing is sampled]."
    ),
]
Edges = Annotated[
    str | None,
    typer.Option(help="Directions at which a band of gains ends; 0 for none [2+8+32]."),
]
By = Annotated[
    str | None,
    typer.Option(
        help="What shares gains: matrix (nothing), thirds (of a module), module, layer [thirds]."
    ),
]
Evaluations = Annotated[int | None, typer.Option(min=0, help="Of CMA-ES [2000].")]
Share = Annotated[
    float | None,
    typer.Option(help="Part of the problems (rollouts, with --task) that one of these asks [0.2]."),
]
Tolerance = Annotated[
    float | None, typer.Option(help="Points of the kept metric that may be lost [0.5].")
]
Confidence = Annotated[
    float | None,
    typer.Option(help="How sure that has to be, one-sided, on the constraint split [0.8]."),
]
Margin = Annotated[
    float | None,
    typer.Option(help="Points of the kept metric to gain on the problems searched on [1]."),
]


@stoppable
def search(
    base: Base,
    instruct: Instruct,
    output: Output = None,
    objective: Annotated[str, typer.Option(help="What is raised: pass@K.")] = "pass@64",
    keep: Annotated[str, typer.Option(help="What is held: pass@K.")] = "pass@1",
    task: Task = None,
    data: Annotated[str | None, typer.Option(help="File of the benchmark.")] = None,
    rollouts: Annotated[
        int | None, typer.Option("--rollouts", "-n", help="For each problem [the objective's K].")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only the first problems [of each split].")
    ] = None,
    splits: Annotated[
        str | None, typer.Option(help="Problems to search, hold and confirm on [2:1:1].")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of all answers [1].")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer.")] = None,
    thinking: Annotated[
        bool | None, typer.Option("--thinking/--no-thinking", help="[model's own]")
    ] = None,
    edges: Edges = None,
    by: By = None,
    how: Annotated[
        str | None,
        typer.Option(help="Sequential search: model of every problem, or cma [cma with --task]."),
    ] = None,
    start: Annotated[float | None, typer.Option(help="Gain from which it begins [0.9].")] = None,
    rounds: Annotated[int | None, typer.Option(min=0, help="Of the model [6].")] = None,
    evaluations: Evaluations = None,
    population: Annotated[int | None, typer.Option(help="Of a generation of CMA-ES.")] = None,
    sigma: Annotated[float | None, typer.Option(help="First step of CMA-ES [0.25].")] = None,
    share: Share = None,
    tolerance: Tolerance = None,
    confidence: Confidence = None,
    margin: Margin = None,
    merges: Annotated[str | None, typer.Option(help="Gains of the merges, falling from 1.")] = None,
    levels: Annotated[str | None, typer.Option(help="Gains of the grid of simple rules.")] = None,
    families: Families = None,
    layers: Layers = None,
    include: Include = None,
    exclude: Exclude = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of splits and search [0].")] = None,
    serve: Annotated[str | None, typer.Option(help="vllm: answers come from a server.")] = None,
    serve_args: Annotated[str | None, typer.Option(help="Further arguments for it.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N, of rollouts.")] = None,
    open_again: Annotated[
        bool,
        typer.Option("--open-again", help="Open the confirm split for another final edit."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and its time, search nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the edit that buys most exploration for no loss at Pass@1, and confirm it elsewhere.

    Searches on some problems, holds the edit to its Pass@1 on others, and opens a third set once,
    for the final edit. The same command continues a search that was stopped.

    \b
    timberkit search sapling:base sapling:instruct --objective pass@64 --keep pass@1 -o RUN
    timberkit search sapling:base sapling:instruct --edges 4 --by module -o RUN
    timberkit search BASE INSTRUCT --task math500 -n 64 --serve vllm --evaluations 400 -o RUN
    timberkit refine --config RUN/winner.yaml -o OUT
    """
    settings = _settings(
        base=base, instruct=instruct, objective=objective, keep=keep,
        evaluation=_evaluation(
            task, data, rollouts, objective, limit=limit, temperatures=temperature,
            max_tokens=max_tokens, thinking=thinking,
        ),
        selection=_selection(families, layers, include, exclude),
        edges=_whole(edges), by=by, how=how, start=start, rounds=rounds, evaluations=evaluations,
        population=population, sigma=sigma, share=share, tolerance=tolerance,
        confidence=confidence, margin=margin,
        merges=_numbers("--merges", merges), levels=_numbers("--levels", levels), seed=seed,
        shares=_numbers("--splits", splits, ":"),
        temperature=temperature if task is None else None, limit=limit if task is None else None,
    )  # fmt: skip
    from timberkit import terminal, terminal_search

    if dry_run:
        from timberkit.study.search.planning import plan_search

        plan = plan_search(settings)
        if as_json:
            print_json(plan)
        else:
            terminal_search.show_search_plan(terminal.results(quiet=quiet), plan)
        return
    if output is None:
        raise UsageError("no output named; add: -o FOLDER")
    from timberkit.study.search.run import search as run_search

    with terminal_search.search_progress(shown=not quiet and not as_json) as on_progress:
        result = run_search(
            settings, output, options=_options(serve, serve_args, device),
            open_again=open_again, on_progress=on_progress,
        )  # fmt: skip
    if as_json:
        print_json(result.findings.as_json())
    else:
        terminal_search.show_search(terminal.results(quiet=quiet), result)


def _settings(**fields: Any) -> SearchSettings:
    from timberkit.study.search.settings import build_settings, parse_metric

    given = {name: value for name, value in fields.items() if value is not None}
    for name in ("objective", "keep"):
        given[name] = parse_metric(given[name])
    return build_settings(given)


def _evaluation(
    task: str | None,
    data: str | None,
    rollouts: int | None,
    objective: str,
    **fields: Any,
) -> dict[str, Any] | None:
    """The recipe of the rollouts, None for exact probabilities."""
    from timberkit.evaluation_recipe import TaskChoice
    from timberkit.study.search.settings import parse_metric

    if task is None:
        unused = [name for name in ("max_tokens", "thinking") if fields[name] is not None]
        if unused or data is not None or rollouts is not None:
            raise UsageError(
                "--data, --rollouts, --max-tokens, --thinking: given without --task; exact"
                " probabilities need none of them"
            )
        return None
    choice = TaskChoice.parse(task).model_dump(exclude_none=True)
    if data is not None:
        choice["data"] = data
    given = {name: value for name, value in fields.items() if value is not None}
    return {
        "models": ["candidate"],
        "tasks": [choice],
        "rollouts": rollouts or parse_metric(objective),
        **given,
    }


def _selection(
    families: str | None, layers: str | None, include: list[str] | None, exclude: list[str] | None
) -> dict[str, Any] | None:
    given = {
        "families": split_names(families),
        "layers": layers,
        "include": include or None,
        "exclude": exclude or None,
    }
    return {name: value for name, value in given.items() if value is not None} or None


def _whole(edges: str | None) -> list[int] | None:
    if edges is None:
        return None
    if edges.strip() in ("0", "none"):
        return []
    try:
        return [int(part) for part in edges.split("+")]
    except ValueError:
        raise UsageError(f"--edges {edges}: write numbers, such as 4 or 2+8+32") from None


def _numbers(flag: str, text: str | None, separator: str = ",") -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(separator)]
    except ValueError:
        example = separator.join(("1", "0.9", "0.8"))
        raise UsageError(f"{flag} {text}: write numbers, such as {example}") from None


def _options(serve: str | None, serve_args: str | None, device: str | None) -> Any:
    import shlex

    from timberkit.evaluation.backends import BackendOptions
    from timberkit.evaluation.run import EvaluationOptions

    if serve not in (None, "vllm"):
        raise UsageError(f"--serve {serve}: expected vllm")
    try:
        arguments = tuple(shlex.split(serve_args or ""))
    except ValueError as error:
        raise UsageError(f"--serve-args: cannot be read: {error}") from None
    return EvaluationOptions(
        backend="auto" if serve is None else "vllm",
        backends=BackendOptions(device=device, vllm_arguments=arguments),
    )
