"""``timberkit eval`` as a process: a server with every benchmark, and the embedded pair itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stub_models import RefusedError, StubServer, some_right

from timberkit.rollouts import read_rollouts

pytest.importorskip("inspect_ai")

DATA = Path(
    os.environ.get("TIMBERKIT_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
)
ROWS = Path(__file__).resolve().parents[1] / "unit" / "evaluation" / "rows"


@pytest.fixture
def server() -> Iterator[StubServer]:
    started = StubServer()
    yield started
    started.close()


def rows(run: Path) -> list[Any]:
    return list(read_rollouts(run / "rollouts.parquet"))


def test_server_is_asked_once_for_each_rollout_and_the_table_says_what_came(
    commands: Any, server: StubServer, tmp_path: Path
) -> None:
    command = ("eval", f"m={server.url}", "--task", "sapling", "--limit", 4, "-n", 4)
    done = commands.run(*command, "-o", tmp_path / "run", "--max-tokens", 64)
    assert done.exit_code == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(server.answered) == 16
    assert set(server.answered.values()) == {1}
    assert {request["max_tokens"] for request in server.requests} == {64}
    right = sum(row.correct for row in rows(tmp_path / "run"))
    assert f"{right / 16:.1%}" in done.stdout
    assert "16 new rollouts" in done.stdout
    again = commands.run(*command, "-o", tmp_path / "run", "--max-tokens", 64, "--json")
    assert again.json["new_rollouts"] == 0
    assert again.json["summary"]["units"][0]["rollouts"] == 16
    assert len(server.requests) == 16


def test_logs_are_read_by_inspects_own_command(
    commands: Any, server: StubServer, tmp_path: Path
) -> None:
    command = ("eval", f"m={server.url}", "--task", "sapling", "--limit", 2, "-n", 2)
    assert commands.run(*command, "-o", tmp_path / "run", "--quiet").exit_code == 0
    listed = subprocess.run(
        [sys.executable, "-m", "inspect_ai", "log", "list", "--json", "--log-dir", "run/logs"],
        cwd=tmp_path, env=commands.environment, capture_output=True, text=True, timeout=120,
        check=True,
    )  # fmt: skip
    (log,) = json.loads(listed.stdout)
    assert (log["task"], log.get("status", "success")) == ("sapling", "success")


FILES = {
    "aime24": "aime24_with_solutions.jsonl",
    "math500": "math500_test.jsonl",
    "math": "math_test_tora.jsonl",
    "ifeval": "ifeval_input_data.jsonl",
    "humaneval": "HumanEval.jsonl.gz",
    "hellaswag:paper": "hellaswag_val_full.txt.bz2",
}


def test_every_benchmark_runs_from_its_public_file(commands: Any, tmp_path: Path) -> None:
    if not DATA.is_dir():
        pytest.skip("the benchmarks' public files are not on this machine")
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap, which HumanEval needs, is not installed")
    server = StubServer(lambda prompt, seed: "ANSWER: A\n\\boxed{33}\n```python\npass\n```")
    try:
        tasks = [text for name in FILES for text in ("--task", name)]
        files = [
            text
            for name, file in FILES.items()
            for text in ("--data", f"{name.partition(':')[0]}={DATA / file}")
        ]
        gpqa = ("--task", "gpqa-diamond", "--data", f"gpqa-diamond={ROWS / 'gpqa_diamond.csv'}")
        done = commands.start(
            "eval", f"m={server.url}", *tasks, *files, *gpqa, "--task", "sapling", "--limit", 2,
            "-o", "run", "--json", "--grade-workers", 1,
            cwd=tmp_path, more={"NLTK_DATA": str(DATA / "nltk_data")},
        ).wait(seconds=240)  # fmt: skip
        assert done.exit_code == 0, done.stderr
        units = done.json["summary"]["units"]
        assert len(units) == 8
        assert {unit["failed"] for unit in units} == {0}
        assert all(unit["rollouts"] >= 1 for unit in units)
    finally:
        server.close()


def test_refused_requests_end_the_run_with_the_servers_own_words(
    commands: Any, tmp_path: Path
) -> None:
    def refuse(prompt: str, seed: int) -> str:
        raise RefusedError(400, "this \x1b[31mmodel is asleep")

    server = StubServer(refuse)
    try:
        command = ("eval", f"m={server.url}", "--task", "sapling", "-n", 4, "--retries", 0)
        done = commands.run(*command, "-o", tmp_path / "run", "--quiet")
    finally:
        server.close()
    assert done.exit_code == 4
    assert "model is asleep" in done.stderr
    assert "\x1b" not in done.stderr
    assert "same command again" in done.stderr
    assert len(server.requests) < 200


def test_server_that_breaks_down_for_a_moment_is_asked_again(commands: Any, tmp_path: Path) -> None:
    seen: set[tuple[str, int]] = set()

    def answer(prompt: str, seed: int) -> str:
        if (prompt, seed) not in seen:
            seen.add((prompt, seed))
            raise RefusedError(503, "loading")
        return some_right(prompt, seed)

    server = StubServer(answer)
    try:
        command = ("eval", f"m={server.url}", "--task", "sapling", "--limit", 2, "-n", 1)
        done = commands.run(*command, "-o", tmp_path / "run", "--json")
    finally:
        server.close()
    assert done.exit_code == 0, done.stderr
    assert done.json["summary"]["units"][0]["failed"] == 0
    assert len(server.answered) == 2


def test_server_that_does_not_answer_in_time_fails_those_requests(
    commands: Any, tmp_path: Path
) -> None:
    server = StubServer(seconds=30)
    try:
        command = ("eval", f"m={server.url}", "--task", "sapling", "--limit", 2, "--timeout", 1)
        done = commands.run(*command, "-o", tmp_path / "run", "--quiet", "--retries", 0)
    finally:
        server.close()
    assert done.exit_code == 4
    assert "requests failed" in done.stderr


def test_dry_run_shows_requests_sampling_and_what_is_missing_and_writes_nothing(
    commands: Any, server: StubServer, tmp_path: Path
) -> None:
    command = ("eval", f"m={server.url}#stub", "--task", "sapling", "--task", "gpqa-diamond")
    done = commands.run(
        *command, "-n", 4, "--temperature", "0.6", "--dry-run", "-o", tmp_path / "run"
    )
    assert done.exit_code == 0, done.stderr
    assert "1200 requests in all" in done.stdout
    assert "Not ready: gpqa-diamond" in done.stdout
    assert "temperature" in done.stdout
    assert os.listdir(tmp_path) == []
    assert server.requests == []


def test_embedded_pair_is_asked_in_this_process(commands: Any, tmp_path: Path) -> None:
    command = ("eval", "sapling:base", "sapling:instruct", "--task", "sapling", "--limit", 5)
    done = commands.run(*command, "-n", 4, "-o", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.stderr
    units = done.json["summary"]["units"]
    assert [unit["model"] for unit in units] == ["sapling-base", "sapling-instruct"]
    assert {unit["rollouts"] for unit in units} == {20}
    assert len(rows(tmp_path / "run")) == 40


def test_recipe_of_a_run_is_a_config_for_another(
    commands: Any, server: StubServer, tmp_path: Path
) -> None:
    command = ("eval", f"m={server.url}", "--task", "sapling", "--limit", 2, "-n", 2)
    assert commands.run(*command, "-o", tmp_path / "one", "--quiet").exit_code == 0
    config = ("--config", tmp_path / "one" / "timberkit.json")
    done = commands.run("eval", *config, "-o", tmp_path / "two", "--json", "-n", 3)
    assert done.exit_code == 0, done.stderr
    assert done.json["summary"]["units"][0]["rollouts"] == 6
    assert len(server.requests) == 10
