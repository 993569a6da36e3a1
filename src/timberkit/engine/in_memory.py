"""Refine models that are in memory already, without a file: state dicts in, state dicts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from timberkit.checkpoint.fused import Matrix, split_tensor
from timberkit.checkpoint.layout import TensorEntry
from timberkit.checkpoint.reader import TORCH_NAMES
from timberkit.config import (
    DEFAULT_FAMILIES,
    AnyVariant,
    Position,
    Selection,
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
    chosen = parse_variants([variants] if isinstance(variants, str | AnyVariant) else variants)
    planned = plan_tensors(
        _entries(base), _entries(instruct), selection, NO_CONFIG if config is None else config
    )
    check_places(chosen, planned.positions)
    results: dict[str, dict[str, torch.Tensor]] = {variant_name(v): {} for v in chosen}
    with one_thread():
        for tensor in planned.tensors:
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
            refined = refine_tensor(pair, planned.places[tensor.name], chosen, dtype)
            for result, weight in zip(results.values(), refined, strict=True):
                result[tensor.name] = weight
    return results


@dataclass(frozen=True, slots=True)
class PlannedTensors:
    """Every tensor of Instruct, and of those that are refined their matrices with their places."""

    tensors: tuple[PlannedTensor, ...]
    places: dict[str, tuple[tuple[Matrix, Position], ...]]

    @property
    def positions(self) -> list[Position]:
        """Where each matrix that is refined stands."""
        return [position for places in self.places.values() for _, position in places]


def plan_tensors(
    base: Mapping[str, TensorEntry],
    instruct: Mapping[str, TensorEntry],
    selection: Selection,
    config: Mapping[str, Any],
) -> PlannedTensors:
    """What is refined of tensors that are in memory; raises as ``select_tensors``."""
    tensors = select_tensors(base, instruct, selection, config)
    depth = count_layers(tensors)
    places = {}
    for tensor in tensors:
        if tensor.action != "refine":
            continue
        where = (tensor.name, tensor.family, tensor.layer, depth)
        split = split_tensor(tensor.name, tensor.refined_shape, tensor.family, selection, config)
        places[tensor.name] = tuple(
            (matrix, Position(*where, matrix.index, matrix.part)) for matrix in split.matrices
        )
    return PlannedTensors(tensors, places)


def refine_tensor(
    pair: tuple[torch.Tensor, torch.Tensor],
    places: Sequence[tuple[Matrix, Position]],
    variants: Sequence[AnyVariant],
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> list[torch.Tensor]:
    """Base's and Instruct's tensor, on the CPU, to a refined one for each variant.

    Raises SpectrumError and CheckpointError, which name the tensor. Cost: ``refine_matrix`` for
    each of its matrices, on ``device``.
    """
    base, instruct = (weight.detach().reshape(-1) for weight in pair)
    name = places[0][1].name
    kept = dtype or pair[1].dtype
    results = [torch.empty(pair[1].shape, dtype=kept, device="cpu") for _ in variants]
    if base.numel() != instruct.numel():  # two vocabularies: rows that Base lacks stay Instruct's
        for result in results:
            result.copy_(pair[1].detach())
    try:
        for matrix, position in places:
            shape = (matrix.rows, matrix.cols)
            weights = refine_matrix(
                _runs(base, matrix).reshape(shape),
                _runs(instruct, matrix).reshape(shape),
                [at(variant, position) for variant in variants],
                dtype=dtype,
                device=device,
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
    for name, tensor in tensors.items():
        if tensor.dtype not in _STORED_DTYPES or tensor.device.type != "cpu":
            raise CheckpointError(
                f"tensor {name!r}: {tensor.dtype} on {tensor.device}, expected one on the CPU; move"
                " it with .to('cpu')"
            )
    return {name: entry_of(name, tensor) for name, tensor in tensors.items()}


def entry_of(name: str, tensor: torch.Tensor) -> TensorEntry:
    """A tensor in memory, or on the meta device, as one of a file; KeyError for a dtype of none."""
    size = tensor.numel() * tensor.element_size()
    return TensorEntry(name, _STORED_DTYPES[tensor.dtype], tuple(tensor.shape), "memory", 0, size)
