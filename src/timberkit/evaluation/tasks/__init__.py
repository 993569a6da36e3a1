"""The benchmarks, one file each, found by name.

    task = make_task("math500", "paper")

A further benchmark is one file with a class like its neighbours', one line here, and a fixture.
"""

from __future__ import annotations

from collections.abc import Callable

from timberkit.errors import UsageError
from timberkit.evaluation.task import Task
from timberkit.evaluation.tasks.aime import Aime24
from timberkit.evaluation.tasks.gpqa import GpqaDiamond
from timberkit.evaluation.tasks.hellaswag import HellaSwag
from timberkit.evaluation.tasks.humaneval import HumanEval
from timberkit.evaluation.tasks.ifeval import IFEval
from timberkit.evaluation.tasks.math import Math, Math500
from timberkit.evaluation.tasks.sapling import SaplingPuzzle

TASKS: dict[str, Callable[..., Task]] = {
    "ifeval": IFEval,
    "math": Math,
    "math500": Math500,
    "gpqa-diamond": GpqaDiamond,
    "hellaswag": HellaSwag,
    "aime24": Aime24,
    "humaneval": HumanEval,
    "sapling": SaplingPuzzle,
}
"""Every benchmark by its name."""


def make_task(name: str, setting: str | None = None, **options: bool) -> Task:
    """A task by name; ``setting`` None for its default, ``options`` as its class has them.

    Raises UsageError for a name or a setting that does not exist, listing those that do.

    >>> make_task("math500").setting
    'released'
    """
    if name not in TASKS:
        raise UsageError(f"task {name!r}: not known, expected one of {', '.join(TASKS)}")
    kind = TASKS[name]
    task = kind(**options)
    if setting is None:
        return task
    if setting not in task.settings:
        raise UsageError(
            f"task {name}: no setting {setting!r}, expected one of {', '.join(task.settings)}"
        )
    return kind(setting=setting, **options)
