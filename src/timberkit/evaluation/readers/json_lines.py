"""JSON objects from the lines of a file that may be anything, with their line numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from timberkit.errors import InputError

LONGEST_LINE_BYTES = 1 << 30
"""Of one line: a rollout of 100 MB with its prompt fits, a file without line breaks does not."""


def read_json_lines(path: Path, *, expected: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number, from 1, and object of every line that is not blank.

    ``expected``: what the file should be, for messages. Memory of one line. Raises InputError,
    naming file and line, for what is no JSON object, and where the file cannot be read.
    """
    number = 0
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no plain file, expected {expected}")
    try:
        with path.open("rb") as file:
            while line := file.readline(LONGEST_LINE_BYTES + 1):
                number += 1
                if len(line) > LONGEST_LINE_BYTES:
                    raise InputError(
                        f"{path}: line {number}: over {LONGEST_LINE_BYTES >> 20} MiB, expected"
                        f" {expected}; is it JSON lines at all?"
                    )
                if line.strip():
                    yield number, _object(path, number, line, expected)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror}; look at the path and the permissions"
        ) from None


def _object(path: Path, number: int, line: bytes, expected: str) -> dict[str, Any]:
    try:
        found = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: line {number}: cannot be read as JSON ({str(error)[:120]}), expected"
            f" {expected}; the file is broken, or was cut off while it was written"
        ) from None
    if not isinstance(found, dict):
        raise InputError(
            f"{path}: line {number}: found a {type(found).__name__}, expected {expected}"
        )
    return found
