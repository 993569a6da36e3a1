"""What a machine of a cluster does: a bundle of tasks, written through to the disk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from timberkit.checkpoint.writer import sync_file, written_through
from timberkit.engine.execute import one_thread
from timberkit.engine.fence import guarded, require_owner
from timberkit.engine.job import JobContext, Outcome, perform
from timberkit.engine.shared_folders import SharedFolders, missing_here
from timberkit.engine.tasks import Task
from timberkit.errors import ResourceError, TimberkitError

_looked: set[SharedFolders] = set()
"""Runs whose folders this process has looked at: machines may join after the run has begun."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Outcomes of a bundle, up to the first error. A returned error is not repeated by Ray."""

    outcomes: tuple[Outcome, ...]
    error: TimberkitError | None = None


def perform_bundle(shared: tuple[JobContext, SharedFolders], tasks: Sequence[Task]) -> Answer:
    """Do tasks with one thread, in order; all they wrote is on the disk when this returns."""
    context, folders = shared
    outcomes: list[Outcome] = []
    try:
        _look(folders)
        with ExitStack() as held:
            held.enter_context(one_thread())
            if folders.stage is not None:
                stage = Path(folders.stage)
                held.enter_context(guarded(stage, folders.number))
                held.enter_context(written_through(lambda: require_owner(stage, folders.number)))
            for task in tasks:
                outcomes.append(perform(context, task))
            for path in sorted({path for outcome in outcomes for path in outcome.written}):
                sync_file(Path(path))
    except TimberkitError as error:
        # What was done before it may not have been synced, and is done again.
        return Answer((), error)
    return Answer(tuple(outcomes))


def _look(folders: SharedFolders) -> None:
    if folders in _looked:
        return
    problem = missing_here(folders)
    if problem is not None:
        raise ResourceError(
            f"a machine of the cluster does not see what this one does: {problem}; mount the same"
            " folders on every machine, under the same paths"
        )
    _looked.add(folders)
