"""Ctrl-C and SIGTERM: exit code 4, a message without a traceback, and nothing of the work lost."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

INTERRUPTED = 4
SIGNALS = [signal.SIGINT, signal.SIGTERM]


def refined(done: Any) -> int:
    return len({(record["name"], record["index"]) for record in done.json["tensors"]})


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_stopped_run_exits_4_and_the_same_command_finishes_it(
    commands: Any,
    checkpoints: Any,
    grove: tuple[Path, Path],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    command = ("refine", *grove, "-o", tmp_path / "out", "--workers", 1)
    running = commands.start(*command)
    running.wait_until(lambda: checkpoints.journal(tmp_path / "out"))
    running.send(number)
    stopped = running.wait(seconds=10)
    assert stopped.exit_code == INTERRUPTED
    assert "the same command continues" in stopped.error
    assert f"timberkit clean {tmp_path}" in stopped.error
    assert not (tmp_path / "out").exists()
    again = commands.run(*command, "--json")
    assert (again.exit_code, again.json["resumed"], refined(again)) == (0, True, 160)
    assert os.listdir(tmp_path) == ["out"]
    assert commands.run("verify", tmp_path / "out", "--sample", 4).exit_code == 0


def test_ctrl_c_in_a_terminal_ends_a_pool_within_seconds(
    commands: Any, checkpoints: Any, grove: tuple[Path, Path], tmp_path: Path
) -> None:
    """A terminal sends SIGINT to every process of the foreground group, workers included."""
    running = commands.start("refine", *grove, "-o", tmp_path / "out", "--workers", 2)
    running.wait_until(lambda: checkpoints.journal(tmp_path / "out"))
    workers = psutil.Process(running.pid).children(recursive=True)
    assert len(workers) >= 2
    os.killpg(running.pid, signal.SIGINT)
    stopped = running.wait(seconds=10)
    assert stopped.exit_code == INTERRUPTED
    assert "the same command continues" in stopped.error
    assert psutil.wait_procs(workers, timeout=5)[1] == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["refine", "analyze", "verify"])
def test_ctrl_c_is_heard_in_the_middle_of_a_decomposition(
    commands: Any, checkpoints: Any, tmp_path: Path, command: str
) -> None:
    """One worker is a process as well: LAPACK, which takes ten seconds here, cannot be stopped."""
    generator = torch.Generator().manual_seed(0)
    name, size = "model.layers.0.mlp.up_proj.weight", (4600, 4600)
    base = torch.randn(size, generator=generator)
    pair = [
        checkpoints.write(tmp_path / side, [{name: weight}])
        for side, weight in (("base", base), ("instruct", base + 0.1))
    ]
    out = tmp_path / "out"
    words: tuple[Any, ...] = (command, *pair, "-o", out)
    if command == "verify":
        done = commands.run("refine", *pair, "-o", out, "--method", "merge", "--mu", 0.5)
        assert done.exit_code == 0, done.stderr
        manifest = checkpoints.manifest(out)
        manifest["variant"] = {"method": "timber", "lam": 0.2}
        (out / "timberkit.json").write_text(json.dumps(manifest))
        words = ("verify", out)
    running = commands.start(*words)
    running.wait_until(lambda: busiest(running.pid) > 1.5)
    asked = time.monotonic()
    running.send(signal.SIGINT)
    stopped = running.wait(seconds=30)
    assert time.monotonic() - asked < 4, "expected two seconds, on a machine that is not busy"
    assert stopped.exit_code == INTERRUPTED


def busiest(pid: int) -> float:
    """Seconds of processor time of the busiest worker: those are forked by a child, the server."""
    found = [0.0]
    for server in psutil.Process(pid).children():
        with suppress(psutil.Error):
            found += [child.cpu_times().user for child in server.children()]
    return max(found)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 1.0])
def test_signal_at_any_moment_leaves_all_or_nothing(
    commands: Any, checkpoints: Any, tmp_path: Path, number: signal.Signals, share: float
) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    running = commands.start("refine", *pair, "-o", tmp_path / "out", "--quiet")
    time.sleep(share * 0.6)
    running.send(number)
    stopped = running.wait(seconds=10)
    # Before the command has begun, and when it is over, a signal ends it as it ends any program.
    assert stopped.exit_code in (0, INTERRUPTED, -signal.SIGINT, -signal.SIGTERM), stopped.stderr
    if stopped.exit_code == INTERRUPTED:
        assert "Traceback" not in stopped.stderr
    complete = (tmp_path / "out").exists()
    assert complete or stopped.exit_code != 0
    if complete:
        assert commands.run("verify", tmp_path / "out", "--sample", 0).exit_code == 0


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_stopped_verify_exits_4(
    commands: Any, checkpoints: Any, tmp_path: Path, number: signal.Signals
) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    variants = ("--variant", "timber-l", "--variant", "timber:lam=0.5")
    assert commands.run("refine", *pair, "-o", tmp_path / "out", *variants).exit_code == 0
    running = commands.start("verify", tmp_path / "out", "--all")
    running.wait_until(lambda: running.stdout)  # it has begun, and the oracle takes its time
    running.send(number)
    stopped = running.wait(seconds=10)
    assert stopped.exit_code == INTERRUPTED
    assert "error: stopped" in stopped.stderr
    assert "Traceback" not in stopped.stderr
