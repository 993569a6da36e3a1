"""Several Instruct models of one Base in one run, with a folder for each in one output.

    result = refine_recipes(named_recipes(recipe, ["org/a", "mine=/models/b"]), Path("OUT"))
    result.models["a"].folders          # variant -> OUT/a, or OUT/a/<variant>

Every folder is what a run with that Instruct alone writes, run facts aside. Base is read once.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from timberkit.config import RefineRecipe, Source
from timberkit.engine.adapter_plan import plan_pair
from timberkit.engine.cluster import Cluster
from timberkit.engine.pair_runs import PairRun
from timberkit.engine.progress import ProgressCallback
from timberkit.engine.run import RefineResult, check_device, result_of, run_pairs
from timberkit.engine.sources import ANY, PLAIN, Opening, open_pair
from timberkit.errors import TimberkitError, UsageError

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})=(.+)", re.ASCII | re.DOTALL)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class SeveralResult:
    """What a run with several Instruct models wrote: one result for each, by its folder's name."""

    output: Path
    models: dict[str, RefineResult]
    resumed: bool
    seconds: float


def named_sources(given: Sequence[str | Path | Source]) -> dict[str, Source]:
    """Instruct models by the names of their folders, in order.

    Text is ``NAME=MODEL``, or a model alone, whose last part is the name: of the folder, or of the
    hub id. Characters other than letters, digits and ``._-`` become ``-``. A folder whose own name
    holds ``=`` is a model.

    Raises UsageError without a model, for names that are equal but for case, and for one of which
    nothing is left.

    >>> list(named_sources(["org/model@main", "mine=org/other"]))
    ['model', 'mine']
    """
    found: dict[str, Source] = {}
    if not given:
        raise UsageError("no Instruct model named, expected at least one")
    for item in given:
        name, source = _named(item)
        clash = next((other for other in found if other.casefold() == name.casefold()), None)
        if clash is not None:
            raise UsageError(
                f"{found[clash]} and {source}: both would be written to the folder {name!r},"
                " expected a folder for each; name them, such as: --instruct"
                f" first={found[clash]} --instruct second={source}"
            )
        found[name] = source
    return found


def is_named(text: str) -> bool:
    """Whether text is ``NAME=MODEL``, and not a folder of that name.

    >>> is_named("mine=org/model"), is_named("org/model")
    (True, False)
    """
    return _NAMED.fullmatch(text) is not None and not os.path.isdir(os.path.expanduser(text))


def named_recipes(
    recipe: RefineRecipe, instructs: Sequence[str | Path | Source]
) -> dict[str, RefineRecipe]:
    """The recipe once for each Instruct model, by name; raises as ``named_sources``."""
    return {
        name: recipe.model_copy(update={"instruct": source})
        for name, source in named_sources(instructs).items()
    }


def plan_pairs(recipes: Mapping[str, RefineRecipe], opening: Opening = PLAIN) -> list[PairRun]:
    """Open and plan every pair; nothing is written.

    Raises as ``open_pair`` and ``plan_refinement``, naming the Instruct model that does not fit.
    """
    runs = []
    for name, recipe in recipes.items():
        try:
            pair = open_pair(recipe, opening)
            runs.append(PairRun(name, pair, plan_pair(pair)))
        except TimberkitError as error:
            error.args = (f"Instruct model {name!r} ({recipe.instruct}): {error}",)
            raise
    return runs


def refine_recipes(
    recipes: Mapping[str, RefineRecipe],
    output: Path,
    *,
    workers: int | None = 1,
    overwrite: bool = False,
    opening: Opening = ANY,
    on_progress: ProgressCallback | None = None,
    cluster: Cluster | None = None,
) -> SeveralResult:
    """``refine_recipe`` for recipes that differ in nothing but Instruct, into ``output/<name>``.

    All folders appear together or none does; memory for each worker is that of the pair that needs
    most. Raises as ``plan_pairs`` and ``refine``.
    """
    started = time.perf_counter()
    if cluster is None:
        check_device(next(iter(recipes.values())).device)
    runs = plan_pairs(recipes, replace(opening, on_progress=on_progress))
    resumed = run_pairs(
        runs,
        output,
        description={
            "recipes": {run.name: run.pair.recipe.model_dump(mode="json") for run in runs}
        },
        workers=workers,
        overwrite=overwrite,
        on_progress=on_progress,
        cluster=cluster,
    )
    seconds = time.perf_counter() - started
    return SeveralResult(
        output=output,
        models={run.name: result_of(run, output, resumed=resumed, seconds=seconds) for run in runs},
        resumed=resumed,
        seconds=seconds,
    )


def _named(item: str | Path | Source) -> tuple[str, Source]:
    if isinstance(item, str):
        given = _NAMED.fullmatch(item)
        if given is not None and is_named(item):
            return given[1], Source.parse(given[2])
        source = Source.parse(item)
    else:
        source = Source(location=str(item)) if isinstance(item, Path) else item
    # Not Path: it raises for an unknown ~user and for a name that is too long.
    place = os.path.expanduser(source.location)
    last = os.path.basename(os.path.realpath(place) if os.path.isdir(place) else place)
    name = _UNSAFE.sub("-", last).lstrip(".-")[:100]
    if not name:
        raise UsageError(
            f"{source}: gives no name for a folder; name it, such as: --instruct first={source}"
        )
    return name, source
