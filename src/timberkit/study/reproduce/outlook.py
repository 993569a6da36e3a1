"""What a study will take, before anything is done: steps, disk, requests, memory, hours.

    outlook(recipe, StudyOptions(), Path("study")).steps

For the paper's pairs nothing is fetched: names and shapes of their weights are known
(``timberkit.pairs``). Hours of an evaluation hang on how long answers are and how fast a server is,
which nobody knows beforehand: they are those of the assumptions that stand beside them, which may
be given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from timberkit.checkpoint.writer import free_bytes
from timberkit.config import Selection
from timberkit.engine.estimate import Estimate, calibrate, estimate
from timberkit.engine.plan import RefinementPlan, plan_refinement
from timberkit.engine.sources import open_pair
from timberkit.errors import ResourceError, SourceError
from timberkit.pairs import Pair, evaluation_cost, find_pair, planned_pair
from timberkit.pairs.cost import ASSUMED_TOKENS_PER_SECOND, CONCURRENCY
from timberkit.study.reproduce.catalogue import Entry
from timberkit.study.reproduce.making import refinement, written_entries
from timberkit.study.reproduce.protocol import Benchmark, is_sapling
from timberkit.study_recipe import Keep, StudyRecipe

SPARE_BYTES = 256 << 20
"""Room for rollouts' tables, configs and the report."""
ROLLOUT_BYTES = 4
"""Of disk, assumed a token of an answer: its text twice, packed."""
PLAIN_TOKENS, THINKING_TOKENS = 1_000, 8_000
"""Assumed length of an answer with its prompt; a thinking one may have 38,912."""
EXACT_SECONDS = 1.0
"""Of one model on one benchmark of the embedded pair, on one core."""


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What nobody knows beforehand. None for what is assumed here."""

    tokens_per_second: float | None = None
    plain_tokens: int = PLAIN_TOKENS
    thinking_tokens: int = THINKING_TOKENS


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step. ``requests``, ``tokens``: of rollouts; None for what is not known or not needed."""

    step: str
    what: str
    disk_bytes: int
    memory_bytes: int | None = None
    gpu_bytes: int | None = None
    requests: int | None = None
    tokens: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Outlook:
    """All of a study beforehand.

    ``models``: keys by group; ``disk_bytes``: at the worst moment; ``free_bytes``: now.
    ``assumed``: what the hours rest on, in sentences. ``weights``: where shapes come from.
    """

    pair: str
    models: dict[str, list[str]]
    benchmarks: tuple[str, ...]
    steps: tuple[PlannedStep, ...]
    matrices: int
    disk_bytes: int
    free_bytes: int
    assumed: tuple[str, ...]
    weights: str

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


def outlook(
    recipe: StudyRecipe,
    entries: Sequence[Entry],
    benchmarks: Sequence[Benchmark],
    output: Path,
    *,
    keep: Keep,
    workers: int | None = None,
    assumptions: Assumptions | None = None,
) -> Outlook:
    """Plan a study. Nothing is written, and for ready-made pairs nothing is fetched.

    Raises as ``plan`` for two other checkpoints. Some seconds, most of them to measure the machine.
    """
    assumed = assumptions or Assumptions()
    _check_files(recipe)
    pair = find_pair(recipe.pair) if recipe.pair is not None else None
    wanted = written_entries(entries)
    planned = planned_refinement(recipe, wanted)
    needs = estimate(planned, workers=workers, calibration=calibrate())
    one = planned.layout.size_bytes
    models = _models_step(planned, needs, wanted, keep, one)
    asking = [
        _asking_step(each, [e for e in entries if each.is_put_to(e)], recipe, pair, assumed)
        for each in benchmarks
    ]
    steps = (_analysis_step(planned, needs), models, *asking)
    groups: dict[str, list[str]] = {}
    for entry in entries:
        groups.setdefault(entry.model.group, []).append(entry.key)
    return Outlook(
        pair=recipe.pair or f"{recipe.base} and {recipe.instruct}",
        models=groups,
        benchmarks=tuple(each.key for each in benchmarks),
        steps=steps,
        matrices=len(planned.refine_tasks),
        disk_bytes=sum(step.disk_bytes for step in steps) + SPARE_BYTES,
        free_bytes=free_bytes(_existing(output)),
        assumed=() if is_sapling(recipe) else tuple(_assumed(assumed, pair)),
        weights="their known shapes" if pair is not None and pair.on_hub else "their files",
    )


def _check_files(recipe: StudyRecipe) -> None:
    """Raise SourceError for a benchmark's file that is named and not there."""
    for task in recipe.tasks:
        for flag, named in (("--data", task.data), ("--shots", task.shots)):
            if named is None or named.startswith("hf://"):
                continue
            if not Path(named).expanduser().is_file():
                raise SourceError(f"{flag} {task.name}={named}: found no such file")


def planned_refinement(recipe: StudyRecipe, entries: Sequence[Entry]) -> RefinementPlan:
    """The pass that writes some models: from shapes for a ready-made pair, else from the files."""
    refined = refinement(recipe, entries)
    pair = find_pair(recipe.pair) if recipe.pair is not None else None
    if pair is not None and pair.on_hub and recipe.selection == Selection():
        return plan_refinement(*planned_pair(pair), refined)
    opened = open_pair(refined)
    return plan_refinement(opened.base, opened.instruct, opened.recipe)


def check_disk(
    output: Path, recipe: StudyRecipe, entries: Sequence[Entry], *, held_bytes: int = 0
) -> None:
    """Raise ResourceError where models that are to lie there at once do not fit on the disk.

    ``held_bytes``: what an unfinished pass holds already; it counts as room.
    """
    opened = open_pair(refinement(recipe, entries))
    one = plan_refinement(opened.base, opened.instruct, opened.recipe).layout.size_bytes
    needed = one * len(entries) + SPARE_BYTES
    free = free_bytes(_existing(output)) + held_bytes
    if free < needed:
        less = " or keep fewer: --keep best, --keep none" if len(entries) > 1 else ""
        models = f"{len(entries)} models" if len(entries) > 1 else "a model"
        raise ResourceError(
            f"{output}: {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB for {models} of"
            f" {one / 1e9:.1f} GB; free some space, write elsewhere{less}"
        )


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _analysis_step(planned: RefinementPlan, needs: Estimate) -> PlannedStep:
    matrices = len(planned.refine_tasks)
    kept = sum(min(task.rows, task.columns) for task in planned.refine_tasks)
    # Three spectra a weight, values alone, instead of one with vectors: about as long as a pass.
    return PlannedStep(
        "analysis", f"{matrices} matrices measured", 16 * kept,
        needs.memory_per_worker_bytes * needs.workers, seconds=needs.seconds,
    )  # fmt: skip


def _models_step(
    planned: RefinementPlan, needs: Estimate, wanted: Sequence[Entry], keep: Keep, one: int
) -> PlannedStep:
    count = len(wanted)
    seconds = needs.seconds
    if keep == "all":
        what = f"{count} models in one pass"
    else:
        what = f"{count} models one by one, each deleted once it is asked"
        seconds = None if seconds is None else seconds * count
    return PlannedStep(
        "models", what, one * (count if keep == "all" else 1),
        needs.memory_per_worker_bytes * needs.workers, seconds=seconds,
    )  # fmt: skip


def _asking_step(
    benchmark: Benchmark,
    asked: Sequence[Entry],
    recipe: StudyRecipe,
    pair: Pair | None,
    assumed: Assumptions,
) -> PlannedStep:
    task = benchmark.task
    models = f"{len(asked)} models, {task.problems} problems"
    if task.how == "exact":
        return PlannedStep(
            benchmark.key, f"{models}, exact", 0, seconds=EXACT_SECONDS * len(asked)
        )  # fmt: skip
    rollouts = task.rollouts or 1
    requests = len(asked) * task.problems * rollouts
    each = assumed.thinking_tokens if task.thinking else assumed.plain_tokens
    what = f"{models}, {rollouts} rollouts each"
    disk = ROLLOUT_BYTES * requests * each
    if is_sapling(recipe):
        return PlannedStep(benchmark.key, what, 400 * requests, requests=requests)
    if pair is None:
        speed = assumed.tokens_per_second or ASSUMED_TOKENS_PER_SECOND
        return PlannedStep(
            benchmark.key, what, disk, requests=requests, tokens=requests * each,
            seconds=requests * each / speed,
        )  # fmt: skip
    cost = evaluation_cost(pair, requests, each, assumed.tokens_per_second)
    return PlannedStep(
        benchmark.key, what, disk, None, cost.memory_bytes, requests, cost.output_tokens,
        cost.hours * 3600,
    )  # fmt: skip


def _assumed(assumed: Assumptions, pair: Pair | None) -> list[str]:
    said = [
        f"An answer with its prompt has {assumed.plain_tokens:,} tokens, with thinking"
        f" {assumed.thinking_tokens:,}: --tokens, --thinking-tokens."
    ]
    speed = assumed.tokens_per_second or ASSUMED_TOKENS_PER_SECOND
    given = "as given" if assumed.tokens_per_second is not None else "an assumption"
    said.append(
        f"The server writes {speed:,.0f} tokens a second ({given}): --tokens-per-second; hours"
        " follow from it, and are no measurement."
    )
    if pair is not None:
        said.append(
            f"GPU memory: weights and the cache of {CONCURRENCY} answers of that length at once; a"
            " server with less answers fewer at once."
        )
    return said
