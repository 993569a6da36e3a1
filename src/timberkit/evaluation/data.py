"""From a name to rows: benchmark files from this disk or from the Hub, known by their SHA-256.

Every benchmark is read in the public format its authors chose: JSON lines (also gzipped), CSV,
Parquet. A local file that is none of the known copies is read all the same, but a notice says so,
for its results may not be comparable. No benchmark is shipped here.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from timberkit.errors import SourceError

HUB = "hf://"

KNOWN: Mapping[str, str] = {
    "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132": "MATH-500, 500 rows",
    "3371949f33dd702d04b43fddd7d53a028de0aaca0e76abb1b875a050297b3aa4": "MATH test, 5,000 rows",
    "af2b8bd2aa911b6333ad0df32f3ca05c7ae8ed10f1731f4372c8ae26990bf7ac": "AIME 2024, 30 rows",
    "67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49": "IFEval, 541 rows",
    "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef": "HumanEval, 164 rows",
    "50b637899e4263c2bc456c2dc726c95d2c8cd8e2a552ea5bd7719ce3cb03fe5b": (
        "HellaSwag validation as text, 10,042 items"
    ),
}
"""SHA-256 of files that were read and graded in this program's own tests."""

_FAILURES: tuple[type[BaseException], ...] = (HfHubHTTPError, OSError, RuntimeError)


@dataclass(frozen=True, slots=True)
class DataFile:
    """A benchmark file on this disk. ``known`` says which known copy it is, None for no such."""

    path: Path
    sha256: str
    known: str | None
    from_hub: bool = False

    @property
    def notices(self) -> tuple[str, ...]:
        """What a reader of the results should hear about the file."""
        if self.known is not None or self.from_hub:
            return ()
        return (
            f"{self.path.name}: SHA-256 {self.sha256[:16]}… is not that of a file known to"
            " timberkit; results may not be comparable with those from the usual copy",
        )


def locate(task: str, source: str) -> DataFile:
    """Find a benchmark file, fetching it from the Hub where necessary.

    ``source``: a local path, or ``hf://org/name/path/in/it`` of a data set, with ``@revision``
    after the name. Raises SourceError for one that is missing, gated, or out of reach. Reads the
    file once for its digest.
    """
    from_hub = source.startswith(HUB)
    path = Path(_fetch(task, source[len(HUB) :])) if from_hub else Path(source)
    try:
        digest = hashlib.sha256(path.expanduser().read_bytes()).hexdigest()
    except OSError as error:
        raise SourceError(
            f"{task}: {source} cannot be read ({error.strerror}); check the path, or leave it out"
            " to load the benchmark from the Hub"
        ) from None
    return DataFile(path.expanduser(), digest, KNOWN.get(digest), from_hub)


def rows(task: str, file: DataFile, required: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a JSON-lines (``.gz`` or not), CSV or Parquet file; at least one.

    ``required``: columns that every row must have. Raises SourceError, naming the row, for what
    is not so.
    """
    name = file.path.name
    try:
        found = _read(file.path)
    except (OSError, ValueError, csv.Error, EOFError, RecursionError, zlib.error) as error:
        raise _unreadable(task, name, error) from None
    if not found:
        raise SourceError(f"{task}: {name} holds no rows; give the benchmark's public file")
    for number, row in enumerate(found, start=1):
        missing = [key for key in required if not isinstance(row, dict) or key not in row]
        if missing:
            raise SourceError(
                f"{task}: {name}, row {number}: no {', '.join(missing)}; expected the benchmark's"
                f" public format with {', '.join(required)}; is it the file of another benchmark?"
            )
    return found


def wrong_row(task: str, file: DataFile, number: int, found: str, expected: str) -> SourceError:
    """The error for a row (counted from 1) with a value that cannot be."""
    return SourceError(
        f"{task}: {file.path.name}, row {number}: found {found[:200]}, expected {expected}; give"
        " the benchmark's public file"
    )


def _unreadable(task: str, name: str, error: Exception) -> SourceError:
    return SourceError(
        f"{task}: {name} cannot be read as rows ({type(error).__name__}: {str(error)[:200]});"
        " expected JSON lines (.jsonl, .jsonl.gz), .csv or .parquet"
    )


def _read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        from pyarrow import parquet

        found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return found
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    text = content.decode("utf-8-sig")
    if path.suffix == ".csv":
        return [dict(row) for row in csv.DictReader(text.splitlines(keepends=True))]
    # Not splitlines: texts may hold other line separators, such as U+2028.
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _fetch(task: str, address: str) -> str:
    """A file of a data set on the Hub, in its cache."""
    parts = address.split("/", 2)
    if len(parts) < 3:
        raise SourceError(
            f"{task}: {HUB}{address}: expected {HUB}org/name/path/of/the/file; a local file is"
            " given by its plain path"
        )
    name, _, revision = parts[1].partition("@")
    repository = f"{parts[0]}/{name}"
    page = f"https://huggingface.co/datasets/{repository}"
    try:
        return hf_hub_download(repository, parts[2], repo_type="dataset", revision=revision or None)
    except GatedRepoError:
        raise SourceError(
            f"{task}: {repository} is gated: its authors ask that you accept their terms; do so on"
            f" {page}, log in with 'hf auth login', and run the command again, or give your own"
            f" copy of the file: --data {task}=FILE"
        ) from None
    except LocalEntryNotFoundError as error:
        raise _unreachable(task, repository, error) from None
    except (RepositoryNotFoundError, EntryNotFoundError, HFValidationError):
        raise SourceError(
            f"{task}: no data set {repository} with a file {parts[2]} on the Hub, or no access to"
            f" it (log in with 'hf auth login'); see {page}, or give a local file: --data"
            f" {task}=FILE"
        ) from None
    except _FAILURES as error:
        raise _unreachable(task, repository, error) from None


def _unreachable(task: str, repository: str, error: BaseException) -> SourceError:
    return SourceError(
        f"{task}: {repository} cannot be fetched ({type(error).__name__}) and is not in the Hub's"
        f" cache; connect (unset HF_HUB_OFFLINE if it is set), or give a local file: --data"
        f" {task}=FILE"
    )
