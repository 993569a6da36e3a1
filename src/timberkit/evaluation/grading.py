"""Judging answers in worker processes, each judgement with a time limit.

    with Graders("math500", workers=4) as graders:
        graders.grade(problem, answer)

Answers are hostile input: an expression can keep a computer algebra system busy for ever, or blow
its memory. A worker that takes too long or dies is replaced, and the answer it had is wrong, with
the reason. Workers are started as they are needed, about a second each, and are plain child
processes that this process feeds through pipes: no fork of a process with threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from timberkit import errors
from timberkit.evaluation.pipes import receive_some, send_all
from timberkit.evaluation.task import Grade, Problem
from timberkit.evaluation.tasks import make_task

START_SECONDS = 300.0
"""How long a worker may take to import its libraries."""

_MOST_REPLY_BYTES = 1 << 20


class Graders:
    """A pool of processes that judge answers of one task.

    ``task``, ``setting``, ``options``: as for ``make_task``. ``workers``: how many answers are
    judged at a time, at least 1. ``seconds``: the limit for one answer; None for the task's own.
    ``grade`` may be called from any number of threads. Closing ends the processes.
    """

    def __init__(
        self,
        task: str,
        setting: str | None = None,
        *,
        workers: int = 1,
        seconds: float | None = None,
        options: Iterable[str] = (),
    ) -> None:
        """Nothing is started yet. Raises UsageError for an unknown task or setting."""
        if workers < 1:
            raise errors.UsageError(f"graders of {task}: {workers} workers, expected at least 1")
        options = tuple(options)
        made = make_task(task, setting, **dict.fromkeys(options, True))
        self._seconds = made.grade_seconds if seconds is None else seconds
        self._arguments = (made.name, made.setting, *options)
        # None stands for a worker that is not running; whoever takes it, starts it.
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._running: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        """Start the first worker, so that what is missing on this machine is said at once."""
        try:
            self._idle.put(self._started(self._idle.get()))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def grade(self, problem: Problem, answer: str, *, raw: bool = False) -> Grade:
        """Judge one answer in a worker; blocks until one is free and has judged.

        ``answer``, ``raw``: as for ``Task.grade``. A worker that exceeds the limit or dies makes
        the answer wrong, with a reason. Raises what the task's ``check_ready`` raises where a
        worker cannot be started, and ValueError when closed.
        """
        if self._closed:
            raise ValueError("these graders are closed")
        worker = self._idle.get()
        try:
            worker = self._started(worker)
            request = {
                "key": problem.key,
                "fields": dict(problem.fields),
                "answer": answer,
                "raw": raw,
            }
            try:
                reply = worker.ask(request, self._seconds)
            except TimeoutError:
                return Grade(False, None, f"the grader took more than {self._seconds:g} s")
            except _WorkerDeathError as death:
                return Grade(False, None, f"the grader died ({death})")
            return Grade(reply["correct"], reply["answer"], reply["reason"])
        finally:
            if worker is not None and not worker.alive:
                with self._lock:
                    self._running.discard(worker)
                worker = None
            self._idle.put(worker)

    def close(self) -> None:
        """End all workers; answers being judged are then wrong. Calling it again does nothing."""
        with self._lock:
            self._closed = True
            running, self._running = self._running, set()
        for worker in running:
            worker.kill()
        with contextlib.suppress(queue.Empty):
            while True:
                worker_or_none = self._idle.get_nowait()
                if worker_or_none is not None:
                    worker_or_none.end()

    def _started(self, worker: _Worker | None) -> _Worker:
        if worker is not None:
            return worker
        with self._lock:
            if self._closed:
                raise ValueError("these graders are closed")
            worker = _Worker(self._arguments)
            self._running.add(worker)
        try:
            worker.wait_until_ready()
        except BaseException:
            worker.end()
            with self._lock:
                self._running.discard(worker)
            raise
        return worker


class _WorkerDeathError(Exception):
    """The process of a worker has ended by itself."""


class _Worker:
    """One process, and the pipes to it; used by one thread at a time, killed by any."""

    def __init__(self, arguments: Iterable[str]) -> None:
        # -P: the folder that a command runs in must not provide modules to it.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "timberkit.evaluation.grade_worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        self._reaping = threading.Lock()
        self.alive = True

    def wait_until_ready(self) -> None:
        """Raises the error that the worker reports, or ResourceError where it reports nothing."""
        try:
            reply = self._receive(time.monotonic() + START_SECONDS)
        except (TimeoutError, _WorkerDeathError) as failure:
            raise errors.ResourceError(
                f"a grader process could not be started ({failure or 'it took too long'});"
                " is there enough memory?"
            ) from None
        _raise_reported(reply)

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The reply. Raises TimeoutError or _WorkerDeathError; the worker is gone then.

        Raises the TimberkitError that the worker reports; the worker lives on then.
        """
        deadline = time.monotonic() + seconds
        try:
            send_all(self._requests.fileno(), json.dumps(request).encode() + b"\n", deadline)
            reply = self._receive(deadline)
        except BrokenPipeError:
            raise self._death() from None
        except BaseException:
            self.end()
            raise
        _raise_reported(reply)
        return reply

    def kill(self) -> None:
        """Kill the process and what it started; whoever uses it then sees it die."""
        with self._reaping:
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill it and let go of it; for the thread that uses it. Twice is fine."""
        self.kill()
        with self._reaping:
            self._process.wait()
        self._requests.close()
        self._replies.close()
        self.alive = False

    def _receive(self, deadline: float) -> dict[str, Any]:
        reply = b""
        while not reply.endswith(b"\n"):
            part = receive_some(self._replies.fileno(), 65536, deadline)
            reply += part
            if not part or len(reply) > _MOST_REPLY_BYTES:
                raise self._death()
        found: dict[str, Any] = json.loads(reply)
        return found

    def _death(self) -> _WorkerDeathError:
        with contextlib.suppress(subprocess.TimeoutExpired), self._reaping:
            self._process.wait(timeout=5)
        code = self._process.returncode
        self.end()
        if code is None:
            return _WorkerDeathError("it closed its output")
        return _WorkerDeathError(
            f"signal {-code}" if code < 0 else f"exit code {code}",
        )


def _raise_reported(reply: dict[str, Any]) -> None:
    if "error" not in reply:
        return
    kind = getattr(errors, reply["error"], errors.InputError)
    # MissingExtraError makes its own message; its kind carries the one that was made.
    raise (errors.UsageError if kind is errors.MissingExtraError else kind)(reply["message"])
