"""``timberkit push``: flags of the command, and what it hands on as JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timberkit.cli_options import Json, Quiet, print_json, stoppable

if TYPE_CHECKING:
    from timberkit.engine.push import PushPlan, PushResult


@stoppable
def push(
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="An output of refine, one variant.")
    ],
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository on the Hub.")],
    public: Annotated[bool, typer.Option("--public", help="Visible to all [private].")] = False,
    branch: Annotated[
        str, typer.Option("--branch", "--revision", help="Branch; made where it is missing.")
    ] = "main",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace what the branch holds; its history keeps the old files."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check and list; contact nobody.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Upload an output to the Hub, private unless told otherwise, after checking its hashes.

    Log in with 'hf auth login', or set HF_TOKEN. Run again what was interrupted.

    \b
    timberkit push OUT org/name --dry-run
    timberkit push OUT org/name
    timberkit push OUT/timber_lam=0.2 org/name --branch lam-0.2 --public
    """
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from timberkit import terminal
    from timberkit.engine import push as pushing
    from timberkit.terminal_push import show_plan, show_result

    console = terminal.results(quiet=quiet or as_json)
    plan = pushing.plan_push(output, repo, branch=branch, private=not public)
    show_plan(console, plan)
    if quiet or as_json:
        disable_progress_bars()
    result = None if dry_run else pushing.push(plan, overwrite=overwrite)
    if as_json:
        print_json(push_fields(plan, result))
    elif result is not None:
        show_result(console, result)


def push_fields(plan: PushPlan, result: PushResult | None) -> dict[str, Any]:
    """Plan and result as JSON values; ``result`` is None after a dry run."""
    return {
        "repo": plan.repo,
        "branch": plan.branch,
        "private": plan.private,
        "size_bytes": plan.size_bytes,
        "files": [asdict(file) for file in plan.files],
        "card": dict(plan.card),
        "notes": plan.notes,
        "result": None if result is None else asdict(result),
    }
