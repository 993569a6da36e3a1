"""Before anything is asked: which problems, which prompts, which sampling, how many requests.

    plan = plan_evaluation(recipe)
    plan.units[0].provisional.settings["sampling"]

Reads the benchmarks' files and looks at the models (``backends.describe``); opens none of them and
writes nothing. A benchmark that this machine cannot judge or read is in the plan with the reason,
for ``--dry-run`` to show; a run refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from timberkit.errors import TimberkitError, UsageError
from timberkit.evaluation.backends import describe
from timberkit.evaluation.grading import Graders
from timberkit.evaluation.models import ModelSource, parse_models
from timberkit.evaluation.sampling import Sampling, resolve_sampling
from timberkit.evaluation.task import Loaded, Problem, Task
from timberkit.evaluation.tasks import make_task
from timberkit.evaluation.units import GRADING_VERSION, Unit, name_with_temperature, unit_stem
from timberkit.evaluation_recipe import EvaluationRecipe, TaskChoice

NOT_KNOWN_YET = ("model",)
"""Settings that only the opened model tells."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A benchmark with its problems. ``asked``: keys of those that are asked, in order.

    ``options``: of ``make_task``. ``not_ready``: why it cannot be run here, without problems.
    """

    task: Task
    loaded: Loaded
    asked: tuple[str, ...]
    options: tuple[str, ...] = ()
    not_ready: TimberkitError | None = None

    @property
    def problems(self) -> dict[str, Problem]:
        """All problems by their keys."""
        return {problem.key: problem for problem in self.loaded.problems}


@dataclass(frozen=True, slots=True)
class PlannedUnit:
    """A unit before its model is open. ``provisional`` lacks the settings ``NOT_KNOWN_YET``."""

    source: ModelSource
    task: PlannedTask
    sampling: Sampling
    raw: bool
    provisional: Unit

    def with_model(self, fingerprint: Mapping[str, Any]) -> Unit:
        """The unit, once the model that answers is known."""
        settings = {**self.provisional.settings, "model": dict(fingerprint)}
        return replace(self.provisional, settings=settings)


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """All units, model by model."""

    recipe: EvaluationRecipe
    sources: tuple[ModelSource, ...]
    tasks: tuple[PlannedTask, ...]
    units: tuple[PlannedUnit, ...]

    def of_model(self, source: ModelSource) -> list[PlannedUnit]:
        """The units that one model answers."""
        return [unit for unit in self.units if unit.source is source]

    @property
    def notices(self) -> list[str]:
        """What a reader of the results should hear about the data."""
        return [notice for task in self.tasks for notice in task.loaded.notices]

    def refuse_unready(self) -> None:
        """Raise what keeps a benchmark from being run here, if anything does."""
        for task in self.tasks:
            if task.not_ready is not None:
                raise task.not_ready


def plan_evaluation(recipe: EvaluationRecipe, *, check_graders: bool = False) -> EvaluationPlan:
    """Work out every unit of a recipe.

    ``check_graders``: also start each benchmark's grader once, about a second each, to see whether
    it would work. Raises UsageError for models, settings or problems that do not exist or go
    together, SourceError for a model that cannot be found.
    """
    sources = parse_models(recipe.models)
    unknown = set(recipe.raw_models) - {source.name for source in sources}
    if unknown:
        raise UsageError(
            f"--raw {sorted(unknown)[0]}: no model of this name; there are"
            f" {', '.join(source.name for source in sources)}"
        )
    tasks = tuple(_planned_task(recipe, choice, check_graders) for choice in recipe.tasks)
    names = [(task.task.name, task.task.setting) for task in tasks]
    twice = sorted({name for name, setting in names if names.count((name, setting)) > 1})
    if twice:
        raise UsageError(f"task {twice[0]}: given more than once with the same setting")
    _refuse_unknown_problems(recipe, tasks)
    units = [unit for source in sources for unit in _units_of(recipe, source, tasks)]
    return EvaluationPlan(recipe, sources, tasks, tuple(units))


def _planned_task(recipe: EvaluationRecipe, choice: TaskChoice, check: bool) -> PlannedTask:
    options = ("unsandboxed",) if recipe.unsandboxed and choice.name == "humaneval" else ()
    task = make_task(choice.name, choice.setting, **dict.fromkeys(options, True))
    try:
        loaded = task.load(choice.data, shots=choice.shots)
        if check:
            with Graders(task.name, task.setting, options=options):
                pass
    except TimberkitError as error:
        return PlannedTask(task, Loaded(()), (), options, error)
    keys = [problem.key for problem in loaded.problems]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UsageError(f"{task.name}: two problems have the key {twice!r}; give another file")
    if recipe.problems:
        wanted = set(recipe.problems)
        asked = tuple(key for key in keys if key in wanted)
    else:
        asked = tuple(keys[: recipe.limit])
    return PlannedTask(task, loaded, asked, options)


def _refuse_unknown_problems(recipe: EvaluationRecipe, tasks: tuple[PlannedTask, ...]) -> None:
    ready = [task for task in tasks if task.not_ready is None]
    if not recipe.problems or len(ready) < len(tasks):
        return
    there = {key for task in ready for key in task.asked}
    missing = [key for key in recipe.problems if key not in there]
    if missing:
        known = next((problem.key for problem in ready[0].loaded.problems), "none")
        raise UsageError(
            f"--problems: none of the tasks has {missing[0]!r}; its keys look like {known!r}"
        )
    for task in ready:
        if not task.asked:
            raise UsageError(f"--problems: {task.task.name} has none of them; leave the task out")


def _units_of(
    recipe: EvaluationRecipe, source: ModelSource, tasks: tuple[PlannedTask, ...]
) -> list[PlannedUnit]:
    facts = describe(source)
    raw = recipe.prompt == "raw" or source.name in recipe.raw_models
    temperatures: tuple[float | None, ...] = recipe.temperatures or (None,)
    units = []
    for task in tasks:
        for temperature in temperatures:
            given = recipe.given_sampling(temperature)
            if raw:
                given.pop("chat_template_kwargs", None)
                given["stops"] = task.task.stops
            sampling = resolve_sampling(
                facts,
                preset_name=recipe.preset,
                thinking=None if raw else recipe.thinking,
                raw=raw,
                given=given,
            )
            units.append(_unit(recipe, source, task, sampling, raw, temperature or 0.0))
    return units


def _unit(
    recipe: EvaluationRecipe,
    source: ModelSource,
    planned: PlannedTask,
    sampling: Sampling,
    raw: bool,
    temperature: float,
) -> PlannedUnit:
    task = planned.task
    settings = {
        "data": dict(planned.loaded.sha256),
        "sampling": sampling.as_json(),
        "seed": recipe.seed,
        "prompt": "raw" if raw else "chat",
        "grading": GRADING_VERSION,
    }
    unit = Unit(
        model=name_with_temperature(source.name, temperature, swept=recipe.is_swept),
        folder=source.name,
        task=task.name,
        setting=task.setting,
        stem=unit_stem(task.name, task.setting, temperature, swept=recipe.is_swept),
        settings=settings,
    )
    return PlannedUnit(source, planned, sampling, raw, unit)
