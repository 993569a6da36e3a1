"""Options and output of ``refine`` and ``plan`` for several Instruct models of one Base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timberkit.cli_options import print_json
from timberkit.config import RefineRecipe
from timberkit.errors import UsageError

if TYPE_CHECKING:
    from timberkit.engine.run import RefineResult
    from timberkit.engine.sources import Opening

BaseOption = Annotated[str | None, typer.Option("--base", help="Base, in place of BASE.")]
Instructs = Annotated[
    list[str] | None,
    typer.Option(
        "--instruct",
        help="Instruct, in place of INSTRUCT; several of one Base give a folder each, which"
        " NAME=MODEL names.",
    ),
]


def chosen_models(
    base: str | None, base_option: str | None, instruct: str | None, instructs: list[str] | None
) -> tuple[str | None, str | None, list[str]]:
    """Base, the first Instruct, and the models that get a folder each: several, or a named one.

    Raises UsageError for a model given both ways.
    """
    for word, first, second in (("BASE", base, base_option), ("INSTRUCT", instruct, instructs)):
        if first and second:
            raise UsageError(
                f"{word} ({first}) and --{word.lower()}: expected one of the two; name all models"
                " with --base and --instruct"
            )
    if not instructs:
        return base or base_option, instruct, []
    from timberkit.engine.several import is_named, named_sources

    if len(instructs) == 1 and not is_named(instructs[0]):
        return base or base_option, instructs[0], []
    leading = next(iter(named_sources(instructs).values()))
    return base or base_option, str(leading), instructs


def refine_several(
    recipe: RefineRecipe,
    instructs: list[str],
    output: Path,
    *,
    as_json: bool,
    quiet: bool,
    fields: Callable[[RefineResult], dict[str, Any]],
    **options: Any,
) -> None:
    """Write all models and show what was done; ``fields`` makes the JSON of one of them."""
    from timberkit import terminal
    from timberkit.engine.several import named_recipes, refine_recipes

    recipes = named_recipes(recipe, instructs)
    with terminal.progress_bar(shown=not quiet and not as_json) as on_progress:
        result = refine_recipes(recipes, output, on_progress=on_progress, **options)
    if as_json:
        print_json(
            {
                "output": str(result.output),
                "resumed": result.resumed,
                "seconds": result.seconds,
                "models": {name: fields(found) for name, found in result.models.items()},
            }
        )
        return
    for found in result.models.values():
        terminal.show_result(terminal.results(quiet=quiet), found)


def plan_several(
    recipe: RefineRecipe,
    instructs: list[str],
    workers: int | None,
    *,
    as_json: bool,
    quiet: bool,
    fields: Callable[..., Mapping[str, Any]],
    opening: Opening,
) -> None:
    """Show the plan of each pair, then what all take together; writes nothing."""
    from timberkit import terminal
    from timberkit.engine.estimate import calibrate, estimate
    from timberkit.engine.pair_runs import workers_for
    from timberkit.engine.several import named_recipes, plan_pairs

    runs = plan_pairs(named_recipes(recipe, instructs), replace(opening, write=False))
    count = workers if workers is not None else workers_for(runs)
    calibration = calibrate()
    needs = {run.name: estimate(run.plan, workers=count, calibration=calibration) for run in runs}
    seconds = sum(need.seconds or 0.0 for need in needs.values())
    total = {
        "workers": count,
        "memory_per_worker_bytes": max(need.memory_per_worker_bytes for need in needs.values()),
        "disk_bytes": sum(need.disk_bytes for need in needs.values()),
        "seconds": seconds,
    }
    if as_json:
        models = {
            run.name: fields(run.plan, needs[run.name], None, None, run.pair.conversions)
            for run in runs
        }
        print_json({"estimate": total, "models": models})
        return
    console = terminal.results(quiet=quiet)
    for run in runs:
        console.print(f"{run.name}:", markup=False)
        terminal.show_plan(console, run.plan, needs[run.name])
        terminal.show_conversions(console, run.pair)
    console.print(
        f"Together: {terminal.size(total['memory_per_worker_bytes'])} of memory for each of"
        f" {count} worker{'s' if count > 1 else ''}, {terminal.size(total['disk_bytes'])} of disk;"
        f" at most about {terminal.duration(seconds)}."
    )
