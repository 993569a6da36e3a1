"""Writing in threads, beside an event loop: to the journal in batches, to logs one by one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from timberkit.evaluation.journal import Generation, Segment
from timberkit.evaluation.store import UnitStore

STOP_SECONDS = 1.0
"""A run that is stopped waits so long for the disk."""

T = TypeVar("T")


class Committer:
    """Writes generations to journals, those that wait together with one sync."""

    def __init__(self) -> None:
        self._waiting: list[tuple[UnitStore, Generation, asyncio.Future[Segment]]] = []
        self._drain: asyncio.Task[None] | None = None

    async def commit(self, store: UnitStore, generation: Generation) -> Segment:
        """Returns the segment that has it, once it is on the disk."""
        done: asyncio.Future[Segment] = asyncio.get_running_loop().create_future()
        self._waiting.append((store, generation, done))
        if self._drain is None or self._drain.done():
            self._drain = asyncio.create_task(self._write())
        return await done

    async def finish(self) -> None:
        """Wait for what is being written, so that files may be closed after it."""
        if self._drain is not None:
            await asyncio.wait({self._drain}, timeout=STOP_SECONDS)

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            stores = {id(store): store for store, _, _ in batch}
            for store in stores.values():
                mine = [(generation, done) for at, generation, done in batch if at is store]
                try:
                    segment = store.open_segment()
                    await in_daemon_thread(
                        partial(segment.append, [generation for generation, _ in mine])
                    )
                except Exception as error:  # handed on to whoever waits
                    for _, done in mine:
                        if not done.done():
                            done.set_exception(error)
                    continue
                for _, done in mine:
                    if not done.done():
                        done.set_result(segment)


def in_daemon_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run something in a thread that does not keep the process alive."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        try:
            value, error = work(), None
        except BaseException as raised:
            value, error = None, raised
        try:
            loop.call_soon_threadsafe(settle, value, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=run, daemon=True).start()
    return result
