"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside the goal to write to; renamed to the goal when all went well, else removed.

    A reader sees the old file or the new one. The folder must exist.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> Path:
    """Write a text, whose line ends stay as they are, by ``replacing``; returns ``path``."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
    return path
