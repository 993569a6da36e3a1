"""Evaluate from end to end: plan, ask what is lacking, judge, keep, sum up.

    result = evaluate(build_evaluation_recipe({...}), Path("run"))
    result.summary["units"][0]["mean"]

A run folder is continued by asking for it again: rollouts that are there stay, those that are
lacking are asked, requests that failed for good are sent again. Models are open one at a time.
inspect_ai supplies the clients of models (with their retries) and the logs; what its own
``eval_set`` writes to the home folder or reads from ``.env`` files and the environment has no part
in this.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from timberkit.checkpoint.stage_folder import read_note
from timberkit.errors import InterruptedRunError, MissingExtraError
from timberkit.evaluation.asking import Asking, OpenUnit
from timberkit.evaluation.backends import Backend, BackendOptions, OpenModel, open_model
from timberkit.evaluation.grading import Graders
from timberkit.evaluation.interruption import (
    is_in_event_loop,
    own_environment,
    run_until_stopped,
)
from timberkit.evaluation.models import ModelSource
from timberkit.evaluation.planning import (
    NOT_KNOWN_YET,
    EvaluationPlan,
    PlannedTask,
    PlannedUnit,
    plan_evaluation,
)
from timberkit.evaluation.progress import ProgressCallback, ProgressMeter, UnitProgress
from timberkit.evaluation.results import log_sizes, write_results
from timberkit.evaluation.run_files import SUMMARY_NAME, RunFolder, hold_run
from timberkit.evaluation.store import Tally, UnitStore
from timberkit.evaluation.units import Unit
from timberkit.evaluation_recipe import EvaluationRecipe
from timberkit.home import from_home
from timberkit.rollouts import ROLLOUTS_NAME

MOST_GRADE_WORKERS = 8


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How a run is carried out; nothing here changes an answer.

    ``backend``, ``backends``: as for ``open_model``. ``grade_workers``: answers judged at once for
    each benchmark, None for one a core up to 8. ``most_failures``: the share of a unit's requests
    that may fail.
    """

    backend: Backend = "auto"
    backends: BackendOptions = field(default_factory=BackendOptions)
    grade_workers: int | None = None
    most_failures: float = 0.1


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """A finished run. ``new``: rollouts that this run asked; ``notices`` for the reader."""

    output: Path
    summary: Mapping[str, Any]
    new: int
    resumed: bool
    seconds: float
    notices: tuple[str, ...] = ()


def evaluate(
    recipe: EvaluationRecipe,
    output: str | Path,
    *,
    options: EvaluationOptions | None = None,
    on_progress: ProgressCallback | None = None,
) -> EvaluationResult:
    """Ask every model every problem as often as the recipe wants, and sum up.

    ``output``: a folder that does not exist, is empty, or is an evaluation that is continued.
    Call it in the main thread for Ctrl-C and SIGTERM to stop it within two seconds.

    Raises UsageError, RecipeError, OutputExistsError, StageConflictError (other settings, or a run
    that is alive there), SourceError, CheckpointError before anything is asked;
    InterruptedRunError where it was stopped, too many requests fail or the disk is full: what was
    answered is kept. Cost beside the models': some milliseconds a rollout.
    """
    if is_in_event_loop():  # a notebook has one of its own, which must not be blocked
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(
                partial(evaluate, recipe, output, options=options, on_progress=on_progress)
            ).result()
    started = time.monotonic()
    if importlib.util.find_spec("inspect_ai") is None:
        raise MissingExtraError("inspect_ai", extra="eval")
    options = options or EvaluationOptions()
    path = Path(output)
    with own_environment():
        meter = ProgressMeter(on_progress)
        meter.begin("reading benchmarks")
        plan = plan_evaluation(recipe)
        plan.refuse_unready()
        with hold_run(path) as run, _Run(plan, run, options, meter) as running:
            resumed = bool(run.units)
            try:
                running.ask()
                summary = running.results()
            except (KeyboardInterrupt, asyncio.CancelledError):
                raise InterruptedRunError(
                    f"{path}: stopped; {running.kept} rollouts are kept; the same command continues"
                ) from None
            return EvaluationResult(
                output=path,
                summary=summary,
                new=meter.answered,
                resumed=resumed,
                seconds=time.monotonic() - started,
                notices=tuple(running.notices()),
            )


class _Run:
    """One run in a folder that is held: the stores and graders that it has open."""

    def __init__(
        self, plan: EvaluationPlan, run: RunFolder, options: EvaluationOptions, meter: ProgressMeter
    ) -> None:
        self._plan = plan
        self._run = run
        self._options = options
        self._meter = meter
        self._stores: dict[str, UnitStore] = {}
        self._graders: dict[int, Graders] = {}
        self._places = {id(planned): place for place, planned in enumerate(plan.units)}
        self._left_out: list[str] = []
        self._stack = ExitStack()

    def __enter__(self) -> _Run:
        try:
            for planned in self._plan.units:
                self._run.refuse_other_settings(planned.provisional, but=NOT_KNOWN_YET)
            for planned in self._plan.units:
                known = self._run.units.get(planned.provisional.key)
                self._show(planned, None if known is None else self._store(known))
            self._meter.lacking = sum(self._lacking(unit) for unit in self._plan.units)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def kept(self) -> int:
        """Rollouts that are judged."""
        return sum(store.tally.rollouts for store in self._stores.values())

    def ask(self) -> None:
        """Ask each model what it lacks."""
        self._run.recipe = from_home(self._plan.recipe.model_dump(mode="json"))
        self._run.write()  # before a server's log or anything else makes the folder look strange
        waiting = [source for source in self._plan.sources if not self._is_complete(source)]
        if waiting:
            self._meter.begin("starting graders")
            for task in self._plan.tasks:
                self._graders[id(task)] = self._stack.enter_context(self._new_graders(task))
        for source in waiting:
            self._meter.begin(f"opening {source.name}")
            with open_model(
                source, backend=self._options.backend, options=self._backend_options()
            ) as model:
                self._ask_model(source, model)

    def results(self) -> Mapping[str, Any]:
        """The summary of everything in the folder, made anew unless it is of these very logs."""
        there = read_note(self._run.path / SUMMARY_NAME) or {}
        made = there.get("logs") == log_sizes(self._run)
        if made and (self._run.path / ROLLOUTS_NAME).exists():
            return there
        self._meter.begin("summing up")
        stores = {key: self._store(unit) for key, unit in self._run.units.items()}
        unfinished = [key for key, store in stores.items() if store.has_segments]
        if unfinished:
            self._left_out.append(
                f"{unfinished[0]}: has rollouts of a run that was stopped, which are not in the"
                " results; the command that asked for them continues it"
            )
        return write_results(self._run, stores)

    def notices(self) -> Iterator[str]:
        """What a reader of the results should hear."""
        yield from self._plan.notices
        yield from self._left_out
        for planned, shown in zip(self._plan.units, self._meter.units, strict=True):
            tally, key = shown.tally, planned.provisional.key
            if tally.failed:
                yield (
                    f"{key}: {tally.failed} requests failed and count as wrong; the same command"
                    " sends them again"
                )
            if tally.rollouts > shown.planned:
                yield (
                    f"{key}: {tally.rollouts} rollouts are there, more than the {shown.planned}"
                    " asked for; all of them are kept and counted"
                )

    def _ask_model(self, source: ModelSource, model: OpenModel) -> None:
        planned = self._plan.of_model(source)
        answering = dict(model.fingerprint)
        if self._options.backends.fields != "all":  # then some of the sampling is not sent
            answering["fields"] = self._options.backends.fields
        units = [each.with_model(answering) for each in planned]
        self._run.add(
            units,
            {
                f"{each.task.task.name}:{each.task.task.setting}": list(each.task.problems)
                for each in planned
            },
        )
        opened = []
        for each, unit in zip(planned, units, strict=True):
            store = self._store(unit)
            self._show(each, store)
            opened.append(self._opened(each, unit, store, model))
        self._meter.begin_asking(source.name)
        connections = min(_connections(unit) for unit in opened)
        run_until_stopped(lambda: self._asking(opened, connections))
        self._meter.pause()

    async def _asking(self, units: list[OpenUnit], connections: int) -> None:
        try:
            await Asking(
                units,
                connections=connections,
                grade_workers=self._grade_workers,
                most_failures=self._options.most_failures,
                on_answer=self._meter.answer,
            ).run()
        finally:
            for unit in units:
                with contextlib.suppress(Exception):
                    await unit.model.api.aclose()

    def _opened(
        self, planned: PlannedUnit, unit: Unit, store: UnitStore, model: OpenModel
    ) -> OpenUnit:
        return OpenUnit(
            unit=unit,
            store=store,
            task=planned.task.task,
            problems=planned.task.problems,
            asked_problems=planned.task.asked,
            examples=planned.task.loaded.examples,
            graders=self._graders[id(planned.task)],
            model=model.inspect_model(planned.sampling, raw=planned.raw),
            raw=planned.raw,
            opened=model.opens_reasoning(planned.sampling, raw=planned.raw),
            wanted=self._plan.recipe.rollouts,
        )

    def _new_graders(self, task: PlannedTask) -> Graders:
        return Graders(
            task.task.name, task.task.setting, workers=self._grade_workers, options=task.options
        )

    def _backend_options(self) -> BackendOptions:
        given = self._options.backends
        return given if given.log_folder else replace(given, log_folder=self._run.path / "servers")

    @property
    def _grade_workers(self) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return self._options.grade_workers or min(cores or 1, MOST_GRADE_WORKERS)

    def _store(self, unit: Unit) -> UnitStore:
        if unit.key not in self._stores:
            store = UnitStore.open(unit, logs=self._run.logs, journal=self._run.journal)
            self._stores[unit.key] = store
            self._stack.callback(store.close)
        return self._stores[unit.key]

    def _show(self, planned: PlannedUnit, store: UnitStore | None) -> None:
        """Have the meter count a unit, or count it from its store from now on."""
        unit = planned.provisional
        shown = UnitProgress(
            model=unit.model,
            task=f"{unit.task}:{unit.setting}",
            planned=len(planned.task.asked) * self._plan.recipe.rollouts,
            tally=Tally() if store is None else store.tally,
        )
        place = self._places[id(planned)]
        self._meter.units[place : place + 1] = [shown]

    def _lacking(self, planned: PlannedUnit) -> int:
        store = self._stores.get(planned.provisional.key)
        rollouts = range(1, self._plan.recipe.rollouts + 1)
        if store is None:
            return len(planned.task.asked) * len(rollouts)
        return sum(
            not store.is_done((problem, rollout))
            for rollout in rollouts
            for problem in planned.task.asked
        )

    def _is_complete(self, source: ModelSource) -> bool:
        """Whether nothing is to be asked of a model, nor judged."""
        for planned in self._plan.of_model(source):
            store = self._stores.get(planned.provisional.key)
            if store is None or store.has_segments or self._lacking(planned):
                return False
        return True


def _connections(unit: OpenUnit) -> int:
    found = unit.model.config.max_connections
    return found if found is not None else unit.model.api.max_connections()
