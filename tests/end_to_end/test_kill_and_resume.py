"""A run that is killed, at any moment and however often, ends as an undisturbed one does."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import timberkit

USAGE, BAD_INPUT = 2, 3
MOMENTS = [round(random.Random(seed).uniform(0.02, 0.98), 2) for seed in range(10)]
STAGE = ".out.timberkit-stage"


@pytest.fixture(scope="module")
def undisturbed(
    commands: Any, grove: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, float]:
    """The output of a run with one worker that nothing disturbed, and how long it took."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    commands.run("--version")  # the first command waits for the imports
    started = time.monotonic()
    assert commands.run("refine", *grove, "-o", output, "--workers", 1).exit_code == 0
    return output, time.monotonic() - started


def start(
    commands: Any, pair: tuple[Path, Path], place: Path, workers: int = 1, *flags: object
) -> Any:
    return commands.start("refine", *pair, "-o", place / "out", "--workers", workers, *flags)


def kill_after_progress(
    commands: Any, checkpoints: Any, pair: tuple[Path, Path], place: Path
) -> int:
    """Run until the journal has grown, then SIGKILL; how many tasks it names then."""
    before = checkpoints.journal(place / "out")
    running = start(commands, pair, place)
    running.wait_until(lambda: len(checkpoints.journal(place / "out")) > len(before))
    running.send(signal.SIGKILL)
    assert running.wait().exit_code == -signal.SIGKILL
    return len(checkpoints.journal(place / "out"))


def assert_finishes_as(undisturbed: Path, place: Path, done: Any, checkpoints: Any) -> None:
    assert done.exit_code == 0, done.stderr
    assert checkpoints.weights(place / "out") == checkpoints.weights(undisturbed)
    assert os.listdir(place) == ["out"]  # the stage is gone


@pytest.fixture(scope="module")
def killed(
    commands: Any,
    checkpoints: Any,
    grove: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with a run that was killed half-way."""
    place: Path = tmp_path_factory.mktemp("killed")
    assert 0 < kill_after_progress(commands, checkpoints, grove, place) < 160
    return place


@pytest.fixture
def place(killed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(killed / STAGE, tmp_path / STAGE)
    return tmp_path


@pytest.mark.parametrize("share", MOMENTS)
def test_resume_after_kill_gives_the_same_bytes(
    commands: Any,
    checkpoints: Any,
    grove: tuple[Path, Path],
    undisturbed: tuple[Path, float],
    tmp_path: Path,
    share: float,
) -> None:
    expected, seconds = undisturbed
    running = start(commands, grove, tmp_path)
    time.sleep(share * seconds)
    running.send(signal.SIGKILL)
    running.wait()
    complete = (tmp_path / "out").exists()
    if complete:  # killed after the rename: what bears the final name is whole
        assert checkpoints.weights(tmp_path / "out") == checkpoints.weights(expected)
    again = commands.run("refine", *grove, "-o", tmp_path / "out", "--workers", 1)
    if complete and again.exit_code == USAGE:
        assert "exists already" in again.error
    else:
        assert_finishes_as(expected, tmp_path, again, checkpoints)


def test_kill_after_kill_comes_to_the_same_end(
    commands: Any,
    checkpoints: Any,
    grove: tuple[Path, Path],
    undisturbed: tuple[Path, float],
    tmp_path: Path,
) -> None:
    done = [kill_after_progress(commands, checkpoints, grove, tmp_path) for _ in range(2)]
    assert 0 < done[0] < done[1]
    assert not (tmp_path / "out").exists()
    again = commands.run("refine", *grove, "-o", tmp_path / "out", "--workers", 1, "--json")
    assert again.json["resumed"] is True
    assert_finishes_as(undisturbed[0], tmp_path, again, checkpoints)
    names = [(record["name"], record["index"]) for record in again.json["tensors"]]
    assert len(names) == len(set(names)) == 160


def test_resume_goes_on_where_the_journal_ends(
    grove: tuple[Path, Path], place: Path, undisturbed: tuple[Path, float], checkpoints: Any
) -> None:
    noted = len(checkpoints.journal(place / "out"))
    seen: list[int] = []
    result = timberkit.refine(
        *map(str, grove), place / "out", on_progress=lambda state: seen.append(state.tasks_done)
    )
    assert result.resumed
    assert seen == list(range(noted, len(result.plan.tasks) + 1))
    assert checkpoints.weights(place / "out") == checkpoints.weights(undisturbed[0])


def test_torn_writes_are_done_again(
    commands: Any,
    checkpoints: Any,
    grove: tuple[Path, Path],
    place: Path,
    undisturbed: tuple[Path, float],
) -> None:
    noted = set(checkpoints.journal(place / "out"))
    plan = timberkit.plan(*map(str, grove))
    torn = [task.target for task in plan.refine_tasks if task.key not in noted]
    assert torn
    for target in torn:
        with (place / STAGE / "tree" / target.path).open("r+b") as file:
            file.seek(target.start_byte)
            file.write(b"\x55" * target.size_bytes)
    done = commands.run("refine", *grove, "-o", place / "out")
    assert_finishes_as(undisturbed[0], place, done, checkpoints)


@pytest.fixture(scope="module")
def by_two_workers(
    commands: Any, grove: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """A folder with a run of two workers and how it ended.

    The server that they are forked from got SIGINT while it imported, and each of them at work.
    """
    place: Path = tmp_path_factory.mktemp("two")
    running = start(commands, grove, place, 2, "--quiet")
    # Importing what every worker needs takes longer than this.
    running.wait_until(lambda: any(seconds > 0.1 for seconds in cpu_seconds(running)))
    signalled: set[int] = set()
    while not running.ended():
        for process in workers_of(running):
            if process.pid not in signalled:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGINT)
                signalled.add(process.pid)
        time.sleep(0.005)
    assert signalled
    return place, running.wait()


def workers_of(running: Any) -> list[psutil.Process]:
    """The server that workers are forked from, and the workers."""
    found = []
    with suppress(psutil.Error):  # it may have ended
        for child in psutil.Process(running.pid).children(recursive=True):
            with suppress(psutil.Error):
                if "forkserver" in " ".join(child.cmdline()):
                    found.append(child)
    return found


def cpu_seconds(running: Any) -> list[float]:
    return [sum(worker.cpu_times()[:2]) for worker in workers_of(running)]


def test_workers_leave_ctrl_c_to_the_run_and_so_does_their_server(
    by_two_workers: tuple[Path, Any],
) -> None:
    done = by_two_workers[1]
    assert (done.exit_code, done.stderr) == (0, "")


def test_two_workers_write_the_bytes_of_one(
    by_two_workers: tuple[Path, Any], checkpoints: Any, undisturbed: tuple[Path, float]
) -> None:
    place, done = by_two_workers
    assert_finishes_as(undisturbed[0], place, done, checkpoints)
    assert checkpoints.manifest(place / "out")["run"]["workers"] == 2


def test_killed_pool_leaves_no_process_and_one_worker_finishes_its_work(
    commands: Any,
    checkpoints: Any,
    grove: tuple[Path, Path],
    undisturbed: tuple[Path, float],
    tmp_path: Path,
) -> None:
    running = start(commands, grove, tmp_path, workers=2)
    running.wait_until(lambda: checkpoints.journal(tmp_path / "out"))
    workers = psutil.Process(running.pid).children(recursive=True)
    assert len(workers) >= 2
    running.send(signal.SIGKILL)
    assert running.wait().exit_code == -signal.SIGKILL
    assert list(alive(workers, within_seconds=5)) == []
    assert not (tmp_path / "out").exists()
    done = commands.run("refine", *grove, "-o", tmp_path / "out", "--workers", 1)
    assert_finishes_as(undisturbed[0], tmp_path, done, checkpoints)


def alive(processes: list[psutil.Process], *, within_seconds: float) -> Iterator[psutil.Process]:
    """Those still there after so long; one that only waits to be collected is not."""
    for process in psutil.wait_procs(processes, timeout=within_seconds)[1]:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.NoSuchProcess:
            continue


@pytest.mark.parametrize("flags", [("--lam", 0.5), ("--dtype", "float32"), ("--layers", "0-5")])
def test_other_recipe_is_refused_while_a_run_is_unfinished(
    commands: Any,
    checkpoints: Any,
    grove: tuple[Path, Path],
    place: Path,
    flags: tuple[object, ...],
) -> None:
    before = checkpoints.journal(place / "out")
    done = commands.run("refine", *grove, "-o", place / "out", *flags)
    assert done.exit_code == USAGE
    assert "unfinished run of another recipe" in done.error
    assert "timberkit clean" in done.error
    assert checkpoints.journal(place / "out") == before
    assert not (place / "out").exists()


def test_clean_lists_then_removes_what_is_unfinished_and_nothing_else(
    commands: Any, grove: tuple[Path, Path], place: Path
) -> None:
    (place / "other").mkdir()
    listed = commands.run("clean", place, "--dry-run", "--json").json
    assert [(stage["stage"], stage["state"]) for stage in listed] == [
        (str(place / STAGE), "unfinished")
    ]
    assert listed[0]["size_bytes"] > 1_000_000
    assert (place / STAGE).exists()
    shown = commands.run("clean", place)
    assert shown.exit_code == 0
    assert f"{place / STAGE}: " in shown.stdout
    assert "removed" in shown.stdout
    assert os.listdir(place) == ["other"]
    assert "no unfinished runs" in commands.run("clean", cwd=place).stdout
    other = commands.run("refine", *grove, "-o", place / "out", "--layers", "0", "--lam", 0.5)
    assert other.exit_code == 0


def test_source_changed_between_kill_and_resume_is_refused(
    commands: Any,
    checkpoints: Any,
    grove: tuple[Path, Path],
    place: Path,
    undisturbed: tuple[Path, float],
) -> None:
    shard = sorted(grove[0].glob("*.safetensors"))[1]
    before, times = shard.read_bytes(), shard.stat()
    shard.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        done = commands.run("refine", *grove, "-o", place / "out")
        assert done.exit_code == BAD_INPUT
        assert str(shard) in done.error
        assert "the source was changed" in done.error
        assert not (place / "out").exists()
    finally:
        shard.write_bytes(before)
        os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    restored = commands.run("refine", *grove, "-o", place / "out")
    assert_finishes_as(undisturbed[0], place, restored, checkpoints)


def test_second_run_is_refused_while_the_first_is_alive(
    commands: Any,
    checkpoints: Any,
    grove: tuple[Path, Path],
    undisturbed: tuple[Path, float],
    tmp_path: Path,
) -> None:
    first = start(commands, grove, tmp_path)
    first.wait_until(lambda: checkpoints.journal(tmp_path / "out"))
    first.send(signal.SIGSTOP)
    second = commands.run("refine", *grove, "-o", tmp_path / "out")
    cleaned = commands.run("clean", tmp_path, "--json")
    first.send(signal.SIGCONT)
    assert second.exit_code == USAGE
    assert f"process {first.pid} is writing to {tmp_path / 'out'}" in second.error
    assert [stage["state"] for stage in cleaned.json] == ["still running"]
    assert_finishes_as(undisturbed[0], tmp_path, first.wait(), checkpoints)


def test_old_output_stands_whole_until_its_replacement_is_complete(
    commands: Any, checkpoints: Any, grove: tuple[Path, Path], tmp_path: Path
) -> None:
    place = tmp_path
    quick = ("--method", "merge", "--mu", 0.5)
    assert commands.run("refine", *grove, "-o", place / "out", *quick).exit_code == 0
    before = checkpoints.hashes(place / "out")
    command = ("refine", *grove, "-o", place / "out", "--workers", 1, "--overwrite")
    running = commands.start(*command)
    running.wait_until(lambda: checkpoints.journal(place / "out"))
    running.send(signal.SIGKILL)
    running.wait()
    assert checkpoints.hashes(place / "out") == before
    assert commands.run(*command).exit_code == 0
    assert checkpoints.manifest(place / "out")["variant"]["method"] == "timber"
    assert os.listdir(place) == ["out"]
