"""``timberkit verify``: an output held against its manifest, its sources and the oracle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from timberkit.cli_options import (
    Address,
    AllowPickle,
    Dequantise,
    ExecutorName,
    Json,
    Quiet,
    print_json,
    stoppable,
)
from timberkit.errors import (
    EXIT_CHECK_FAILED,
)

if TYPE_CHECKING:
    pass


@stoppable
def verify(
    output: Annotated[Path, typer.Argument(help="An output of refine.")],
    base: Annotated[str | None, typer.Option(help="Where Base is now [from the manifest].")] = None,
    instruct: Annotated[str | None, typer.Option(help="Where Instruct is now [likewise].")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Recompute every matrix, not a sample.")
    ] = False,
    sample: Annotated[int, typer.Option(min=0, help="Matrices to recompute.")] = 8,
    seed: Annotated[int, typer.Option(help="Which sample.")] = 0,
    without_sources: Annotated[
        bool, typer.Option("--without-sources", help="Check hashes and structure only.")
    ] = False,
    allow_pickle: AllowPickle = False,
    dequantise: Dequantise = False,
    executor: ExecutorName = "local",
    address: Address = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check an output: hashes, copies, structure, and a sample of matrices by a full SVD.

    \b
    timberkit verify OUT
    timberkit verify OUT --all --base /models/base --instruct /models/instruct
    """
    from timberkit import terminal
    from timberkit.engine.verify import verify as verify_output

    console = terminal.results(quiet=quiet or as_json)
    report = verify_output(
        output, base=base, instruct=instruct, every=every, sample=sample, seed=seed,
        sources=not without_sources, allow_pickle=allow_pickle, dequantise=dequantise,
        on_check=lambda check: terminal.show_check(console, check),
        executor=executor, address=address,
    )  # fmt: skip
    if as_json:
        print_json({"passed": report.passed, "checks": [asdict(check) for check in report.checks]})
    if not report.passed:
        raise typer.Exit(EXIT_CHECK_FAILED)
