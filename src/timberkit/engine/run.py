"""Refine from end to end: plan, stage, work through the tasks, finish the folders, publish.

    result = refine("org/model-base", "org/model", "OUT", variants=["timber:lam=0.2", "timber-l"])

A run can be killed at any line. Everything it writes lies in a stage beside the output until the
last step, a rename; a journal names the tasks whose bytes have reached the disk, and the same call
continues after them (``staging``).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timberkit import records
from timberkit.checkpoint.stage import Stage, refuse_overlap
from timberkit.checkpoint.stage_folder import StageFolder
from timberkit.checkpoint.writer import create_shard, free_bytes
from timberkit.config import (
    DEFAULT_FAMILIES,
    AnyVariant,
    Frozen,
    RefineRecipe,
    Source,
    build_recipe,
    build_selection,
    parse_variants,
    variant_name,
)
from timberkit.engine.estimate import default_workers
from timberkit.engine.execute import Executor, executor_for
from timberkit.engine.finish import TOOL_VERSION, finish_outputs, read_records
from timberkit.engine.job import JobContext, Outcome
from timberkit.engine.plan import RefinementPlan, plan_refinement
from timberkit.engine.progress import Meter, ProgressCallback
from timberkit.engine.sources import OpenPair, open_pair
from timberkit.engine.staging import run_in_stage, work_through
from timberkit.errors import ResourceError, UsageError

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
    base: str | Path | Source, instruct: str | Path | Source, **options: Any
) -> RefinementPlan:
    """What ``refine`` with the same options would do; nothing is written.

    Raises as ``refine`` does before it writes.
    """
    pair = open_pair(recipe_of(base, instruct, **options))
    return plan_refinement(pair.base, pair.instruct, pair.recipe)


def refine(
    base: str | Path | Source,
    instruct: str | Path | Source,
    output: str | Path,
    *,
    workers: int | None = 1,
    overwrite: bool = False,
    on_progress: ProgressCallback | None = None,
    **options: Any,
) -> RefineResult:
    """Write refined checkpoints from a Base and an Instruct one.

    Args:
        base, instruct: a folder, or a hub id with an optional ``@revision``.
        output: the folder to write; with several variants, one folder in it for each.
        workers: processes that share the work; as many as pay off when None. The bytes written do
            not depend on it. More than one needs the usual ``if __name__ == "__main__"`` guard in
            a script.
        overwrite: replace an output of timberkit that is there, in one step, at the end.
        on_progress: called after every task, in this process.
        options: of ``recipe_of``: variants, or method with its parameter; families, layers,
            include, exclude, fused, dtype, device.

    Returns:
        A ``RefineResult``.

    Raises:
        UsageError: options, or something in the way of the output.
        InputError: sources that are missing, broken, quantised, or no pair; too little disk.
        InterruptedRunError: stopped before the end (Ctrl-C, full disk, a dead worker); the same
            call continues.

    Cost: see ``refine_matrix`` for each linear weight; memory of one weight for each worker; disk
    of one Instruct checkpoint for each variant.
    """
    return refine_recipe(
        recipe_of(base, instruct, **options),
        Path(output),
        workers=workers,
        overwrite=overwrite,
        on_progress=on_progress,
    )


def refine_recipe(
    recipe: RefineRecipe,
    output: Path,
    *,
    workers: int | None = 1,
    overwrite: bool = False,
    on_progress: ProgressCallback | None = None,
) -> RefineResult:
    """``refine`` for a recipe that is built already."""
    started = time.perf_counter()
    check_device(recipe.device)
    pair = open_pair(recipe)
    planned = plan_refinement(pair.base, pair.instruct, pair.recipe)
    refuse_overlap(output, pair.folders)
    _check_disk(output, planned)
    digest = hashlib.sha256(f"{pair.recipe.digest()} {TOOL_VERSION}".encode()).hexdigest()
    description = {"recipe": pair.recipe.model_dump(mode="json")}
    resumed = run_in_stage(
        output,
        digest=digest,
        description=description,
        overwrite=overwrite,
        work=lambda stage: _run_in_stage(stage, pair, planned, workers, on_progress, started),
    )
    folders = variant_folders(pair.recipe, output)
    return RefineResult(
        output=output,
        folders=folders,
        plan=planned,
        tensors=read_records(tuple(folders.values())),
        resumed=resumed,
        seconds=time.perf_counter() - started,
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


def _check_disk(output: Path, planned: RefinementPlan) -> None:
    """Compare what is needed with what is free; an earlier stage's blocks count as room."""
    stage = StageFolder.of(output.absolute())
    if stage.marker.exists():
        return  # killed while publishing: everything is written
    held = sum(
        file.stat().st_blocks * 512 for file in stage.path.rglob("*.safetensors") if file.is_file()
    )
    needed, free = planned.output_bytes + SPARE_BYTES, free_bytes(output.absolute().parent)
    if free + held < needed:
        variants = len(planned.recipe.variants)
        raise ResourceError(
            f"{output.parent}: {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB for"
            f" {variants} variant{'s' if variants > 1 else ''}; free some space, write elsewhere or"
            " ask for fewer variants"
        )


def _run_in_stage(
    stage: Stage,
    pair: OpenPair,
    planned: RefinementPlan,
    workers: int | None,
    on_progress: ProgressCallback | None,
    started: float,
) -> None:
    recipe = pair.recipe
    context = JobContext(
        variants=recipe.variants,
        folders=tuple(map(str, variant_folders(recipe, stage.tree).values())),
        layers=planned.layers,
        device=recipe.device,
    )
    count = workers if workers is not None else default_workers(planned)
    with executor_for(context, count) as executor:
        run = _Run(stage, pair, planned, executor)
        run.work(on_progress)
        run.finish(time.perf_counter() - started, count)
    stage.publish()


class _Run:
    """One run in its stage."""

    def __init__(
        self, stage: Stage, pair: OpenPair, planned: RefinementPlan, executor: Executor
    ) -> None:
        self._stage = stage
        self._pair = pair
        self._plan = planned
        self._executor = executor
        self._folders = variant_folders(pair.recipe, stage.tree)
        self._records: dict[str, records.TensorRecord] = {}
        self._done: set[str] = set()

    def work(self, on_progress: ProgressCallback | None) -> None:
        """Do every task that the journal does not name, and note each."""
        self._read_journal()
        self._prepare()
        tasks = [task for task in self._plan.tasks if task.key not in self._done]
        meter = Meter("refine", self._plan.tasks, self._done, on_progress)
        work_through(self._executor, tasks, meter, self._commit)

    def finish(self, seconds: float, workers: int) -> None:
        """Write what stands beside the weights, once all of them are there."""
        finish_outputs(
            self._folders,
            self._pair,
            self._plan,
            self._records,
            executor=self._executor,
            workers=workers,
            seconds=seconds,
        )
        self._pair.check_unchanged(self._fingerprint)

    def _read_journal(self) -> None:
        self._fingerprint = self._pair.fingerprint()
        self._prepared = False
        for entry in self._stage.completed():
            if "prepared" in entry:
                self._pair.check_unchanged(entry["prepared"])
                self._fingerprint = entry["prepared"]
                self._prepared = True
            else:
                self._done.add(entry["key"])
                if entry.get("record") is not None:
                    self._records[entry["key"]] = records.from_json(entry["record"])

    def _prepare(self) -> None:
        """Create every shard at its full size; the disk is full now or not at all."""
        for folder in self._folders.values():
            for shard in self._plan.layout.shards:
                create_shard(folder / shard.name, shard)
        if not self._prepared:
            self._stage.record([{"prepared": self._fingerprint}])

    def _commit(self, pending: Sequence[Outcome]) -> None:
        written = sorted({path for outcome in pending for path in outcome.written})
        entries = [
            {
                "key": outcome.key,
                "record": None if outcome.record is None else records.to_json(outcome.record),
            }
            for outcome in pending
        ]
        self._stage.commit([Path(path) for path in written], entries)
        for outcome in pending:
            if outcome.record is not None:
                self._records[outcome.key] = outcome.record


def variant_folders(recipe: RefineRecipe, root: Path) -> dict[str, Path]:
    """Folder of each variant: the root itself for a single one, else one below it for each."""
    names = [variant_name(variant) for variant in recipe.variants]
    return {name: root if len(names) == 1 else root / name for name in names}
