"""Who runs the tasks: this process, or a pool of processes with one BLAS thread each.

One protocol, ``Executor.run``: tasks in, outcomes out in the order they finish. The bytes written
never depend on the choice, because every task is computed with one thread by whoever takes it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from threadpoolctl import threadpool_limits

from timberkit.engine.fork_server import blocked_interrupt, die_with_parent, works_apart
from timberkit.engine.fork_server import context as fork_server_context
from timberkit.engine.job import JobContext, Outcome, perform
from timberkit.engine.tasks import Task
from timberkit.errors import InterruptedRunError

if TYPE_CHECKING:
    from timberkit.engine.cluster import Cluster
    from timberkit.engine.shared_folders import SharedFolders

TASKS_AHEAD = 2
"""Tasks queued for each worker, so that none waits for this process; bounds what is in flight."""


class Executor(Protocol):
    """Runs tasks of one context; a context manager that ends whatever it started.

    ``workers`` is how many tasks it runs at a time.
    """

    workers: int

    def run(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        """Yield an outcome for each task as it finishes; the first error ends it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def executor_for(
    context: JobContext,
    workers: int,
    cluster: Cluster | None = None,
    folders: SharedFolders | None = None,
    *,
    sides: Iterable[int] = (),
) -> Executor:
    """Serial for one worker (or a device other than the CPU), a pool of processes for more.

    ``sides``: short sides of the matrices, by which one worker may be a process too
    (``works_apart``).

    A cluster has its own number of workers; ``folders`` are what its machines have to see.
    """
    if cluster is not None:
        from timberkit.engine.ray_executor import RayExecutor

        return RayExecutor(context, cluster, folders)
    if context.device == "cpu" and (workers > 1 or works_apart(sides)):
        return ProcessPool(context, workers)
    return Serial(context)


@contextmanager
def one_thread() -> Iterator[None]:
    """Arithmetic in this process with one thread inside the block, as in every worker."""
    torch = sys.modules.get("torch")  # not worth an import
    before = None if torch is None else torch.get_num_threads()
    if torch is not None:
        torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)


Caller: TypeAlias = Callable[..., Any]


@contextmanager
def called_apart(sides: Iterable[int]) -> Iterator[Caller]:
    """``call(function, *arguments)`` in a process that can be killed, where that is called for.

    That is, in a command, for decompositions that take long (``works_apart``); else in this one,
    with one thread. What is given and returned has to be picklable. An error in the block, Ctrl-C
    too, kills the process; its own death becomes InterruptedRunError.
    """
    if not works_apart(sides):
        with one_thread():
            yield lambda function, *arguments: function(*arguments)
        return
    with ProcessPool(JobContext(), 1) as pool:
        yield pool.call


class Serial:
    """All tasks in this process, one after the other."""

    workers = 1

    def __init__(self, context: JobContext) -> None:
        self._context = context

    def run(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        """See ``Executor``."""
        with one_thread():
            for task in tasks:
                yield perform(self._context, task)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None


class ProcessPool:
    """Tasks in ``workers`` processes of their own; killed, not asked, when the caller stops early.

    LAPACK cannot be interrupted, so on Ctrl-C or an error the workers are killed: all they could
    lose is work that no journal counts as done. On Linux they also die with this process. They are
    forked from a server that has done nothing but import (``fork_server``).
    """

    def __init__(self, context: JobContext, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"workers: found {workers}, expected at least 1")
        self.workers = workers
        self._most = workers * TASKS_AHEAD
        self._others = set(multiprocessing.active_children())
        self._pool = ProcessPoolExecutor(
            workers,
            mp_context=fork_server_context(context.preload),
            initializer=_start_worker,
            initargs=(context,),
        )

    def run(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        """See ``Executor``. Raises InterruptedRunError when a worker dies."""
        try:
            yield from self._in_flight(self._pool, tasks, self._most)
        except BrokenProcessPool:
            raise InterruptedRunError(_DIED) from None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """One call of any function in a worker; waits for it."""
        try:
            with blocked_interrupt():
                future = self._pool.submit(function, *arguments)
            return future.result()
        except BrokenProcessPool:
            raise InterruptedRunError(_DIED) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            for child in set(multiprocessing.active_children()) - self._others:
                child.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)

    @staticmethod
    def _in_flight(
        pool: ProcessPoolExecutor, tasks: Sequence[Task], most: int
    ) -> Generator[Outcome, None, None]:
        waiting = iter(tasks)
        running: set[Future[Outcome]] = set()
        for task in waiting:
            with blocked_interrupt():
                running.add(pool.submit(_perform_in_worker, task))
            if len(running) >= most:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


_DIED = (
    "a worker died without a word, most often killed by the system for want of memory; the same"
    " command continues the run, with --workers 1 in less memory"
)
_worker_context: JobContext | None = None


def _start_worker(context: JobContext) -> None:
    global _worker_context
    # Ctrl-C reaches the whole foreground group; what it means is for the parent to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    starter = multiprocessing.parent_process()
    if starter is not None and not starter.is_alive():  # it died before the line above
        os._exit(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    threadpool_limits(limits=1)
    _worker_context = context


def _perform_in_worker(task: Task) -> Outcome:
    if _worker_context is None:
        raise RuntimeError("worker without a context")
    return perform(_worker_context, task)
