"""``timberkit reproduce``: flags of the command, and what it shows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from timberkit.cli_eval import (
    Batch,
    Connections,
    Data,
    DataParallel,
    GradeWorkers,
    MaxFailures,
    ModelDtype,
    Serve,
    ServeArgs,
    Shots,
    TensorParallel,
    Unsandboxed,
    evaluation_options,
    with_files,
)
from timberkit.cli_options import (
    Base,
    Config,
    Exclude,
    Families,
    Fused,
    Include,
    Instruct,
    Json,
    Layers,
    PairName,
    Quiet,
    Variants,
    Workers,
    chosen_pair,
    fields_of,
    merged,
    print_json,
    split_names,
    stoppable,
)
from timberkit.config import parse_variants
from timberkit.errors import RecipeError, UsageError
from timberkit.study_recipe import Catalogue, Controls, Keep, StudyRecipe, build_study_recipe

if TYPE_CHECKING:
    from timberkit.study.reproduce.run import StudyOptions, StudyResult

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder of the study; one that is there is continued."),
]
CatalogueChoice = Annotated[
    str | None,
    typer.Option(help=f"Edits: {', '.join(get_args(Catalogue))} [paper; ablations for sapling]."),
]
ControlsChoice = Annotated[
    str | None,
    typer.Option(
        help=f"Edits with controls: {', '.join(get_args(Controls))} [all for sapling, else timber]."
    ),
]
NoiseSeeds = Annotated[int | None, typer.Option(help="How often noise is drawn for each edit [5].")]
TaskNames = Annotated[
    list[str] | None, typer.Option("--task", help="NAME[:SETTING]; several [all of the paper's].")
]
Thinking = Annotated[
    bool | None, typer.Option("--thinking/--no-thinking", help="[as the pair has it]")
]
Scale = Annotated[
    float | None,
    typer.Option(help="Share of the problems, and of the rollouts for Pass@k, in (0, 1] [1]."),
]
Temperatures = Annotated[
    str | None, typer.Option("--temperature", help="Of Instruct besides its own [1.0,1.2].")
]
Confidence = Annotated[float | None, typer.Option(help="Of all intervals [0.95].")]
Seed = Annotated[int | None, typer.Option(help="Of rollouts, splits and bootstraps [0].")]
KeepChoice = Annotated[
    str, typer.Option(help=f"Weights that stay on the disk: {', '.join(get_args(Keep))}.")
]
Only = Annotated[
    list[str] | None,
    typer.Option(help="Do these steps now: analysis, models, scores, report."),
]
ModelGlobs = Annotated[
    list[str] | None, typer.Option("--model", help="Work on models whose key fits, as timber*.")
]
TokensPerSecond = Annotated[
    float | None, typer.Option(min=1e-3, help="Of your server, for --dry-run.")
]
PlainTokens = Annotated[int, typer.Option("--tokens", min=1, help="An answer, for --dry-run.")]
ThinkingTokens = Annotated[int, typer.Option(min=1, help="Likewise, with thinking.")]


@stoppable
def reproduce(
    base: Base = None,
    instruct: Instruct = None,
    pair: PairName = None,
    output: Output = None,
    config: Config = None,
    catalogue: CatalogueChoice = None,
    variant: Variants = None,
    controls: ControlsChoice = None,
    noise_seeds: NoiseSeeds = None,
    families: Families = None,
    layers: Layers = None,
    include: Include = None,
    exclude: Exclude = None,
    fused: Fused = None,
    task: TaskNames = None,
    data: Data = None,
    shots: Shots = None,
    thinking: Thinking = None,
    scale: Scale = None,
    temperature: Temperatures = None,
    confidence: Confidence = None,
    seed: Seed = None,
    keep: KeepChoice = "all",
    only: Only = None,
    model: ModelGlobs = None,
    workers: Workers = None,
    serve: Serve = None,
    serve_args: ServeArgs = None,
    tensor_parallel: TensorParallel = 1,
    data_parallel: DataParallel = 1,
    connections: Connections = None,
    batch: Batch = None,
    dtype: ModelDtype = None,
    grade_workers: GradeWorkers = None,
    max_failures: MaxFailures = 0.1,
    unsandboxed: Unsandboxed = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show steps, disk, requests and hours; do nothing.")
    ] = False,
    tokens_per_second: TokensPerSecond = None,
    tokens: PlainTokens = 1_000,
    thinking_tokens: ThinkingTokens = 8_000,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Do what the paper did, for any pair, and say whether it helped, beside simpler edits.

    Analysis, all edits and controls, evaluation, one offline page. Every step continues after a
    kill; the same command goes on. --dry-run needs no network for the ready-made pairs.

    \b
    timberkit reproduce --pair sapling -o STUDY
    timberkit reproduce --pair qwen3-0.6b --dry-run
    timberkit reproduce --pair qwen3-0.6b --serve vllm --keep none --scale 0.1 -o STUDY
    timberkit reproduce BASE INSTRUCT --task math500 --data math500=test.jsonl -o STUDY
    timberkit reproduce --pair sapling -o STUDY --only report
    """
    recipe = _recipe(
        base, instruct, config, pair=pair, catalogue=catalogue, controls=controls,
        variants=None if not variant else parse_variants(variant), noise_seeds=noise_seeds,
        families=split_names(families), layers=layers, include=include or None,
        exclude=exclude or None, fused=fused, tasks=_tasks(task, data, shots), thinking=thinking,
        scale=scale, temperatures=_numbers(temperature), confidence=confidence, seed=seed,
        unsandboxed=unsandboxed or None,
    )  # fmt: skip
    if keep not in get_args(Keep):
        raise UsageError(f"--keep {keep}: expected one of {', '.join(get_args(Keep))}")
    if dry_run:
        _show_outlook(
            recipe, output, keep, model or (), workers,
            (tokens_per_second, tokens, thinking_tokens), as_json=as_json, quiet=quiet,
        )  # fmt: skip
        return
    if output is None:
        raise UsageError("no output named; add: -o FOLDER")
    from timberkit import terminal, terminal_reproduce
    from timberkit.study.reproduce.run import reproduce as run_study

    messages = terminal.messages(quiet=quiet)
    evaluation = evaluation_options(
        serve, serve_args, max_failures, grade_workers,
        tensor_parallel=tensor_parallel, data_parallel=data_parallel, connections=connections,
        batch_size=batch, dtype=dtype, notify=lambda text: messages.print(text),
    )  # fmt: skip
    options = _study_options(keep, only or (), model or (), workers, evaluation)
    with terminal_reproduce.study_progress(shown=not quiet and not as_json) as on_progress:
        result = run_study(recipe, output, options=options, on_progress=on_progress)
    if as_json:
        print_json(_result_fields(result))
    else:
        terminal_reproduce.show_study(
            terminal.results(quiet=quiet, columns=terminal_reproduce.COLUMNS), result
        )


def _recipe(
    base: str | None, instruct: str | None, config: Path | None, **flags: Any
) -> StudyRecipe:
    """One recipe from a file, a ready-made pair and the flags given."""
    fields, origin = fields_of(config)
    given = {name: value for name, value in flags.items() if value is not None}
    found = chosen_pair(given.get("pair", fields.get("pair")), base, instruct)
    if found is not None:
        given |= {"pair": found.name, "base": found.base, "instruct": found.instruct}
        if found.name == "sapling":
            fields = {"catalogue": "ablations", "controls": "all", **fields}
    given |= {k: v for k, v in (("base", base), ("instruct", instruct)) if v is not None}
    selection = {
        n: given.pop(n) for n in ("families", "layers", "include", "exclude", "fused") if n in given
    }
    if selection:
        before = fields.get("selection") or {}
        if not isinstance(before, dict):
            raise RecipeError(
                f"{origin.of(('selection',))}: selection: found {type(before).__name__},"
                " expected a mapping"
            )
        given["selection"] = {**before, **selection}
    origin = origin.with_flags([*given, *selection])
    fields = merged(fields, given, command="reproduce")
    return build_study_recipe(fields, where=origin)


def _tasks(task: list[str] | None, data: list[str] | None, shots: list[str] | None) -> Any:
    """The benchmarks named; all of the paper's where only files are."""
    if not task and not data and not shots:
        return None
    from timberkit.study.reproduce.protocol import NAMES

    return with_files(task or list(NAMES), data, shots)


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--temperature {text}: write numbers, such as 1.0,1.2") from None


def _study_options(
    keep: str, only: list[str] | tuple[()], models: list[str] | tuple[()],
    workers: int | None, evaluation: Any,
) -> StudyOptions:  # fmt: skip
    from timberkit.study.reproduce.run import STEPS, StudyOptions

    steps = [name for each in only for name in each.split(",")]
    wrong = [name for name in steps if name not in STEPS]
    if wrong:
        raise UsageError(f"--only {wrong[0]}: expected of {', '.join(STEPS)}")
    return StudyOptions(
        keep=keep,  # type: ignore[arg-type]
        only=tuple(steps),  # type: ignore[arg-type]
        models=tuple(models),
        workers=workers,
        evaluation=evaluation,
    )


def _show_outlook(
    recipe: StudyRecipe,
    output: Path | None,
    keep: str,
    models: list[str] | tuple[()],
    workers: int | None,
    assumed: tuple[float | None, int, int],
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    from timberkit import terminal, terminal_reproduce
    from timberkit.study.reproduce.outlook import Assumptions, outlook
    from timberkit.study.reproduce.scope import chosen_models, study_benchmarks, study_models

    planned = outlook(
        recipe, chosen_models(study_models(recipe), models), study_benchmarks(recipe),
        output or Path(), keep=keep, workers=workers,  # type: ignore[arg-type]
        assumptions=Assumptions(*assumed),
    )  # fmt: skip
    if as_json:
        print_json(planned.as_json())
    else:
        terminal_reproduce.show_outlook(
            terminal.results(quiet=quiet, columns=terminal_reproduce.COLUMNS), planned
        )


def _result_fields(result: StudyResult) -> dict[str, Any]:
    found = result.findings
    return {
        "output": str(result.output),
        "page": None if result.page is None else str(result.page),
        "resumed": result.resumed,
        "seconds": result.seconds,
        "words": [] if found is None else list(found.words),
        "notices": [] if found is None else list(found.notices),
        "costs": [] if found is None else [asdict(cost) for cost in found.costs],
    }
