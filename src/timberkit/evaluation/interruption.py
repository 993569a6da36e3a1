"""Running a coroutine so that Ctrl-C and SIGTERM end it at once, in any caller's process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType

_NO_HANDLER = logging.NullHandler()


def is_in_event_loop() -> bool:
    """Whether this thread runs an event loop, as a notebook's does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_until_stopped(begin: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a coroutine to its end; Ctrl-C and SIGTERM cancel it, and become KeyboardInterrupt."""
    stopped = False

    async def supervised() -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()

        def stop(_number: int, _frame: FrameType | None) -> None:
            nonlocal stopped
            stopped = True
            loop.call_soon_threadsafe(task.cancel)

        with _signals(stop):
            await begin()

    try:
        with asyncio.Runner() as runner:
            runner.run(supervised())
    except asyncio.CancelledError:
        if stopped:
            raise KeyboardInterrupt from None
        raise


@contextmanager
def _signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM for a while; nothing happens outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def own_environment() -> Iterator[None]:
    """Without the variables that would change what inspect_ai does; they are put back."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("INSPECT_")}
    # Else its warnings, which may quote a server, go to the terminal as they are.
    logging.getLogger("inspect_ai").addHandler(_NO_HANDLER)
    try:
        yield
    finally:
        os.environ.update(taken)
