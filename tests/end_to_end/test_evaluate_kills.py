"""Evaluations killed, interrupted or started twice: nothing is lost, nothing asked twice."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stub_models import StubServer

from timberkit.rollouts import Rollout, read_rollouts

pytest.importorskip("inspect_ai")

PROBLEMS, ROLLOUTS = 6, 20
INTERRUPTED = 4


@pytest.fixture
def server() -> Iterator[StubServer]:
    started = StubServer(seconds=0.02)
    yield started
    started.close()


def command(server: StubServer, run: Path, *more: object) -> tuple[object, ...]:
    return (
        *("eval", f"m={server.url}", "--task", "sapling", "--limit", PROBLEMS, "-n", ROLLOUTS),
        *("--connections", 4, "--grade-workers", 1, "-o", run, *more),
    )


def rows(run: Path) -> list[Rollout]:
    return [replace(row, seconds=None) for row in read_rollouts(run / "rollouts.parquet")]


def journal_lines(run: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in run.glob("journal/*/*.jsonl"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, commands: Any) -> list[Rollout]:
    started = StubServer()
    try:
        run = tmp_path_factory.mktemp("undisturbed") / "run"
        assert commands.run(*command(started, run, "--quiet")).exit_code == 0
        assert len(started.requests) == PROBLEMS * ROLLOUTS
        return rows(run)
    finally:
        started.close()


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "before the manifest": lambda run: run.exists(),
    "after the manifest": lambda run: (run / "timberkit.json").exists(),
    "first answers": lambda run: journal_lines(run) > 3,
    "half of the answers": lambda run: journal_lines(run) > PROBLEMS * ROLLOUTS // 2,
    "the log is written": lambda run: any(run.glob("logs/*/*")),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_asks_again_only_what_was_under_way_and_ends_the_same(
    commands: Any,
    server: StubServer,
    tmp_path: Path,
    undisturbed: list[Rollout],
    moment: str,
) -> None:
    run = tmp_path / "run"
    running = commands.start(*command(server, run, "--quiet"))
    running.wait_until(lambda: MOMENTS[moment](run))
    running.send(signal.SIGKILL)
    running.wait(seconds=10)
    kept = journal_lines(run)
    time.sleep(0.1)  # the server's threads finish what was under way
    before = Counter(server.answered)
    done = commands.run(*command(server, run, "--json"))
    assert done.exit_code == 0, done.stderr
    assert rows(run) == undisturbed
    twice = [key for key, times in server.answered.items() if times > 1]
    assert len(twice) <= 4 + 1, f"asked again: {twice}, kept {kept}, before {len(before)}"
    assert max(server.answered.values()) <= 2
    assert not any(run.glob("journal/*/*"))
    assert list(run.glob("logs/*/.*")) == []


def test_many_kills_in_a_row_still_lose_nothing(
    commands: Any, server: StubServer, tmp_path: Path, undisturbed: list[Rollout]
) -> None:
    run = tmp_path / "run"
    for share in (0.2, 0.6):
        running = commands.start(*command(server, run, "--quiet"))
        running.wait_until(lambda s=share: len(server.answered) > s * PROBLEMS * ROLLOUTS)
        running.send(signal.SIGKILL)
        running.wait(seconds=10)
    assert commands.run(*command(server, run, "--quiet")).exit_code == 0
    assert rows(run) == undisturbed
    assert sum(times - 1 for times in server.answered.values()) <= 2 * 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_stopped_run_ends_within_two_seconds_and_says_how_to_go_on(
    commands: Any,
    server: StubServer,
    tmp_path: Path,
    undisturbed: list[Rollout],
    number: signal.Signals,
) -> None:
    run = tmp_path / "run"
    running = commands.start(*command(server, run))
    running.wait_until(lambda: journal_lines(run) > 20)
    running.send(number)
    started = time.monotonic()
    stopped = running.wait(seconds=10)
    assert time.monotonic() - started < 2
    assert stopped.exit_code == INTERRUPTED, stopped.stderr
    assert "rollouts are kept; the same command continues" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    done = commands.run(*command(server, run, "--json"))
    assert done.json["resumed"]
    assert rows(run) == undisturbed
    assert max(server.answered.values()) <= 2


def test_run_waiting_for_a_slow_server_stops_within_two_seconds(
    commands: Any, tmp_path: Path
) -> None:
    server = StubServer(seconds=60)
    try:
        running = commands.start(*command(server, tmp_path / "run", "--quiet"))
        running.wait_until(lambda: len(server.requests) >= 4)
        running.send(signal.SIGINT)
        started = time.monotonic()
        assert running.wait(seconds=10).exit_code == INTERRUPTED
        assert time.monotonic() - started < 2
    finally:
        server.close()


def test_run_of_a_local_model_stops_within_two_seconds_and_goes_on(
    commands: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    local = ("eval", "sapling:base", "--task", "sapling", "-n", 4, "-o", run, "--quiet")
    running = commands.start(*local)
    running.wait_until(lambda: journal_lines(run) > 100)
    running.send(signal.SIGINT)
    started = time.monotonic()
    assert running.wait(seconds=10).exit_code == INTERRUPTED
    assert time.monotonic() - started < 2
    kept = journal_lines(run)
    done = commands.run(*local[:-1], "--limit", 5, "--json")
    assert done.json["resumed"]
    assert done.json["new_rollouts"] < 20
    assert done.json["summary"]["units"][0]["rollouts"] >= max(20, kept - 1)


def test_second_command_on_a_run_that_is_alive_is_refused(
    commands: Any, server: StubServer, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    running = commands.start(*command(server, run, "--quiet"))
    running.wait_until(lambda: journal_lines(run) > 5)
    second = commands.run(*command(server, run, "--quiet"))
    assert second.exit_code == 2
    assert f"process {running.pid} is evaluating into this folder" in second.stderr
    assert running.wait().exit_code == 0
    assert max(server.answered.values()) == 1
