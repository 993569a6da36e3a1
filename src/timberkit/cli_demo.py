"""``timberkit demo``: a short study of the embedded pair."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from timberkit.cli_options import (
    Json,
    print_json,
    stoppable,
)
from timberkit.errors import (
    EXIT_CHECK_FAILED,
)

if TYPE_CHECKING:
    pass


@stoppable
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write; replaced if it is a demo.")
    ] = Path("demo"),
    as_json: Json = False,
) -> None:
    """A short study of the embedded pair: edits, controls, exact Pass@k, one page; all verified.

    \b
    timberkit demo
    """
    from timberkit import terminal
    from timberkit.study.demo import run_demo, show_demo
    from timberkit.terminal_reproduce import study_progress

    with study_progress(shown=not as_json) as on_progress:
        outcome = run_demo(output, on_progress=on_progress)
    if as_json:
        print_json(asdict(outcome))
    else:
        show_demo(terminal.results(), outcome)
    if not outcome.verified:
        raise typer.Exit(EXIT_CHECK_FAILED)
