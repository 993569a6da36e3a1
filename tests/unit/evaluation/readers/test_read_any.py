"""One door: every kind is recognised by what is inside, everything else is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from timberkit.checkpoint.manifest import write_manifest
from timberkit.errors import CheckpointError, InputError
from timberkit.evaluation.readers import read_any
from timberkit.rollouts import Rollout, write_rollouts

ROLLOUT = Rollout("m", "t", "s", "p", 1, True, "4", text="long", stop="stop")


def run_folder(path: Path) -> Path:
    """A finished run, as far as readers look."""
    (path / "logs" / "m").mkdir(parents=True)
    write_manifest(path, {"kind": "evaluation"})
    write_rollouts(path / "rollouts.parquet", [ROLLOUT])
    return path


def test_a_run_folder_and_its_table_give_the_same_without_texts(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    source = read_any(run)
    (found,) = source.rollouts
    assert (found.answer, found.text, source.notices) == ("4", "", [])
    assert source.answers_recorded
    assert list(read_any(run / "rollouts.parquet").rollouts) == [found]


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    (run / "journal" / "m").mkdir(parents=True)
    (run / "journal" / "m" / "t_s_0001.jsonl").write_text("{}\n")
    source = read_any(run)
    assert len(list(source.rollouts)) == 1
    assert "the run is not finished" in source.notices[0]


def test_a_run_without_anything_finished_is_refused(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    (run / "rollouts.parquet").unlink()
    with pytest.raises(InputError, match="no finished rollouts yet"):
        read_any(run)


def test_outputs_of_other_commands_are_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"kind": "analysis"})
    with pytest.raises(InputError, match="output of another command"):
        read_any(tmp_path)
    (tmp_path / "timberkit.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        read_any(tmp_path)


def test_a_renamed_file_is_known_by_its_content(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "any.bin", [ROLLOUT])
    assert len(list(read_any(tmp_path / "any.bin").rollouts)) == 1
    line = {"model": "m", "task": "t", "problem": 1, "correct": True}
    (tmp_path / "grades.txt").write_text(json.dumps(line))
    assert len(list(read_any(tmp_path / "grades.txt").rollouts)) == 1


def test_strange_paths_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing: found no such file or folder"):
        read_any(tmp_path / "nothing")
    with pytest.raises(InputError, match="found no rollouts in this folder"):
        read_any(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match=r"empty\.jsonl: is empty"):
        read_any(tmp_path / "empty.jsonl")
    (tmp_path / "other.json").write_text('{"weights": 3, "model": "x"}')
    with pytest.raises(InputError, match=r"JSON with the fields 'weights', 'model'"):
        read_any(tmp_path / "other.json")


def test_two_programs_logs_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "samples_t_2026-01-01T00-00-00.jsonl").write_text("{}")
    (tmp_path / "a.eval").write_bytes(b"PK")
    with pytest.raises(InputError, match="give their folders one by one"):
        read_any(tmp_path)
