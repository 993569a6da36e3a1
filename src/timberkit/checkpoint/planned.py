"""A checkpoint that is not here, laid out from the shapes of its tensors: enough for a plan.

    checkpoint = planned_checkpoint("org/model", shapes, "BF16", config)
    plan_refinement(base, checkpoint, recipe)   # reads no file

Its one file is what safetensors' own writer would make of these tensors, byte for byte in the
header. A repository that keeps several files has a header for each, some kilobytes apart in all.
Nothing lies behind its paths: such a checkpoint can be planned, not run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from timberkit.checkpoint.layout import DTYPE_BITS, Checkpoint, Shard, TensorEntry
from timberkit.checkpoint.output_layout import build_header

FILE = "model.safetensors"


def planned_checkpoint(
    name: str, shapes: Mapping[str, tuple[int, ...]], dtype: str, config: Mapping[str, Any]
) -> Checkpoint:
    """A checkpoint of one file that holds ``shapes`` in one dtype.

    ``name`` stands for the folder in paths and messages; ``shapes``: tensor name to shape, at least
    one; ``dtype``: a name in ``DTYPE_BITS`` of whole bytes; ``config``: what config.json would say.
    Raises KeyError for another dtype. Reads and writes nothing; O(number of tensors).
    """
    tensors = {tensor: (dtype, shape) for tensor, shape in shapes.items()}
    return checkpoint_of(Path(name), [planned_shard(Path(name), FILE, tensors)], config)


def planned_shard(
    folder: Path, name: str, tensors: Mapping[str, tuple[str, tuple[int, ...]]]
) -> Shard:
    """A file of that name with these tensors, each a dtype and a shape, in the writer's order."""
    metadata = {"format": "pt"}
    placed, end = [], 0
    for tensor, (dtype, shape) in sorted(tensors.items(), key=_place):
        size_bytes = math.prod(shape) * DTYPE_BITS[dtype] // 8
        placed.append(TensorEntry(tensor, dtype, shape, name, end, size_bytes))
        end += size_bytes
    header = build_header(metadata, placed)
    return Shard(
        name=name,
        path=folder / name,
        size_bytes=len(header) + end,
        header_bytes=len(header),
        header_sha256=hashlib.sha256(header).hexdigest(),
        metadata=MappingProxyType(metadata),
        tensors=tuple(
            replace(entry, start_byte=entry.start_byte + len(header)) for entry in placed
        ),
        header=header,
    )


def checkpoint_of(folder: Path, shards: Sequence[Shard], config: Mapping[str, Any]) -> Checkpoint:
    """The planned checkpoint of these files."""
    return Checkpoint(
        folder=folder,
        shards=tuple(shards),
        tensors={entry.name: entry for shard in shards for entry in shard.tensors},
        index_name=None,
        config=config,
    )


def _place(item: tuple[str, tuple[str, tuple[int, ...]]]) -> tuple[int, str]:
    """Widest dtypes first, which leaves every tensor at a multiple of its element; then names."""
    name, (dtype, _) = item
    return -DTYPE_BITS[dtype], name
