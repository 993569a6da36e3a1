"""The documented JSON lines: what is needed is enough, what is wrong is named with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from timberkit.errors import InputError
from timberkit.evaluation.readers import json_lines, read_any
from timberkit.rollouts import Rollout

LINE = {"model": "m", "task": "t", "problem": "p", "correct": True}


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def test_four_fields_are_enough_and_lines_number_the_rollouts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LINE, LINE | {"correct": 0}, "", LINE | {"problem": 17})
    assert list(read_any(path).rollouts) == [
        Rollout("m", "t", "", "p", 1, True, None),
        Rollout("m", "t", "", "p", 2, False, None),
        Rollout("m", "t", "", "17", 1, True, None),
    ]


def test_every_other_field_may_stand_there_and_texts_are_left(tmp_path: Path) -> None:
    more = {
        "setting": "paper", "rollout": 9, "answer": "4", "reason": "r", "stop": "length",
        "seed": 5, "temperature": 1, "input_tokens": 3, "output_tokens": 4, "seconds": 0.5,
        "error": "503", "text": "long", "prompt": {"not": "ours"},
    }  # fmt: skip
    (found,) = read_any(write(tmp_path / "a", LINE | more)).rollouts
    assert found == Rollout(
        "m", "t", "paper", "p", 9, True, "4", "r", "length",
        seed=5, temperature=1, input_tokens=3, output_tokens=4, seconds=0.5, error="503",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"model": "m", "task": "t", "correct": True}, "problem: is missing"),
        (LINE | {"correct": "yes"}, "correct: found 'yes', expected true or false"),
        (LINE | {"correct": 2}, "correct: found 2"),
        (LINE | {"correct": None}, "correct: found None"),
        (LINE | {"model": ""}, "model: found none"),
        (LINE | {"model": 3}, "model: found 3, expected str"),
        (LINE | {"rollout": 0}, "rollout: found 0"),
        (LINE | {"rollout": True}, "rollout: found True"),
        (LINE | {"rollout": 10**30}, "rollout: found 31 digits"),
        (LINE | {"stop": "eos"}, "stop: found 'eos'"),
        (LINE | {"problem": 1.5}, "problem: found 1.5"),
        ('{"model": "m", "task": "t"', "cannot be read as JSON"),
        ("[1, 2]", "found a list, expected a rollout"),
        ('{"a":' * 100_000, "cannot be read as JSON"),
        ('{"model": "m", "seconds": NaN, "task": "t", "problem": 1, "correct": true}', "seconds"),
        ("1" * 5000, "cannot be read as JSON"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(
    tmp_path: Path, line: dict[str, Any] | str, said: str
) -> None:
    path = write(tmp_path / "rollouts.jsonl", LINE, line)
    with pytest.raises(InputError, match=rf"rollouts\.jsonl: line 2: .*{said}"):
        list(read_any(path).rollouts)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(LINE).encode() + b'\n{"model": "\xff\xfe"}\n')
    with pytest.raises(InputError, match=r"line 2: cannot be read as JSON"):
        list(read_any(path).rollouts)


def test_a_file_without_line_breaks_is_not_swallowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_lines, "LONGEST_LINE_BYTES", 1000)
    path = write(tmp_path / "a.jsonl", LINE, "x" * 2000)
    with pytest.raises(InputError, match="line 2: over 0 MiB"):
        list(read_any(path).rollouts)


def test_hostile_names_come_through_as_they_are_but_storable(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(LINE | {"model": "\x1b[31m<b>", "answer": "\ud800"}))
    (found,) = read_any(path).rollouts
    assert (found.model, found.answer) == ("\x1b[31m<b>", "\ufffd")


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(LINE).encode())
    assert len(list(read_any(path).rollouts)) == 1
