"""Finding a source: folders, a Hub cache made by hand, and every failure of the Hub explained."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file

from timberkit.checkpoint import source as source_module
from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.source import ResolvedSource, public_name, resolve
from timberkit.config import Source
from timberkit.errors import SourceError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SECRET = "hf_secretsecretsecret"


def http_error(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    response: Any = SimpleNamespace(headers={}, request=None, status_code=status)
    return kind(f"url with {SECRET}", response=response)


def caused(cause: Exception) -> LocalEntryNotFoundError:
    error = LocalEntryNotFoundError("not in the cache")
    error.__cause__ = cause
    return error


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty Hub cache, and a huggingface_hub that may not use the network."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache


def fill_cache(cache: Path, repository: str = "models--org--name") -> Path:
    """A snapshot as the Hub's library lays it out; returns its folder."""
    root = cache / repository
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    snapshot = root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    save_file({"a": torch.ones(2, 3)}, root / "blobs" / "weights")
    (root / "blobs" / "config").write_text('{"model_type": "llama"}')
    (snapshot / "model.safetensors").symlink_to("../../blobs/weights")
    (snapshot / "config.json").symlink_to("../../blobs/config")
    return snapshot


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Let every download raise this error; nothing is cached."""

    def install(error: BaseException) -> None:
        def fetch(location: str, **options: Any) -> str:
            raise LocalEntryNotFoundError("none") if options["local_files_only"] else error

        monkeypatch.setattr(source_module, "snapshot_download", fetch)

    return install


# ---- folders ---------------------------------------------------------------------------------


def test_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "org" / "name"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in (str(folder), "org/name", "./org/name", "~/org/name", "org/name/"):
        resolved = resolve(Source.parse(text))
        assert resolved == ResolvedSource(folder, text, None, False)
        assert public_name(resolved) == "name"


@pytest.mark.parametrize("text", ["/no/where", "./none", "../none", "~/none", "a/b/c", ".hidden"])
def test_text_that_reads_like_a_path_never_reaches_the_hub(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(source_module, "snapshot_download", None)
    with pytest.raises(SourceError, match="no such folder"):
        resolve(Source(location=text))


def test_file_in_place_of_a_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(SourceError, match="found a file"):
        resolve(Source(location=str(tmp_path / "model.safetensors")))


def test_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="local folder"):
        resolve(Source(location=str(tmp_path), revision="main"))


def test_public_name_is_never_a_path() -> None:
    assert public_name(ResolvedSource(Path("/"), "/", None, False)) == "model"
    hub = ResolvedSource(Path("/cache/snapshots/x"), "org/name", COMMIT, True)
    assert public_name(hub) == "org/name"


# ---- the Hub's cache -------------------------------------------------------------------------


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_cached_snapshot_is_used_offline_and_its_commit_known(
    offline: Path, revision: str | None
) -> None:
    snapshot = fill_cache(offline)
    resolved = resolve(Source(location="org/name", revision=revision))
    assert resolved == ResolvedSource(snapshot, "org/name", COMMIT, True)
    checkpoint = open_checkpoint(resolved.folder)
    assert list(checkpoint.tensors) == ["a"]
    assert checkpoint.config == {"model_type": "llama"}


def test_id_without_organisation_is_a_hub_id(offline: Path) -> None:
    snapshot = fill_cache(offline, "models--gpt2")
    assert resolve(Source(location="gpt2")).folder == snapshot


def test_nothing_cached_offline_is_explained(offline: Path) -> None:
    fill_cache(offline)
    for text in ("org/other", "org/name@branch"):
        with pytest.raises(SourceError, match=r"offline mode is on \(HF_HUB_OFFLINE\)"):
            resolve(Source.parse(text))


def test_cached_weights_are_used_offline_even_if_side_files_are_missing(
    offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = fill_cache(offline)

    def fetch(location: str, **options: Any) -> str:
        if "LICENSE*" in options["allow_patterns"]:  # what the library says of a partial snapshot
            raise LocalEntryNotFoundError("LICENSE is missing")
        return snapshot_download(location, **options)

    monkeypatch.setattr(source_module, "snapshot_download", fetch)
    assert resolve(Source(location="org/name")).folder == snapshot


def test_environment_alone_selects_cache_and_offline_mode(tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path / "hub")
    code = (
        "from timberkit.config import Source\n"
        "from timberkit.checkpoint.source import resolve\n"
        "print(resolve(Source(location='org/name')).folder)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(snapshot)


# ---- the Hub's answers -----------------------------------------------------------------------


def test_only_what_is_needed_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def fetch(location: str, **options: Any) -> str:
        asked.update(options, location=location)
        return str(tmp_path / COMMIT)

    monkeypatch.setattr(source_module, "snapshot_download", fetch)
    resolved = resolve(Source.parse("org/name@v1.0"))
    assert resolved == ResolvedSource(tmp_path / COMMIT, "org/name", COMMIT, True)
    assert (asked["location"], asked["revision"]) == ("org/name", "v1.0")
    wanted = [
        *("model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"),
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer.model"),
        *("tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
        *("chat_template.jinja", "additional_chat_templates/rag.jinja", "LICENSE", "LICENSE.txt"),
        *("USE_POLICY.md", "README.md", "modeling_custom.py", "qwen.tiktoken"),
    ]
    unwanted = [
        *("pytorch_model.bin", "model.pt", "consolidated.00.pth", "model-q4_k.gguf"),
        *("original/consolidated.safetensors", "original/params.json", "onnx/model.onnx"),
        *("consolidated.safetensors", "checkpoint-5/model.safetensors", "tf_model.h5"),
        *("flax_model.msgpack", "onnx/README.md", ".gitattributes", "adapter_model.safetensors"),
    ]
    kept = filter_repo_objects(
        wanted + unwanted,
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(kept) == wanted


@pytest.mark.parametrize(("has", "rounds"), [("model.safetensors", 1), ("config.json", 2)])
def test_pickles_are_fetched_where_allowed_from_a_repository_without_safetensors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has: str, rounds: int
) -> None:
    (tmp_path / COMMIT).mkdir()
    (tmp_path / COMMIT / has).write_bytes(b"")
    asked: list[dict[str, Any]] = []

    def fetch(location: str, **options: Any) -> str:
        asked.append({**options, "location": location})
        return str(tmp_path / COMMIT)

    monkeypatch.setattr(source_module, "snapshot_download", fetch)
    resolve(Source.parse("org/name"), allow_pickle=True)
    assert len(asked) == rounds
    files = [
        *("config.json", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin"),
        *("training_args.bin", "optimizer.bin", "original/pytorch_model.bin", "model.pt"),
    ]
    kept = filter_repo_objects(
        files,
        allow_patterns=asked[-1]["allow_patterns"],
        ignore_patterns=asked[-1]["ignore_patterns"],
    )
    assert list(kept) == (files[:3] if rounds == 2 else files[:1])


@pytest.mark.parametrize("has", ["adapter_config.json", "model.safetensors"])
def test_an_adapter_is_fetched_from_a_repository_without_a_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has: str
) -> None:
    (tmp_path / COMMIT).mkdir()
    (tmp_path / COMMIT / has).write_bytes(b"{}")
    asked: list[dict[str, Any]] = []

    def fetch(location: str, **options: Any) -> str:
        asked.append({**options, "location": location})
        return str(tmp_path / COMMIT)

    monkeypatch.setattr(source_module, "snapshot_download", fetch)
    resolve(Source.parse("org/name"))
    files = ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]
    kept = filter_repo_objects(
        files,
        allow_patterns=asked[-1]["allow_patterns"],
        ignore_patterns=asked[-1]["ignore_patterns"],
    )
    assert list(kept) == (files[:2] if has == "adapter_config.json" else files[:1])


def test_cached_pickles_are_used_offline(offline: Path) -> None:
    snapshot = fill_cache(offline)
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    assert resolve(Source(location="org/name"), allow_pickle=True).folder == snapshot


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (http_error(RepositoryNotFoundError, 401), "no such model.*hf auth login"),
        (http_error(GatedRepoError, 403), "accept its licence on https://huggingface.co/org/name"),
        (http_error(RevisionNotFoundError, 404), "not this revision"),
        (http_error(HfHubHTTPError, 500), "the Hub answered 500, and"),
        (http_error(HfHubHTTPError, 403), "answered 403; log in"),
        (caused(http_error(HfHubHTTPError, 502)), "the Hub answered 502"),
        (caused(TimeoutError(110, SECRET)), "cannot be reached .TimeoutError."),
        (LocalEntryNotFoundError("no"), "cannot be reached"),
        (ConnectionResetError(104, SECRET), "cannot be reached .ConnectionResetError."),
        (OSError(f"no errno, {SECRET}"), "cannot be reached .OSError."),
        (RuntimeError(SECRET), "cannot be reached .RuntimeError."),
        (HfHubHTTPError.__bases__[0](SECRET), "cannot be reached .HTTPError."),
        (OSError(28, "No space left on device"), "No space left on device .errno 28."),
    ],
)
def test_failure_is_explained_and_tells_no_secret(
    error: BaseException, said: str, failing: Callable[[BaseException], None]
) -> None:
    failing(error)
    with pytest.raises(SourceError, match=said) as caught:
        resolve(Source(location="org/name"))
    assert SECRET not in str(caught.value)
    assert str(caught.value).startswith("org/name: ")


def test_lost_connection_falls_back_to_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def fetch(location: str, **options: Any) -> str:
        calls.append(options)
        if options["local_files_only"]:
            return str(tmp_path / COMMIT)
        raise ConnectionResetError(104, "reset")

    monkeypatch.setattr(source_module, "snapshot_download", fetch)
    assert resolve(Source(location="org/name")).revision == COMMIT
    assert [call["local_files_only"] for call in calls] == [False, True]


@pytest.mark.parametrize("text", ["org/na me", "a--b", "name..x", "org/name.git", "x" * 97, "café"])
def test_malformed_id_is_refused_without_network(text: str) -> None:
    with pytest.raises(SourceError, match="neither a folder that exists nor a Hub id"):
        resolve(Source(location=text))


@pytest.mark.parametrize("revision", ["../../x", "/etc", "a b", "-x", "x" * 300, "a\n", "é"])
def test_malformed_revision_is_refused_without_network(
    revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "snapshot_download", None)
    with pytest.raises(SourceError, match="not a branch, tag or commit"):
        resolve(Source(location="org/name", revision=revision))


def test_nothing_is_printed(offline: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill_cache(offline)
    resolve(Source(location="org/name"))
    assert capfd.readouterr() == ("", "")
