"""Tasks on the machines of a Ray cluster: Ray places and repeats them, the journal stays here.

Every bundle of small tasks, and every large one, is a Ray task of one core (one GPU as well, for
CUDA) and the memory it is expected to take. What was left of a machine that died is repeated on
others; an error of ours ends the run. Workers write through to the disk what they write, and sync
it before they answer, because a sync on this machine does not reach the cache of another.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from timberkit.engine import fence
from timberkit.engine.bundles import Bundle, bundles, reserved_bytes
from timberkit.engine.cluster import Cluster
from timberkit.engine.cluster_probe import check_nodes
from timberkit.engine.job import JobContext, Outcome
from timberkit.engine.ray_worker import Answer, perform_bundle
from timberkit.engine.shared_folders import SharedFolders
from timberkit.engine.tasks import Task
from timberkit.errors import InterruptedRunError, MissingExtraError, ResourceError, UsageError

try:
    import ray
    from ray import exceptions as ray_errors
except ImportError as error:
    raise MissingExtraError("ray", extra="ray") from error

AHEAD = 2
"""Bundles in flight for each core: one at work, one on its way."""
REPEATS = 4
"""How often a bundle is repeated whose machine or process died."""
ASK_SECONDS = 2.0
"""How often the cluster is asked how large it is now."""
CONNECT_SECONDS = 5.0
LOST_SECONDS = 60.0
"""A run ends when no machine with a core has been there for so long."""


class RayExecutor:
    """See ``Executor``; connects on entry, and lets go of everything at the end.

    ``folders``: what every machine has to see; the stage in it is owned by this run meanwhile.
    """

    def __init__(
        self, context: JobContext, cluster: Cluster, folders: SharedFolders | None
    ) -> None:
        self._context = context
        self._cluster = cluster
        self._folders = folders or SharedFolders()
        self._connected = False
        self._gpus = 0
        self.workers = 0

    def __enter__(self) -> Self:
        if self._context.device not in ("cpu", "cuda"):
            raise UsageError(
                f"device {self._context.device}: expected cpu or cuda; Ray gives each task a device"
                " of its own"
            )
        with _signals_kept():
            self._connected = _connect(self._cluster)
        try:
            self._gpus = int(self._context.device == "cuda")
            if self._folders.stage is not None:
                fence.take(Path(self._folders.stage), self._folders.number)
            check_nodes(_nodes(), self._folders, gpu=self._gpus > 0)
            self._grow()
            # Copied to each machine once, not with every task.
            self._shared = ray.put((self._context, self._folders))
            self._remote = ray.remote(perform_bundle)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def run(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        """See ``Executor``.

        Raises ResourceError for a task that fits on no machine, InterruptedRunError when machines
        die faster than their tasks are repeated, or none is left.
        """
        self._check_memory(tasks)
        waiting = bundles(self._context, tasks, self.workers)
        running: set[ray.ObjectRef[Answer]] = set()
        asked = seen = time.monotonic()
        left = True
        while left or running:
            while left and len(running) < max(self.workers, 1) * AHEAD:
                bundle = next(waiting, None)
                if bundle is None:
                    left = False
                else:
                    running.add(self._submit(bundle))
            if not running:
                break
            done, _ = ray.wait(list(running), num_returns=1, timeout=ASK_SECONDS)
            for answer in done:
                running.discard(answer)
                yield from _outcomes(answer)
            if time.monotonic() - asked >= ASK_SECONDS:
                asked = time.monotonic()
                seen = asked if self._grow() else seen
                _refuse_empty(asked - seen)

    def _submit(self, bundle: Bundle) -> ray.ObjectRef[Answer]:
        placed = self._remote.options(
            num_cpus=1,
            num_gpus=self._gpus,
            memory=bundle.memory_bytes,
            max_retries=REPEATS,
            scheduling_strategy="SPREAD",
            name=bundle.tasks[0].key[:100],
        )
        found: ray.ObjectRef[Answer] = placed.remote(self._shared, bundle.tasks)
        return found

    def _grow(self) -> bool:
        """Count the tasks that run at a time, which are more where machines have come."""
        resource = "GPU" if self._gpus else "CPU"
        count = int(sum(node["Resources"].get(resource, 0) for node in _nodes()))
        self.workers = max(self.workers, count)
        return count > 0

    def _check_memory(self, tasks: Sequence[Task]) -> None:
        largest = reserved_bytes(self._context, tasks)
        most = max((node["Resources"].get("memory", 0) for node in _nodes()), default=0)
        if largest > most:
            raise ResourceError(
                f"the largest matrix takes {largest / 1e9:.1f} GB of memory, and no machine of the"
                f" cluster has more than {most / 1e9:.1f} GB for tasks; use larger machines, or"
                " start Ray there with --memory"
            )

    def _close(self) -> None:
        # First the stage, so that a worker that does not hear of the end finds it all the same.
        if self._folders.stage is not None:
            stage = Path(self._folders.stage)
            if fence.is_owner(stage, self._folders.number):
                fence.release(stage)
        if self._connected:
            self._connected = False
            with _signals_kept():
                ray.shutdown()


def _connect(cluster: Cluster) -> bool:
    """Join the cluster; False where this process has joined one already, and is to stay in it."""
    if ray.is_initialized():
        return False
    _refuse_silence(cluster.address or os.environ.get("RAY_ADDRESS", ""))
    try:
        ray.init(
            address=cluster.address or "auto",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError, ray_errors.AuthenticationError) as error:
        where = cluster.address or "RAY_ADDRESS, or this machine"
        first = str(error).strip().splitlines()[:1]
        raise UsageError(
            f"no Ray cluster at {where}: {''.join(first)}; start one with: ray start --head, or"
            " leave out --executor"
        ) from None
    return True


def _refuse_silence(address: str) -> None:
    """Ray itself waits for minutes at an address where nobody answers."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"no Ray cluster at {address}: {error}; look at the address that ray start --head"
            " printed, or start a cluster with it"
        ) from None


def _nodes() -> list[dict[str, Any]]:
    """The machines that are alive and take tasks."""
    listed: Any = ray.nodes  # has no types
    return [node for node in listed() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]


def _outcomes(answer: ray.ObjectRef[Answer]) -> Iterator[Outcome]:
    try:
        found = ray.get(answer)
    except ray_errors.RayTaskError:
        raise  # a mistake of ours, with its traceback
    except ray_errors.RayError as error:
        first = str(error).strip().splitlines()[:1]
        raise InterruptedRunError(
            f"a task could not be finished on the cluster, {REPEATS} repeats included:"
            f" {''.join(first)}; look at its machines; the same command continues the run"
        ) from None
    yield from found.outcomes
    if found.error is not None:
        raise found.error


def _refuse_empty(seconds: float) -> None:
    if seconds > LOST_SECONDS:
        raise InterruptedRunError(
            f"no machine of the cluster has taken tasks for {seconds:.0f} s; start some with: ray"
            " start --address; the same command continues the run"
        )


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray sets handlers of its own for the signals that end this process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
