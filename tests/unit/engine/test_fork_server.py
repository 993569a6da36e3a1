"""The server that workers are forked from: only when it pays, without this process's signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from timberkit.engine import fork_server
from timberkit.engine.fork_server import WORTH_BYTES, context, start_early


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What was asked to be started, instead of starting it."""
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(fork_server, "context", lambda preload=(): asked.append(tuple(preload)))
    monkeypatch.setattr(fork_server, "usable_cores", lambda: 4)
    return asked


def checkpoint(folder: Path, size_bytes: int) -> str:
    """A folder with weights of that size, which take no disk."""
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(size_bytes)
    return str(folder)


def test_it_starts_early_for_large_checkpoints_and_several_workers_only(
    started: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = checkpoint(tmp_path / "small", WORTH_BYTES - 1)
    large = checkpoint(tmp_path / "large", WORTH_BYTES)
    start_early(small, None)
    start_early(large, 1)
    start_early("org/name-on-the-hub", None)
    monkeypatch.setattr(fork_server, "usable_cores", lambda: 1)
    start_early(large, None)
    assert started == []
    start_early(large, 2, ["torch"])
    monkeypatch.setattr(fork_server, "usable_cores", lambda: 4)
    start_early(large, None)
    assert started == [("torch",), ()]


def test_the_environment_and_the_signals_of_this_process_are_as_before() -> None:
    environment = dict(os.environ)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    assert context().get_start_method() == "forkserver"
    assert dict(os.environ) == environment
    assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == mask


def test_neither_the_command_line_nor_a_refinement_imports_torch() -> None:
    code = (
        "import sys, timberkit.cli, timberkit.terminal, timberkit.engine.run,"
        " timberkit.engine.execute,"
        " timberkit.engine.estimate; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
