"""One task: what it reads, what it writes and where, what it reports, what it calls a failure."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from timberkit.config import AnyVariant, Merge, Timber, TimberL, parse_variants, variant_name
from timberkit.engine.job import JobContext, load, perform
from timberkit.engine.tasks import CastTask, CopyTask, HashTask, Place, RefineTask
from timberkit.errors import CheckpointError, SpectrumError
from timberkit.spectral.refine import refine_matrix

VARIANTS: tuple[AnyVariant, ...] = (Timber(lam=0.2), TimberL(), Merge(mu=0.5))
BEFORE, AFTER = b"before--", b"after---"


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def context(tmp_path: Path) -> JobContext:
    """Three output folders."""
    folders = [tmp_path / variant_name(variant) for variant in VARIANTS]
    for folder in folders:
        folder.mkdir()
    return JobContext(VARIANTS, tuple(map(str, folders)))


def refine_task(folder: Path, pair: Any, context: JobContext, index: int | None) -> RefineTask:
    """A task on weights that stand between other bytes, in sources and outputs."""
    base, instruct = pair
    size, places = base.numel() * 2, []
    for name, weight in (("base", base), ("instruct", instruct)):
        path = put(folder / f"{name}.bin", BEFORE + raw(weight) + AFTER)
        places.append(Place(str(path), len(BEFORE), size, "BF16"))
    for output in context.folders:
        put(Path(output, "shard.bin"), BEFORE + bytes(size) + AFTER)
    rows, columns = base.shape
    target = Place("shard.bin", len(BEFORE), size, "BF16")
    return RefineTask("layer.w", index, "ffn", 3, rows, columns, *places, target)


@pytest.mark.parametrize("index", [None, 2])
def test_a_refined_matrix_lands_in_every_variant_and_nowhere_else(
    pairs: Any, tmp_path: Path, context: JobContext, index: int | None
) -> None:
    pair = pairs.noise(24, 16, seed=0)
    task = refine_task(tmp_path, pair, context, index)
    outcome = perform(context, task)
    expected = refine_matrix(*pair, VARIANTS)
    for folder, weight in zip(context.folders, expected.weights, strict=True):
        assert Path(folder, "shard.bin").read_bytes() == BEFORE + raw(weight) + AFTER
    assert outcome.key == task.key
    assert outcome.written == tuple(str(Path(folder, "shard.bin")) for folder in context.folders)
    record = outcome.record
    assert record is not None
    assert (record.name, record.index, record.family, record.layer) == ("layer.w", index, "ffn", 3)
    assert record.matrix == expected.record
    assert record.seconds > 0


def test_a_method_is_what_it_is_at_the_place_of_the_matrix_under_its_own_name(
    pairs: Any, tmp_path: Path
) -> None:
    texts = ["ramp:first=0,last=1", "within:layers=3,of=timber", "within:layers=2,of=timber"]
    variants = parse_variants([*texts, "noise:of=within:families=attention,of=timber"])
    context = JobContext(
        variants, tuple(str(tmp_path / variant_name(variant)) for variant in variants), layers=7
    )
    pair = pairs.noise(24, 16, seed=0)
    outcome = perform(context, refine_task(tmp_path, pair, context, None))  # layer 3, ffn
    plain = parse_variants(["merge:mu=0.5", "timber"])
    expected = [*refine_matrix(*pair, plain).weights, pair[1], pair[1]]
    for folder, weight in zip(context.folders, expected, strict=True):
        assert Path(folder, "shard.bin").read_bytes() == BEFORE + raw(weight) + AFTER
    assert outcome.record is not None
    changes = outcome.record.matrix.changes
    assert [change.variant for change in changes] == [*map(variant_name, variants)]
    assert [change.changed > 0 for change in changes] == [True, True, False, False]


@pytest.mark.parametrize(("index", "place"), [(None, "'layer.w':"), (2, r"'layer.w' \[2\]:")])
def test_a_damaged_matrix_is_named_and_nothing_written(
    pairs: Any, tmp_path: Path, context: JobContext, index: int | None, place: str
) -> None:
    base, instruct = pairs.noise(6, 4, seed=0)
    instruct[1, 1] = float("nan")
    task = refine_task(tmp_path, (base, instruct), context, index)
    with pytest.raises(SpectrumError, match=f"tensor {place} instruct: found NaN.*--exclude"):
        perform(context, task)
    for folder in context.folders:
        assert Path(folder, "shard.bin").read_bytes() == BEFORE + bytes(48) + AFTER


def test_a_shorter_source_is_a_checkpoint_error(
    pairs: Any, tmp_path: Path, context: JobContext
) -> None:
    task = refine_task(tmp_path, pairs.noise(6, 4, seed=0), context, None)
    Path(task.base.path).write_bytes(b"short")
    with pytest.raises(CheckpointError, match="became shorter"):
        perform(context, task)


def test_bytes_are_copied_to_every_variant(tmp_path: Path, context: JobContext) -> None:
    source = put(tmp_path / "source", bytes(range(100)))
    for folder in context.folders:
        put(Path(folder, "sub", "shard"), bytes(20))
    task = CopyTask(str(source), 30, "sub/shard", 5, 10)
    outcome = perform(context, task)
    for folder in context.folders:
        content = Path(folder, "sub", "shard").read_bytes()
        assert content == bytes(5) + bytes(range(30, 40)) + bytes(5)
    assert (outcome.key, outcome.record, len(outcome.written)) == ("copy sub/shard 5", None, 3)


def cast_task(tmp_path: Path, values: torch.Tensor, context: JobContext, dtype: str) -> CastTask:
    source = put(tmp_path / "source", raw(values))
    size = values.numel() * (2 if dtype in ("F16", "BF16") else 4)
    for folder in context.folders:
        put(Path(folder, "shard"), bytes(size))
    stored = {torch.bfloat16: "BF16", torch.float32: "F32"}[values.dtype]
    place = Place(str(source), 0, values.numel() * values.element_size(), stored)
    return CastTask("norm", place, Place("shard", 0, size, dtype))


@pytest.mark.parametrize(
    ("dtype", "stored"), [(torch.bfloat16, "F32"), (torch.float32, "BF16"), (torch.float32, "F16")]
)
def test_a_cast_is_rounded_once_and_keeps_infinities(
    tmp_path: Path, context: JobContext, dtype: torch.dtype, stored: str
) -> None:
    values = torch.tensor([1.0, -0.0, 1 / 3, float("inf"), -65504.0], dtype=dtype)
    perform(context, cast_task(tmp_path, values, context, stored))
    wanted = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}[stored]
    for folder in context.folders:
        assert Path(folder, "shard").read_bytes() == raw(values.to(wanted))


def test_a_cast_that_overflows_is_refused_and_names_a_way_out(
    tmp_path: Path, context: JobContext
) -> None:
    values = torch.tensor([1.0, 70000.0])
    with pytest.raises(CheckpointError, match=r"'norm': values overflow float16.*bfloat16"):
        perform(context, cast_task(tmp_path, values, context, "F16"))


@pytest.mark.parametrize("variants", [(TimberL(),), (Merge(mu=0.5),), (Merge(mu=1.0),)])
def test_a_refined_weight_that_overflows_is_refused_and_not_written(
    pairs: Any, tmp_path: Path, context: JobContext, variants: tuple[AnyVariant, ...]
) -> None:
    base, instruct = pairs.noise(6, 4, seed=0)
    base[1, 1], instruct[1, 1] = 1e6, 2e6
    task = refine_task(tmp_path, (base, instruct), context, None)
    task = replace(task, target=replace(task.target, dtype="F16"))
    context = JobContext(variants, context.folders[:1])
    with pytest.raises(CheckpointError, match=r"'layer.w': values overflow float16.*bfloat16"):
        perform(context, task)
    assert Path(context.folders[0], "shard.bin").read_bytes() == BEFORE + bytes(48) + AFTER


def test_a_hash_is_that_of_the_file(tmp_path: Path) -> None:
    path = put(tmp_path / "file", b"content" * 1000)
    outcome = perform(JobContext(), HashTask(str(path), 7000))
    assert outcome.sha256 == hashlib.sha256(b"content" * 1000).hexdigest()
    assert outcome.key == f"hash {path}"
    assert outcome.written == ()


def test_what_is_loaded_may_be_changed_without_touching_the_file(tmp_path: Path) -> None:
    values = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    path = put(tmp_path / "file", raw(values))
    found = load(Place(str(path), 0, 24, "F32"), (2, 3))
    assert torch.equal(found, values)
    found.zero_()
    assert path.read_bytes() == raw(values)
