"""Sapling's Countdown puzzle: the benchmark of the embedded pair, graded without any doubt.

Settings are the splits of ``timberkit.sapling.pair``: ``held-out`` has 300 puzzles with three
numbers, ``held-out-4`` 100 with four. Their exact success probabilities are known
(``timberkit.sapling.exact``), so sampled rollouts can be checked against the truth.
Own files: JSON lines with ``numbers`` and ``target``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from timberkit.evaluation.data import locate, rows
from timberkit.evaluation.task import Grade, Loaded, Message, Problem, judged, user
from timberkit.sapling import pair, puzzle


@dataclass(frozen=True, slots=True)
class SaplingPuzzle:
    """Countdown puzzles that neither shipped model was trained on."""

    setting: str = "held-out"

    name: ClassVar[str] = "sapling"
    settings: ClassVar[tuple[str, ...]] = tuple(pair.SPLITS)
    stops: ClassVar[tuple[str, ...]] = ("\n",)
    grade_seconds: ClassVar[float] = 10.0

    def load(self, source: str | None = None, *, shots: str | None = None) -> Loaded:
        """Problems keyed by numbers and target; the shipped ones where no file is given."""
        if source is None:
            return Loaded(tuple(_problem(each) for each in pair.load_problems(self.setting)))
        file = locate(self.name, source)
        found = rows(self.name, file, ("numbers", "target"))
        problems = tuple(
            _problem(puzzle.Problem(tuple(row["numbers"]), row["target"])) for row in found
        )
        return Loaded(problems, (), {file.path.name: file.sha256})

    def messages(self, problem: Problem, examples: Sequence[Problem] = ()) -> list[Message]:
        """The puzzle: ``nums 6 3 7 make 60 :``."""
        return [user(_puzzle(problem).prompt)]

    def raw_prompt(self, problem: Problem, examples: Sequence[Problem] = ()) -> str:
        """The puzzle, as the documents of the pretraining have it."""
        return _puzzle(problem).prompt

    def check_ready(self) -> None:
        """Words are checked; nothing is needed."""

    def grade(self, problem: Problem, answer: str, *, raw: bool = False) -> Grade:
        """The whole answer has to be one correct chain of steps."""
        words = " ".join(answer.split())
        return judged(puzzle.is_correct(_puzzle(problem), answer), words or None)


def _problem(item: puzzle.Problem) -> Problem:
    return Problem(item.prompt, {"numbers": list(item.numbers), "target": item.target})


def _puzzle(problem: Problem) -> puzzle.Problem:
    return puzzle.Problem(tuple(problem.fields["numbers"]), problem.fields["target"])
