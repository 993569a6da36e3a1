"""An append-only journal of what is done: one JSON line an entry, never a torn one taken for true.

A line is ``{"check":"<16 hex digits>","entry":<the entry>}``; the digits are the start of the
SHA-256 of the entry's own bytes. Reading stops at the first line that is torn or garbage: what
follows is merely done again. The file is cut there before anything is appended.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from timberkit.checkpoint.writer import free_bytes
from timberkit.errors import InterruptedRunError

_OPENING = b'{"check":"'
_BETWEEN = b'","entry":'
_CLOSING = b"}\n"
_CHECK_DIGITS = 16


class Journal:
    """The journal in ``path``, open for appending; made if missing, cut behind its last good line.

    Only one process may have it open. Raises OSError when the file cannot be opened or cut.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            # Bytes up to the end of the last good line; the next line goes here.
            self._size_bytes = sum(len(line) for line, _ in _good_lines(path))
            if self._size_bytes != os.fstat(self._descriptor).st_size:
                os.ftruncate(self._descriptor, self._size_bytes)
                os.fsync(self._descriptor)
        except BaseException:
            self.close()
            raise

    @property
    def is_empty(self) -> bool:
        """Whether no entry is in it."""
        return self._size_bytes == 0

    def entries(self) -> Iterator[dict[str, Any]]:
        """All entries, oldest first, read from the file one by one."""
        return (entry for _, entry in _good_lines(self.path))

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Append entries with one write and one fsync: all of them count, or none is lost in part.

        Entries are JSON values without NaN or infinity (ValueError). Raises InterruptedRunError
        when the disk is full or fails; the file is then cut back to where it was.
        """
        data = memoryview(b"".join(_line(entry) for entry in entries))
        if not data.nbytes:
            return
        end = self._size_bytes
        try:
            while data.nbytes:
                written = os.pwrite(self._descriptor, data, end)
                data, end = data[written:], end + written
            os.fsync(self._descriptor)
        except OSError as error:
            # Should this fail too, the next line overwrites the torn one, or the next opening cuts.
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size_bytes)
            raise InterruptedRunError(
                f"{self.path}: cannot be written: {error.strerror}, {free_bytes(self.path)} bytes"
                " free; what is done so far is kept; free some space and run the same command again"
            ) from None
        self._size_bytes = end

    def empty(self) -> None:
        """Forget every entry."""
        os.ftruncate(self._descriptor, 0)
        os.fsync(self._descriptor)
        self._size_bytes = 0

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def holds_entries(path: Path) -> bool:
    """Whether a journal file has at least one good line; False when it is missing."""
    return path.exists() and next(_good_lines(path), None) is not None


def _line(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(dict(entry), allow_nan=False, separators=(",", ":")).encode()
    return _OPENING + _check(text) + _BETWEEN + text + _CLOSING


def _check(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:_CHECK_DIGITS].encode()


def _good_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    with path.open("rb") as file:
        for line in file:
            entry = _entry(line)
            if entry is None:
                return
            yield line, entry


def _entry(line: bytes) -> dict[str, Any] | None:
    text = line[len(_OPENING) + _CHECK_DIGITS + len(_BETWEEN) : -len(_CLOSING)]
    if line != _OPENING + _check(text) + _BETWEEN + text + _CLOSING:
        return None
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
