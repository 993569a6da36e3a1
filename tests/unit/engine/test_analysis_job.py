"""One weight of an analysis: named, measured as asked, refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from timberkit.engine.job import JobContext, perform
from timberkit.engine.tasks import MeasureTask, Place
from timberkit.errors import CheckpointError, SpectrumError
from timberkit.spectral.measure import measure_matrix

NAME = "model.layers.3.mlp.experts.7.down_proj.weight"


def task(folder: Path, pair: Any, *, index: int | None = None, **options: Any) -> MeasureTask:
    places = []
    for name, weight in zip(("base", "instruct"), pair, strict=True):
        content = weight.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        (folder / name).write_bytes(b"before" + content + b"after")
        places.append(Place(str(folder / name), 6, len(content), "BF16"))
    rows, columns = pair[0].shape
    asked = {"measure": (), "keep_values": "delta", **options}
    return MeasureTask(NAME, index, "expert", 3, rows, columns, *places, **asked)


@pytest.mark.parametrize(
    ("measure", "keep_values"), [((), "delta"), (("rounding", "subspaces"), "all")]
)
def test_a_task_gives_the_measurement_of_its_bytes(
    pairs: Any, tmp_path: Path, measure: tuple[Any, ...], keep_values: Any
) -> None:
    pair = pairs.noise(24, 16, seed=0)
    made = task(tmp_path, pair, index=5, measure=measure, keep_values=keep_values)
    outcome = perform(JobContext(), made)
    found = outcome.measurement
    assert found is not None
    expected = measure_matrix(
        *pair,
        rounding="rounding" in measure,
        subspaces="subspaces" in measure,
        keep_all=keep_values == "all",
    )
    for part in ("base", "instruct", "delta", "null", "cut", "bulk", "rounding", "subspaces"):
        assert getattr(found, part) == getattr(expected, part)
    assert (found.name, found.index, found.family, found.layer) == (NAME, 5, "expert", 3)
    assert (found.module, found.rows, found.columns) == ("mlp.experts.down_proj", 24, 16)
    assert (found.base_dtype, found.instruct_dtype) == ("BF16", "BF16")
    assert found.seconds > 0
    assert (outcome.key, outcome.written, outcome.record) == (made.key, (), None)
    assert made.key == f"measure {NAME} [5]"


@pytest.mark.parametrize(("index", "place"), [(None, "weight':"), (2, r"weight' \[2\]:")])
def test_a_damaged_weight_is_named(pairs: Any, tmp_path: Path, index: Any, place: str) -> None:
    base, instruct = pairs.noise(6, 4, seed=0)
    base[1, 1] = float("nan")
    with pytest.raises(SpectrumError, match=f"{place} base: found NaN.*--exclude"):
        perform(JobContext(), task(tmp_path, (base, instruct), index=index))


def test_a_shorter_source_is_a_checkpoint_error(pairs: Any, tmp_path: Path) -> None:
    made = task(tmp_path, pairs.noise(6, 4, seed=0))
    Path(made.base.path).write_bytes(b"short")
    with pytest.raises(CheckpointError, match="became shorter"):
        perform(JobContext(), made)
