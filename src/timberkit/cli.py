"""The command ``timberkit``: flags, exit codes, progress. All else is called from here, not done.

Heavy imports stand inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import signal
import sys
from importlib.metadata import version
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from timberkit.cli_analyze import analyze
from timberkit.cli_clean import clean
from timberkit.cli_compare import compare
from timberkit.cli_demo import demo
from timberkit.cli_diff import diff
from timberkit.cli_eval import evaluate
from timberkit.cli_export import export
from timberkit.cli_options import (
    EXIT_CODES,
)
from timberkit.cli_pairs import pairs
from timberkit.cli_push import push
from timberkit.cli_refine import plan, refine
from timberkit.cli_report import report
from timberkit.cli_reproduce import reproduce
from timberkit.cli_search import search
from timberkit.cli_verify import verify
from timberkit.engine.fork_server import serve_command
from timberkit.errors import (
    EXIT_INTERRUPTED,
    TimberkitError,
)
from timberkit.safe_console import spelled_out

if TYPE_CHECKING:
    pass

app = typer.Typer(
    name="timberkit",
    help="Refine an Instruct model with its Base, without training (Timber, arXiv 2509.23595).\n\n"
    + EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)


app.command(epilog=EXIT_CODES)(refine)
app.command(epilog=EXIT_CODES)(plan)
app.command(epilog=EXIT_CODES)(verify)
app.command(epilog=EXIT_CODES)(clean)
app.command(epilog=EXIT_CODES)(diff)
app.command(epilog=EXIT_CODES)(export)
app.command(epilog=EXIT_CODES)(analyze)
app.command("eval", epilog=EXIT_CODES)(evaluate)
app.command(epilog=EXIT_CODES)(compare)
app.command(epilog=EXIT_CODES)(report)
app.command(epilog=EXIT_CODES)(reproduce)
app.command(epilog=EXIT_CODES)(pairs)
app.command(epilog=EXIT_CODES)(search)
app.command(epilog=EXIT_CODES)(push)
app.command(epilog=EXIT_CODES)(demo)


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"timberkit {version('timberkit')}")
        raise typer.Exit


@app.callback()
def _root(
    _shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Refine an Instruct model with its Base."""


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line and exit with the documented code."""
    signal.signal(signal.SIGTERM, _stop)
    serve_command()
    try:
        app()
    except TimberkitError as error:
        typer.echo(f"error: {spelled_out(str(error))}", err=True)
        sys.exit(error.exit_code)
    except MemoryError:
        typer.echo("error: no memory was left; timberkit plan says what a run takes", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except SystemExit as ended:
        # 130 is typer's code for Ctrl-C before a command has begun.
        sys.exit(EXIT_INTERRUPTED if ended.code == 130 else ended.code)
