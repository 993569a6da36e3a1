"""``timberkit diff``: flags of the command, and what it hands on as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timberkit.cli_options import (
    AllowPickle,
    Exclude,
    Include,
    Json,
    Layers,
    Quiet,
    Workers,
    print_json,
    split_names,
    stoppable,
)
from timberkit.engine.fork_server import start_early
from timberkit.errors import EXIT_CHECK_FAILED

if TYPE_CHECKING:
    from timberkit.engine.diff import DiffReport, TensorDifference
    from timberkit.engine.diff_job import Distance

TOP = 20


@stoppable
def diff(
    a: Annotated[
        str, typer.Argument(metavar="A", help="A folder, or a hub id: org/name[@revision].")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Another, likewise.")],
    tolerance: Annotated[
        str | None,
        typer.Option(
            help="Tensors no further apart count as equal: 2ulp (any element), or a relative size"
            " such as 1e-3 (||A - B|| / ||A||) [none]."
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            min=0, help=f"Tensors shown, largest difference first [{TOP}; all with --json]."
        ),
    ] = None,
    only_names: Annotated[
        bool, typer.Option("--only-names", help="Names, shapes and dtypes; read no values.")
    ] = False,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Leave config, tokenizer and the like alone.")
    ] = False,
    families: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: attention, ffn, expert, router, embedding, head, norm, bias,"
            " vision, convolution, ssm, unknown, all-linear, authors [all]."
        ),
    ] = None,
    layers: Layers = None,
    include: Include = None,
    exclude: Exclude = None,
    workers: Workers = None,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Which tensors of two checkpoints differ, and by how much; exit code 1 if any does.

    Any two: sharded anyhow, of different dtypes, quantised too.

    \b
    timberkit diff org/model refined
    timberkit diff A B --tolerance 1ulp --weights-only
    timberkit diff A B --only-names --json
    """
    start_early(a, workers)
    from timberkit import terminal
    from timberkit.engine.diff import diff as diff_checkpoints
    from timberkit.terminal_diff import COLUMNS, show_diff

    with terminal.progress_bar(shown=not quiet and not as_json) as on_progress:
        report = diff_checkpoints(
            a, b, families=split_names(families), layers=layers, include=include or (),
            exclude=exclude or (), tolerance=tolerance, only_names=only_names,
            weights_only=weights_only, workers=workers, allow_pickle=allow_pickle,
            on_progress=on_progress,
        )  # fmt: skip
    if as_json:
        print_json(diff_fields(report, top))
    else:
        show_diff(
            terminal.results(quiet=quiet, columns=COLUMNS), report, TOP if top is None else top
        )
    if not report.equal:
        raise typer.Exit(EXIT_CHECK_FAILED)


def diff_fields(report: DiffReport, top: int | None = None) -> dict[str, Any]:
    """The report as JSON values; ``top`` of the tensors that differ, all when None."""
    return {
        "a": report.a,
        "b": report.b,
        "equal": report.equal,
        "tolerance": None if report.tolerance is None else asdict(report.tolerance),
        "values_read": report.values_read,
        "tensors": report.verdicts,
        "total": _sizes(report.total),
        "families": {
            name: {
                **dict(
                    zip(("tensors", "tensors_differing"), report.family_counts(name), strict=True)
                ),
                **_sizes(distance),
            }
            for name, distance in report.families.items()
        },
        "differing": [_tensor(tensor) for tensor in report.differing[:top]],
        "files": [asdict(file) for file in report.files],
    }


def _tensor(tensor: TensorDifference) -> dict[str, Any]:
    sizes = None if tensor.distance is None else _sizes(tensor.distance)
    return {**asdict(tensor), "distance": sizes}


def _sizes(distance: Distance) -> dict[str, Any]:
    """JSON has no infinity: None stands for it, and for sizes of what is no number."""
    counts = ("elements", "differing", "other_bits", "not_finite", "measured")
    sizes = {
        "largest": distance.largest,
        "mean": distance.mean,
        "norm": distance.norm,
        "norm_a": distance.norm_a,
        "relative": distance.relative,
        "ulps": distance.ulps,
        "over_one_ulp": distance.over_one_ulp,
    }
    told = {
        name: size if distance.numeric and math.isfinite(size) else None
        for name, size in sizes.items()
    }
    return {**{name: getattr(distance, name) for name in counts}, **told}
