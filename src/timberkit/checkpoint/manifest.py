"""The manifest ``timberkit.json``: what an output is made of, and the checks that it still is.

What the fields mean is the business of the run that writes them; here is only the file itself:
``schema_version`` 1, one JSON object, stable from run to run so that two can be compared with diff.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from timberkit.checkpoint.json_size import refuse_expanding
from timberkit.checkpoint.writer import write_file
from timberkit.errors import CheckpointError

MANIFEST_NAME = "timberkit.json"
SCHEMA_VERSION = 1
LARGEST_MANIFEST_BYTES = 256 << 20

_PIECE_BYTES = 8 << 20


def write_manifest(target: Path, fields: Mapping[str, Any]) -> None:
    """Write ``target/timberkit.json``: the fields and ``schema_version``, keys sorted; not synced.

    Raises ValueError for NaN and infinity, which JSON does not have, InterruptedRunError when the
    disk is full or fails.
    """
    content = {**fields, "schema_version": SCHEMA_VERSION}
    text = json.dumps(content, sort_keys=True, indent=2, allow_nan=False)
    write_file(target / MANIFEST_NAME, text.encode() + b"\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read ``folder/timberkit.json``, which may come from anyone.

    Raises CheckpointError when it is missing, not a plain file, over 256 MiB, not JSON (NaN
    included), not an object, or of another schema version.
    """
    path = folder / MANIFEST_NAME
    with _open_plain(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes > LARGEST_MANIFEST_BYTES:
            raise CheckpointError(
                f"{path}: {size_bytes} bytes, expected at most {LARGEST_MANIFEST_BYTES}; this is"
                " not a manifest written by timberkit; make the output again"
            )
        try:
            raw = file.read(size_bytes)
            refuse_expanding(raw, str(path))
            fields = json.loads(raw, parse_constant=_refuse_constant)
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{path}: cannot be read as JSON: {error}; the file is broken; make the output"
                " again"
            ) from None
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if not isinstance(fields, dict) or type(version) is not int or version != SCHEMA_VERSION:
        found = f"schema_version {version!r}" if isinstance(fields, dict) else "no JSON object"
        raise CheckpointError(
            f"{path}: found {found}, expected an object with schema_version {SCHEMA_VERSION}; it"
            " comes from another version of timberkit, or from something else; use that version"
        )
    return fields


def hash_file(path: Path) -> str:
    """SHA-256 of a plain file as 64 hex digits, read in pieces of 8 MiB.

    Raises CheckpointError when the file is missing, unreadable or not a plain file.
    """
    digest = hashlib.sha256()
    with _open_plain(path) as file:
        try:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
        except OSError as error:
            raise CheckpointError(
                f"{path}: cannot be read to its end: {error.strerror}; its disk may fail; copy the"
                " folder to another one"
            ) from None
    return digest.hexdigest()


def list_output_files(folder: Path) -> list[str]:
    """Names of everything in an output but folders and its ``timberkit.json``, sorted.

    Relative, with forward slashes. Links are listed, not followed, so that an extra one shows.
    Raises CheckpointError when the folder, or one in it, cannot be listed.
    """
    names = []
    for parent, folders, files in os.walk(folder, onerror=_refuse_folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        names += [Path(parent, name).relative_to(folder).as_posix() for name in files + links]
    return sorted(name for name in names if name != MANIFEST_NAME)


def _open_plain(path: Path) -> BinaryIO:
    try:
        # Non-blocking, because opening a named pipe would otherwise wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read: {error.strerror}; this is not a finished output of timberkit,"
            " or a file is missing from it"
        ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path}: found no plain file; replace it by the file itself")
    return os.fdopen(descriptor, "rb")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _refuse_folder(error: OSError) -> None:
    raise CheckpointError(
        f"{error.filename}: the folder cannot be listed: {error.strerror}; look at the path and"
        " the permissions"
    )
