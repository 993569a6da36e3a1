"""Executors: every task once, the same bytes from one process and from many, no process left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from threadpoolctl import threadpool_info

from timberkit.config import AnyVariant, Timber, TimberL
from timberkit.engine import fork_server
from timberkit.engine.execute import (
    ProcessPool,
    Serial,
    called_apart,
    executor_for,
    one_thread,
)
from timberkit.engine.fork_server import usable_cores
from timberkit.engine.job import JobContext, Outcome
from timberkit.engine.tasks import CastTask, CopyTask, HashTask, Place, RefineTask, Task
from timberkit.errors import CheckpointError, InterruptedRunError

VARIANTS: tuple[AnyVariant, ...] = (Timber(lam=0.3), TimberL())
SHAPE = (96, 64)
COUNT = 6


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    before = set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) <= before


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.fixture
def work(pairs: Any, tmp_path: Path) -> list[Task]:
    """Six matrices behind one another in one file each, a copy and a hash."""
    found = [pairs.noise(*SHAPE, seed=seed, spikes=5.0 * seed) for seed in range(COUNT)]
    for name, weights in zip(("base", "instruct"), zip(*found, strict=True), strict=True):
        (tmp_path / name).write_bytes(b"".join(map(raw, weights)))
    size = SHAPE[0] * SHAPE[1] * 2
    tasks: list[Task] = []
    for index in range(COUNT):
        sources = [
            Place(str(tmp_path / name), index * size, size, "BF16") for name in ("base", "instruct")
        ]
        target = Place("shard", 16 + index * size, size, "BF16")
        tasks.append(RefineTask(f"w{index}", None, "ffn", 0, *SHAPE, *sources, target))
    tasks.append(CopyTask(str(tmp_path / "base"), 3, "shard", 0, 16))
    tasks.append(HashTask(str(tmp_path / "instruct"), COUNT * size))
    return tasks


def context_in(folder: Path) -> JobContext:
    outputs = [folder / "first", folder / "second"]
    for output in outputs:
        output.mkdir(parents=True)
        (output / "shard").write_bytes(bytes(16 + COUNT * SHAPE[0] * SHAPE[1] * 2))
    return JobContext(VARIANTS, tuple(map(str, outputs)))


def comparable(outcomes: list[Outcome]) -> dict[str, Any]:
    assert len({outcome.key for outcome in outcomes}) == len(outcomes)
    return {
        outcome.key: (outcome.record and outcome.record.matrix, outcome.sha256)
        for outcome in outcomes
    }


def test_one_process_and_many_do_every_task_once_with_the_same_bytes(
    work: list[Task], tmp_path: Path
) -> None:
    found = []
    for name, workers in (("serial", 1), ("pool", 2)):
        context = context_in(tmp_path / name)
        with executor_for(context, workers) as executor:
            assert isinstance(executor, Serial if workers == 1 else ProcessPool)
            first = comparable(list(executor.run(work)))
            again = comparable(list(executor.run(work[:2])))
        assert set(first) == {task.key for task in work}
        assert all(first[key] == value for key, value in again.items())
        shards = [Path(folder, "shard").read_bytes() for folder in context.folders]
        found.append((first, shards))
    assert found[0] == found[1]


def test_serial_yields_in_order_and_as_it_goes(work: list[Task], tmp_path: Path) -> None:
    context = context_in(tmp_path / "out")
    with Serial(context) as executor:
        run = executor.run(work)
        assert next(run).key == work[0].key
        shard = Path(context.folders[0], "shard").read_bytes()
        size = SHAPE[0] * SHAPE[1] * 2
        assert any(shard[16 : 16 + size])
        assert not any(shard[16 + size :])
        assert [outcome.key for outcome in run] == [task.key for task in work[1:]]


@pytest.fixture
def neighbour() -> Iterator[Any]:
    """Another child of this process, which no pool has started."""
    found = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(300,))
    found.start()
    yield found
    found.kill()
    found.join()


@pytest.mark.parametrize("kind", [Serial, lambda context: ProcessPool(context, 1)])
def test_an_error_in_one_task_ends_the_run_with_that_error_and_only_its_own_processes(
    work: list[Task], tmp_path: Path, kind: Any, neighbour: Any
) -> None:
    bad = HashTask(str(tmp_path / "absent"), 1)
    done: list[str] = []

    def run() -> None:
        with kind(context_in(tmp_path / "out")) as pool:
            done.extend(outcome.key for outcome in pool.run([work[0], bad, *work[1:]]))

    with pytest.raises(CheckpointError, match="absent"):
        run()
    assert len(done) < len(work)
    assert multiprocessing.active_children() == [neighbour]
    assert neighbour.is_alive()


def stuck(folder: Path) -> CastTask:
    """A task that waits for ever: it reads a pipe to which nobody writes."""
    os.mkfifo(folder / "pipe")
    place = Place(str(folder / "pipe"), 0, 2, "BF16")
    return CastTask("stuck", place, place)


def children_beside(before: set[Any], count: int) -> list[Any]:
    """Wait until so many children run beside those before."""
    for _ in range(300):
        found = [child for child in multiprocessing.active_children() if child not in before]
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError("no worker was started")


def test_a_worker_that_is_killed_is_an_interrupted_run(tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())

    def kill_one() -> None:
        os.kill(children_beside(before, 1)[0].pid, signal.SIGKILL)

    killer = threading.Timer(1.0, kill_one)

    def run() -> None:
        with ProcessPool(JobContext(), 2) as pool:
            tasks = pool.run([stuck(tmp_path)])
            killer.start()
            list(tasks)

    with pytest.raises(InterruptedRunError, match="the same command continues"):
        run()
    killer.join()


def test_leaving_with_an_error_kills_workers_that_are_busy(tmp_path: Path) -> None:
    started = time.monotonic()
    before = set(multiprocessing.active_children())
    (tmp_path / "file").write_bytes(b"x")
    ready = HashTask(str(tmp_path / "file"), 1)

    def run() -> None:
        with ProcessPool(JobContext(), 1) as pool:
            tasks = pool.run([ready, stuck(tmp_path)])
            assert next(tasks).key == ready.key
            assert children_beside(before, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert time.monotonic() - started < 60


def test_a_pool_of_no_workers_is_refused() -> None:
    with pytest.raises(ValueError, match="workers: found 0, expected at least 1"):
        ProcessPool(JobContext(), 0)


def test_a_device_is_driven_from_this_process_alone() -> None:
    assert isinstance(executor_for(JobContext(device="cuda"), 4), Serial)
    assert isinstance(executor_for(JobContext(), 1), Serial)


def test_one_thread_means_one_in_torch_and_blas_and_is_undone() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with one_thread():
            assert torch.get_num_threads() == 1
            assert {library["num_threads"] for library in threadpool_info()} == {1}
        assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError), one_thread():
            raise RuntimeError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_usable_cores_are_those_of_this_process() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    everywhere = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(everywhere)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, everywhere)


def test_long_calls_of_a_command_are_made_in_a_process_that_ctrl_c_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with called_apart([4000]) as call:
        assert call(os.getpid) == os.getpid()  # somebody's own program
    monkeypatch.setattr(fork_server, "_is_command", True)
    with called_apart([fork_server.LONG_SIDE - 1]) as call:
        assert call(os.getpid) == os.getpid()  # takes a moment only
    with called_apart([10, fork_server.LONG_SIDE]) as call:
        child = call(os.getpid)
        assert child != os.getpid()
        assert call(pow, 2, 5) == 32
        with pytest.raises(ZeroDivisionError):
            call(divmod, 1, 0)
    started = time.monotonic()
    children: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        _stopped_in_the_middle(children)
    [child] = children
    assert time.monotonic() - started < 20
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    with pytest.raises(InterruptedRunError, match="a worker died"), called_apart([5000]) as call:
        call(os._exit, 1)


def _stopped_in_the_middle(children: list[int]) -> None:
    with called_apart([5000]) as call:
        children.append(call(os.getpid))
        call(_interrupt_and_sleep, os.getpid())


def _interrupt_and_sleep(parent: int) -> None:
    os.kill(parent, signal.SIGINT)
    time.sleep(60)
