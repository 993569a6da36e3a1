"""Refine models that are in memory already, without a file: state dicts in, state dicts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from timberkit.checkpoint.families import Matrices, matrix_shapes
from timberkit.checkpoint.layout import TensorEntry
from timberkit.checkpoint.reader import TORCH_NAMES
from timberkit.config import (
    DEFAULT_FAMILIES,
    AnyVariant,
    Position,
    at,
    build_selection,
    parse_variants,
    variant_name,
)
from timberkit.engine.execute import one_thread
from timberkit.engine.job import refuse_overflow
from timberkit.engine.plan import PlannedTensor, count_layers, select_tensors
from timberkit.errors import CheckpointError, InputError, SpectrumError
from timberkit.placing import check_places
from timberkit.spectral.refine import refine_matrix

_STORED_DTYPES = {getattr(torch, name): stored for stored, name in TORCH_NAMES.items()
                  if hasattr(torch, name)}  # fmt: skip


def refine_state_dicts(
    base: Mapping[str, torch.Tensor],
    instruct: Mapping[str, torch.Tensor],
    *,
    variants: str | AnyVariant | Sequence[str | AnyVariant] = ("timber:lam=0.2",),
    families: Sequence[str] = DEFAULT_FAMILIES,
    layers: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    dtype: torch.dtype | None = None,
) -> dict[str, dict[str, torch.Tensor]]:
    """Refine a state dict; the same values that ``refine`` would write for the same tensors.

    Args:
        base, instruct: name to tensor, on the CPU.
        variants, families, layers, include, exclude: as for ``refine``.
        dtype: of floating tensors in the result; each keeps Instruct's when None.

    Returns:
        For every variant, by its name, a state dict in Instruct's order. Tensors that are not
        refined are Instruct's own objects (unless cast), not copies; nothing is changed in place.

    Raises:
        As ``select_tensors`` and ``check_places``; CheckpointError for a tensor that is not on the
        CPU or of a dtype that no checkpoint has; SpectrumError for NaN or Inf, naming the tensor.

    Cost: as ``refine_matrix`` for each selected tensor, in this process, with one thread.
    """
    selection = build_selection(families, layers, include, exclude)
    chosen = parse_variants([variants] if isinstance(variants, str | AnyVariant) else variants)
    planned = select_tensors(_entries(base), _entries(instruct), selection)
    depth = count_layers(planned)
    positions = {tensor.name: _positions(tensor, depth) for tensor in planned}
    check_places(chosen, [position for found in positions.values() for position in found])
    results: dict[str, dict[str, torch.Tensor]] = {variant_name(v): {} for v in chosen}
    with one_thread():
        for tensor in planned:
            source = instruct[tensor.name]
            if tensor.action == "copy":
                floating = dtype is not None and source.is_floating_point()
                kept = source.to(dtype) if floating else source
                if floating and bool(torch.isfinite(source).all()):
                    refuse_overflow(tensor.name, kept)
                for result in results.values():
                    result[tensor.name] = kept
                continue
            shape = matrix_shapes(tensor.shape, selection)
            pair = (base[tensor.name], source)
            refined = _refine(pair, shape, chosen, positions[tensor.name], dtype)
            for result, weight in zip(results.values(), refined, strict=True):
                result[tensor.name] = weight
    return results


def _positions(tensor: PlannedTensor, layers: int) -> list[Position]:
    """Of each matrix of a tensor that is refined; none of one that is copied."""
    places = range(tensor.matrices) if tensor.matrices != 1 else [None]
    return [Position(tensor.name, tensor.family, tensor.layer, layers, place) for place in places]


def _refine(
    pair: tuple[torch.Tensor, torch.Tensor],
    matrices: Matrices,
    variants: Sequence[AnyVariant],
    positions: Sequence[Position],
    dtype: torch.dtype | None,
) -> list[torch.Tensor]:
    shape = (matrices.count, matrices.rows, matrices.cols)
    base, instruct = (weight.detach().reshape(shape).unbind(0) for weight in pair)
    name = positions[0].name
    try:
        parts = [
            refine_matrix(
                before,
                after,
                [at(variant, position) for variant in variants],
                dtype=dtype,
                name=position.matrix,
            ).weights
            for before, after, position in zip(base, instruct, positions, strict=True)
        ]
    except SpectrumError as error:
        raise SpectrumError(f"tensor {name!r}: {error}") from None
    except InputError as error:
        raise CheckpointError(f"tensor {name!r}: {error}") from None
    return [torch.stack(weights).reshape(pair[1].shape) for weights in zip(*parts, strict=True)]


def _entries(tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorEntry]:
    entries = {}
    for name, tensor in tensors.items():
        stored = _STORED_DTYPES.get(tensor.dtype)
        if stored is None or tensor.device.type != "cpu":
            raise CheckpointError(
                f"tensor {name!r}: {tensor.dtype} on {tensor.device}, expected one on the CPU; move"
                " it with .to('cpu')"
            )
        size = tensor.numel() * tensor.element_size()
        entries[name] = TensorEntry(name, stored, tuple(tensor.shape), "memory", 0, size)
    return entries
