"""Refine models that are in memory already, without a file: state dicts in, state dicts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from timberkit.checkpoint.fused import Matrix, split_tensor
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
from timberkit.engine.plan import NO_CONFIG, PlannedTensor, count_layers, select_tensors
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
    fused: str = "split",
    config: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, dict[str, torch.Tensor]]:
    """Refine a state dict; the same values that ``refine`` would write for the same tensors.

    Args:
        base, instruct: name to tensor, on the CPU.
        variants, families, layers, include, exclude, fused: as for ``refine``.
        config: what config.json says, such as ``model.config.to_dict()``; without it, projections
            that are fused in one weight are refined as one.
        dtype: of floating tensors in the result; each keeps Instruct's when None.

    Returns:
        For every variant, by its name, a state dict in Instruct's order. Tensors that are not
        refined are Instruct's own objects (unless cast), not copies; nothing is changed in place.

    Raises:
        As ``select_tensors`` and ``check_places``; CheckpointError for a tensor that is not on the
        CPU or of a dtype that no checkpoint has; SpectrumError for NaN or Inf, naming the tensor.

    Cost: as ``refine_matrix`` for each selected tensor, in this process, with one thread.
    """
    selection = build_selection(families, layers, include, exclude, fused)
    facts = NO_CONFIG if config is None else config
    chosen = parse_variants([variants] if isinstance(variants, str | AnyVariant) else variants)
    planned = select_tensors(_entries(base), _entries(instruct), selection, facts)
    depth = count_layers(planned)
    matrices = {
        tensor.name: split_tensor(
            tensor.name, tensor.shape, tensor.family, selection, facts
        ).matrices
        for tensor in planned
        if tensor.action == "refine"
    }
    positions = {
        tensor.name: [
            Position(*_where(tensor, depth), matrix.index, matrix.part)
            for matrix in matrices.get(tensor.name, ())
        ]
        for tensor in planned
    }
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
            pair = (base[tensor.name], source)
            places = positions[tensor.name]
            refined = _refine(pair, matrices[tensor.name], chosen, places, dtype)
            for result, weight in zip(results.values(), refined, strict=True):
                result[tensor.name] = weight
    return results


def _where(tensor: PlannedTensor, layers: int) -> tuple[str, str, int | None, int]:
    return tensor.name, tensor.family, tensor.layer, layers


def _refine(
    pair: tuple[torch.Tensor, torch.Tensor],
    matrices: Sequence[Matrix],
    variants: Sequence[AnyVariant],
    positions: Sequence[Position],
    dtype: torch.dtype | None,
) -> list[torch.Tensor]:
    base, instruct = (weight.detach().reshape(-1) for weight in pair)
    name = positions[0].name
    results = [torch.empty(pair[1].shape, dtype=dtype or pair[1].dtype) for _ in variants]
    try:
        for matrix, position in zip(matrices, positions, strict=True):
            shape = (matrix.rows, matrix.cols)
            weights = refine_matrix(
                _runs(base, matrix).reshape(shape),
                _runs(instruct, matrix).reshape(shape),
                [at(variant, position) for variant in variants],
                dtype=dtype,
                name=position.matrix,
            ).weights
            for result, weight in zip(results, weights, strict=True):
                _runs(result.view(-1), matrix).copy_(weight.reshape(matrix.runs, matrix.block))
    except SpectrumError as error:
        raise SpectrumError(f"tensor {name!r}: {error}") from None
    except InputError as error:
        raise CheckpointError(f"tensor {name!r}: {error}") from None
    return results


def _runs(flat: torch.Tensor, matrix: Matrix) -> torch.Tensor:
    """(runs, block): the elements of a flat tensor that hold a matrix, seen where they lie."""
    start = flat.storage_offset() + matrix.start
    return flat.as_strided((matrix.runs, matrix.block), (matrix.stride, 1), start)


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
