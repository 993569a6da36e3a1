"""Files beside the weights of two checkpoints: what counts, what is told, what is not opened."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from timberkit.checkpoint import companions
from timberkit.checkpoint.companions import FieldDifference, FileDifference, compare_files


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    return tmp_path / "a", tmp_path / "b"


def write(folders: tuple[Path, Path], name: str, *contents: Any) -> None:
    for folder, content in zip(folders, contents, strict=True):
        if content is not None:
            (folder / name).parent.mkdir(exist_ok=True)
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text)


def test_equal_files_are_not_told_of(folders: tuple[Path, Path]) -> None:
    write(folders, "config.json", {"a": 1}, {"a": 1})
    assert compare_files(*folders) == ()


@pytest.mark.parametrize(
    "name",
    ["README.md", "timberkit.json", "model.safetensors", "pytorch_model.bin", ".gitattributes",
     "model.safetensors.index.json", ".cache/notes.txt"],
)  # fmt: skip
def test_weights_cards_and_hidden_files_are_left_alone(
    folders: tuple[Path, Path], name: str
) -> None:
    write(folders, name, "one", "other")
    assert compare_files(*folders) == ()


def test_json_is_compared_field_by_field(folders: tuple[Path, Path]) -> None:
    first = {"rope": {"factor": 8, "kind": "x"}, "eos": [1, 2], "same": 1, "gone": None}
    second = {"rope": {"factor": 32, "kind": "x"}, "eos": [1, 3], "same": 1.0, "new": "y"}
    write(folders, "config.json", first, second)
    (found,) = compare_files(*folders)
    assert (found.verdict, found.field_count, found.equal) == ("fields", 4, False)
    assert found.fields == (
        FieldDifference("rope.factor", "8", "32"),
        FieldDifference("eos", "[1, 2]", "[1, 3]"),
        FieldDifference("gone", "None", None),
        FieldDifference("new", None, "'y'"),
    )


def test_order_and_spaces_of_json_count_as_equal(folders: tuple[Path, Path]) -> None:
    write(folders, "config.json", '{"a": 1, "b": {"c": [1.0]}}', '{"b":{"c":[1]},"a":1}')
    (found,) = compare_files(*folders)
    assert found == FileDifference("config.json", "layout")
    assert found.equal


@pytest.mark.parametrize(
    ("x", "y"), [(1, True), (0, False), (None, "null"), ([1], ["1"]), (1, 1.5)]
)
def test_values_of_other_types_differ(folders: tuple[Path, Path], x: Any, y: Any) -> None:
    write(folders, "config.json", {"x": x}, {"x": y})
    assert compare_files(*folders)[0].field_count == 1


@pytest.mark.parametrize("content", ["[1]", "{", "[" * 100_000, "\x00"])
def test_what_is_no_json_object_is_compared_by_its_bytes(
    folders: tuple[Path, Path], content: str
) -> None:
    write(folders, "config.json", "{}", content)
    assert compare_files(*folders) == (FileDifference("config.json", "bytes"),)


def test_other_files_are_compared_by_their_bytes_in_folders_too(
    folders: tuple[Path, Path],
) -> None:
    write(folders, "chat_template.jinja", "one", "other")
    write(folders, "sub/merges.txt", "one", None)
    write(folders, "vocab.json", None, {})
    found = {file.name: file.verdict for file in compare_files(*folders)}
    expected = {"chat_template.jinja": "bytes", "sub/merges.txt": "only in A"}
    assert found == {**expected, "vocab.json": "only in B"}


def test_thousands_of_fields_are_counted_and_few_told(folders: tuple[Path, Path]) -> None:
    write(folders, "tokenizer.json", {"v": {str(i): i for i in range(3000)}}, {"v": {}})
    (found,) = compare_files(*folders)
    assert (found.field_count, len(found.fields)) == (3000, companions.MOST_FIELDS)


def test_long_names_and_values_are_shortened(folders: tuple[Path, Path]) -> None:
    write(folders, "config.json", {"k" * 9999: "v" * 9999}, {})
    (field,) = compare_files(*folders)[0].fields
    assert len(field.field) < 100
    assert len(field.a or "") < 100


def test_large_json_is_compared_by_its_bytes(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(companions, "LARGEST_JSON_BYTES", 5)
    write(folders, "config.json", {"a": 1}, {"a": 2})
    assert compare_files(*folders) == (FileDifference("config.json", "bytes"),)


def test_links_that_leave_the_folder_and_pipes_are_not_opened(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "secret.json").write_text('{"password": "hidden"}')
    write(folders, "config.json", None, {})
    (folders[0] / "config.json").symlink_to(tmp_path / "secret.json")
    for folder in folders:
        os.mkfifo(folder / "merges.txt")
    link, pipe = compare_files(*folders)
    assert (link.verdict, link.fields, link.equal) == ("not compared", (), False)
    assert "leads outside" in link.reason
    assert (pipe.verdict, pipe.reason) == ("not compared", "no plain file")
