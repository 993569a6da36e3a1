"""Options that several commands share, and what every command does at its edges."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from timberkit.config import (
    METHODS,
    PARAMETERS,
    Origin,
    RefineRecipe,
    build_recipe,
    read_recipe,
)
from timberkit.errors import InterruptedRunError, RecipeError, UsageError

if TYPE_CHECKING:
    from timberkit.pairs import Pair

EXIT_CODES = (
    "Exit codes: 0 done, 1 a check failed, 2 usage, 3 bad input,"
    " 4 interrupted (the same command continues)."
)

Base = Annotated[
    str | None, typer.Argument(help="Base: a folder, or a hub id such as org/name[@revision].")
]
Instruct = Annotated[str | None, typer.Argument(help="Instruct: a folder or hub id, likewise.")]
PairName = Annotated[
    str | None,
    typer.Option(
        "--pair",
        help="A ready-made pair in place of BASE and INSTRUCT: timberkit pairs lists them.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="Recipe: a YAML file, or a timberkit.json. Flags override it."),
]
Method = Annotated[
    str | None,
    typer.Option(
        help=f"One of {', '.join(METHODS)} [timber]; for parameters without a flag use --variant."
    ),
]
Lam = Annotated[float | None, typer.Option(help="Gain of the tail, in [0, 1] (timber) [0.2].")]
Mu = Annotated[float | None, typer.Option(help="Weight of Instruct, in [0, 1] (merge).")]
Ratio = Annotated[float | None, typer.Option(help="Share of directions kept, in (0, 1].")]
Energy = Annotated[float | None, typer.Option(help="Share of energy kept, in (0, 1].")]
Variants = Annotated[
    list[str] | None,
    typer.Option(
        "--variant",
        help="Method and its parameters, such as timber:lam=0.2, timber-l, merge:mu=0.8,"
        " leading:count=8,gain=0.5, within:families=attention,of=timber or noise:of=timber"
        " (docs/methods.md has them all); several give a folder each.",
    ),
]
Families = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated: attention, ffn, expert, ssm, router, embedding, head, vision,"
        " all-linear, or authors (all that the paper's code treats) [attention,ffn,expert,ssm]."
    ),
]
Layers = Annotated[str | None, typer.Option(help="Only these layers, such as 4-20,25.")]
Include = Annotated[
    list[str] | None, typer.Option(help="Only tensors whose name fits, such as '*.q_proj.*'.")
]
Exclude = Annotated[list[str] | None, typer.Option(help="No tensor whose name fits.")]
Fused = Annotated[
    str | None,
    typer.Option(help="Projections stored as one weight (qkv, gate_up): split or whole [split]."),
]
Dtype = Annotated[str | None, typer.Option(help="Output dtype: bfloat16, float16, float32 [own].")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N (not timed yet) [cpu].")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes [what pays off].")]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle", help="Read pytorch_model*.bin too (no code runs), by way of a cache."
    ),
]
AsAdapter = Annotated[
    bool | None,
    typer.Option(
        "--as-adapter",
        help="Where INSTRUCT is a LoRA adapter: write an adapter of its rank, not a merged model.",
    ),
]
Dequantise = Annotated[
    bool,
    typer.Option(
        "--dequantise",
        help="Turn FP8 and compressed-tensors weights into BF16, likewise (extra quantized); what"
        " rounding lost does not come back.",
    ),
]
ExecutorName = Annotated[
    str, typer.Option("--executor", help="local, or ray: a cluster's machines (docs/cluster.md).")
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Head of the Ray cluster [RAY_ADDRESS, or this machine's]."),
]
Json = Annotated[bool, typer.Option("--json", help="Result as one JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing but errors.")]


Parameters = ParamSpec("Parameters")


def stoppable(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Ctrl-C and SIGTERM before a run has begun: the documented exit code all the same."""

    @wraps(command)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise InterruptedRunError("stopped; the same command starts again") from None

    return run


def split_names(names: str | None) -> list[str] | None:
    """Names of a comma-separated list."""
    return None if names is None else [name.strip() for name in names.split(",")]


def chosen_pair(name: str | None, base: str | None, instruct: str | None) -> Pair | None:
    """The pair that ``--pair`` names, None without it.

    Raises UsageError for an unknown name, and where BASE or INSTRUCT is given as well.
    """
    if name is None:
        return None
    given = [
        f"{word} ({value})" for word, value in (("BASE", base), ("INSTRUCT", instruct)) if value
    ]
    if given:
        raise UsageError(
            f"--pair {name} and {' and '.join(given)}: expected one of the two; a pair names both"
            " models: leave out --pair, or the models"
        )
    from timberkit.pairs import find_pair

    return find_pair(name)


def fields_of(config: Path | None) -> tuple[dict[str, Any], Origin]:
    """The fields of ``--config`` and where they stand, or none; raises as ``read_recipe``."""
    return ({}, Origin()) if config is None else read_recipe(config)


def merged(fields: dict[str, Any], given: dict[str, Any], *, command: str) -> dict[str, Any]:
    """The fields of a recipe's file with the flags given, which override them.

    Raises UsageError where neither names both models. Changes both arguments.
    """
    nested = fields.get("selection")
    for name in ("families", "layers", "include", "exclude", "fused"):
        if name in given and isinstance(nested, dict):
            nested[name] = given.pop(name)
    fields |= given
    missing = [name.upper() for name in ("base", "instruct") if name not in fields]
    if missing:
        raise UsageError(
            f"{' and '.join(missing)} not given; write: timberkit {command} BASE INSTRUCT, name"
            " them in --config, or choose a --pair"
        )
    return fields


def print_json(value: object) -> None:
    """One JSON value on stdout."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def refine_recipe_of(
    base: str | None,
    instruct: str | None,
    config: Path | None,
    pair: Pair | None,
    *,
    command: str = "refine",
    **flags: Any,
) -> RefineRecipe:
    """One recipe from a file and the flags given, which override the file's fields."""
    if pair is not None:
        base, instruct = pair.base, pair.instruct
    fields, origin = fields_of(config)
    given = {name: value for name, value in flags.items() if value is not None}
    given |= {k: v for k, v in (("base", base), ("instruct", instruct)) if v is not None}
    method = {name for name in PARAMETERS if name in given}
    if method and "variants" in given:
        raise RecipeError(
            "--variant and --method: expected one of the two; write the parameters into the"
            " variant, such as --variant timber:lam=0.5"
        )
    if method or "variants" in given:
        for name in ("variants", *PARAMETERS):
            fields.pop(name, None)
    origin = origin.with_flags(given)
    fields = merged(fields, given, command=command)
    return build_recipe(fields, where=origin)
