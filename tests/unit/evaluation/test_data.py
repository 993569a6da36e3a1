"""Benchmark files: formats, digests, and messages for what is not as it should be."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from pyarrow import parquet

from timberkit.errors import SourceError
from timberkit.evaluation import data
from timberkit.evaluation.tasks import make_task

ROWS = [{"name": "oak", "rings": 3}, {"name": "ash\u2028tree", "rings": None}]


def write(path: Path) -> Path:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".csv":
        path.write_text('name,rings\noak,3\n"ash\u2028tree",\n')
    else:
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.csv"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    file = data.locate("task", str(path))
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    found = data.rows("task", file, ("name", "rings"))
    assert [row["name"] for row in found] == ["oak", "ash\u2028tree"]
    assert [row["rings"] or None for row in found] in ([3, None], ["3", None])


def test_an_unknown_file_is_read_with_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = data.locate("task", str(write(tmp_path / "a.jsonl")))
    assert file.known is None
    assert "not that of a file known to timberkit" in file.notices[0]
    monkeypatch.setattr(data, "KNOWN", {file.sha256: "Trees, 2 rows"})
    known = data.locate("task", str(tmp_path / "a.jsonl"))
    assert (known.known, known.notices) == ("Trees, 2 rows", ())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"name": "oak", "rings": 3}\n{"name": "ash"}\n', r"row 2: no rings; expected"),
        (b"[1]\n", r"row 1: no name, rings"),
        (b"not json\n", r"cannot be read as rows \(JSONDecodeError"),
        (b"\xff\xfe\n", r"cannot be read as rows \(UnicodeDecodeError"),
        (b"", r"holds no rows"),
    ],
)
def test_a_wrong_file_is_named_with_its_row(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=rf"^task: a\.jsonl.*{message}"):
        data.rows("task", data.locate("task", str(path)), ("name", "rings"))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet"])
def test_a_torn_file_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SourceError, match="cannot be read as rows"):
        data.rows("task", data.locate("task", str(path)), ("name",))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.jsonl cannot be read \(No such file"):
        data.locate("task", str(tmp_path / "nowhere.jsonl"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GatedRepoError, r"gated: its authors ask .* 'hf auth login'.*--data gpqa-diamond=FILE"),
        (RepositoryNotFoundError, r"no data set Idavidrein/gpqa with a file gpqa_diamond\.csv"),
        (LocalEntryNotFoundError, r"cannot be fetched .*HF_HUB_OFFLINE.*--data gpqa-diamond=FILE"),
        (ConnectionError, r"cannot be fetched \(ConnectionError\)"),
    ],
)
def test_what_the_hub_refuses_is_explained(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], message: str
) -> None:
    def refuse(*_: object, **__: object) -> str:
        failure = error.__new__(error)
        failure.args = ("a text with a secret address",)
        raise failure

    monkeypatch.setattr(data, "hf_hub_download", refuse)
    with pytest.raises(SourceError, match=message) as caught:
        make_task("gpqa-diamond").load()
    assert "secret" not in str(caught.value)


def test_a_file_of_the_hub_is_asked_for_by_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = SimpleNamespace()

    def download(repository: str, name: str, **rest: Any) -> str:
        asked.what = (repository, name, rest)
        return str(write(tmp_path / "a.jsonl"))

    monkeypatch.setattr(data, "hf_hub_download", download)
    file = data.locate("task", "hf://org/trees@v1/in/here.jsonl")
    assert file.notices == ()
    assert asked.what == (
        "org/trees",
        "in/here.jsonl",
        {"repo_type": "dataset", "revision": "v1"},
    )
    with pytest.raises(SourceError, match="expected hf://org/name/path"):
        data.locate("task", "hf://org/trees")
