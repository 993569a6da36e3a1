"""Pickles: read as data, refused where they are more, converted once and whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from timberkit.checkpoint import conversion
from timberkit.checkpoint.conversion import (
    converted,
    entry_folder,
    find_entries,
    planned,
    remove_entry,
)
from timberkit.checkpoint.pickled import PickledModel, pickle_files, read_pickle
from timberkit.checkpoint.reader import fingerprint
from timberkit.errors import CheckpointError, ResourceError

WEIGHTS = {
    "model.embed_tokens.weight": torch.randn(6, 4).bfloat16(),
    "model.layers.0.self_attn.q_proj.weight": torch.randn(4, 4),
    "model.layers.0.mlp.up_proj.weight": torch.randn(8, 4).half(),
    "model.norm.bias": torch.tensor(3.0),
    "model.positions": torch.arange(6),
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, which does not exist yet."""
    place = tmp_path_factory.mktemp("cache") / "own"
    monkeypatch.setenv("TIMBERKIT_CACHE", str(place))
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in two pickles with an index, a tokenizer and a card."""
    place = tmp_path / "model"
    place.mkdir()
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    halves = [dict(list(WEIGHTS.items())[i::2]) for i in (0, 1)]
    for name, half in zip(names, halves, strict=True):
        torch.save(half, place / name)
    places = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    (place / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    (place / "config.json").write_text('{"model_type": "llama", "torch_dtype": "float32"}')
    (place / "tokenizer.json").write_text("{}")
    (place / "README.md").write_text("---\nlicense: mit\n---\n")
    return place


def model(folder: Path) -> PickledModel:
    return PickledModel(folder, pickle_files(folder))


def read(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found


class Runs:
    """A pickle that runs a function when it is loaded."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.args


# ---- reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, *, new_format: bool) -> None:
    ran = tmp_path / "ran"
    for i, trap in enumerate([Runs(os.system, f"touch {ran}"), Runs(open, str(ran), "w")]):
        path = tmp_path / f"{i}.bin"
        content = {"a": torch.ones(2), "trap": trap}
        torch.save(content, path, _use_new_zipfile_serialization=new_format)
        with pytest.raises(CheckpointError, match=r"asks for code to be run \(\w+\.\w+\)"):
            read_pickle(path)
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(Runs(os.system, f"touch {ran}")))
    with pytest.raises(CheckpointError):
        read_pickle(tmp_path / "plain.bin")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.ones(2)], "holds a list"),
        ({"epoch": 3, "optimizer": {"a": torch.ones(2)}}, "a training state, not a model"),
        ({"a": torch.ones(3, 3).to_sparse()}, "is sparse_coo"),
        ({"a": torch.ones(1).expand(1000, 1000)}, "has 4 bytes behind it, expected 4000000"),
        ({"a": torch.ones(2, device="meta")}, "on meta"),
    ],
)
def test_what_is_no_plain_weight_is_refused(tmp_path: Path, content: object, said: str) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=said):
        read_pickle(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("new_format", [True, False])
def test_damaged_bytes_are_refused(tmp_path: Path, *, new_format: bool) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=new_format)
    whole = path.read_bytes()
    for cut in (0, 1, 40, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match="damaged or cut off"):
            read_pickle(path)


def test_entries_that_are_no_tensors_are_passed_over_and_named(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({**WEIGHTS, "step": 3, 7: torch.ones(1)}, path)
    tensors, left_out = read_pickle(path)
    assert tensors.keys() == WEIGHTS.keys()
    assert left_out == ("step", "7")


# ---- which files -----------------------------------------------------------------------------


def test_files_of_a_model_are_found(folder: Path) -> None:
    names = tuple(f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2))
    (folder / "training_args.bin").write_bytes(b"")
    assert pickle_files(folder) == names
    (folder / "pytorch_model.bin.index.json").unlink()
    assert pickle_files(folder) == names
    (folder / names[1]).unlink()
    with pytest.raises(CheckpointError, match="found 1 of the 2 files"):
        pickle_files(folder)


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/passwd", "training_args.bin", 3, None])
def test_an_index_that_names_other_files_is_refused(folder: Path, name: object) -> None:
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="the index is damaged"):
        pickle_files(folder)


def test_a_link_that_leads_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.bin").write_bytes(b"")
    path = folder / "pytorch_model-00001-of-00002.bin"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(CheckpointError, match="leads out of the folder"):
        pickle_files(folder)


# ---- converting ------------------------------------------------------------------------------


def test_every_tensor_is_converted_bit_for_bit_and_the_rest_comes_along(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    checkpoint = converted(model(folder))
    found = read(checkpoint.folder)
    assert found.keys() == WEIGHTS.keys()
    assert all(
        found[name].dtype == value.dtype and torch.equal(found[name], value)
        for name, value in WEIGHTS.items()
    )
    names = {path.name for path in checkpoint.folder.iterdir()}
    assert {"config.json", "tokenizer.json", "README.md", "model.safetensors.index.json"} < names
    assert not any(name.endswith(".bin") for name in names)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert checkpoint.folder.name == "model"


def test_a_plan_knows_names_shapes_and_dtypes_and_writes_nothing(folder: Path, cache: Path) -> None:
    found = planned(model(folder))
    assert not cache.exists()
    there = converted(model(folder))
    assert {n: (e.dtype, e.shape) for n, e in found.tensors.items()} == {
        n: (e.dtype, e.shape) for n, e in there.tensors.items()
    }
    assert [shard.header_sha256 for shard in found.shards] == [
        shard.header_sha256 for shard in there.shards
    ]


def test_what_is_stored_otherwise_is_written_row_by_row(tmp_path: Path) -> None:
    wide = torch.randn(6, 8)
    weights = {"a": wide.T, "b": wide[:, 2:4], "c": wide[1:3], "d": torch.zeros(0, 3)}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    found = read(converted(model(tmp_path)).folder)
    assert all(torch.equal(found[name], value) for name, value in weights.items())


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_left_to_the_configuration(tmp_path: Path, *, tied: bool) -> None:
    embedding = torch.randn(6, 4)
    weights = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
    found = read(converted(model(tmp_path)).folder)
    assert sorted(found) == sorted(weights)[0 if not tied else 1 :]


def test_a_model_is_converted_once(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    first = converted(model(folder), lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 0
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    again = converted(model(folder), lambda *_: pytest.fail("converted again"))
    assert first == again


def test_one_that_was_removed_comes_back_with_the_same_fingerprint(folder: Path) -> None:
    first = fingerprint(converted(model(folder)))
    [entry] = find_entries()
    assert entry.size_bytes > 0
    assert remove_entry(entry)
    assert find_entries() == []
    assert fingerprint(converted(model(folder))) == first


def test_a_damaged_entry_is_made_again(folder: Path) -> None:
    place = converted(model(folder)).folder
    for damage in (
        lambda: (place / "tokenizer.json").unlink(),
        lambda: (place / "model-00001-of-00002.safetensors").write_bytes(b"short"),
        lambda: (place.parent / "conversion.json").write_text("{"),
        lambda: shutil.rmtree(place),
    ):
        damage()
        assert read(converted(model(folder)).folder).keys() == WEIGHTS.keys()


def test_a_source_that_changed_is_another_entry(folder: Path) -> None:
    first = entry_folder(model(folder))
    path = folder / "pytorch_model-00001-of-00002.bin"
    status = path.stat()
    torch.save({name: value + 1 for name, value in torch.load(path).items()}, path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert entry_folder(model(folder)) != first  # by the checksums at the end of the archive


def test_other_small_files_are_another_entry(folder: Path) -> None:
    first = entry_folder(model(folder))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert entry_folder(model(folder)) != first
    assert (converted(model(folder)).folder / "chat_template.jinja").exists()


def test_a_link_to_a_model_is_the_same_entry(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    first = converted(model(folder))
    assert converted(model(tmp_path / "link"), lambda *_: pytest.fail("again")) == first


def test_an_index_that_lists_what_no_file_holds_is_refused(folder: Path, cache: Path) -> None:
    index = folder / "pytorch_model.bin.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"]["of.elsewhere"] = "pytorch_model-00001-of-00002.bin"
    index.write_text(json.dumps(listed))
    with pytest.raises(CheckpointError, match=r"lists 1 tensors that no file holds.*elsewhere"):
        planned(model(folder))
    with pytest.raises(CheckpointError, match="no file holds"):
        converted(model(folder))
    assert not list(cache.rglob("conversion.json"))


def test_an_index_that_leaves_a_file_out_is_refused(folder: Path) -> None:
    (folder / "pytorch_model-00003-of-00003.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="does not list 'pytorch_model-00003"):
        pickle_files(folder)


@pytest.mark.parametrize("name", ["model.norm.bias", "__metadata__"])
def test_a_name_twice_or_kept_by_the_format_is_refused_before_anything_is_written(
    folder: Path, cache: Path, name: str
) -> None:
    (folder / "pytorch_model.bin.index.json").unlink()
    for file in folder.glob("*.bin"):
        torch.save({**torch.load(file), name: torch.ones(1)}, file)
    for act in (planned, converted):
        with pytest.raises(CheckpointError, match="expected one place for each name"):
            act(model(folder))
    assert not list(cache.rglob("*.safetensors"))


def test_a_cache_in_the_model_s_own_folder_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMBERKIT_CACHE", str(folder / "cache"))
    with pytest.raises(ResourceError, match="is never written to"):
        converted(model(folder))
    assert not (folder / "cache").exists()


def test_only_what_a_conversion_made_is_listed_and_removed(folder: Path, cache: Path) -> None:
    converted(model(folder))
    mine = cache / "converted" / "my-llama"
    mine.mkdir()
    (mine / "model.safetensors").write_text("precious")
    alike = cache / "converted" / ("a" * 24)
    alike.mkdir()
    [entry] = find_entries()
    assert remove_entry(entry)
    assert remove_entry(entry)  # gone already
    assert sorted(path.name for path in (cache / "converted").iterdir() if path.is_dir()) == sorted(
        [mine.name, alike.name]
    )


def test_a_full_disk_is_said_before_anything_is_written(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion, "free_bytes", lambda _: 1 << 20)
    with pytest.raises(ResourceError, match="TIMBERKIT_CACHE"):
        converted(model(folder))
    assert not list(cache.rglob("*.safetensors"))


def test_a_cache_that_cannot_be_made_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TIMBERKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ResourceError, match="set TIMBERKIT_CACHE"):
        converted(model(folder))


KILLED = """
import os, signal, sys
from pathlib import Path
from timberkit.checkpoint import conversion
from timberkit.checkpoint.pickled import PickledModel, pickle_files
folder, after = Path(sys.argv[1]), int(sys.argv[2])
write = conversion.write_at
def write_and_die(*args):
    global after
    write(*args)
    after -= 1
    if after == 0:
        os.kill(os.getpid(), signal.SIGKILL)
conversion.write_at = write_and_die
conversion.converted(PickledModel(folder, pickle_files(folder)))
"""


def test_a_conversion_that_is_killed_is_continued_with_the_next_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for after in (1, 3, 4):  # in the first file, at its end, in the second
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, str(folder), str(after)], check=False
        )
        assert killed.returncode == -signal.SIGKILL
        assert not entry_folder(model(folder)).exists()
        assert len(find_entries()) == 1
    written: list[str] = []
    write = conversion.write_at
    monkeypatch.setattr(
        conversion, "write_at", lambda path, *args: (written.append(path.name), write(path, *args))
    )
    found = read(converted(model(folder)).folder)
    assert all(torch.equal(found[name], value) for name, value in WEIGHTS.items())
    assert set(written) == {".model-00002-of-00002.safetensors.part"}
    assert len(find_entries()) == 1


def convert_and_count(folder: Path, written: Any) -> None:
    converted(model(folder), lambda done, total: written.put(done == total))


def test_two_processes_convert_once(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    written = context.SimpleQueue()
    workers = [context.Process(target=convert_and_count, args=(folder, written)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    whole = 0
    while not written.empty():
        whole += written.get()
    assert whole == 1
