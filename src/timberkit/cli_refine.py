"""``timberkit refine`` and ``timberkit plan``: one recipe, done or only looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timberkit.cli_cluster import Bandwidth, Cores, Machines, Nodes, asked_cluster, show_cluster
from timberkit.cli_options import (
    Address,
    AllowPickle,
    AsAdapter,
    Base,
    Config,
    Dequantise,
    Device,
    Dtype,
    Energy,
    Exclude,
    ExecutorName,
    Families,
    Fused,
    Include,
    Instruct,
    Json,
    Lam,
    Layers,
    Method,
    Mu,
    PairName,
    Quiet,
    Ratio,
    Variants,
    Workers,
    chosen_pair,
    print_json,
    refine_recipe_of,
    split_names,
    stoppable,
)
from timberkit.cli_several import (
    BaseOption,
    Instructs,
    chosen_models,
    plan_several,
    refine_several,
)
from timberkit.config import RefineRecipe
from timberkit.engine.cluster import cluster_of
from timberkit.engine.fork_server import start_early
from timberkit.errors import (
    EXIT_CHECK_FAILED,
    UsageError,
)

if TYPE_CHECKING:
    from timberkit.engine.estimate import Estimate
    from timberkit.engine.module_check import ModuleCheck
    from timberkit.engine.plan import RefinementPlan
    from timberkit.engine.run import RefineResult
    from timberkit.engine.sources import Opening
    from timberkit.pairs import Pair


@stoppable
def refine(
    base: Base = None,
    instruct: Instruct = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write; must not exist.")
    ] = None,
    pair: PairName = None,
    config: Config = None,
    method: Method = None,
    lam: Lam = None,
    mu: Mu = None,
    ratio: Ratio = None,
    energy: Energy = None,
    variant: Variants = None,
    families: Families = None,
    layers: Layers = None,
    include: Include = None,
    exclude: Exclude = None,
    fused: Fused = None,
    dtype: Dtype = None,
    as_adapter: AsAdapter = None,
    device: Device = None,
    workers: Workers = None,
    allow_pickle: AllowPickle = False,
    dequantise: Dequantise = False,
    executor: ExecutorName = "local",
    address: Address = None,
    overwrite: Annotated[
        bool, typer.Option(help="Replace an earlier output, once the new one is complete.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, write nothing.")
    ] = False,
    base_option: BaseOption = None,
    instructs: Instructs = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write refined checkpoints. A killed run is continued by the same command.

    \b
    timberkit refine org/model-base org/model -o refined
    timberkit refine BASE INSTRUCT -o OUT --lam 0.5 --layers 4-20
    timberkit refine BASE INSTRUCT -o OUT --variant timber-l --variant merge:mu=0.8
    timberkit refine BASE INSTRUCT -o OUT --variant timber --variant noise:seed=1,of=timber
    timberkit refine --config recipe.yaml -o OUT
    timberkit refine --pair qwen3-0.6b -o OUT
    timberkit refine --base BASE --instruct INSTRUCT --instruct OTHER -o OUT
    timberkit refine BASE ADAPTER -o OUT --as-adapter
    timberkit refine BASE INSTRUCT -o OUT --executor ray
    """
    from timberkit.engine.sources import Opening

    opening = Opening(allow_pickle, dequantise)
    cluster = cluster_of(executor, address)
    base, instruct, several = chosen_models(base, base_option, instruct, instructs)
    chosen = chosen_pair(pair, base, instruct)
    recipe = refine_recipe_of(
        base, instruct, config, chosen, method=method, lam=lam, mu=mu, ratio=ratio, energy=energy,
        variants=variant or None, families=split_names(families), layers=layers,
        include=include or None, exclude=exclude or None, fused=fused, dtype=dtype,
        as_adapter=as_adapter,
        device=device,
    )  # fmt: skip
    if dry_run and several:
        plan_several(
            recipe, several, workers, as_json=as_json, quiet=quiet, fields=_plan_fields,
            opening=opening,
        )  # fmt: skip
        return
    if dry_run:
        _show_plan(recipe, workers, as_json=as_json, quiet=quiet, opening=opening)
        return
    if output is None:
        raise UsageError("no output named; add: -o FOLDER")
    if recipe.device == "cpu" and cluster is None:
        start_early(recipe.instruct.location, workers)
    if several:
        refine_several(
            recipe, several, output, as_json=as_json, quiet=quiet, fields=_result_fields,
            workers=workers, overwrite=overwrite, opening=opening, cluster=cluster,
        )  # fmt: skip
        return
    from timberkit import terminal
    from timberkit.engine.run import refine_recipe

    with terminal.progress_bar(shown=not quiet and not as_json) as on_progress:
        result = refine_recipe(
            recipe, output, workers=workers, overwrite=overwrite, opening=opening,
            on_progress=on_progress, cluster=cluster,
        )  # fmt: skip
    if as_json:
        print_json(_result_fields(result))
    else:
        terminal.show_result(terminal.results(quiet=quiet), result)


@stoppable
def plan(
    base: Base = None,
    instruct: Instruct = None,
    pair: PairName = None,
    config: Config = None,
    method: Method = None,
    lam: Lam = None,
    mu: Mu = None,
    ratio: Ratio = None,
    energy: Energy = None,
    variant: Variants = None,
    families: Families = None,
    layers: Layers = None,
    include: Include = None,
    exclude: Exclude = None,
    fused: Fused = None,
    dtype: Dtype = None,
    as_adapter: AsAdapter = None,
    device: Device = None,
    workers: Workers = None,
    allow_pickle: AllowPickle = False,
    dequantise: Dequantise = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Hold the names against the model that transformers builds (extra eval).",
        ),
    ] = False,
    nodes: Nodes = None,
    cores: Cores = None,
    bandwidth: Bandwidth = None,
    base_option: BaseOption = None,
    instructs: Instructs = None,
    as_json: Json = False,
) -> None:
    """Show what refine would treat and copy, with memory, disk and time; write nothing.

    With --pair nothing is fetched: names and shapes of the models' tensors are known.

    \b
    timberkit plan org/model-base org/model
    timberkit plan BASE INSTRUCT --variant timber-l --variant merge:mu=0.8 --json
    timberkit plan --pair qwen3-30b-a3b
    timberkit plan --pair qwen3-30b-a3b --nodes 4 --cores 32 --bandwidth 2
    """
    from timberkit.engine.sources import Opening

    opening = Opening(allow_pickle, dequantise)
    machines = asked_cluster(nodes, cores, bandwidth)
    base, instruct, several = chosen_models(base, base_option, instruct, instructs)
    chosen = chosen_pair(pair, base, instruct)
    recipe = refine_recipe_of(
        base, instruct, config, chosen, method=method, lam=lam, mu=mu, ratio=ratio, energy=energy,
        variants=variant or None, families=split_names(families), layers=layers,
        include=include or None, exclude=exclude or None, fused=fused, dtype=dtype,
        as_adapter=as_adapter,
        device=device,
    )  # fmt: skip
    if several and (check or machines):
        option = "--check" if check else "--nodes"
        raise UsageError(f"{option} with several --instruct: expected one; ask for each by itself")
    if several:
        plan_several(
            recipe, several, workers, as_json=as_json, quiet=False, fields=_plan_fields,
            opening=opening,
        )  # fmt: skip
        return
    _show_plan(
        recipe, workers, as_json=as_json, quiet=False, pair=chosen, check=check,
        opening=opening, machines=machines,
    )  # fmt: skip


def _show_plan(
    recipe: RefineRecipe,
    workers: int | None,
    *,
    as_json: bool,
    quiet: bool,
    pair: Pair | None = None,
    check: bool = False,
    opening: Opening,
    machines: Machines | None = None,
) -> None:
    """Plan from the files of the sources, or, for a pair, from its shapes alone."""
    from timberkit import terminal
    from timberkit.engine.adapter_plan import plan_pair
    from timberkit.engine.estimate import calibrate, estimate
    from timberkit.engine.plan import plan_refinement
    from timberkit.engine.sources import open_pair

    shapes_from, opened = None, None
    if pair is None:
        opened = open_pair(recipe, replace(opening, write=False))
        instruct, planned = opened.instruct, plan_pair(opened)
    else:
        from timberkit.pairs import planned_pair, shape_source

        (base, instruct), shapes_from = planned_pair(pair), shape_source(pair)
        planned = plan_refinement(base, instruct, recipe)
    modules = None
    if check:
        from timberkit.engine.module_check import check_modules

        modules = check_modules(planned, instruct.config)
    calibration = calibrate()
    needs = estimate(planned, workers=workers, calibration=calibration)
    cluster = (
        None
        if machines is None
        else machines.estimate(planned, calibration, from_shapes=pair is not None)
    )
    if not as_json:
        console = terminal.results(quiet=quiet)
        terminal.show_plan(console, planned, needs)
        if machines is not None and cluster is not None:
            show_cluster(console, cluster, assumed=machines.bandwidth is None)
        if shapes_from is not None:
            console.print(shapes_from)
        if opened is not None:
            terminal.show_conversions(console, opened)
        if modules is not None:
            terminal.show_modules(console, modules)
    else:
        conversions = {} if opened is None else opened.conversions
        shown = _plan_fields(planned, needs, shapes_from, modules, conversions)
        print_json(shown if cluster is None else {**shown, "cluster": asdict(cluster)})
    if modules is not None and not modules.passed:
        raise typer.Exit(EXIT_CHECK_FAILED)


def _plan_fields(
    planned: RefinementPlan,
    needs: Estimate,
    shapes_from: str | None,
    modules: ModuleCheck | None,
    conversions: Mapping[str, str],
) -> dict[str, Any]:
    tensors = [asdict(tensor) for tensor in planned.tensors]
    return {
        "recipe": planned.recipe.model_dump(mode="json"),
        "shapes_from": shapes_from,
        "conversions": dict(conversions),
        "estimate": asdict(needs),
        "refined": [tensor for tensor in tensors if tensor["action"] == "refine"],
        "copied": [tensor for tensor in tensors if tensor["action"] == "copy"],
        "unrecognised": planned.unrecognised,
        "base_only": planned.base_only,
        "modules": None if modules is None else asdict(modules),
    }


def _result_fields(result: RefineResult) -> dict[str, Any]:
    return {
        "output": str(result.output),
        "folders": {name: str(folder) for name, folder in result.folders.items()},
        "resumed": result.resumed,
        "conversions": dict(result.conversions),
        "cautions": list(result.cautions),
        "seconds": result.seconds,
        "copied": result.plan.copy_reasons,
        "base_only": result.plan.base_only,
        "tensors": [asdict(tensor) for tensor in result.tensors],
    }
