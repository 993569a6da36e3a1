"""MATH (Hendrycks et al., arXiv 2103.03874) and its subset MATH-500 (arXiv 2305.20050).

MATH is asked and graded as by OpenCompass' ``math_evaluatorv2_gen_cecb31``: four solved examples
as turns of a chat, then string equivalence with the boxed answer of the gold solution. MATH-500
has two settings, as the paper and the configs its authors released differ: ``released``
(``math_500_gen``: no examples, a box asked for) and ``paper`` (4-shot, its Table 2: the same four
examples as MATH). Both are compared by math-verify.

Public formats, JSON lines or Parquet: MATH has ``problem`` and ``solution``; MATH-500 also
``answer`` and ``unique_id``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from timberkit.evaluation.data import DataFile, locate, rows, wrong_row
from timberkit.evaluation.latex_answers import equivalent, last_boxed, stated_answer
from timberkit.evaluation.math_verified import check_math_verify, grade_expression
from timberkit.evaluation.task import (
    Grade,
    Loaded,
    Message,
    Problem,
    assistant,
    joined,
    judged,
    user,
)
from timberkit.evaluation.tasks.aime import BOX_REQUEST
from timberkit.evaluation.tasks.math_examples import EXAMPLES

_STOPS = ("\nProblem:", "I hope it is correct.")
_SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)


def four_shot(problem: str) -> list[Message]:
    """The four Minerva examples as turns, then the problem."""
    turns = [
        message
        for question, solution in EXAMPLES
        for message in (user(f"Problem:\n{question}\nSolution:"), assistant(solution))
    ]
    return [*turns, user(f"Problem:\n{problem}\nSolution:\n")]


@dataclass(frozen=True, slots=True)
class Math:
    """The 5,000 test problems of MATH."""

    setting: str = "released"

    name: ClassVar[str] = "math"
    settings: ClassVar[tuple[str, ...]] = ("released",)
    stops: ClassVar[tuple[str, ...]] = _STOPS
    grade_seconds: ClassVar[float] = 20.0
    homes: ClassVar[tuple[str, ...]] = tuple(
        f"hf://EleutherAI/hendrycks_math/{subject}/test-00000-of-00001.parquet"
        for subject in _SUBJECTS
    )

    def load(self, source: str | None = None, *, shots: str | None = None) -> Loaded:
        """Problems keyed ``subject/number``, or by their number in a file of one's own."""
        if source is not None:
            file = locate(self.name, source)
            return Loaded(self._read(file, ""), (), _digests(file), file.notices)
        problems: list[Problem] = []
        digests: dict[str, str] = {}
        for subject, home in zip(_SUBJECTS, self.homes, strict=True):
            file = locate(self.name, home)
            problems += self._read(file, f"{subject}/")
            digests[f"{subject}/{file.path.name}"] = file.sha256
        return Loaded(tuple(problems), (), digests)

    def _read(self, file: DataFile, prefix: str) -> tuple[Problem, ...]:
        problems = []
        for number, row in enumerate(rows(self.name, file, ("problem", "solution")), start=1):
            answer = last_boxed(str(row["solution"]))
            if answer is None:
                raise wrong_row(self.name, file, number, "a solution without a box", r"\boxed{}")
            fields = {"problem": str(row["problem"]), "answer": answer}
            problems.append(Problem(f"{prefix}{row.get('idx', number - 1)}", fields))
        return tuple(problems)

    def messages(self, problem: Problem, examples: Sequence[Problem] = ()) -> list[Message]:
        """Four examples and the problem: nine messages."""
        return four_shot(problem.fields["problem"])

    def raw_prompt(self, problem: Problem, examples: Sequence[Problem] = ()) -> str:
        """The same as one text."""
        return joined(self.messages(problem)).rstrip("\n") + "\n"

    def check_ready(self) -> None:
        """Strings are compared; nothing is needed."""

    def grade(self, problem: Problem, answer: str, *, raw: bool = False) -> Grade:
        """The last box, or the sentence that names the answer, equal as rewritten strings."""
        stated = stated_answer(answer)
        return judged(stated is not None and equivalent(stated, problem.fields["answer"]), stated)


@dataclass(frozen=True, slots=True)
class Math500:
    """The 500 problems of MATH-500: ``released`` without examples, ``paper`` with four."""

    setting: str = "released"

    name: ClassVar[str] = "math500"
    settings: ClassVar[tuple[str, ...]] = ("released", "paper")
    stops: ClassVar[tuple[str, ...]] = _STOPS
    grade_seconds: ClassVar[float] = 30.0
    home: ClassVar[str] = "hf://HuggingFaceH4/MATH-500/test.jsonl"

    def load(self, source: str | None = None, *, shots: str | None = None) -> Loaded:
        """Problems keyed by ``unique_id``."""
        file = locate(self.name, source or self.home)
        found = rows(self.name, file, ("problem", "answer", "unique_id"))
        problems = tuple(
            Problem(
                str(row["unique_id"]),
                {"problem": str(row["problem"]), "answer": str(row["answer"])},
            )
            for row in found
        )
        return Loaded(problems, (), _digests(file), file.notices)

    def messages(self, problem: Problem, examples: Sequence[Problem] = ()) -> list[Message]:
        """``released``: the problem and the request for a box; ``paper``: four examples first."""
        if self.setting == "paper":
            return four_shot(problem.fields["problem"])
        return [user(problem.fields["problem"] + BOX_REQUEST)]

    def raw_prompt(self, problem: Problem, examples: Sequence[Problem] = ()) -> str:
        """The same as one text."""
        return joined(self.messages(problem)).rstrip("\n") + "\n"

    def check_ready(self) -> None:
        """math-verify has to be installed."""
        check_math_verify()

    def grade(self, problem: Problem, answer: str, *, raw: bool = False) -> Grade:
        """The last box, or an announced final answer, equal as mathematics."""
        return grade_expression(answer, problem.fields["answer"])


def _digests(file: DataFile) -> dict[str, str]:
    return {file.path.name: file.sha256}
