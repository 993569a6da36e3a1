"""The manifest: stable bytes out, nothing hostile in."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from timberkit.checkpoint import manifest
from timberkit.checkpoint.manifest import (
    hash_file,
    list_output_files,
    read_manifest,
    write_manifest,
)
from timberkit.errors import CheckpointError


def test_manifest_comes_back_and_does_not_depend_on_the_order(tmp_path: Path) -> None:
    fields = {"b": [1, 0.1], "a": {"ü": "\ud800"}}
    write_manifest(tmp_path, fields)
    first = (tmp_path / "timberkit.json").read_bytes()
    assert read_manifest(tmp_path) == {**fields, "schema_version": 1}
    write_manifest(tmp_path, dict(reversed(fields.items())))
    assert (tmp_path / "timberkit.json").read_bytes() == first
    assert first.startswith(b'{\n  "a"')
    assert first.endswith(b"}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_outside_json_are_programming_errors(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_manifest(tmp_path, {"a": value})


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "cannot be read as JSON"),
        (b"\xff", "cannot be read as JSON"),
        (b'{"schema_version": 1, "a": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"schema_version": ' + b"1" * 5000 + b"}", "cannot be read as JSON"),
        (b"[1]", "no JSON object"),
        (b"{}", "schema_version None"),
        (b'{"schema_version": 2}', "schema_version 2"),
        (b'{"schema_version": true}', "schema_version True"),
        (b'{"schema_version": 1.0}', "schema_version 1.0"),
    ],
)
def test_broken_manifest_is_refused(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "timberkit.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=match):
        read_manifest(tmp_path)


def test_manifest_that_is_missing_or_too_big_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_manifest(tmp_path)
    write_manifest(tmp_path, {})
    monkeypatch.setattr(manifest, "LARGEST_MANIFEST_BYTES", 5)
    with pytest.raises(CheckpointError, match="expected at most 5"):
        read_manifest(tmp_path)


def test_what_is_no_plain_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "timberkit.json")
    for read in (lambda: read_manifest(tmp_path), lambda: hash_file(tmp_path / "timberkit.json")):
        with pytest.raises(CheckpointError, match="no plain file"):
            read()
    with pytest.raises(CheckpointError, match="no plain file"):
        hash_file(tmp_path)


def test_hash_is_that_of_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_PIECE_BYTES", 10)
    for content in (b"", b"x" * 10, b"y" * 25):
        (tmp_path / "a").write_bytes(content)
        assert hash_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    with pytest.raises(CheckpointError, match="No such file"):
        hash_file(tmp_path / "missing")


def test_every_file_of_an_output_is_listed(tmp_path: Path) -> None:
    (tmp_path / "variant" / "empty").mkdir(parents=True)
    for name in ("timberkit.json", "b", "variant/timberkit.json", "variant/a", ".hidden"):
        (tmp_path / name).write_text("")
    (tmp_path / "link").symlink_to("variant")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert list_output_files(tmp_path) == [
        ".hidden",
        "b",
        "dangling",
        "link",
        "variant/a",
        "variant/timberkit.json",
    ]
    with pytest.raises(CheckpointError, match="cannot be listed"):
        list_output_files(tmp_path / "missing")
