"""Pipes to other processes, with deadlines: a process that does not read or write stops nobody."""

from __future__ import annotations

import os
import select
import time


def send_all(pipe: int, content: bytes, deadline: float) -> None:
    """Write all of ``content`` to a pipe before ``deadline`` (of ``time.monotonic``).

    Makes the pipe non-blocking. Raises TimeoutError, or BrokenPipeError where nobody reads.
    """
    os.set_blocking(pipe, False)
    view = memoryview(content)
    while view:
        _wait(pipe, select.POLLOUT, deadline)
        view = view[os.write(pipe, view) :]


def receive_some(pipe: int, most_bytes: int, deadline: float) -> bytes:
    """What a pipe holds, once it holds anything: up to ``most_bytes``; empty at its end.

    Raises TimeoutError.
    """
    _wait(pipe, select.POLLIN, deadline)
    return os.read(pipe, most_bytes)


def _wait(pipe: int, event: int, deadline: float) -> None:
    # poll, not select: a server of many connections has descriptors above 1,024.
    watch = select.poll()
    watch.register(pipe, event)
    if not watch.poll(1000 * max(0.0, deadline - time.monotonic())):
        raise TimeoutError
