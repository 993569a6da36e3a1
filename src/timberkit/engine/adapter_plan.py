"""The plan of a run whose Instruct is a LoRA adapter: Base's files, with the adapter's deltas.

The output is what merging the adapter would give, but for the refined deltas: Base's layout, names
and dtypes. Adapted weights that are not selected get their delta whole; all others are copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from timberkit.checkpoint.adapter import Adapter, LowRankUpdate
from timberkit.checkpoint.fused import Matrix, split_tensor
from timberkit.checkpoint.layout import Checkpoint
from timberkit.checkpoint.output_layout import plan_output
from timberkit.checkpoint.refused import refuse_quantised
from timberkit.config import RefineRecipe
from timberkit.engine.pairing import OtherLayout, nothing_selected
from timberkit.engine.plan import (
    SAFETENSORS_DTYPE,
    PlannedTensor,
    RefinementPlan,
    copies_of,
    count_layers,
    part_of,
    place_of,
    plan_refinement,
    refine_tasks_of,
    select_tensors,
    slowest_first,
)
from timberkit.engine.sources import OpenPair
from timberkit.engine.tasks import CastTask, LowRankPlace, Place, RefineTask
from timberkit.errors import UsageError
from timberkit.placing import check_places

NOT_ADAPTED = "not adapted"


def plan_pair(pair: OpenPair) -> RefinementPlan:
    """The plan of an open pair, whatever its Instruct is; raises as ``plan_refinement``."""
    if pair.adapter is None:
        return plan_refinement(pair.base, pair.instruct, pair.recipe)
    return plan_adapter(pair.base, pair.adapter, pair.recipe)


def plan_adapter(base: Checkpoint, adapter: Adapter, recipe: RefineRecipe) -> RefinementPlan:
    """Plan a run on a Base and an adapter for it.

    Raises as ``plan_refinement``, and UsageError where no adapted weight is selected. O(number of
    tensors).
    """
    refuse_quantised(base, "Base")
    selection = recipe.selection
    tensors = tuple(
        tensor
        if tensor.action == "copy" or tensor.name in adapter.changed
        else replace(tensor, action="copy", reason=NOT_ADAPTED, parts=(), whole_because="")
        for tensor in select_tensors(
            base.tensors, base.tensors, selection, base.config, base.config
        )
    )
    refined = {tensor.name for tensor in tensors if tensor.action == "refine"}
    if not refined:
        adapted = ", ".join(sorted(adapter.changed)[:3])
        reasons = Counter(tensor.reason for tensor in tensors)
        raise UsageError(
            f"{nothing_selected(reasons, selection)}; the adapter changes {adapted}, …"
        )
    layout = plan_output(base, None if recipe.dtype is None else SAFETENSORS_DTYPE[recipe.dtype])
    elsewhere = OtherLayout(base.tensors, base.tensors, selection, base.config)
    tasks = [
        replace(task, instruct=place)
        for tensor in tensors
        if tensor.action == "refine"
        for task, place in zip(
            refine_tasks_of(tensor, base, base, layout, selection, elsewhere),
            _instruct_places(tensor, base, adapter, recipe),
            strict=True,
        )
    ]
    layers = count_layers(tensors)
    check_places(recipe.variants, [task.position(layers) for task in tasks])
    merged = [
        CastTask(
            name=name,
            source=_whole(name, base, adapter),
            target=Place(target.shard, target.start_byte, target.size_bytes, target.dtype),
            shape=base.tensors[name].shape,
        )
        for name in sorted(adapter.changed - refined)
        for target in (layout.tensors[name],)
    ]
    return RefinementPlan(
        recipe=recipe,
        tensors=tensors,
        base_only=(),
        layout=layout,
        tasks=(*_ordered(tasks), *merged, *copies_of(layout, base, refined | adapter.changed)),
    )


def _ordered(tasks: list[RefineTask]) -> list[RefineTask]:
    return sorted(tasks, key=slowest_first)


def _instruct_places(
    tensor: PlannedTensor, base: Checkpoint, adapter: Adapter, recipe: RefineRecipe
) -> Iterator[Place]:
    """Where the Instruct weight of each matrix of an adapted tensor is, in the plan's order."""
    name = tensor.name
    split = split_tensor(name, tensor.shape, tensor.family, recipe.selection, base.config)
    for matrix in split.matrices:
        if name in adapter.whole:
            yield part_of(place_of(adapter.weights, adapter.whole[name]), matrix)
        else:
            added = _factors(adapter, adapter.updates[name], tensor.shape, matrix)
            yield replace(part_of(place_of(base, name), matrix), added=added)


def _whole(name: str, base: Checkpoint, adapter: Adapter) -> Place:
    """Where the Instruct weight of an adapted tensor is that is not refined."""
    if name in adapter.whole:
        return place_of(adapter.weights, adapter.whole[name])
    rows, columns = shape = base.tensors[name].shape
    matrix = Matrix(None, None, rows, columns, 0, rows * columns, rows * columns)
    added = _factors(adapter, adapter.updates[name], shape, matrix)
    return replace(place_of(base, name), added=added)


def _factors(
    adapter: Adapter, update: LowRankUpdate, shape: tuple[int, ...], matrix: Matrix
) -> LowRankPlace:
    """The factors of one matrix of a weight: its rows of the first, its columns of the second."""
    width = shape[1]
    if matrix.cols == width:
        starts = [matrix.start + run * matrix.stride for run in range(matrix.runs)]
        rows = tuple((at // width, (at + matrix.block) // width) for at in starts)
        columns = (0, width)
    else:
        rows, columns = ((0, shape[0]),), (matrix.start, matrix.start + matrix.cols)
    entries = adapter.weights.tensors
    return LowRankPlace(
        a=place_of(adapter.weights, update.a),
        b=place_of(adapter.weights, update.b),
        inputs=entries[update.a].shape[1],
        outputs=entries[update.b].shape[0],
        rank=update.rank,
        factor=update.factor,
        turned=update.turned,
        rows=rows,
        columns=columns,
    )
