"""Refine from end to end: plan, stage, work through the tasks, finish the folders, publish.

    result = refine("org/model-base", "org/model", "OUT", variants=["timber:lam=0.2", "timber-l"])

A run can be killed at any line. Everything it writes lies in a stage beside the output until the
last step, a rename; a journal names the tasks whose bytes have reached the disk, and the same call
continues after them (``staging``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from timberkit import records
from timberkit.checkpoint.stage import Stage, refuse_overlap
from timberkit.checkpoint.stage_folder import StageFolder
from timberkit.checkpoint.writer import free_bytes
from timberkit.config import (
    DEFAULT_FAMILIES,
    AnyVariant,
    Frozen,
    RefineRecipe,
    Source,
    build_recipe,
    build_selection,
    parse_variants,
)
from timberkit.engine import fence
from timberkit.engine.adapter_plan import plan_pair
from timberkit.engine.cluster import Cluster, cluster_of
from timberkit.engine.execute import executor_for
from timberkit.engine.finish import read_records
from timberkit.engine.pair_runs import (
    PairRun,
    StagedRun,
    run_context,
    run_digest,
    workers_for,
)
from timberkit.engine.plan import RefinementPlan
from timberkit.engine.progress import ProgressCallback
from timberkit.engine.shared_folders import stage_folders
from timberkit.engine.sources import ANY, Opening, cautions, open_pair
from timberkit.engine.staging import run_in_stage
from timberkit.errors import ResourceError, UsageError

if TYPE_CHECKING:
    from timberkit.engine.several import SeveralResult

SPARE_BYTES = 64 << 20
"""Room left for configs, tokenizers, manifests and the journal when the disk is measured."""


@dataclass(frozen=True, slots=True)
class RefineResult:
    """What a finished run wrote: one folder for each variant, one record for each matrix."""

    output: Path
    folders: dict[str, Path]
    plan: RefinementPlan
    tensors: tuple[records.TensorRecord, ...]
    resumed: bool
    seconds: float
    conversions: Mapping[str, str] = field(default_factory=dict)
    """As of ``OpenPair``: which sources were converted, and from what."""
    cautions: tuple[str, ...] = ()
    """Sentences about the sources that a user should know."""


def recipe_of(
    base: str | Path | Source,
    instruct: str | Path | Source,
    *,
    variants: str | AnyVariant | Sequence[str | AnyVariant] | None = None,
    method: str | None = None,
    lam: float | None = None,
    mu: float | None = None,
    ratio: float | None = None,
    energy: float | None = None,
    families: Sequence[str] = DEFAULT_FAMILIES,
    layers: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    fused: str = "split",
    dtype: str | None = None,
    device: str = "cpu",
    as_adapter: bool = False,
) -> RefineRecipe:
    """Build a recipe from the options of ``refine``; RecipeError lists every wrong one.

    ``variants`` (``"timber:lam=0.2"``, objects of ``timberkit.config``, or a list of either), or
    ``method`` with its parameter; Timber at lambda 0.2 when neither is given.
    """
    fields: dict[str, Any] = {
        "base": source_field(base),
        "instruct": source_field(instruct),
        "selection": build_selection(families, layers, include, exclude, fused),
        "dtype": dtype,
        "device": device,
        "as_adapter": as_adapter,
    }
    flat = {"method": method, "lam": lam, "mu": mu, "ratio": ratio, "energy": energy}
    fields |= {name: value for name, value in flat.items() if value is not None}
    if variants is not None:
        several = [variants] if isinstance(variants, str | Frozen) else list(variants)
        fields["variants"] = parse_variants(several)
    return build_recipe(fields, where="options")


def source_field(given: str | Path | Source) -> str | Source:
    """A source as a recipe takes it: a path is a path, whatever its name looks like."""
    return Source(location=str(given)) if isinstance(given, Path) else given


def plan(
    base: str | Path | Source,
    instruct: str | Path | Source,
    *,
    allow_pickle: bool = False,
    dequantise: bool = False,
    **options: Any,
) -> RefinementPlan:
    """What ``refine`` with the same options would do; nothing is written.

    Raises as ``refine`` does before it writes.
    """
    opening = Opening(allow_pickle, dequantise, write=False)
    pair = open_pair(recipe_of(base, instruct, **options), opening)
    return plan_pair(pair)


@overload
def refine(
    base: str | Path | Source, instruct: str | Path | Source, output: str | Path, **options: Any
) -> RefineResult: ...


@overload
def refine(
    base: str | Path | Source,
    instruct: Sequence[str | Path | Source],
    output: str | Path,
    **options: Any,
) -> SeveralResult: ...


def refine(
    base: str | Path | Source,
    instruct: str | Path | Source | Sequence[str | Path | Source],
    output: str | Path,
    *,
    workers: int | None = 1,
    overwrite: bool = False,
    allow_pickle: bool = False,
    dequantise: bool = False,
    on_progress: ProgressCallback | None = None,
    executor: str = "local",
    address: str | None = None,
    **options: Any,
) -> RefineResult | SeveralResult:
    """Write refined checkpoints from a Base and an Instruct one.

    Args:
        base, instruct: a folder, or a hub id with an optional ``@revision``. A list of Instruct
            models of one Base, each with an optional ``NAME=``, gives a folder in ``output`` each.
        output: the folder to write; with several variants, one folder in it for each.
        workers: processes that share the work; as many as pay off when None. The bytes written do
            not depend on it. More than one needs the usual ``if __name__ == "__main__"`` guard in
            a script.
        overwrite: replace an output of timberkit that is there, in one step, at the end.
        allow_pickle: convert ``pytorch_model*.bin`` into a cache, and read them from there.
        dequantise: likewise weights in FP8 blocks or of compressed-tensors (extra ``quantized``);
            the delta then holds their rounding.
        on_progress: called after every task, in this process.
        executor, address: ``"ray"`` and where the head of the cluster is (``cluster_of``): the work
            is shared by its machines, which see the same folders, and ``workers`` counts for
            nothing.
        options: of ``recipe_of``: variants, or method with its parameter; families, layers,
            include, exclude, fused, dtype, device, as_adapter.

    Returns:
        A ``RefineResult``; a ``several.SeveralResult`` for a list of Instruct models.

    Raises:
        UsageError: options, or something in the way of the output.
        InputError: sources that are missing, broken, quantised, or no pair; too little disk.
        InterruptedRunError: stopped before the end (Ctrl-C, full disk, a dead worker); the same
            call continues.

    Cost: see ``refine_matrix`` for each linear weight; memory of one weight for each worker; disk
    of one Instruct checkpoint for each variant.
    """
    shared: dict[str, Any] = {
        "workers": workers,
        "overwrite": overwrite,
        "opening": Opening(allow_pickle, dequantise),
        "on_progress": on_progress,
        "cluster": cluster_of(executor, address),
    }
    if isinstance(instruct, str | Path | Source):
        return refine_recipe(recipe_of(base, instruct, **options), Path(output), **shared)
    from timberkit.engine.several import named_sources, refine_recipes

    sources = named_sources(instruct)
    recipes = {name: recipe_of(base, source, **options) for name, source in sources.items()}
    return refine_recipes(recipes, Path(output), **shared)


def refine_recipe(
    recipe: RefineRecipe,
    output: Path,
    *,
    workers: int | None = 1,
    overwrite: bool = False,
    opening: Opening = ANY,
    on_progress: ProgressCallback | None = None,
    cluster: Cluster | None = None,
) -> RefineResult:
    """``refine`` for a recipe that is built already."""
    started = time.perf_counter()
    if cluster is None:
        check_device(recipe.device)
    pair = open_pair(recipe, replace(opening, on_progress=on_progress))
    run = PairRun("", pair, plan_pair(pair))
    resumed = run_pairs(
        [run],
        output,
        description={"recipe": pair.recipe.model_dump(mode="json")},
        workers=workers,
        overwrite=overwrite,
        on_progress=on_progress,
        cluster=cluster,
    )
    return result_of(run, output, resumed=resumed, seconds=time.perf_counter() - started)


def result_of(run: PairRun, output: Path, *, resumed: bool, seconds: float) -> RefineResult:
    """What the manifests of a pair's folders say; CheckpointError where they cannot be read."""
    folders = run.folders(output)
    return RefineResult(
        output=output / run.name,
        folders=folders,
        plan=run.plan,
        tensors=read_records(tuple(folders.values())),
        resumed=resumed,
        seconds=seconds,
        conversions=run.pair.conversions,
        cautions=cautions(run.pair),
    )


def check_device(device: str) -> None:
    """Raise UsageError for a CUDA device that this machine or this torch does not have."""
    if device == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        raise UsageError(
            f"device {device}: torch {torch.__version__} finds no CUDA device; leave --device out,"
            " or install a CUDA build of torch on a machine with a GPU"
        )


def run_pairs(
    runs: Sequence[PairRun],
    output: Path,
    *,
    description: Mapping[str, Any],
    workers: int | None = 1,
    overwrite: bool = False,
    on_progress: ProgressCallback | None = None,
    cluster: Cluster | None = None,
) -> bool:
    """Write the folders of planned pairs; whether an earlier run was continued.

    Raises as ``refine``, before anything is written where sources or the disk are at fault.
    """
    started = time.perf_counter()
    refuse_overlap(output, [folder for run in runs for folder in run.pair.folders])
    _check_disk(output, runs)

    sides = [side for run in runs for side in run.plan.sides]

    def work(stage: Stage) -> None:
        count = workers if workers is not None else workers_for(runs)
        folders = None
        if cluster is None:
            fence.release(stage.path)  # a run on a cluster may have been stopped here
        else:
            folders = stage_folders(runs, stage.path)
        context = run_context(runs, stage.tree)
        with executor_for(context, count, cluster, folders, sides=sides) as executor:
            run = StagedRun(stage, runs, executor)
            run.work(on_progress)
            run.finish(time.perf_counter() - started, executor.workers)
        stage.publish()

    return run_in_stage(
        output, digest=run_digest(runs), description=description, overwrite=overwrite, work=work
    )


def _check_disk(output: Path, runs: Sequence[PairRun]) -> None:
    """Compare what is needed with what is free; an earlier stage's blocks count as room."""
    stage = StageFolder.of(output.absolute())
    if stage.marker.exists():
        return  # killed while publishing: everything is written
    held = sum(
        file.stat().st_blocks * 512 for file in stage.path.rglob("*.safetensors") if file.is_file()
    )
    needed = sum(run.plan.output_bytes for run in runs) + SPARE_BYTES
    free = free_bytes(output.absolute().parent)
    if free + held < needed:
        variants = len(runs[0].plan.recipe.variants)
        models = f" of each of {len(runs)} Instruct models" if len(runs) > 1 else ""
        raise ResourceError(
            f"{output.parent}: {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB for"
            f" {variants} variant{'s' if variants > 1 else ''}{models}; free some space, write"
            " elsewhere or ask for fewer variants"
        )
