"""A checkpoint laid out from shapes is the one that safetensors would write, without a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.output_layout import plan_output
from timberkit.checkpoint.planned import planned_checkpoint

SHAPES = {"b.weight": (3, 5), "a.10.weight": (7,), "a.9.weight": (2, 4), "empty": (0, 4)}


def test_it_equals_what_the_library_writes(tmp_path: Path) -> None:
    tensors = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in SHAPES.items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    real = open_checkpoint(tmp_path)
    planned = planned_checkpoint(str(tmp_path), SHAPES, "BF16", {})
    shard = planned.shards[0]
    assert shard.header == (tmp_path / "model.safetensors").read_bytes()[: shard.header_bytes]
    assert replace(planned, shards=(replace(shard, header=None),)) == real


@pytest.mark.parametrize(("dtype", "data_bytes"), [(None, 60), ("F32", 120)])
def test_its_output_is_laid_out_without_a_file(dtype: str | None, data_bytes: int) -> None:
    layout = plan_output(planned_checkpoint("org/absent", SHAPES, "BF16", {}), dtype)
    assert layout.size_bytes == data_bytes + len(layout.shards[0].header)
    assert set(layout.tensors) == set(SHAPES)


def test_another_dtype_is_an_error() -> None:
    with pytest.raises(KeyError):
        planned_checkpoint("org/absent", SHAPES, "bfloat16", {})
