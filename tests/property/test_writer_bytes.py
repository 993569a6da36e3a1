"""Any small checkpoint, written piece by piece, is the file that safetensors would write."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.output_layout import cast_tensors, copy_ranges, plan_output
from timberkit.checkpoint.writer import copy_range, create_shard, write_at

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
FLOATS = ("F64", "F32", "F16", "BF16")

tensor_plans = st.tuples(
    st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3), st.booleans()
)
shard_plans = st.lists(
    st.dictionaries(st.text('abü."\\', min_size=1, max_size=4), tensor_plans, max_size=5),
    min_size=1,
    max_size=3,
)


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return tensor.dtype, tensor.shape, raw(tensor)


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().flatten().view(torch.uint8).tolist())


@settings(max_examples=40, deadline=None)
@given(
    plans=shard_plans,
    metadata=st.sampled_from([None, {"format": "pt"}, {"format": "pt", "ä": "\n"}, {"x": "y"}]),
    dtype=st.sampled_from([None, *FLOATS]),
    seed=st.integers(0, 2**31),
)
def test_pieces_make_the_file_that_the_library_writes(
    plans: list[dict[str, tuple[str, list[int], bool]]],
    metadata: dict[str, str] | None,
    dtype: str | None,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    wanted, refined = {}, set()
    if not any(plans):
        plans[0]["only"] = ("F32", [], False)
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        (folder / "in").mkdir()
        for number, plan in enumerate(plans, 1):
            name = f"model-{number:05d}-of-{len(plans):05d}.safetensors"
            tensors = {}
            for stem, (kind, shape, is_refined) in plan.items():
                key = f"{number}.{stem}"
                value = torch.randint(0, 256, shape, generator=generator).to(DTYPES[kind])
                target = DTYPES[dtype] if dtype and kind in FLOATS else DTYPES[kind]
                tensors[key] = value
                if is_refined:
                    refined.add(key)
                    value = torch.randint(0, 2, shape, generator=generator)
                wanted[key] = value.to(target)
            save_file(tensors, folder / "in" / name, metadata)
        written = write_output(folder, dtype, wanted, refined)
        for number, plan in enumerate(plans, 1):
            expected = {f"{number}.{stem}": wanted[f"{number}.{stem}"] for stem in plan}
            name = f"model-{number:05d}-of-{len(plans):05d}.safetensors"
            found = load_file(written / name)
            assert {key: bits(value) for key, value in found.items()} == {
                key: bits(value) for key, value in expected.items()
            }
            if dtype is None and metadata in (None, {"format": "pt"}):
                # A new dtype keeps the order of the tensors, where the library would sort them by
                # name; and the library writes several metadata entries in any order.
                save_file(expected, folder / "expected", {"format": "pt"})
                assert (written / name).read_bytes() == (folder / "expected").read_bytes()


def write_output(
    folder: Path, dtype: str | None, wanted: dict[str, torch.Tensor], refined: set[str]
) -> Path:
    """Write every tensor the way a run does: copied, cast or refined; each byte exactly once."""
    instruct = open_checkpoint(folder / "in")
    layout = plan_output(instruct, dtype)
    target = folder / "out"
    for shard in layout.shards:
        create_shard(target / shard.name, shard)
    pieces = copy_ranges(layout, instruct, refined)
    casts = [cast.target for cast in cast_tensors(layout, instruct, refined)]
    rest = [layout.tensors[name] for name in refined]
    data_bytes = sum(shard.size_bytes - len(shard.header) for shard in layout.shards)
    assert data_bytes == sum(part.size_bytes for part in (*pieces, *casts, *rest))
    for piece in pieces:
        source = instruct.shard(piece.shard).path
        copy_range(
            source, piece.source_start, target / piece.shard, piece.target_start, piece.size_bytes
        )
    for entry in (*casts, *rest):
        write_at(target / entry.shard, entry.start_byte, raw(wanted[entry.name]))
    return target
