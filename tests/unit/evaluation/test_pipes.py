"""Pipes whose other end does not do its part."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from timberkit.evaluation.pipes import receive_some, send_all


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_what_is_sent_arrives(pipe: tuple[int, int]) -> None:
    read, write = pipe
    send_all(write, b"oak", time.monotonic() + 5)
    assert receive_some(read, 100, time.monotonic() + 5) == b"oak"


def test_nobody_reads_or_writes_in_time(pipe: tuple[int, int]) -> None:
    read, write = pipe
    with pytest.raises(TimeoutError):
        receive_some(read, 100, time.monotonic() + 0.05)
    with pytest.raises(TimeoutError):
        send_all(write, bytes(1 << 20), time.monotonic() + 0.05)


def test_the_other_end_is_gone() -> None:
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(BrokenPipeError):
        send_all(write, b"oak", time.monotonic() + 5)
    os.close(write)
    read, write = os.pipe()
    os.close(write)
    assert receive_some(read, 100, time.monotonic() + 5) == b""
    os.close(read)
