"""``timberkit export``: a recipe as a file of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from timberkit.cli_options import (
    Base,
    Config,
    Dtype,
    Exclude,
    Families,
    Include,
    Instruct,
    Layers,
    Method,
    Mu,
    PairName,
    Variants,
    chosen_pair,
    refine_recipe_of,
    split_names,
    stoppable,
)
from timberkit.errors import UsageError


@stoppable
def export(
    base: Base = None,
    instruct: Instruct = None,
    mergekit: Annotated[
        bool, typer.Option("--mergekit", help="As a configuration of mergekit.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; must not exist [stdout].")
    ] = None,
    pair: PairName = None,
    config: Config = None,
    method: Method = None,
    mu: Mu = None,
    variant: Variants = None,
    families: Families = None,
    layers: Layers = None,
    include: Include = None,
    exclude: Exclude = None,
    dtype: Dtype = None,
) -> None:
    """Write a recipe as another program's, where that has an equivalent; reads names and shapes.

    mergekit has one for gains that are the same for all singular directions of a weight: merge,
    matched-merge of it, steps without edges, ramp of a merge.

    \b
    timberkit export BASE INSTRUCT --mergekit --method merge --mu 0.8
    timberkit export --config OUT/timberkit.json --mergekit -o mergekit.yaml
    """
    if not mergekit:
        raise UsageError("no format named; add: --mergekit")
    recipe = refine_recipe_of(
        base, instruct, config, chosen_pair(pair, base, instruct), command="export",
        method=method, mu=mu, variants=variant or None, families=split_names(families),
        layers=layers, include=include or None, exclude=exclude or None, dtype=dtype,
    )  # fmt: skip
    from timberkit.engine.mergekit_export import mergekit_config
    from timberkit.engine.sources import open_pair

    text = yaml.safe_dump(mergekit_config(open_pair(recipe)), sort_keys=False, allow_unicode=True)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{output}: is there already; name another file, or remove it") from None
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror}") from None
