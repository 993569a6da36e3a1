"""Before any work: which tensors are refined or copied and why, and what that takes.

    plan = plan_refinement(base, instruct, recipe)
    plan.tasks        # every byte of the output, exactly once
    plan.tensors      # every tensor of Instruct, with its action and reason

Pure: reads nothing but what ``checkpoint.index`` has validated, and no file at all for checkpoints
that ``checkpoint.planned`` has laid out from shapes alone. Mismatches of structure end here,
before a byte is written. Not here: how long it takes (``estimate``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from timberkit.checkpoint.families import NOT_RECOGNISED, Role, classify, is_selected, module_path
from timberkit.checkpoint.fused import Matrix, Split, split_tensor
from timberkit.checkpoint.layout import DTYPE_BITS, FLOAT_DTYPES, Checkpoint, TensorEntry
from timberkit.checkpoint.output_layout import (
    OutputLayout,
    cast_tensors,
    copy_ranges,
    plan_output,
)
from timberkit.checkpoint.refused import refuse_quantised
from timberkit.config import RefineRecipe, Selection
from timberkit.engine.pairing import (
    OtherLayout,
    nothing_selected,
    refuse_other_layout,
    shape_mismatch,
)
from timberkit.engine.tasks import CastTask, CopyTask, Place, RefineTask
from timberkit.errors import CheckpointError, PairMismatchError
from timberkit.placing import check_places

SAFETENSORS_DTYPE = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
STRUCTURE_FIELDS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_experts",
    "num_local_experts",
    "moe_intermediate_size",
)
"""Fields of config.json that must agree: with them, so must the shapes of all linear weights."""
NO_CONFIG: Mapping[str, Any] = MappingProxyType({})
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])", re.ASCII)


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of Instruct: ``reason`` says why it is copied, and is empty where it is refined.

    ``matrices`` counts what is refined separately: experts and projections of a fused tensor, else
    1 or 0. ``parts`` names the projections; ``whole_because`` says why a fused weight has none.
    ``base_rows`` is the number of rows in Base of an embedding or a head whose vocabulary is
    another one there, else None: the rows that both have are refined, the others are Instruct's.
    ``base_names`` are the tensors of Base that hold it in another layout, empty where one of the
    same name does.
    """

    name: str
    action: Literal["refine", "copy"]
    reason: str
    family: str
    layer: int | None
    shape: tuple[int, ...]
    dtype: str
    matrices: int
    parts: tuple[str, ...] = ()
    whole_because: str = ""
    base_rows: int | None = None
    base_names: tuple[str, ...] = ()

    @property
    def refined_shape(self) -> tuple[int, ...]:
        """What of the tensor is refined: all of it, or the rows that Base has too."""
        if self.base_rows is None:
            return self.shape
        return (min(self.shape[0], self.base_rows), *self.shape[1:])


@dataclass(frozen=True, slots=True)
class RefinementPlan:
    """What a run will do; ``tasks`` are ordered by cost, the most expensive first.

    ``base_only`` are tensors that only Base has; they are not written.
    """

    recipe: RefineRecipe
    tensors: tuple[PlannedTensor, ...]
    base_only: tuple[str, ...]
    layout: OutputLayout
    tasks: tuple[RefineTask | CopyTask | CastTask, ...]
    model_layers: int | None = None
    """Layers of the model, where ``tensors`` are not all of it."""

    @property
    def refined(self) -> tuple[PlannedTensor, ...]:
        """The tensors that are refined."""
        return tuple(tensor for tensor in self.tensors if tensor.action == "refine")

    @property
    def layers(self) -> int:
        """Number of layers of the model: see ``count_layers``."""
        return count_layers(self.tensors) if self.model_layers is None else self.model_layers

    @property
    def refine_tasks(self) -> tuple[RefineTask, ...]:
        """The matrices that are refined."""
        return tuple(task for task in self.tasks if isinstance(task, RefineTask))

    @property
    def sides(self) -> list[int]:
        """Short side of every matrix that is refined."""
        return [min(task.rows, task.columns) for task in self.refine_tasks]

    @property
    def copy_reasons(self) -> dict[str, int]:
        """Why tensors are copied: reason to number of tensors, the most frequent first."""
        counts = Counter(tensor.reason for tensor in self.tensors if tensor.action == "copy")
        return dict(counts.most_common())

    @property
    def unrecognised(self) -> dict[str, int]:
        """Tensors that no rule for names fits: patterns of names, ``*`` for numbers, and how many.

        The most frequent first; those that the family ``authors`` takes all the same are not there.
        """
        names = (tensor.name for tensor in self.tensors if tensor.reason == NOT_RECOGNISED)
        counts = Counter(map(name_pattern, names))
        return dict(counts.most_common())

    @property
    def split_parts(self) -> dict[str, tuple[str, ...]]:
        """Modules whose weights hold several projections: to the names of these."""
        return {module_path(tensor.name): tensor.parts for tensor in self.refined if tensor.parts}

    @property
    def left_whole(self) -> dict[str, str]:
        """Modules whose fused weights are refined as they are stored: to why."""
        found = (tensor for tensor in self.refined if tensor.whole_because)
        return {module_path(tensor.name): tensor.whole_because for tensor in found}

    @property
    def other_vocabulary(self) -> tuple[PlannedTensor, ...]:
        """Refined embeddings and heads that have another number of rows in Base."""
        return tuple(tensor for tensor in self.refined if tensor.base_rows is not None)

    @property
    def other_layout(self) -> tuple[PlannedTensor, ...]:
        """Refined weights that Base stores in another layout."""
        return tuple(tensor for tensor in self.refined if tensor.base_names)

    @property
    def output_bytes(self) -> int:
        """Bytes of weights of all variants together."""
        return self.layout.size_bytes * len(self.recipe.variants)


def name_pattern(name: str) -> str:
    """A name with ``*`` for each number that stands alone between dots.

    >>> name_pattern("model.layers.3.mlp.fc1.weight")
    'model.layers.*.mlp.fc1.weight'
    """
    return _NUMBER.sub("*", name)


def count_layers(tensors: Iterable[PlannedTensor]) -> int:
    """Layers of a model by the names of Instruct's tensors: the highest number and one.

    Towers of other modalities, which count layers of their own, aside; 0 without numbered layers.
    """
    numbers = (tensor.layer for tensor in tensors if tensor.family != "vision")
    return max((number + 1 for number in numbers if number is not None), default=0)


def select_tensors(
    base: Mapping[str, TensorEntry],
    instruct: Mapping[str, TensorEntry],
    selection: Selection,
    config: Mapping[str, Any] = NO_CONFIG,
    elsewhere: OtherLayout | None = None,
) -> tuple[PlannedTensor, ...]:
    """Decide for every tensor of Instruct whether it is refined, and if not, why.

    ``config`` is Instruct's config.json, which says how its fused weights are stored. A weight that
    Base holds in another layout is paired with its matrices ``elsewhere``; without it by names that
    need no config.json.

    Of an embedding or head with another vocabulary in Base the common rows are refined: padding and
    tokens that Instruct added stand at the end.

    Raises PairMismatchError when another selected tensor has another shape in Base, when Base seems
    to hold it in another layout (``refuse_other_layout``), or when Base has none of them;
    CheckpointError for a selected tensor whose dtype is not a plain float; UsageError when the
    selection fits no tensor at all.
    """
    planned, misfits, unpaired = [], [], []
    if elsewhere is None:
        elsewhere = OtherLayout(base, instruct, selection, NO_CONFIG)
    for name, entry in instruct.items():
        role = classify(name, entry.shape)
        selected, reason = is_selected(role, selection, name, entry.shape)
        base_names: tuple[str, ...] = ()
        if selected and name not in base:
            base_names = elsewhere.tensors_of(name, entry, role.kind, config)
        if base_names:
            _check_float(name, entry, "Instruct")
            for other in base_names:
                _check_float(other, base[other], "Base")
        elif selected and name not in base:
            selected, reason = False, "not in Base"
            unpaired.append(name)
        elif selected and not _pairable(role, base[name].shape, entry.shape):
            misfits.append(name)
        elif selected:
            _check_float(name, base[name], "Base")
            _check_float(name, entry, "Instruct")
        rows = None
        if selected and not base_names and base[name].shape != entry.shape:
            rows = base[name].shape[0]
        tensor = _planned(entry, role, selection, config, reason, rows, refine=selected)
        planned.append(replace(tensor, base_names=base_names))
    if misfits:
        raise shape_mismatch(misfits, base, instruct)
    if not any(tensor.action == "refine" for tensor in planned):
        raise nothing_selected(Counter(tensor.reason for tensor in planned), selection)
    refuse_other_layout(unpaired, base, instruct)
    return tuple(planned)


def plan_refinement(base: Checkpoint, instruct: Checkpoint, recipe: RefineRecipe) -> RefinementPlan:
    """Plan a run on two validated checkpoints, or on two planned ones, which need no file.

    Raises as ``select_tensors``, PairMismatchError for models of different structure,
    CheckpointError for quantised ones and UsageError for a method of which no matrix is meant
    (``check_places``). O(number of tensors); reads one header per shard that is a file.
    """
    for checkpoint, which in ((base, "Base"), (instruct, "Instruct")):
        refuse_quantised(checkpoint, which)
    compare_configs(base.config, instruct.config)
    elsewhere = OtherLayout(base.tensors, instruct.tensors, recipe.selection, base.config)
    tensors = select_tensors(
        base.tensors, instruct.tensors, recipe.selection, instruct.config, elsewhere
    )
    dtype = None if recipe.dtype is None else SAFETENSORS_DTYPE[recipe.dtype]
    layout = plan_output(instruct, dtype)
    refine_tasks = [
        task
        for tensor in tensors
        if tensor.action == "refine"
        for task in refine_tasks_of(tensor, base, instruct, layout, recipe.selection, elsewhere)
    ]
    layers = count_layers(tensors)
    check_places(recipe.variants, [task.position(layers) for task in refine_tasks])
    refined = {tensor.name for tensor in tensors if tensor.action == "refine"}
    paired = {name for tensor in tensors for name in tensor.base_names}
    copies = copies_of(layout, instruct, refined)
    for tensor in tensors:
        if tensor.base_rows is not None:
            copies += _other_rows(tensor, instruct, layout)
    refine_tasks.sort(key=slowest_first)
    return RefinementPlan(
        recipe=recipe,
        tensors=tensors,
        base_only=tuple(
            name for name in base.tensors if name not in instruct.tensors and name not in paired
        ),
        layout=layout,
        tasks=(*refine_tasks, *copies),
    )


def copies_of(
    layout: OutputLayout, instruct: Checkpoint, written: Set[str]
) -> list[CopyTask | CastTask]:
    """What is copied, or cast, of a checkpoint: all but the tensors that are written otherwise."""
    copies = [
        CopyTask(
            source=str(instruct.shard(piece.shard).path),
            source_start=piece.source_start,
            shard=piece.shard,
            target_start=piece.target_start,
            size_bytes=piece.size_bytes,
        )
        for piece in copy_ranges(layout, instruct, written)
    ]
    casts = [
        CastTask(
            name=cast.source.name,
            source=place_in(cast.source, str(instruct.shard(cast.source.shard).path)),
            target=place_in(cast.target, cast.target.shard),
        )
        for cast in cast_tensors(layout, instruct, written)
    ]
    return [*copies, *casts]


def _planned(
    entry: TensorEntry,
    role: Role,
    selection: Selection,
    config: Mapping[str, Any],
    reason: str,
    base_rows: int | None,
    *,
    refine: bool,
) -> PlannedTensor:
    split = Split(())
    if refine:
        split = split_tensor(entry.name, entry.shape, role.kind, selection, config)
    return PlannedTensor(
        name=entry.name,
        action="refine" if refine else "copy",
        reason=reason,
        family=role.kind,
        layer=role.layer,
        shape=entry.shape,
        dtype=entry.dtype,
        matrices=len(split.matrices),
        parts=tuple(dict.fromkeys(matrix.part for matrix in split.matrices if matrix.part)),
        whole_because=split.whole_because,
        base_rows=base_rows,
    )


def _pairable(role: Role, base: tuple[int, ...], instruct: tuple[int, ...]) -> bool:
    """Whether two weights have a delta: equal shapes, or rows of two vocabularies of one width."""
    rows = role.kind in ("embedding", "head") and len(base) == len(instruct) == 2
    return base == instruct or (rows and base[1] == instruct[1] and min(base[0], instruct[0]) > 0)


def _other_rows(
    tensor: PlannedTensor, instruct: Checkpoint, layout: OutputLayout
) -> list[CopyTask | CastTask]:
    """The rows of a refined tensor that Base does not have: copied, or cast with the rest."""
    source, target = instruct.tensors[tensor.name], layout.tensors[tensor.name]
    common, columns = tensor.refined_shape
    kept = (tensor.shape[0] - common) * columns
    if not kept:
        return []
    path = str(instruct.shard(source.shard).path)
    rest = Matrix(None, None, kept // columns, columns, common * columns, kept, kept)
    from_, to = part_of(place_in(source, path), rest), part_of(place_in(target, target.shard), rest)
    if source.dtype != target.dtype:
        return [CastTask(tensor.name, from_, to)]
    return [CopyTask(path, from_.start_byte, target.shard, to.start_byte, to.size_bytes)]


def refine_tasks_of(
    tensor: PlannedTensor,
    base: Checkpoint,
    instruct: Checkpoint,
    layout: OutputLayout,
    selection: Selection,
    elsewhere: OtherLayout,
) -> list[RefineTask]:
    """A task for each matrix of a refined tensor."""
    split = split_tensor(
        tensor.name, tensor.refined_shape, tensor.family, selection, instruct.config
    )
    target = layout.tensors[tensor.name]
    instruct_place = place_of(instruct, tensor.name)
    if tensor.base_names:
        own = instruct.tensors[tensor.name]
        found = elsewhere.places_of(tensor.name, own, tensor.family, instruct.config)
        base_places = [
            replace(part_of(place_of(base, stored.tensor), stored.matrix), transposed=turned)
            for stored, turned in found
        ]
    else:
        base_places = [part_of(place_of(base, tensor.name), matrix) for matrix in split.matrices]
    return [
        RefineTask(
            name=tensor.name,
            index=matrix.index,
            family=tensor.family,
            layer=tensor.layer,
            rows=matrix.rows,
            columns=matrix.cols,
            base=base_place,
            instruct=part_of(instruct_place, matrix),
            target=part_of(place_in(target, target.shard), matrix),
            part=matrix.part,
        )
        for matrix, base_place in zip(split.matrices, base_places, strict=True)
    ]


def place_of(checkpoint: Checkpoint, name: str) -> Place:
    """Where a tensor of a checkpoint lies."""
    entry = checkpoint.tensors[name]
    return place_in(entry, str(checkpoint.shard(entry.shard).path))


def place_in(entry: TensorEntry, path: str) -> Place:
    """Where a tensor lies in the file of that path."""
    return Place(path, entry.start_byte, entry.size_bytes, entry.dtype)


def part_of(place: Place, matrix: Matrix) -> Place:
    """Where one matrix of a tensor lies."""
    width = DTYPE_BITS[place.dtype] // 8
    start = place.start_byte + matrix.start * width
    size = matrix.rows * matrix.cols * width
    blocks = (matrix.block * width, matrix.stride * width) if matrix.runs > 1 else (0, 0)
    return Place(place.path, start, size, place.dtype, *blocks)


def slowest_first(task: RefineTask) -> tuple[float, str]:
    """Orders matrices by what they cost, the most expensive first."""
    r = min(task.rows, task.columns)
    return -float(task.rows * task.columns * r + r**3), task.key


def _check_float(name: str, entry: TensorEntry, which: str) -> None:
    if entry.dtype not in FLOAT_DTYPES:
        raise CheckpointError(
            f"tensor {name!r} ({which}): dtype {entry.dtype}, expected F16, BF16, F32 or F64; the"
            " weights are quantised or packed: give the unquantised original, or leave it out with"
            " --exclude"
        )


def compare_configs(base: Mapping[str, Any], instruct: Mapping[str, Any]) -> None:
    """Raise PairMismatchError where two config.json describe models of different structure."""
    for scope in ("", "text_config"):
        first, second = (config.get(scope, {}) if scope else config for config in (base, instruct))
        if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
            continue
        for field in STRUCTURE_FIELDS:
            if field in first and field in second and first[field] != second[field]:
                raise PairMismatchError(
                    f"config.json: {field} is {first[field]!r} in Base and {second[field]!r} in"
                    " Instruct, expected the same; these are not a Base and the Instruct model"
                    " trained from it: check both names (size, generation)"
                )
