"""Which benchmarks a study puts to its models, in which mode, how often: the paper's protocol.

    protocol(recipe)      # ifeval, math, …, aime24+thinking, …

For the paper's pairs and any other two checkpoints the protocol is that of arXiv 2509.23595: Mean@k
on benchmarks without thinking, AIME'24 and HumanEval in thinking mode where the models have one,
and many rollouts of AIME'24 and GPQA-Diamond for Pass@k. For the embedded pair success
probabilities are exact; a few models are sampled besides, to read and to check.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from timberkit.errors import RecipeError, UsageError
from timberkit.evaluation.tasks import make_task
from timberkit.evaluation_recipe import TaskChoice
from timberkit.findings import StudyTask
from timberkit.pairs import Pair
from timberkit.study.published import published
from timberkit.study.reproduce.catalogue import BASE, INSTRUCT, Entry
from timberkit.study_recipe import StudyRecipe

EXACT_KS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SAPLING_PROBLEMS = {"held-out": 300, "held-out-4": 100}
SAPLING_SAMPLED, SAPLING_ROLLOUTS = 100, 32
"""Problems and rollouts of the embedded pair that are sampled besides."""
SAMPLED_OF_SAPLING = (BASE, INSTRUCT, "timber_lam0.2", "merge_mu0.8")
FEWEST_PROBLEMS = 10
"""That a scale leaves of a benchmark."""
FEWEST_ROLLOUTS = 16
REPEATS = 3
"""Rollouts for Mean@k of a pair that the paper has not; it has 3, and 4 for the smallest model."""
_PAPER_NAMES = {
    "ifeval": "IFEval", "math": "MATH", "math500": "MATH-500", "gpqa-diamond": "GPQA-Diamond",
    "hellaswag": "HellaSwag", "aime24": "AIME24", "humaneval": "HumanEval",
}  # fmt: skip
_LABELS = {**_PAPER_NAMES, "aime24": "AIME'24"}
_PLAIN = ("ifeval", "math", "math500", "gpqa-diamond", "hellaswag")
_THINKING = ("aime24", "humaneval")
NAMES = (*_PLAIN, *_THINKING)
"""The paper's benchmarks."""
_MANY = ("aime24", "gpqa-diamond")
"""Benchmarks of which the paper gives Pass@k."""

Use = Literal["mean", "pass", "cases"]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark as it is put to the models.

    Attributes:
        task: as results show it.
        choice: which benchmark in which setting, and its files.
        use: ``mean``: edits and Instruct, a few rollouts; ``pass``: Base and temperatures too, and
            many rollouts; ``cases``: some models, for people to read.
        averaged: whether it is one of those that Mean@k is averaged over.
        selects: whether lambda is chosen on it, as the paper did.
        thinking: as for ``EvaluationRecipe``; None: the model's own.
        limit: only so many problems.
    """

    task: StudyTask
    choice: TaskChoice
    use: Use
    averaged: bool
    selects: bool
    thinking: bool | None
    limit: int | None

    @property
    def key(self) -> str:
        """Of the task."""
        return self.task.key

    @property
    def setting(self) -> str:
        """How the benchmark is asked, its own default spelled out."""
        return make_task(self.choice.name, self.choice.setting).setting

    @property
    def folder(self) -> str:
        """Of the evaluation run that holds its rollouts: one for each mode."""
        return {True: "thinking", False: "plain", None: "own"}[self.thinking]

    def is_put_to(self, entry: Entry) -> bool:
        """Whether a model is asked."""
        if self.use == "cases":
            return entry.key in SAMPLED_OF_SAPLING
        return self.use == "pass" or entry.model.role not in ("base", "temperature")


def is_sapling(recipe: StudyRecipe) -> bool:
    """Whether success probabilities are known exactly."""
    return recipe.pair == "sapling"


def temperatures(recipe: StudyRecipe) -> tuple[float, ...]:
    """At which Instruct is asked besides its own: 1.0 and 1.2 as in the paper's review."""
    if recipe.temperatures is not None:
        return recipe.temperatures
    return (1.2, 1.5) if is_sapling(recipe) else (1.0, 1.2)


def protocol(recipe: StudyRecipe, pair: Pair | None = None) -> tuple[Benchmark, ...]:
    """The benchmarks of a study, in the order in which they are shown.

    ``pair``: the ready-made pair that it is of, which says whether the models have a thinking mode
    and how often the paper asked; None for any other, then models are asked in their own mode.
    Raises UsageError for a benchmark or a setting that is not known, RecipeError for one of which
    two settings are wanted: a study has one.
    """
    for task in recipe.tasks:
        make_task(task.name, task.setting)
    names = [task.name for task in recipe.tasks]
    known = ("sapling",) if is_sapling(recipe) else NAMES
    strange = [name for name in names if name not in known]
    if strange:
        raise UsageError(
            f"task {strange[0]}: not in the protocol of this pair, expected of {', '.join(known)};"
            " any other benchmark can be asked with timberkit eval"
        )
    if len(set(names)) < len(names):
        raise RecipeError("tasks: found two settings of one benchmark, expected one")
    if is_sapling(recipe):
        return _of_sapling(recipe)
    thinking = recipe.thinking
    if thinking is None and pair is not None:
        thinking = pair.thinking
    found = _of_the_paper(recipe, thinking, REPEATS if pair is None else pair.repeats)
    return tuple(each for each in found if not names or each.choice.name in names)


def _of_sapling(recipe: StudyRecipe) -> tuple[Benchmark, ...]:
    puzzles = {"held-out": "Puzzles of 3 numbers", "held-out-4": "Puzzles of 4 numbers"}
    exact = [
        Benchmark(
            StudyTask(
                key=f"sapling:{split}", label=label, benchmark=None, thinking=False, how="exact",
                problems=_scaled(SAPLING_PROBLEMS[split], recipe.scale), rollouts=None,
                whole=recipe.scale == 1.0,
            ),
            TaskChoice(name="sapling", setting=split), "pass", averaged=True,
            selects=split == "held-out-4", thinking=None,
            limit=_scaled(SAPLING_PROBLEMS[split], recipe.scale),
        )
        for split, label in puzzles.items()
    ]  # fmt: skip
    problems = _scaled(SAPLING_SAMPLED, recipe.scale)
    sampled = StudyTask(
        key="sapling:held-out+sampled", label="Puzzles of 3 numbers, sampled", benchmark=None,
        thinking=False, how="sampled", problems=problems, rollouts=SAPLING_ROLLOUTS, whole=False,
    )  # fmt: skip
    cases = Benchmark(
        sampled, TaskChoice(name="sapling", setting="held-out"), "cases", averaged=False,
        selects=False, thinking=None, limit=problems,
    )  # fmt: skip
    return (*exact, cases)


def _of_the_paper(
    recipe: StudyRecipe, thinking: bool | None, repeats: int
) -> tuple[Benchmark, ...]:
    given = {task.name: task for task in recipe.tasks}
    plain = False if thinking else thinking
    named = [(name, plain) for name in _PLAIN] + [(name, thinking) for name in _THINKING]
    if thinking:
        named.append(("gpqa-diamond", True))
    return tuple(
        _of_paper(
            given.get(name, TaskChoice(name=name)), mode, (bool(thinking), repeats), recipe.scale
        )
        for name, mode in named
    )


def _of_paper(
    choice: TaskChoice, thinking: bool | None, pair: tuple[bool, int], scale: float
) -> Benchmark:
    """``pair``: whether it has two modes, and its repeats for Mean@k."""
    several_modes, repeats = pair
    name = choice.name
    facts = published()["benchmarks"]
    size = next(
        each["problems"] for each in (*facts["non_thinking"], *facts["thinking"])
        if each["name"] == _PAPER_NAMES[name]
    )  # fmt: skip
    # GPQA-Diamond is asked a few times without thinking and many times with it.
    many = name in _MANY and (name not in _PLAIN or bool(thinking) or not several_modes)
    most = facts["rollouts_pass_at_k"][_PAPER_NAMES[name]] if many else repeats
    rollouts = max(math.ceil(most * scale), min(most, FEWEST_ROLLOUTS)) if many else repeats
    problems = _scaled(size, scale)
    task = StudyTask(
        key=f"{name}:{choice.setting or 'released'}" + ("+thinking" if thinking else ""),
        label=_LABELS[name] + (", thinking" if thinking else ""),
        benchmark=_PAPER_NAMES[name],
        thinking=thinking,
        how="sampled",
        problems=problems,
        rollouts=rollouts,
        whole=problems == size and rollouts >= most,
    )
    return Benchmark(
        task, choice, "pass" if many else "mean", averaged=name in _PLAIN and not thinking,
        selects=name == "aime24", thinking=thinking, limit=None if problems == size else problems,
    )  # fmt: skip


def _scaled(problems: int, scale: float) -> int:
    return max(math.ceil(problems * scale), min(problems, FEWEST_PROBLEMS))


def selecting(benchmarks: Sequence[Benchmark]) -> Benchmark | None:
    """The benchmark that lambda is chosen on, if it is asked."""
    return next((each for each in benchmarks if each.selects), None)
