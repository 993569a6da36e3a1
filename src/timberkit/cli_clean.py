"""``timberkit clean``: remove unfinished runs, and converted models from the cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from timberkit.cli_options import Json, print_json, stoppable
from timberkit.errors import UsageError


@stoppable
def clean(
    folder: Annotated[Path | None, typer.Argument(help="Where outputs stand [.].")] = None,
    cache: Annotated[
        bool, typer.Option("--cache", help="Remove converted models from the cache instead.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List, remove nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove unfinished runs that nobody will continue. Finished outputs are left alone.

    With --cache, the models that were converted from pickles; they are made again where needed.

    \b
    timberkit clean . --dry-run
    timberkit clean --cache --dry-run
    """
    from timberkit import terminal

    if cache and folder is not None:
        raise UsageError(f"{folder}: given beside --cache, expected one of the two")
    place = Path() if folder is None else folder
    console = terminal.results(quiet=as_json)
    listed = []
    for line in _converted(dry_run) if cache else _stages(place, dry_run):
        listed.append(line)
        path, size, state = line.values()
        console.print(f"{path}: {terminal.size(size)}, {state}", markup=False)
    if as_json:
        print_json(listed)
    elif not listed:
        console.print("The cache is empty." if cache else f"{place}: no unfinished runs.")


def _stages(folder: Path, dry_run: bool) -> Iterator[dict[str, Any]]:
    from timberkit.checkpoint.stage import find_stages, remove_stage

    for stage in find_stages(folder):
        removed = not dry_run and not stage.alive
        if removed:
            remove_stage(stage.path)
        state = "still running" if stage.alive else "removed" if removed else "unfinished"
        yield {"stage": str(stage.path), "size_bytes": stage.size_bytes, "state": state}


def _converted(dry_run: bool) -> Iterator[dict[str, Any]]:
    from timberkit.checkpoint.conversion import find_entries, remove_entry

    for entry in find_entries():
        removed = not dry_run and remove_entry(entry)
        state = "removed" if removed else "converted" if dry_run else "in use"
        yield {"model": str(entry.path), "size_bytes": entry.size_bytes, "state": state}
