"""A worker that outlives its run finds that the stage is no longer its own, and ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from timberkit.engine import fence
from timberkit.errors import InterruptedRunError

FIRST, SECOND = "a" * fence.NUMBER_BYTES, "b" * fence.NUMBER_BYTES


def test_last_to_take_a_stage_owns_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    assert not fence.is_owner(tmp_path, FIRST)
    fence.take(tmp_path, FIRST)
    assert fence.is_owner(tmp_path, FIRST)
    assert waited == []  # nobody can be left from before
    fence.take(tmp_path, SECOND)
    assert waited == [fence.SETTLE_SECONDS]
    assert fence.is_owner(tmp_path, SECOND)
    assert not fence.is_owner(tmp_path, FIRST)
    fence.release(tmp_path)
    assert not fence.is_owner(tmp_path, SECOND)
    assert list(tmp_path.iterdir()) == []


def test_number_is_written_over_in_place_because_names_are_cached(tmp_path: Path) -> None:
    fence.take(tmp_path, FIRST)
    with (tmp_path / fence.OWNER).open() as opened:
        fence.release(tmp_path)
        assert opened.read() == "0" * fence.NUMBER_BYTES


def test_task_of_an_old_run_is_refused(tmp_path: Path) -> None:
    fence.take(tmp_path, SECOND)
    with (
        pytest.raises(InterruptedRunError, match="no longer belongs"),
        fence.guarded(tmp_path, FIRST),
    ):
        raise AssertionError("it was let in")


@pytest.mark.parametrize("how", ["released", "taken", "removed"])
def test_straggler_ends_within_the_time_that_a_new_owner_waits(tmp_path: Path, how: str) -> None:
    stage = tmp_path / "stage"
    stage.mkdir()
    fence.take(stage, FIRST)
    child = os.fork()
    if child == 0:  # the straggler: busy, and deaf to signals, as LAPACK is
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with fence.guarded(stage, FIRST):
            time.sleep(30)
        os._exit(0)
    time.sleep(0.2)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    changed = time.monotonic()
    if how == "released":
        fence.release(stage)
    elif how == "taken":
        (stage / fence.OWNER).write_text(SECOND)
    else:
        (stage / fence.OWNER).unlink()
        stage.rmdir()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert time.monotonic() - changed < fence.SETTLE_SECONDS


def test_number_of_another_length_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 32"):
        fence.take(tmp_path, "short")
