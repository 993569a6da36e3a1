"""Flags of ``timberkit compare``: what they choose, what they show, what they refuse."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_rollouts import counted, write_lines
from typer.testing import CliRunner, Result

from timberkit import cli, cli_compare
from timberkit.errors import InputError, OutputExistsError, TimberkitError, UsageError


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Two models on two tasks."""
    rollouts = [
        rollout
        for task in ("t", "u")
        for model, right in (("instruct", [2, 0, 1, 0]), ("timber", [4, 2, 1, 0]))
        for rollout in counted(model, 4, right, task=task)
    ]
    return write_lines(tmp_path / "rollouts.jsonl", rollouts)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["compare", *map(str, arguments)], catch_exceptions=False)


def fields(*arguments: object) -> Any:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_json_is_one_object_with_everything(made: Path) -> None:
    found = fields(made)
    assert (found["kind"], found["reference"]) == ("comparison", "instruct")
    assert (found["models"], found["tasks"]) == (["instruct", "timber"], ["t", "u"])
    assert len(found["pairs"]) == 2
    assert found["sources"] == [
        {"path": str(made), "kind": "rollouts as JSON lines", "rollouts": 64}
    ]
    assert found["average_over"] == ["t", "u"]


def test_flags_choose(made: Path) -> None:
    found = fields(
        made, "--reference", "timber", "--task", "u", "--ks", "4,1,1", "--confidence", "0.8",
        "--seed", 7, "--points", 5,
    )  # fmt: skip
    assert (found["tasks"], found["plans"]["u"]["ks"]) == (["u"], [1, 4])
    assert [pair["model"] for pair in found["pairs"]] == ["instruct"]
    assert found["options"] == {
        "reference": "timber", "ks": [1, 4], "confidence": 0.8, "seed": 7, "points": 5.0,
    }  # fmt: skip
    assert found["pairs"][0]["power"][0]["points"] == 5
    assert fields(made, "--model", "timber")["pairs"] == []


def test_a_name_renames_and_a_path_with_a_sign_is_a_path(made: Path, tmp_path: Path) -> None:
    only = write_lines(tmp_path / "a=b.jsonl", counted("m", 4, [1, 2, 3, 4]))
    assert fields(f"new={only}")["models"] == ["new"]
    assert fields(only)["models"] == ["m"]
    found = fields(f"x={only}", f"y={only}")
    assert found["models"] == ["x", "y"]


def test_the_tables_name_models_verdicts_and_notices(made: Path) -> None:
    text = run(made, "--ks", "1,9").stdout
    assert "t: 4 problems, 4 rollouts each" in text
    assert "timber against instruct:" in text
    assert "Pass@1 not distinguishable (+25.0" in text
    assert "Mean over t, u" in text
    assert "Note: timber on u: 4 rollouts; no Pass@k for k = 9" in text


def test_quiet_says_nothing_and_writes_all_the_same(made: Path, tmp_path: Path) -> None:
    done = run(made, "--quiet", "-o", tmp_path / "out")
    assert (done.exit_code, done.stdout) == (0, "")
    assert (tmp_path / "out" / "comparison.json").is_file()


def test_json_and_files_can_be_had_together(made: Path, tmp_path: Path) -> None:
    found = fields(made, "-o", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == found


@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (["--ks", "1,x"], UsageError, "--ks '1,x': expected numbers from 1"),
        (["--ks", "0"], UsageError, "--ks '0'"),
        (["--ks", "9" * 5000], UsageError, "--ks '999"),
        (["--confidence", "95"], UsageError, "expected between 0 and 1"),
        (["--points", "0"], UsageError, "--points 0.0"),
        (["--reference", "base"], UsageError, "--reference 'base': is none of the models"),
        (["--task", "v"], UsageError, "task 'v': is in none of the sources"),
        (["missing=/nowhere"], InputError, "/nowhere: found no such file"),
        (["=x"], UsageError, "expected PATH or NAME=PATH"),
    ],
)
def test_wrong_calls_are_refused_by_name(
    made: Path, arguments: list[str], kind: type[TimberkitError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        run(made, *arguments)


def test_an_output_in_the_way_is_kept(made: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OutputExistsError):
        run(made, "-o", tmp_path / "out")
    with pytest.raises(OutputExistsError):
        run(made, "-o", tmp_path / "out", "--overwrite")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_terminals_of_any_width_get_whole_lines(made: Path, columns: int) -> None:
    text = on_terminal(["compare", str(made), "--task", "t"], columns)
    lines = text.splitlines()
    tables = lines[: next(i for i, line in enumerate(lines) if "against" in line)]
    assert max(map(len, tables)) <= columns
    assert "Mean" in text
    assert "Pass@4" in text


def on_terminal(arguments: list[str], columns: int) -> str:
    """What a command shows on a terminal of this width."""
    main, side = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "timberkit", *arguments],
        stdout=side, stderr=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    os.close(side)
    parts = []
    while part := _read(main):
        parts.append(part)
    os.close(main)
    assert process.wait(timeout=60) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", b"".join(parts).decode()).replace("\r\n", "\n")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux tells the end of a terminal so
        return b""


def test_control_characters_in_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    hostile = "evil\x1b]0;owned\x07\x1b[2J"
    path = write_lines(tmp_path / "a.jsonl", counted(hostile, 2, [1, 0], task="t\x1b[31m"))
    text = run(path).stdout
    assert "\x1b" not in text
    assert "evil" in text


def test_help_is_quick_and_has_examples() -> None:
    done = run("--help")
    assert done.exit_code == 0
    assert "timberkit compare RUN OTHER-RUN --reference instruct -o compared" in done.stdout
    code = (
        "import sys, timberkit.cli; print([m for m in ('torch', 'inspect_ai', 'scipy', 'pyarrow')"
    )
    code += " if m in sys.modules])"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert modules.stdout.strip() == "[]"


def test_ks_are_sorted_and_once() -> None:
    parse: Callable[[str], tuple[int, ...]] = cli_compare._ks
    assert parse("8, 1,8") == (1, 8)
