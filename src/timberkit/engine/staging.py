"""What every run that can be killed has in common: its stage, its tasks noted in groups, its ends.

Tasks are noted in groups: one sync of the touched files, then one line each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from shlex import quote
from typing import Any

from timberkit.checkpoint.stage import Stage, remove_stage
from timberkit.engine.execute import Executor
from timberkit.engine.job import Outcome
from timberkit.engine.progress import Meter
from timberkit.engine.tasks import Task
from timberkit.errors import InterruptedRunError, SpectrumError

COMMIT_SECONDS = 2.0
COMMIT_TASKS = 64
"""Finished tasks are synced and noted when either is reached: what a power cut can cost."""


def run_in_stage(
    output: Path,
    *,
    digest: str,
    description: Mapping[str, Any],
    overwrite: bool,
    work: Callable[[Stage], None],
) -> bool:
    """Open the stage of an output, do the work in it; whether an earlier run was continued.

    ``work`` publishes at its end; it is left out where a killed run had come so far. Raises what
    ``Stage.open`` and ``work`` do. Ctrl-C and a lack of memory become InterruptedRunError and keep
    the stage; after a SpectrumError no later run could finish it, so it is removed.
    """
    with Stage.open(output, digest=digest, description=description, overwrite=overwrite) as stage:
        resumed, hopeless = stage.resumed, None
        try:
            if not stage.published:
                work(stage)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"{output}: stopped before the end; the same command continues from here, and"
                f" timberkit clean {quote(str(stage.output.parent))} throws the unfinished work"
                " away"
            ) from None
        except MemoryError:
            raise InterruptedRunError(
                f"{output}: no memory was left, under a limit of this process or of the machine;"
                " timberkit plan says what a worker takes; the same command continues from here,"
                " with --workers 1 in the least memory"
            ) from None
        except SpectrumError as error:
            hopeless = error
    if hopeless is not None:
        # No later run could finish it: the weights themselves are bad.
        remove_stage(stage.path)
        raise hopeless
    return resumed


def work_through(
    executor: Executor,
    tasks: Sequence[Task],
    meter: Meter,
    commit: Callable[[Sequence[Outcome]], None],
) -> None:
    """Do the tasks, tell the meter of each, and hand the finished ones on in groups."""
    pending: list[Outcome] = []
    committed = time.monotonic()
    with closing(executor.run(tasks)) as outcomes:
        for outcome in outcomes:
            pending.append(outcome)
            meter.advance(outcome.key)
            if len(pending) >= COMMIT_TASKS or time.monotonic() - committed >= COMMIT_SECONDS:
                commit(pending)
                pending, committed = [], time.monotonic()
    if pending:
        commit(pending)
