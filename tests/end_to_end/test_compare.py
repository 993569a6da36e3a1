"""``timberkit compare`` from the shell, on rollouts whose truth is known, and under kills."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_rollouts import drawn, write_lines

from timberkit import sapling
from timberkit.metrics import exact_pass_at_k
from timberkit.rollouts import Rollout

USAGE, BAD_INPUT, INTERRUPTED = 2, 3, 4


@pytest.fixture(scope="module")
def chances() -> dict[str, Any]:
    """The exact chance of every puzzle, for both models of the embedded pair."""
    problems = sapling.load_problems("held-out")[:100]
    folders = {"base": sapling.base_folder(), "instruct": sapling.instruct_folder()}
    return {
        name: sapling.success_probabilities(folder, problems, threads=1)
        for name, folder in folders.items()
    }


@pytest.fixture(scope="module")
def rollouts(chances: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 rollouts of both models on 100 puzzles, drawn from the exact chances."""
    made: list[Rollout] = []
    for seed, (name, p) in enumerate(chances.items()):
        made += drawn(name, p.tolist(), 64, seed=seed)
    return write_lines(tmp_path_factory.mktemp("rollouts") / "sapling.jsonl", made)


def test_what_is_known_of_the_embedded_pair_is_found(
    commands: Any, rollouts: Path, chances: dict[str, Any]
) -> None:
    done = commands.fresh("compare", rollouts, "--json")
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    (pair,) = done.json["pairs"]
    assert (pair["model"], pair["reference"]) == ("base", "instruct")
    at = {row["k"]: row for row in pair["pass_at_k"]}
    assert (at[1]["verdict"], at[64]["verdict"]) == ("worse", "better")
    for k, row in at.items():
        truth = np.mean(
            exact_pass_at_k(chances["base"], k) - exact_pass_at_k(chances["instruct"], k)
        )
        assert row["simultaneous"]["low"] <= truth <= row["simultaneous"]["high"]
    curves = [
        [exact_pass_at_k(chances[name], k).mean() for k in range(1, 65)]
        for name in ("base", "instruct")
    ]
    crossing = 1 + int(np.argmax(np.array(curves[0]) > np.array(curves[1])))
    found = pair["overtaking"]["crossing"]
    assert found["low"] <= crossing <= found["high"]
    assert pair["overtaking"]["behind"] == "base"


def test_two_runs_write_the_same_bytes(commands: Any, rollouts: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        done = commands.run("compare", rollouts, "-o", tmp_path / name, "--seed", 3)
        assert done.exit_code == 0, done.stderr
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    )
    assert one == two
    assert {"comparison.json", "tables.tex", "pass_at_k_t.svg"} <= set(one)


def test_a_run_of_eval_is_compared_from_its_table_and_from_its_logs(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    pytest.importorskip("inspect_ai")
    run = tmp_path / "run"
    done = commands.run(
        "eval", f"base={checkpoints.base}", f"instruct={checkpoints.instruct}",
        "--task", "sapling", "--limit", 5, "-n", 4, "-o", run, "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    whole = commands.run("compare", run, "--json", "--cases", tmp_path / "cases.html").json
    page = (tmp_path / "cases.html").read_text(encoding="utf-8")
    assert "All problems are here: 5 of sapling" in page
    listed = json.loads(re.findall(r'id="case-data">(.*?)</script>', page)[0])["cases"]
    assert all(case["start"] for case in listed)
    assert {(case["counts"][0][0], len(case["counts"])) for case in listed} == {(4, 2)}
    assert whole["notices"] == []
    assert [result["rollouts"] for result in whole["results"]] == [20, 20]
    (run / "rollouts.parquet").unlink()
    logs = commands.run("compare", run, "--json").json
    assert logs["results"] == whole["results"]
    assert logs["pairs"] == whole["pairs"]
    assert "no rollouts.parquet" in logs["notices"][0]
    alone = commands.run("compare", run / "logs", "--json").json
    assert alone["pairs"] == whole["pairs"]


def test_a_kill_while_writing_leaves_nothing_or_the_old_output(
    commands: Any, rollouts: Path, tmp_path: Path
) -> None:
    output, stage = tmp_path / "out", tmp_path / ".out.timberkit-stage"
    running = commands.start("compare", rollouts, "-o", output)
    running.wait_until(stage.exists)
    running.send(signal.SIGKILL)
    running.wait()
    assert not output.exists()
    done = commands.run("compare", rollouts, "-o", output)
    assert done.exit_code == 0, done.stderr
    assert not stage.exists()
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    running = commands.start("compare", rollouts, "-o", output, "--overwrite", "--seed", 1)
    running.wait_until(stage.exists)
    running.send(signal.SIGKILL)
    running.wait()
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_refusals_are_one_line_with_the_documented_code(
    commands: Any, rollouts: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jsonl"
    shutil.copy(rollouts, broken)
    broken.write_text(broken.read_text() + '{"model": "base", "task"')
    done = commands.run("compare", broken, "-o", tmp_path / "out")
    assert done.exit_code == BAD_INPUT
    assert "broken.jsonl: line 12801: cannot be read as JSON" in done.error
    assert not (tmp_path / "out").exists()
    done = commands.run("compare", rollouts, "--reference", "gpt")
    assert (done.exit_code, "--reference 'gpt'" in done.error) == (USAGE, True)
    lines = rollouts.read_text().splitlines()[:1]
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(json.loads(lines[0]) | {"answer": "another"}))
    done = commands.run("compare", rollouts, other)
    assert done.exit_code == BAD_INPUT
    assert "two different rollouts are model 'base'" in done.error
