"""Is a finished output what its manifest says? Hashes, copies, structure, and the oracle.

    report = verify("OUT")
    report.passed, [check.detail for check in report.checks]

Every check is made even when an earlier one failed, as far as the files allow. Nothing is written.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import torch

from timberkit import records
from timberkit.checkpoint.adapter import is_adapter, open_weights
from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.layout import Checkpoint
from timberkit.checkpoint.manifest import (
    MANIFEST_NAME,
    list_output_files,
    read_manifest,
)
from timberkit.checkpoint.reader import read_bytes, read_tensor
from timberkit.config import AnyVariant, RefineRecipe, Source, at, build_recipe, parse_variants
from timberkit.engine.adapter_plan import plan_pair
from timberkit.engine.analysis_files import ANALYSIS_KIND, read_analysis
from timberkit.engine.cluster import Cluster, cluster_of
from timberkit.engine.execute import Executor, executor_for, one_thread
from timberkit.engine.job import JobContext, load
from timberkit.engine.plan import RefinementPlan
from timberkit.engine.shared_folders import SharedFolders, shards_of
from timberkit.engine.sources import Opening, OpenPair, open_pair
from timberkit.engine.tasks import CastTask, HashTask, OracleTask, Place, RefineTask
from timberkit.errors import CheckpointError, InputError, SourceError, TimberkitError

SAMPLE = 8
"""Matrices of each variant that the oracle recomputes unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check on one folder: what was found, in a sentence."""

    folder: str
    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """All checks on an output."""

    output: Path
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def verify(
    output: str | Path,
    *,
    base: str | Path | None = None,
    instruct: str | Path | None = None,
    every: bool = False,
    sample: int = SAMPLE,
    seed: int = 0,
    sources: bool = True,
    allow_pickle: bool = False,
    dequantise: bool = False,
    on_check: Callable[[Check], None] | None = None,
    executor: str = "local",
    address: str | None = None,
) -> VerifyReport:
    """Check an output: of ``refine``, one folder or one for each variant, or of ``analyze``.

    Of an analysis the hashes, and that its summary is that of its spectra.

    Args:
        output: the folder.
        base, instruct: where the sources are now; where the manifest says when None.
        every: recompute every matrix by the oracle, instead of ``sample`` drawn with ``seed``.
        sources: False checks hashes and structure only, without the sources.
        allow_pickle, dequantise: as for ``refine``, for an output whose sources need it.
        on_check: called with every check as it is made.
        executor, address: who hashes and recomputes, as for ``refine``; one process by default.

    Returns:
        A report; a failed check does not raise.

    Raises:
        CheckpointError: no output of timberkit, or a manifest that cannot be read.
        SourceError: the sources are not where they were.

    Cost: reads everything once; two float64 full SVDs for each recomputed matrix.
    """
    cluster = cluster_of(executor, address)
    root = Path(output)
    folders = _output_folders(root)
    checks: list[Check] = []
    opening = Opening(allow_pickle, dequantise)
    with one_thread():
        for folder in folders:
            place = folder.relative_to(root).as_posix() if folder != root else folder.name
            for name, passed, detail in _check_folder(
                folder, base, instruct, sources, None if every else sample, seed, opening, cluster
            ):
                check = Check(place, name, passed, detail)
                checks.append(check)
                if on_check is not None:
                    on_check(check)
    return VerifyReport(root, tuple(checks))


_Finding = tuple[str, bool, str]


def _output_folders(root: Path) -> list[Path]:
    if (root / MANIFEST_NAME).is_file():
        return [root]
    found = sorted(path.parent for path in root.glob(f"*/{MANIFEST_NAME}"))
    if not found:
        raise CheckpointError(
            f"{root}: no {MANIFEST_NAME} in it or in a folder below, expected an output of"
            " timberkit refine; check the path"
        )
    return found


def _check_folder(
    folder: Path,
    base: str | Path | None,
    instruct: str | Path | None,
    sources: bool,
    sample: int | None,
    seed: int,
    opening: Opening,
    cluster: Cluster | None,
) -> Iterator[_Finding]:
    manifest = read_manifest(folder)
    yield _check_hashes(folder, manifest, cluster)
    if manifest.get("kind") == ANALYSIS_KIND:
        yield _check_analysis(folder)
        return
    try:
        checkpoint = open_weights(folder) if is_adapter(folder) else open_checkpoint(folder)
    except InputError as error:
        yield "structure", False, str(error)
        return
    yield _check_loadable(checkpoint)
    if not sources:
        return
    recipe, variant = _recipe_of(folder, manifest, base, instruct)
    try:
        pair = open_pair(recipe, opening)
    except SourceError as error:
        raise SourceError(f"{error}; or pass --base and --instruct, or --without-sources") from None
    yield _check_sources(pair, manifest)
    try:
        plan = plan_pair(pair)
    except TimberkitError as error:
        yield "structure", False, f"the sources do not fit the recipe: {error}"
        return
    structure = _check_structure(checkpoint, plan, manifest)
    yield structure
    if structure[1]:
        if pair.recipe.as_adapter:
            yield _check_kept_factors(checkpoint, pair.weights["instruct"], plan)
        else:
            yield _check_copies(checkpoint, pair.instruct, plan)
        files = shards_of((checkpoint, *pair.weights.values()))
        folders = SharedFolders(files)
        with executor_for(JobContext(), 1, cluster, folders, sides=plan.sides) as executor:
            yield _check_oracle(checkpoint, plan, variant, sample, seed, executor)


def _check_analysis(folder: Path) -> _Finding:
    try:
        analysis = read_analysis(folder)
    except InputError as error:
        return "analysis", False, str(error)
    return "analysis", True, f"{len(analysis.weights)} weights, and the summary is theirs"


def _recipe_of(
    folder: Path, manifest: Mapping[str, Any], base: str | Path | None, instruct: str | Path | None
) -> tuple[RefineRecipe, AnyVariant]:
    fields = manifest.get("recipe")
    recipe = build_recipe(
        fields if isinstance(fields, dict) else {}, where=f"{folder / MANIFEST_NAME}: recipe"
    )
    given = {"base": base, "instruct": instruct}
    moved = {name: Source.parse(str(place)) for name, place in given.items() if place is not None}
    variant = manifest.get("variant")
    return recipe.model_copy(update=moved), parse_variants([variant])[0]  # type: ignore[list-item]


def _check_hashes(folder: Path, manifest: Mapping[str, Any], cluster: Cluster | None) -> _Finding:
    listed = manifest.get("files")
    if not isinstance(listed, dict):
        return "hashes", False, "the manifest lists no files"
    present = set(list_output_files(folder))
    missing, extra = sorted(set(listed) - present), sorted(present - set(listed))
    names = sorted(present & set(listed))
    found = _hashes(folder, names, cluster)
    wrong = [name for name in names if found[name] != listed[name]]
    problems = [
        f"{what}: {', '.join(map(repr, names[:5]))}{' …' if len(names) > 5 else ''}"
        for what, names in (("missing", missing), ("not listed", extra), ("changed", wrong))
        if names
    ]
    if problems:
        return "hashes", False, "; ".join(problems)
    return "hashes", True, f"{len(present)} files have the SHA-256 of the manifest"


def _hashes(folder: Path, names: Sequence[str], cluster: Cluster | None) -> dict[str, str | None]:
    whole = folder.absolute()
    tasks = {
        name: HashTask(str(whole / name), (whole / name).stat().st_size)
        for name in sorted(names, key=lambda name: -(whole / name).stat().st_size)
    }
    with executor_for(JobContext(), 1, cluster) as executor:
        found = {outcome.key: outcome.sha256 for outcome in executor.run(list(tasks.values()))}
    return {name: found[task.key] for name, task in tasks.items()}


def _check_loadable(checkpoint: Checkpoint) -> _Finding:
    """Open every shard with the safetensors library, which shares no code with ours."""
    seen = 0
    for shard in checkpoint.shards:
        try:
            with safetensors.safe_open(shard.path, framework="pt") as file:
                seen += len(file.keys())
                pt = (file.metadata() or {}).get("format") is not None
        except (OSError, safetensors.SafetensorError) as error:
            return "loadable", False, f"{shard.name}: the safetensors library refuses it: {error}"
        if not pt:
            return "loadable", False, f"{shard.name}: no 'format' in its metadata"
    if seen != len(checkpoint.tensors):
        return "loadable", False, f"found {seen} tensors, expected {len(checkpoint.tensors)}"
    return "loadable", True, f"{seen} tensors in {len(checkpoint.shards)} files, index complete"


def _check_sources(pair: OpenPair, manifest: Mapping[str, Any]) -> _Finding:
    listed = manifest.get("sources")
    for which, checkpoint in pair.weights.items():
        facts = listed.get(which) if isinstance(listed, dict) else None
        shards = facts.get("shards") if isinstance(facts, dict) else None
        found = {
            shard.name: {"size_bytes": shard.size_bytes, "header_sha256": shard.header_sha256}
            for shard in checkpoint.shards
        }
        if shards != found:
            return "sources", False, f"{which} is not the checkpoint that this output was made from"
    return "sources", True, "headers and sizes of both sources are those of the manifest"


def _check_structure(
    checkpoint: Checkpoint, plan: RefinementPlan, manifest: Mapping[str, Any]
) -> _Finding:
    expected = {name: (e.dtype, e.shape) for name, e in plan.layout.tensors.items()}
    found = {name: (e.dtype, e.shape) for name, e in checkpoint.tensors.items()}
    if expected != found:
        differ = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        return "structure", False, f"tensors that are not as planned: {', '.join(differ[:5])}"
    listed = manifest.get("refined")
    try:
        noted = {
            (record.name, record.index, record.part)
            for record in map(records.from_json, listed if isinstance(listed, list) else [])
        }
    except CheckpointError as error:
        return "structure", False, str(error)
    planned = {(task.name, task.index, task.part) for task in plan.refine_tasks}
    if noted != planned:
        return "structure", False, f"{len(noted ^ planned)} matrices refined otherwise than planned"
    return "structure", True, f"{len(found)} tensors, {len(planned)} matrices refined, as planned"


def _check_copies(checkpoint: Checkpoint, instruct: Checkpoint, plan: RefinementPlan) -> _Finding:
    copied = [tensor.name for tensor in plan.tensors if tensor.action == "copy"]
    merged = {
        task.name: task for task in plan.tasks if isinstance(task, CastTask) and task.shape != (-1,)
    }
    for name in copied:
        if name in merged:
            found = read_tensor(checkpoint, name)
            source = load(merged[name].source, merged[name].shape)
            same = torch.equal(found, source.to(found.dtype))
        elif checkpoint.tensors[name].dtype == instruct.tensors[name].dtype:
            same = read_bytes(checkpoint, name) == read_bytes(instruct, name)
        else:
            found, source = read_tensor(checkpoint, name), read_tensor(instruct, name)
            same = torch.equal(found, source.to(found.dtype))
        if not same:
            return "copies", False, f"tensor {name!r} differs from Instruct's"
    for tensor in plan.other_vocabulary:
        first = tensor.refined_shape[0]
        found, source = (read_tensor(c, tensor.name)[first:] for c in (checkpoint, instruct))
        if not torch.equal(found, source.to(found.dtype)):
            return "copies", False, f"tensor {tensor.name!r}: rows from {first} are not Instruct's"
    return "copies", True, f"{len(copied)} tensors identical to Instruct's"


def _check_kept_factors(
    checkpoint: Checkpoint, adapter: Checkpoint, plan: RefinementPlan
) -> _Finding:
    """Of an adapter: what is no part of a refined delta is as it was."""
    refined: set[tuple[str, int]] = set()
    for task in plan.refine_tasks:
        added = task.target.added
        places = (task.target,) if added is None else (added.a, added.b)
        refined |= {(place.path, place.start_byte) for place in places}
    kept = [
        name
        for name, entry in checkpoint.tensors.items()
        if (entry.shard, entry.start_byte) not in refined
    ]
    for name in kept:
        if read_bytes(checkpoint, name) != read_bytes(adapter, name):
            return "copies", False, f"tensor {name!r} differs from the adapter's"
    return "copies", True, f"{len(kept)} tensors identical to the adapter's"


def _check_oracle(
    checkpoint: Checkpoint,
    plan: RefinementPlan,
    variant: AnyVariant,
    sample: int | None,
    seed: int,
    executor: Executor,
) -> _Finding:
    tasks = sorted(plan.refine_tasks, key=lambda task: task.key)
    if sample is not None and sample < len(tasks):
        tasks = random.Random(seed).sample(tasks, sample)
    lowest, layers = 1.0, plan.layers
    checks = {
        check.key: check
        for check in (
            OracleTask(task, _place(checkpoint, task), at(variant, task.position(layers)))
            for task in tasks
        )
    }
    for outcome in executor.run(list(checks.values())):
        found = outcome.agreement
        if found is None:
            continue
        lowest = min(lowest, found.identical)
        if not found.holds:
            return (
                "oracle",
                False,
                f"{checks[outcome.key].task.key}: {found.identical:.4%} of the elements identical,"
                f" largest difference {found.worst:.3g} times the allowed one, norm"
                f" {found.distance:.3g} of {found.bound:.3g} allowed",
            )
    near = f"at least {lowest:.3%} of the elements identical"
    if plan.recipe.as_adapter:
        near = "within the rounding of their factors"
    count = f"{len(tasks)} of {len(plan.refine_tasks)} matrices"
    return "oracle", True, f"{count} recomputed by float64 full SVD, {near}"


def _place(checkpoint: Checkpoint, task: RefineTask) -> Place:
    """Where the refined matrix lies in the output, or the factors of its delta."""
    added = task.target.added
    if added is None:
        return _in(checkpoint, task.target)
    there = replace(added, a=_in(checkpoint, added.a), b=_in(checkpoint, added.b))
    return replace(task.target, added=there)


def _in(checkpoint: Checkpoint, place: Place) -> Place:
    return replace(place, path=str(checkpoint.shard(place.path).path.absolute()))
