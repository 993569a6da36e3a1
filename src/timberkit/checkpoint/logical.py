"""One name for a matrix, however a checkpoint stores it: alone, stacked with experts, or fused.

    logical_matrices("model.layers.0.mlp.experts.gate_up_proj", (8, 96, 64), …)
    # gate and up of eight experts, each with the elements of the tensor that hold it
    logical_matrices("model.layers.0.mlp.experts.3.gate_proj.weight", (48, 64), …)
    # gate of expert 3, all of the tensor

Both layouts of one model are in the wild, since transformers stacks experts as it loads and takes
them apart as it saves. Only what a layout of ``fused`` or a plain name says is known here; where a
name says nothing, there is no logical name, and nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timberkit.checkpoint.fused import Matrix, split_tensor
from timberkit.config import Selection


@dataclass(frozen=True, slots=True)
class LogicalName:
    """A projection: the module that it belongs to, its expert there, and its part in it."""

    module: str
    expert: int | None
    part: str


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """Where a logical matrix lies: elements of a tensor; ``transposed`` if stored (in, out)."""

    tensor: str
    matrix: Matrix
    transposed: bool

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), however it is stored."""
        rows, columns = self.matrix.rows, self.matrix.cols
        return (columns, rows) if self.transposed else (rows, columns)


_EXPERT = re.compile(r"(.+\.experts)\.(\d{1,6})\.(\w+)\.weight")
_STACKED = re.compile(r"(.+\.experts)\.(gate_up_proj|down_proj)(?:\.weight)?")
_MODULE = re.compile(r"(.+)\.(\w+)\.weight")
_EXPERT_PARTS = {
    **{"gate_proj": "gate", "up_proj": "up", "down_proj": "down"},
    **{"w1": "gate", "w3": "up", "w2": "down"},
}
_PARTS = {
    **{f"{part}_proj": part for part in "qkv"},
    **{"gate_proj": "gate", "up_proj": "up", "gate": "router"},
}
_SAME_MODULE = {"block_sparse_moe": "mlp"}
"""Modules that transformers renames between one version and the next."""


def logical_matrices(
    name: str,
    shape: tuple[int, ...],
    kind: str,
    selection: Selection,
    config: Mapping[str, Any],
) -> dict[LogicalName, StoredMatrix]:
    """The matrices of a tensor by their logical names; empty where these are not known.

    ``kind`` is that of ``families.classify``, ``config`` config.json of the checkpoint. O(number of
    matrices).
    """
    if len(shape) not in (2, 3):
        return {}
    if alone := _alone(name, shape):
        logical, part = alone
        elements = shape[0] * shape[1]
        whole = Matrix(None, None, shape[0], shape[1], 0, elements, elements)
        return {LogicalName(*logical, part): StoredMatrix(name, whole, transposed=False)}
    stacked = _STACKED.fullmatch(name)
    if stacked is not None and len(shape) == 3:
        return _stacked(name, stacked, shape, selection, config)
    fused = _MODULE.fullmatch(name)
    if fused is None or len(shape) != 2:
        return {}
    split = split_tensor(name, shape, kind, selection, config)
    return {
        LogicalName(_module(fused[1]), None, matrix.part): StoredMatrix(
            name, matrix, transposed=matrix.cols != shape[1]
        )
        for matrix in split.matrices
        if matrix.part is not None
    }


def _alone(name: str, shape: tuple[int, ...]) -> tuple[tuple[str, int | None], str] | None:
    """Module, expert and part of a weight that is one projection."""
    if len(shape) != 2:
        return None
    expert = _EXPERT.fullmatch(name)
    if expert is not None:
        part = _EXPERT_PARTS.get(expert[3])
        return None if part is None else ((_module(expert[1]), int(expert[2])), part)
    single = _MODULE.fullmatch(name)
    if single is None or single[2] not in _PARTS:
        return None
    return (_module(single[1]), None), _PARTS[single[2]]


def _stacked(
    name: str,
    found: re.Match[str],
    shape: tuple[int, ...],
    selection: Selection,
    config: Mapping[str, Any],
) -> dict[LogicalName, StoredMatrix]:
    """Experts in one tensor. Which way round shows in gate and up; down follows these."""
    module, which = _module(found[1]), found[2]
    if which == "gate_up_proj":
        split = split_tensor(name, shape, "expert", selection, config)
        return {
            LogicalName(module, matrix.index or 0, matrix.part): StoredMatrix(
                name, matrix, transposed=matrix.cols != shape[2]
            )
            for matrix in split.matrices
            if matrix.part is not None
        }
    transposed = _is_transposed(shape, selection, config)
    if transposed is None:
        return {}
    split = split_tensor(name, shape, "expert", selection, config)
    return {
        LogicalName(module, matrix.index or 0, "down"): StoredMatrix(name, matrix, transposed)
        for matrix in split.matrices
    }


def _is_transposed(
    down: tuple[int, ...], selection: Selection, config: Mapping[str, Any]
) -> bool | None:
    """Which way round experts of that shape of down are stored; None where it is not known.

    Down is (hidden, inner) beside gate and up in 2 x inner rows of hidden, and (inner, hidden)
    beside hidden rows of 2 x inner: asked is which of the two the model's layout can take apart.
    """
    count, first, second = down
    found = []
    for transposed, shape in (
        (False, (count, 2 * second, first)),
        (True, (count, second, 2 * first)),
    ):
        matrices = split_tensor("gate_up_proj", shape, "expert", selection, config).matrices
        if all(m.part and (m.rows, m.cols) == (second, first) for m in matrices):
            found.append(transposed)
    return found[0] if len(found) == 1 else None


def _module(path: str) -> str:
    return ".".join(_SAME_MODULE.get(step, step) for step in path.split("."))
