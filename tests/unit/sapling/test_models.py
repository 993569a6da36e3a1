"""Unsuitable folders and missing packages are refused with a reason."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from timberkit.errors import InputError, MissingExtraError, SourceError
from timberkit.sapling import base_folder, load_model
from timberkit.sapling.models import torch_threads


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped Base folder that a test may break."""
    return Path(shutil.copytree(base_folder(), tmp_path / "model"))


def test_model_is_loaded_in_float32_for_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model(base_folder())
    assert model.dtype == torch.float32
    assert not model.training
    assert model.num_parameters() == 462_080
    assert capsys.readouterr() == ("", "")


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"config\.json: cannot be read"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_broken_config_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SourceError, match=r"config\.json"):
        load_model(folder)


@pytest.mark.parametrize(("field", "value"), [("model_type", "qwen3"), ("vocab_size", 32_000)])
def test_another_model_is_refused(folder: Path, field: str, value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(InputError, match="no Sapling model"):
        load_model(folder)


def test_another_vocabulary_is_refused(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["7"], words["8"] = words["8"], words["7"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="differ from the Sapling vocabulary"):
        load_model(folder)


def test_folder_without_tokenizer_is_accepted(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert load_model(folder).num_parameters() == 462_080


def test_absent_transformers_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"timberkit\[eval\]"):
        load_model(base_folder())


def test_threads_are_restored_even_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(1):
        raise KeyError
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    with torch_threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


def test_thread_count_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"), torch_threads(0):
        pass
