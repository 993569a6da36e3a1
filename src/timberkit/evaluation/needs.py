"""What a run would take: requests and tokens of every unit, and what keeps it from running.

needs = evaluation_needs(plan_evaluation(recipe, check_graders=True), Path("run"))
needs.requests
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from timberkit.errors import StageConflictError
from timberkit.evaluation.planning import NOT_KNOWN_YET, EvaluationPlan, PlannedUnit
from timberkit.evaluation.run_files import RunFolder, read_run
from timberkit.evaluation.store import UnitStore


@dataclass(frozen=True, slots=True)
class UnitNeeds:
    """One unit: ``there`` of ``planned`` rollouts exist, ``requests`` are to be sent.

    ``tokens``: of all requests, by the mean of the rollouts that are there; None where there are
    none yet. ``most_tokens``: if every answer is as long as it may be, None without a limit.
    """

    model: str
    task: str
    problems: int
    planned: int
    there: int
    requests: int
    prompt: str
    sampling: tuple[tuple[str, str, str], ...]
    tokens: int | None
    most_tokens: int | None
    conflict: str | None = None


@dataclass(frozen=True, slots=True)
class EvaluationNeeds:
    """A plan with what it takes. ``not_ready``: benchmark to what keeps it from running here."""

    units: tuple[UnitNeeds, ...]
    not_ready: tuple[tuple[str, str], ...]
    notices: tuple[str, ...]

    @property
    def requests(self) -> int:
        """Requests of all units."""
        return sum(unit.requests for unit in self.units)

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {**asdict(self), "not_ready": dict(self.not_ready), "requests": self.requests}


def evaluation_needs(plan: EvaluationPlan, output: Path | None) -> EvaluationNeeds:
    """Compare a plan with what a run folder has, if there is one. Writes nothing.

    Raises CheckpointError for a folder that is no evaluation.
    """
    run = read_run(output) if output is not None and output.exists() else None
    return EvaluationNeeds(
        units=tuple(_unit_needs(plan, planned, run) for planned in plan.units),
        not_ready=tuple(
            (f"{task.task.name}:{task.task.setting}", str(task.not_ready))
            for task in plan.tasks
            if task.not_ready is not None
        ),
        notices=tuple(plan.notices),
    )


def _unit_needs(plan: EvaluationPlan, planned: PlannedUnit, run: RunFolder | None) -> UnitNeeds:
    unit, wanted = planned.provisional, plan.recipe.rollouts
    there = requests = 0
    tokens: int | None = None
    conflict = None
    known = None if run is None else run.units.get(unit.key)
    planned_rollouts = len(planned.task.asked) * wanted
    requests = planned_rollouts
    if run is not None:
        try:
            run.refuse_other_settings(unit, but=NOT_KNOWN_YET)
        except StageConflictError as error:
            conflict, known = str(error), None
    if run is not None and known is not None:
        done = UnitStore.look(known, logs=run.logs)
        there = len(done)
        requests = sum(
            (problem, rollout) not in done
            for problem in planned.task.asked
            for rollout in range(1, wanted + 1)
        )
        if there:
            tokens = round(sum(done.values()) / there * requests)
    longest = planned.sampling.max_tokens
    return UnitNeeds(
        model=unit.model,
        task=f"{unit.task}:{unit.setting}",
        problems=len(planned.task.asked),
        planned=planned_rollouts,
        there=there,
        requests=requests,
        prompt="raw" if planned.raw else "chat",
        sampling=tuple(planned.sampling.table()),
        tokens=tokens,
        most_tokens=None if longest is None else longest * requests,
        conflict=conflict,
    )
