"""``timberkit report``: several analyses on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from timberkit.cli_options import Json, Quiet, print_json, stoppable


@stoppable
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders that analyze has written.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The page to write, one HTML file.")
    ] = Path("report.html"),
    overwrite: Annotated[bool, typer.Option(help="Replace a page that is there.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show analyses side by side on one page, which opens without a network.

    \b
    timberkit report qwen3-0.6b qwen3-8b -o compared.html
    """
    from timberkit import terminal
    from timberkit.study.pictures import write_report

    page = write_report(folders, output, overwrite=overwrite)
    if as_json:
        print_json({"page": str(page), "size_bytes": page.stat().st_size})
    else:
        size = terminal.size(page.stat().st_size)
        terminal.results(quiet=quiet).print(f"{page}: {len(folders)} analyses, {size}.")
