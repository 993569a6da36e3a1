"""Texts for the hidden states: what a file may hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from timberkit.errors import InputError
from timberkit.sapling import base_folder, is_correct, load_problems
from timberkit.sapling.vocabulary import encode
from timberkit.study import texts
from timberkit.study.texts import puzzle_texts, read_texts, speaks_sapling


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_one_text_a_line_without_empty_ones(tmp_path: Path) -> None:
    path = put(tmp_path, "texts.txt", "first one\n\n   \n zweiter, ähnlich\n")
    assert read_texts(path) == ("first one", " zweiter, ähnlich")


def test_json_lines_may_be_strings_or_objects(tmp_path: Path) -> None:
    lines = '"a\\nb"\n{"text": "c", "prompt": "d"}\n\n{"prompt": "e"}\n'
    assert read_texts(put(tmp_path, "texts.jsonl", lines)) == ("a\nb", "c", "e")


@pytest.mark.parametrize("line", ["{}", "3", '{"text": 3}', '""', "nothing", "[" * 100_000])
def test_a_line_without_a_text_is_named(tmp_path: Path, line: str) -> None:
    path = put(tmp_path, "texts.jsonl", f'"good"\n{line}\n')
    with pytest.raises(InputError, match=r"texts\.jsonl: line 2: found no text"):
        read_texts(path)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_texts_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="found no text"):
        read_texts(put(tmp_path, "texts.txt", text))


def test_what_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="cannot be read as UTF-8 text"):
        read_texts(tmp_path / "nowhere.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match="cannot be read as UTF-8 text"):
        read_texts(tmp_path / "bytes.txt")
    monkeypatch.setattr(texts, "LARGEST_PROMPTS_BYTES", 3)
    with pytest.raises(InputError, match="over 64 MiB"):
        read_texts(put(tmp_path, "large.txt", "four"))


def test_the_own_texts_are_held_out_puzzles_answered_correctly() -> None:
    found = puzzle_texts()
    problems = load_problems()
    assert len(found) == len(problems) == 300
    for text, problem in zip(found, problems, strict=True):
        assert problem.prompt in text
        assert is_correct(problem, text.partition("<|assistant|> ")[2].removesuffix(" </s>"))
        assert encode(text)


def test_only_its_own_vocabulary_makes_a_pair_sapling(tmp_path: Path) -> None:
    assert speaks_sapling(base_folder())
    assert not speaks_sapling(tmp_path)
    for text in ("{}", "[]", '{"model": {"vocab": {"a": 0}}}', "\xff", "[" * 100_000):
        (tmp_path / "tokenizer.json").write_bytes(text.encode("latin-1"))
        assert not speaks_sapling(tmp_path)
