"""The folder of a search: what lies in it, who may write to it, and whether it fits.

::

    RUN/
    ├── timberkit.json        the settings, the sources, versions; written before anything is asked
    ├── journal.jsonl         every evaluation, and the opening of the confirm split (``book``)
    ├── factors/              leading directions of every delta (``factors``)
    ├── candidate/            the checkpoint of the candidate that is asked (rollouts only)
    ├── rollouts/             an evaluation run for each candidate (rollouts only)
    ├── results.json          what was found (``findings``), frontier.csv as a table
    ├── tradeoff.svg, .png    the picture (with the extra report)
    ├── winner.yaml           for ``timberkit refine --config``
    └── lock                  held (flock) by the run that is alive
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from timberkit.checkpoint.manifest import MANIFEST_NAME, SCHEMA_VERSION, read_manifest
from timberkit.checkpoint.run_folder import differing_fields, hold_folder, write_json
from timberkit.errors import (
    CheckpointError,
    StageConflictError,
)
from timberkit.home import from_home

KIND = "search"
JOURNAL_NAME = "journal.jsonl"
RESULTS_NAME = "results.json"
TABLE_NAME = "frontier.csv"
WINNER_NAME = "winner.yaml"
PICTURE_STEM = "tradeoff"


@contextmanager
def hold_search(
    path: Path, settings: Mapping[str, Any], sources: Mapping[str, Any]
) -> Iterator[Mapping[str, Any] | None]:
    """Open the folder of a search, made if missing, for this process alone.

    ``settings``: as JSON values; ``sources``: what the files of both models look like. Yields the
    sources that an earlier run of these settings noted, None for a new search. Raises
    StageConflictError where a run is alive in it or has other settings, naming them,
    OutputExistsError where something else stands there, UsageError where nothing can be created.
    """
    with hold_folder(path, kind=KIND, doing="searching into"):
        if (path / MANIFEST_NAME).exists():
            yield _sources_before(path, settings)
            return
        write_json(
            path / MANIFEST_NAME,
            {
                "schema_version": SCHEMA_VERSION,
                "kind": KIND,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "versions": {"timberkit": version("timberkit")},
                "settings": from_home(dict(settings)),
                "sources": dict(sources),
            },
        )
        yield None


def _sources_before(path: Path, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    manifest = read_manifest(path)
    before, sources = manifest.get("settings"), manifest.get("sources")
    there: Mapping[str, Any] = before if isinstance(before, dict) else {}
    differing = differing_fields(from_home(dict(there)), from_home(dict(settings)))
    if differing:
        raise StageConflictError(
            f"{path}: is a search with other settings:\n  "
            + "\n  ".join(differing)
            + "\ngive the settings from before, or another folder"
        )
    if not isinstance(sources, dict) or set(sources) != {"base", "instruct"}:
        raise CheckpointError(
            f"{path / MANIFEST_NAME}: does not say which files were searched; restore the file, or"
            " search in a folder of its own"
        )
    return sources
