"""The process that workers are forked from: libraries are imported once, while the plan is made.

A worker that imports everything itself needs a second of processor time before its first matrix,
and some seconds where torch is needed. Python's fork server imports it once, beside this process,
and forks workers in milliseconds. It does nothing else, has one thread, and so is safe to fork,
which this process need not be.

Nothing heavy is imported here: the command line calls ``start_early`` before anything else.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path

PRELOADED = "timberkit.engine.fork_server_preload"
WORTH_BYTES = 100 << 20
"""A checkpoint from which on several workers pay off; so much work takes one some seconds."""
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


LONG_SIDE = 1024
"""Short side of a matrix whose decomposition takes a second or more, deaf to Ctrl-C."""
_is_command = False


def serve_command() -> None:
    """Say that this process is a command: it may start others, and Ctrl-C has to end it at once."""
    global _is_command
    _is_command = True


def works_apart(sides: Iterable[int]) -> bool:
    """Whether even a single worker is to be a process of its own, which can be killed.

    ``sides``: short sides of the matrices to be decomposed. LAPACK cannot be interrupted, so in a
    command what takes long is not done by the process that hears Ctrl-C. In somebody else's program
    it is: starting processes there needs its consent (``workers``).
    """
    return _is_command and max(sides, default=0) >= LONG_SIDE


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_early(instruct: str, workers: int | None, preload: Sequence[str] = ()) -> None:
    """Start the fork server now if a run on this checkpoint is sure to want workers.

    ``instruct`` is a folder or a hub id; of a folder only the sizes of its weights are looked at.
    """
    if workers == 1 or (workers is None and usable_cores() == 1):
        return
    try:
        sizes = [file.stat().st_size for file in Path(instruct).glob("*.safetensors")]
    except OSError:
        return
    if sum(sizes) >= WORTH_BYTES:
        context(preload)


def context(preload: Sequence[str] = ()) -> BaseContext:
    """The multiprocessing context of workers, with its fork server running.

    ``preload``: modules that it is to import besides those of a refinement, if it is not running.
    """
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([PRELOADED, *preload])
    resource_tracker.ensure_running()  # it would unblock the signal
    with _environment(_ONE_THREAD), blocked_interrupt():
        forkserver.ensure_running()
    return found


@contextmanager
def blocked_interrupt() -> Iterator[None]:
    """Processes started inside inherit a mask that keeps Ctrl-C from them: it is for this one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(names: tuple[str, ...]) -> Iterator[None]:
    """Libraries read these when they are loaded; the fork server is started with them at 1."""
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that forked it dies, however (Linux)."""
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
