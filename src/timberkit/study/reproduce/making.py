"""The models of a study, written: all in one pass over the weights, or one by one.

With ``keep all`` one pass writes every variant. Otherwise a model is written, asked, and deleted
before the next is written: slower, as every one is a pass of its own, but the disk holds one.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from timberkit import records
from timberkit.checkpoint.manifest import MANIFEST_NAME
from timberkit.checkpoint.stage import find_stages, remove_stage
from timberkit.checkpoint.stage_folder import StageFolder
from timberkit.config import (
    RefineRecipe,
    Source,
    TimberL,
    TruncateEnergy,
    TruncateRank,
    parse_variant,
)
from timberkit.engine.finish import read_records
from timberkit.engine.progress import ProgressCallback
from timberkit.engine.run import refine_recipe
from timberkit.study.reproduce.catalogue import BASE, INSTRUCT, Entry
from timberkit.study.reproduce.folder import ModelFacts, StudyFolder
from timberkit.study_recipe import StudyRecipe


def written_entries(entries: Sequence[Entry]) -> list[Entry]:
    """Those whose weights have to be written."""
    return [entry for entry in entries if entry.variant is not None]


def refinement(recipe: StudyRecipe, entries: Sequence[Entry]) -> RefineRecipe:
    """The refinement that writes some of the models."""
    variants = tuple(entry.variant for entry in entries if entry.variant is not None)
    return RefineRecipe(
        base=recipe.base, instruct=recipe.instruct, variants=variants, selection=recipe.selection
    )


def missing_models(folder: StudyFolder, entries: Sequence[Entry]) -> list[Entry]:
    """Those whose weights are to be written and do not lie in ``models/``."""
    return [entry for entry in written_entries(entries) if not is_there(folder, entry.key)]


def is_there(folder: StudyFolder, key: str) -> bool:
    """Whether the weights of a model lie in ``models/``, whole: they come there by a rename."""
    return (folder.models / key / MANIFEST_NAME).exists()


def write_models(
    folder: StudyFolder,
    recipe: StudyRecipe,
    entries: Sequence[Entry],
    *,
    workers: int | None,
    on_progress: ProgressCallback | None,
) -> None:
    """Write models in one pass, note what is known of each, and put them into ``models/``.

    The pass lies in ``passes/`` until it is whole. A pass of these very models that was killed is
    continued, one that was finished is used, any other is thrown away. Raises as ``refine``.
    """
    keys = [entry.key for entry in entries]
    name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
    _discard_other_passes(folder, name)
    output = folder.passes / name
    if not output.exists():
        folder.passes.mkdir(exist_ok=True)
        refine_recipe(refinement(recipe, entries), output, workers=workers, on_progress=on_progress)
    parts = {key: output if len(keys) == 1 else output / key for key in keys}
    left = {key: part for key, part in parts.items() if (part / MANIFEST_NAME).exists()}
    folder.note_models(
        model_facts(
            read_records(tuple(left.values())), [entry for entry in entries if entry.key in left]
        )
    )
    folder.models.mkdir(exist_ok=True)
    for key, part in left.items():
        if not is_there(folder, key):
            part.rename(folder.models / key)
    shutil.rmtree(folder.passes, ignore_errors=True)


def _discard_other_passes(folder: StudyFolder, name: str) -> None:
    """Nothing in ``passes/`` is the only copy of anything: what this pass is not goes."""
    if not folder.passes.exists():
        return
    for stage in find_stages(folder.passes):
        if stage.path != StageFolder.of(folder.passes / name).path:
            remove_stage(stage.path)
    for other in folder.passes.iterdir():
        if other.name != name and not other.name.startswith("."):
            shutil.rmtree(other)


def passes_bytes(folder: StudyFolder) -> int:
    """Blocks on the disk that unfinished passes hold already."""
    return sum(file.stat().st_blocks * 512 for file in folder.passes.rglob("*") if file.is_file())


def remove_model(folder: StudyFolder, key: str) -> None:
    """Delete the weights of a model; one that is not there is none to delete.

    It is renamed first: what is half deleted must not pass for a model.
    """
    place, going = folder.models / key, folder.models / f".{key}.going"
    if place.exists():
        shutil.rmtree(going, ignore_errors=True)
        place.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def place_of(folder: StudyFolder, recipe: StudyRecipe, entry: Entry) -> Path | Source:
    """Where the weights of a model are: a source of the study, or a folder in it."""
    if entry.weights == BASE:
        return recipe.base
    if entry.weights == INSTRUCT:
        return recipe.instruct
    return folder.models / entry.weights


def model_facts(
    tensors: Sequence[records.TensorRecord], entries: Sequence[Entry]
) -> dict[str, ModelFacts]:
    """From what a run recorded of every matrix: how far each model moved, and what it keeps.

    The correction is ``||refined - instruct|| / ||instruct||`` over all refined matrices together.
    The energy is the mean over matrices of ``1 - ||correction||^2 / ||delta||^2``, which is the
    share of the delta's squares that a truncation keeps; other edits have none.
    """
    moved = {entry.key: 0.0 for entry in entries}
    kept: dict[str, list[float]] = {entry.key: [] for entry in entries}
    size = 0.0
    for tensor in tensors:
        matrix = tensor.matrix
        size += matrix.instruct_norm**2
        for change in matrix.changes:
            if change.variant not in moved:
                continue
            distance = (change.correction or 0.0) * matrix.instruct_norm
            moved[change.variant] += distance**2
            if matrix.delta_norm > 0:
                kept[change.variant].append(1.0 - (distance / matrix.delta_norm) ** 2)
    return {
        entry.key: ModelFacts(
            math.sqrt(moved[entry.key] / size) if size else None,
            _energy(entry, kept),
        )
        for entry in entries
    }


def _energy(entry: Entry, kept: Mapping[str, Sequence[float]]) -> float | None:
    if entry.model.variant is None or not kept[entry.key]:
        return None
    truncates = isinstance(
        parse_variant(entry.model.variant), TimberL | TruncateRank | TruncateEnergy
    )
    return sum(kept[entry.key]) / len(kept[entry.key]) if truncates else None
