"""What goes along with the weights, and what is left behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from timberkit.checkpoint import sidecars
from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.sidecars import CopiedSidecars, copy_sidecars
from timberkit.errors import CheckpointError, InterruptedRunError

WEIGHTS = (
    "pytorch_model.bin model.PT x.pth x.gguf x.ckpt tf_model.h5 flax_model.msgpack x.onnx"
    " x.onnx_data x.npz x.tflite other.safetensors sub/consolidated.safetensors"
)


def model(folder: Path, shards: int = 1, dtype: torch.dtype = torch.float32) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, shards + 1):
        name = "model" if shards == 1 else f"model-{number:05d}-of-{shards:05d}"
        tensors = {f"w{number}": torch.ones(3, 2, dtype=dtype), f"n{number}": torch.arange(2)}
        save_file(tensors, folder / f"{name}.safetensors", {"format": "pt"})
    return folder


def add(folder: Path, *names: str, content: bytes = b"content") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def copy(
    source: Path, target: Path, dtype: str | None = None, base: Path | None = None
) -> CopiedSidecars:
    return copy_sidecars(open_checkpoint(source), target, dtype=dtype, base_folder=base)


def names_in(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_small_files_are_copied_with_their_folders(tmp_path: Path) -> None:
    source, target = model(tmp_path / "in"), tmp_path / "out"
    names = [
        "LICENSE",
        "additional_chat_templates/tools.jinja",
        "chat_template.jinja",
        "generation_config.json",
        "modeling_own.py",
        "tokenizer.model",
    ]
    add(source, *names)
    (source / "modeling_own.py").chmod(0o755)
    found = copy(source, target)
    assert list(found.copied) == names == names_in(target)
    assert found.skipped == ()
    for name in names:
        assert (target / name).read_bytes() == b"content"
        assert (target / name).stat().st_mode & 0o777 == 0o644


def test_weights_are_never_copied(tmp_path: Path) -> None:
    source = model(tmp_path / "in")
    add(source, *WEIGHTS.split(), "pytorch_model.bin.index.json")
    found = copy(source, tmp_path / "out")
    assert found.copied == ()
    assert dict(found.skipped) == dict.fromkeys(WEIGHTS.split(), "weights") | {
        "pytorch_model.bin.index.json": "index of weights"
    }


def test_what_is_written_anew_or_none_of_our_business_stays_behind(tmp_path: Path) -> None:
    source = model(tmp_path / "in")
    add(source, "README.md", "sub/readme.MD", "timberkit.json", ".gitattributes", ".git/config")
    add(source, ".cache/huggingface/x", ".out.timberkit-stage/tree/config.json")
    add(source, "earlier/timberkit.json", "earlier/config.json", "base/config.json")
    (source / "linked").symlink_to("base")
    os.mkfifo(source / "pipe")
    found = copy(source, tmp_path / "out", base=source / "base")
    assert found.copied == ()
    assert dict(found.skipped) == {
        ".cache": "hidden",
        ".git": "hidden",
        ".gitattributes": "hidden",
        ".out.timberkit-stage": "hidden",
        "README.md": "the output gets a model card of its own",
        "base": "the Base checkpoint",
        "earlier": "an output of timberkit",
        "linked": "a link to a folder",
        "pipe": "no plain file",
        "sub/readme.MD": "the output gets a model card of its own",
        "timberkit.json": "the output gets a manifest of its own",
    }


def test_links_are_followed_at_home_only(tmp_path: Path) -> None:
    source = model(tmp_path / "in")
    add(tmp_path, "secret", "in-other/secret")
    add(source, "vocab.json")
    (source / "inside").symlink_to("vocab.json")
    (source / "outside").symlink_to("../secret")
    (source / "neighbour").symlink_to("../in-other/secret")
    (source / "dangling").symlink_to("nowhere")
    (source / "loop").symlink_to("loop")
    found = copy(source, tmp_path / "out")
    assert found.copied == ("inside", "vocab.json")
    assert [name for name, _ in found.skipped] == ["dangling", "loop", "neighbour", "outside"]
    assert not (tmp_path / "out" / "inside").is_symlink()


def test_files_of_the_hub_cache_are_followed_to_its_blobs(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--model"
    snapshot = model(repository / "snapshots" / "0123")
    add(repository, "blobs/abc", "refs/main")
    (snapshot / "tokenizer.json").symlink_to("../../blobs/abc")
    (snapshot / "ref").symlink_to("../../refs/main")
    found = copy(snapshot, tmp_path / "out")
    assert found.copied == ("tokenizer.json",)
    assert [name for name, _ in found.skipped] == ["ref"]
    (tmp_path / "short").symlink_to(snapshot)
    assert copy(tmp_path / "short", tmp_path / "out2").copied == ("tokenizer.json",)


def test_big_file_is_reported_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = model(tmp_path / "in")
    add(source, "big.txt", content=b"x" * 11)
    add(source, "small.txt", content=b"x" * 10)
    monkeypatch.setattr(sidecars, "LARGEST_SIDECAR_BYTES", 10)
    found = copy(source, tmp_path / "out")
    assert found.copied == ("small.txt",)
    assert found.skipped == (("big.txt", "11 bytes, over 10"),)


def test_pointer_of_git_lfs_is_refused(tmp_path: Path) -> None:
    source = model(tmp_path / "in")
    add(source, "tokenizer.json", content=b"version https://git-lfs.github.com/spec/v1\noid x\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        copy(source, tmp_path / "out")


def test_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(model(tmp_path / "in"))
    add(tmp_path / "in", "vocab.txt")

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(CheckpointError, match=r"vocab\.txt: cannot be read: Permission denied"):
        copy_sidecars(checkpoint, tmp_path / "out", dtype=None)


def test_target_that_cannot_be_written_can_be_continued(tmp_path: Path) -> None:
    source = model(tmp_path / "in")
    add(source, "vocab.txt")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InterruptedRunError):
        copy(source, tmp_path / "out")


def test_config_is_untouched_without_a_dtype(tmp_path: Path) -> None:
    content = b'{"torch_dtype":"float16",  "a": NaN, "a": 1}'
    source = model(tmp_path / "in")
    add(source, "config.json", content=content)
    copy(source, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").read_bytes() == content
    add(source, "config.json", content=b'{"dtype":"float32",  "a": 1}')
    copy(source, tmp_path / "out", "F32")
    assert (tmp_path / "out" / "config.json").read_bytes() == b'{"dtype":"float32",  "a": 1}'


def test_config_names_the_new_dtype_wherever_it_named_one(tmp_path: Path) -> None:
    source = model(tmp_path / "in")
    config = {
        "z": 1e-06,
        "torch_dtype": "float32",
        "text_config": {"dtype": "float32", "deep_config": {"dtype": None}},
        "quantization_config": {"dtype": "float32"},
        "rope": {"dtype": "float32"},
        "limits": [0.0, float("inf")],
    }
    add(source, "config.json", content=json.dumps(config).encode())
    copy(source, tmp_path / "out", "BF16")
    found = json.loads((tmp_path / "out" / "config.json").read_bytes())
    config["torch_dtype"] = "bfloat16"
    config["text_config"] = {"dtype": "bfloat16", "deep_config": {"dtype": "bfloat16"}}
    assert found == config
    assert list(found) == list(config)


def test_index_is_copied_verbatim_when_no_dtype_changes(tmp_path: Path) -> None:
    source = model(tmp_path / "in", shards=2)
    copy(source, tmp_path / "made")
    index = json.loads((tmp_path / "made" / "model.safetensors.index.json").read_bytes())
    assert index["metadata"] == {"total_size": 2 * (24 + 16)}
    assert list(index["weight_map"]) == ["n1", "w1", "n2", "w2"]
    text = json.dumps({**index, "metadata": {"own": 1}}).encode()
    add(source, "model.safetensors.index.json", content=text)
    for dtype in (None, "F32"):
        found = copy(source, tmp_path / "out", dtype)
        assert found.copied == ("model.safetensors.index.json",)
        assert found.skipped == ()
        assert (tmp_path / "out" / "model.safetensors.index.json").read_bytes() == text


def test_index_gets_the_new_size_with_another_dtype(tmp_path: Path) -> None:
    source = model(tmp_path / "in", shards=2)
    copy(source, source)
    for metadata in ({"total_size": 80, "total_parameters": 16}, None):
        path = source / "model.safetensors.index.json"
        index = json.loads(path.read_bytes())
        index["metadata"] = metadata
        path.write_text(json.dumps(index))
        copy(source, tmp_path / "out", "BF16")
        found = json.loads((tmp_path / "out" / path.name).read_bytes())
        assert found["metadata"] == {**(metadata or {}), "total_size": 2 * (12 + 16)}
        assert found["weight_map"] == index["weight_map"]


def test_single_shard_of_another_name_gets_an_index(tmp_path: Path) -> None:
    source = model(tmp_path / "in")
    (source / "model.safetensors").rename(source / "model-00001-of-00001.safetensors")
    assert copy(source, tmp_path / "out").copied == ("model.safetensors.index.json",)


def test_config_that_is_no_object_is_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(model(tmp_path / "in"))
    for content, match in ((b"[]", "found list"), (b"{", "cannot be read as JSON")):
        add(tmp_path / "in", "config.json", content=content)
        with pytest.raises(CheckpointError, match=match):
            copy_sidecars(checkpoint, tmp_path / "out", dtype="BF16")
