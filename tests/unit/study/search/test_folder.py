"""The folder of a search: whose it is, and for which settings and models."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from timberkit.errors import CheckpointError, OutputExistsError, StageConflictError, UsageError
from timberkit.sapling import instruct_folder
from timberkit.study.search.folder import hold_search
from timberkit.study.search.run import OpenSearch, search
from timberkit.study.search.settings import build_settings

SETTINGS = {"margin": 1.0, "edges": [4]}
SOURCES = {"base": {"a": 1}, "instruct": {"b": 2}}


def test_a_new_folder_is_made_and_an_old_one_says_what_was_searched(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    with hold_search(run, SETTINGS, SOURCES) as before:
        assert before is None
    with hold_search(run, SETTINGS, {"base": {}, "instruct": {}}) as before:
        assert before == SOURCES
    manifest = json.loads((run / "timberkit.json").read_text())
    assert manifest["kind"] == "search"
    assert manifest["settings"] == SETTINGS


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    with hold_search(tmp_path / "run", SETTINGS, SOURCES):
        pass
    with (
        pytest.raises(StageConflictError, match=r"edges: \[4\] before, \[8\] now") as caught,
        hold_search(tmp_path / "run", {"margin": 1.0, "edges": [8]}, SOURCES),
    ):
        pass
    assert "margin" not in str(caught.value)


def test_two_searches_at_once_are_refused(tmp_path: Path) -> None:
    with (
        hold_search(tmp_path / "run", SETTINGS, SOURCES),
        pytest.raises(StageConflictError, match=f"process {os.getpid()} is searching"),
        hold_search(tmp_path / "run", SETTINGS, SOURCES),
    ):
        pass
    with hold_search(tmp_path / "run", SETTINGS, SOURCES):
        pass  # given back


def test_what_is_no_search_is_left_alone(tmp_path: Path) -> None:
    file, other, strange = tmp_path / "file", tmp_path / "other", tmp_path / "strange"
    file.write_text("x")
    for folder in (other, strange):
        folder.mkdir()
    (other / "timberkit.json").write_text(json.dumps({"schema_version": 1, "kind": "evaluation"}))
    (strange / "notes.txt").write_text("x")
    for path, told in ((file, "a file"), (other, "another command"), (strange, "notes.txt")):
        with (
            pytest.raises(OutputExistsError, match=told),
            hold_search(path, SETTINGS, SOURCES),
        ):
            pass
    assert sorted(path.name for path in strange.iterdir()) == ["notes.txt"]


def test_a_manifest_without_its_sources_is_refused(tmp_path: Path) -> None:
    with hold_search(tmp_path / "run", SETTINGS, SOURCES):
        pass
    path = tmp_path / "run" / "timberkit.json"
    manifest = json.loads(path.read_text())
    del manifest["sources"]
    path.write_text(json.dumps(manifest))
    with (
        pytest.raises(CheckpointError, match="which files were searched"),
        hold_search(tmp_path / "run", SETTINGS, SOURCES),
    ):
        pass


def test_a_model_that_changed_is_not_searched_on(tmp_path: Path) -> None:
    instruct = tmp_path / "instruct"
    shutil.copytree(instruct_folder(), instruct)
    settings = build_settings(
        {"base": "sapling:base", "instruct": str(instruct), "limit": 3, "rounds": 0,
         "levels": [1.0], "merges": [1.0, 0.5], "edges": []}
    )  # fmt: skip
    found = search(settings, tmp_path / "run").findings
    assert found.said
    os.utime(instruct / "model.safetensors", (1, 1))
    with pytest.raises(CheckpointError, match="changed while it was in use"):
        search(settings, tmp_path / "run")


def test_another_vocabulary_needs_a_benchmark(tmp_path: Path) -> None:
    folders = {}
    for name in ("base", "instruct"):
        folders[name] = tmp_path / name
        shutil.copytree(instruct_folder(), folders[name])
        config = json.loads((folders[name] / "config.json").read_text())
        config["vocab_size"] = 999
        (folders[name] / "config.json").write_text(json.dumps(config))
    settings = build_settings({name: str(path) for name, path in folders.items()})
    with pytest.raises(UsageError, match="--task aime24"):
        OpenSearch.of(settings)
