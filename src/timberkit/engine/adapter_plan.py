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
from timberkit.config import Noise, RefineRecipe, Selection, variant_name
from timberkit.engine.pairing import OtherLayout, nothing_selected
from timberkit.engine.plan import (
    SAFETENSORS_DTYPE,
    PlannedTensor,
    RefinementPlan,
    copies_of,
    count_layers,
    part_of,
    place_in,
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
from timberkit.spectral.filters import in_base_subspace

NOT_ADAPTED = "not adapted"


def plan_pair(pair: OpenPair) -> RefinementPlan:
    """The plan of an open pair, whatever its Instruct is; raises as ``plan_refinement``."""
    if pair.adapter is not None:
        plan = plan_factors if pair.recipe.as_adapter else plan_adapter
        return plan(pair.base, pair.adapter, pair.recipe)
    if pair.recipe.as_adapter:
        raise UsageError(
            f"as_adapter: {pair.recipe.instruct} is a whole model, expected a LoRA adapter; leave"
            " --as-adapter out"
        )
    return plan_refinement(pair.base, pair.instruct, pair.recipe)


def plan_adapter(base: Checkpoint, adapter: Adapter, recipe: RefineRecipe) -> RefinementPlan:
    """Plan a run on a Base and an adapter for it.

    Raises as ``plan_refinement``, and UsageError where no adapted weight is selected. O(number of
    tensors).
    """
    selection = recipe.selection
    tensors = _selected(base, adapter, selection)
    refined = {tensor.name for tensor in tensors if tensor.action == "refine"}
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
            target=place_in(target, target.shard),
            shape=base.tensors[name].shape,
        )
        for name in sorted(adapter.changed - refined)
        for target in (layout.tensors[name],)
        if target.size_bytes
    ]
    return RefinementPlan(
        recipe=recipe,
        tensors=tensors,
        base_only=(),
        layout=layout,
        tasks=(*_ordered(tasks), *merged, *copies_of(layout, base, refined | adapter.changed)),
    )


def plan_factors(base: Checkpoint, adapter: Adapter, recipe: RefineRecipe) -> RefinementPlan:
    """Plan a run that writes an adapter of the same ranks: its file, with other factors.

    A fused weight is one matrix, since the deltas of its parts would need factors each. Raises as
    ``plan_adapter``, and UsageError for a method that leaves no delta of low rank.
    """
    for variant in recipe.variants:
        if isinstance(variant, Noise) or in_base_subspace(variant) is not None:
            raise UsageError(
                f"as_adapter: {variant_name(variant)} leaves no delta of low rank, expected gains"
                " on its singular values; leave --as-adapter out, which writes a merged model"
            )
    if recipe.dtype is not None:
        raise UsageError("as_adapter: an adapter keeps its dtype; leave --dtype out")
    selection = recipe.selection.model_copy(update={"fused": "whole"})
    everything = _selected(base, adapter, selection)
    tensors = tuple(tensor for tensor in everything if tensor.name in adapter.changed)
    refined = [tensor for tensor in tensors if tensor.action == "refine"]
    layout = plan_output(adapter.weights, None)
    tasks, written = [], set()
    for tensor in refined:
        if len(tensor.shape) != 2:
            raise UsageError(
                f"as_adapter: {tensor.name!r} was trained whole and holds several matrices, which"
                " only a merged model can have refined; leave --as-adapter out, or the tensor with"
                " --exclude"
            )
        rows, columns = tensor.shape
        target: Place
        if tensor.name in adapter.whole:
            own = layout.tensors[adapter.whole[tensor.name]]
            target = place_in(own, own.shard)
            written.add(own.name)
        else:
            update = adapter.updates[tensor.name]
            a, b = (layout.tensors[name] for name in (update.a, update.b))
            whole = _whole(tensor.name, base, adapter)
            target = replace(
                whole,
                added=whole.added
                and replace(
                    whole.added,
                    a=place_in(a, a.shard),
                    b=place_in(b, b.shard),
                ),
            )
            written |= {update.a, update.b}
        tasks.append(
            RefineTask(
                name=tensor.name,
                index=None,
                family=tensor.family,
                layer=tensor.layer,
                rows=rows,
                columns=columns,
                base=place_of(base, tensor.name),
                instruct=_whole(tensor.name, base, adapter),
                target=target,
            )
        )
    layers = count_layers(everything)
    check_places(recipe.variants, [task.position(layers) for task in tasks])
    copies = copies_of(layout, adapter.weights, written)
    return RefinementPlan(recipe, tensors, (), layout, (*_ordered(tasks), *copies), layers)


def _selected(
    base: Checkpoint, adapter: Adapter, selection: Selection
) -> tuple[PlannedTensor, ...]:
    """Every tensor of Base; refined is what is selected and adapted, of which there is some."""
    refuse_quantised(base, "Base")
    tensors = tuple(
        tensor
        if tensor.action == "copy" or tensor.name in adapter.changed
        else replace(tensor, action="copy", reason=NOT_ADAPTED, parts=(), whole_because="")
        for tensor in select_tensors(base.tensors, base.tensors, selection, base.config)
    )
    if not any(tensor.action == "refine" for tensor in tensors):
        adapted = ", ".join(sorted(adapter.changed)[:3])
        reasons = Counter(tensor.reason for tensor in tensors)
        raise UsageError(
            f"{nothing_selected(reasons, selection)}; the adapter changes {adapted}, …"
        )
    return tensors


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
