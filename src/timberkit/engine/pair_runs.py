"""One run in its stage: the pairs of one Base with one Instruct or several, through one executor.

    runs = [PairRun("", pair, plan)]                 # one Instruct: its folders are the output's
    runs = [PairRun("a", ...), PairRun("b", ...)]    # several: a folder in the output for each

Matrices that several Instructs pair with the same one of Base are one task, so that Base is read
once for all; a worker takes the Instructs one after the other, in the memory that one takes. Each
pair has the plan, the records and the manifest that it has in a run of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timberkit import records
from timberkit.checkpoint.stage import Stage
from timberkit.checkpoint.writer import create_shard
from timberkit.config import RefineRecipe, variant_name
from timberkit.engine.estimate import default_workers, relative_cost
from timberkit.engine.execute import Executor
from timberkit.engine.finish import TOOL_VERSION, finish_outputs
from timberkit.engine.job import JobContext, Outcome
from timberkit.engine.plan import RefinementPlan
from timberkit.engine.progress import Meter, ProgressCallback
from timberkit.engine.sources import OpenPair
from timberkit.engine.staging import work_through
from timberkit.engine.tasks import PairTask, Place, RefineTask, SharedTask


@dataclass(frozen=True, slots=True)
class PairRun:
    """A pair, what is to be done with it, and the name of its folder; empty for the only one."""

    name: str
    pair: OpenPair
    plan: RefinementPlan

    def folders(self, root: Path) -> dict[str, Path]:
        """Folder of each variant in the output or its stage."""
        return variant_folders(self.pair.recipe, root / self.name)

    def context(self, root: Path) -> JobContext:
        """What the tasks of this pair share."""
        recipe = self.pair.recipe
        return JobContext(
            variants=recipe.variants,
            folders=tuple(map(str, self.folders(root).values())),
            layers=self.plan.layers,
            device=recipe.device,
        )

    @property
    def mark(self) -> dict[str, str]:
        """What tells its journal entries from those of other pairs; nothing for the only one."""
        return {"instruct": self.name} if self.name else {}


def variant_folders(recipe: RefineRecipe, root: Path) -> dict[str, Path]:
    """Folder of each variant: the root itself for a single one, else one below it for each."""
    names = [variant_name(variant) for variant in recipe.variants]
    return {name: root if len(names) == 1 else root / name for name in names}


def run_digest(runs: Sequence[PairRun]) -> str:
    """SHA-256 of what decides the bytes of a run: equal ones continue each other."""
    parts = [f"{run.name} {run.pair.recipe.digest()}".lstrip() for run in runs]
    return hashlib.sha256(" ".join([*parts, TOOL_VERSION]).encode()).hexdigest()


def run_context(runs: Sequence[PairRun], root: Path) -> JobContext:
    """The context of an executor for the tasks of all pairs; one device serves them all."""
    return JobContext(
        device=runs[0].pair.recipe.device, pairs=tuple(run.context(root) for run in runs)
    )


def workers_for(runs: Sequence[PairRun]) -> int:
    """As many as pay off and fit into memory for every pair. O(tasks of all pairs)."""
    return min(default_workers(run.plan) for run in runs)


def pair_tasks(runs: Sequence[PairRun]) -> list[SharedTask]:
    """The tasks of all pairs, the most expensive matrices first, the copies at the end.

    Refinements against the same bytes of Base in the same shape are the parts of one task. O(tasks
    of all pairs).
    """
    shared: dict[tuple[Place, int, int], list[PairTask]] = {}
    copies = []
    for number, run in enumerate(runs):
        for task in run.plan.tasks:
            if isinstance(task, RefineTask):
                place = (task.base, task.rows, task.columns)
                shared.setdefault(place, []).append(PairTask(number, task))
            else:
                copies.append(SharedTask((PairTask(number, task),)))
    refinements = [SharedTask(tuple(parts)) for parts in shared.values()]
    return [*sorted(refinements, key=lambda task: -relative_cost(task)), *copies]


class StagedRun:
    """All pairs of a run in its stage: the work that is left, then what stands beside it."""

    def __init__(self, stage: Stage, runs: Sequence[PairRun], executor: Executor) -> None:
        self._stage = stage
        self._runs = runs
        self._executor = executor
        self._records: list[dict[str, records.TensorRecord]] = [{} for _ in runs]
        self._fingerprints: list[Mapping[str, Any] | None] = [None for _ in runs]
        self._done: set[tuple[int, str]] = set()

    def work(self, on_progress: ProgressCallback | None) -> None:
        """Do every task that the journal does not name, and note each."""
        self._read_journal()
        self._prepare()
        tasks = pair_tasks(self._runs)
        done = {task.key for task in tasks if self._is_done(task)}
        meter = Meter("refine", tasks, done, on_progress)
        left = [task for task in tasks if task.key not in done]
        work_through(self._executor, left, meter, self._commit)

    def finish(self, seconds: float, workers: int) -> None:
        """Write what stands beside the weights, once all of them are there."""
        for run, found in zip(self._runs, self._records, strict=True):
            finish_outputs(
                run.folders(self._stage.tree),
                run.pair,
                run.plan,
                found,
                executor=self._executor,
                workers=workers,
                seconds=seconds,
            )
        for run, fingerprint in zip(self._runs, self._fingerprints, strict=True):
            if fingerprint is not None:
                run.pair.check_unchanged(fingerprint)

    def _is_done(self, task: SharedTask) -> bool:
        """Whether all parts are noted; where some are, all are done again, to the same bytes."""
        return all((part.pair, part.task.key) in self._done for part in task.parts)

    def _read_journal(self) -> None:
        numbers = {run.name: number for number, run in enumerate(self._runs)}
        for entry in self._stage.completed():
            number = numbers[entry.get("instruct", "")]
            if "prepared" in entry:
                self._runs[number].pair.check_unchanged(entry["prepared"])
                self._fingerprints[number] = entry["prepared"]
            else:
                self._done.add((number, entry["key"]))
                if entry.get("record") is not None:
                    found = records.from_json(entry["record"])
                    self._records[number][entry["key"]] = found

    def _prepare(self) -> None:
        """Create every shard at its full size; the disk is full now or not at all."""
        entries = []
        for number, run in enumerate(self._runs):
            if self._fingerprints[number] is None:
                self._fingerprints[number] = run.pair.fingerprint()
                entries.append({**run.mark, "prepared": self._fingerprints[number]})
            for folder in run.folders(self._stage.tree).values():
                for shard in run.plan.layout.shards:
                    create_shard(folder / shard.name, shard)
        if entries:
            self._stage.record(entries)

    def _commit(self, pending: Sequence[Outcome]) -> None:
        written = sorted({path for outcome in pending for path in outcome.written})
        entries = []
        parts = [part for outcome in pending for part in outcome.parts]
        for part in parts:
            record = None if part.record is None else records.to_json(part.record)
            entries.append({**self._runs[part.pair].mark, "key": part.key, "record": record})
        self._stage.commit([Path(path) for path in written], entries)
        for part in parts:
            if part.record is not None:
                self._records[part.pair][part.key] = part.record
