"""AIME 2024, I and II: 30 problems whose answers are integers from 0 to 999.

Prompt and grading are those of OpenCompass' ``aime2024_gen_17d799``: no examples, a box asked
for, compared by math-verify. Answers are printed with leading zeros in some sources ("025"), which
mean nothing here. Public format: JSON lines or Parquet with ``problem`` and ``answer``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from timberkit.evaluation.data import locate, rows, wrong_row
from timberkit.evaluation.math_verified import check_math_verify, grade_integer
from timberkit.evaluation.task import Grade, Loaded, Message, Problem, joined, user

BOX_REQUEST = "\nPlease reason step by step, and put your final answer within \\boxed{}."
"""Asks for a boxed answer; from OpenCompass 0.5.4 (Apache-2.0), ``aime2024_gen_17d799``."""


@dataclass(frozen=True, slots=True)
class Aime24:
    """AIME 2024. Its only setting is the released one."""

    setting: str = "released"

    name: ClassVar[str] = "aime24"
    settings: ClassVar[tuple[str, ...]] = ("released",)
    stops: ClassVar[tuple[str, ...]] = ()
    grade_seconds: ClassVar[float] = 30.0
    home: ClassVar[str] = "hf://HuggingFaceH4/aime_2024/data/train-00000-of-00001.parquet"

    def load(self, source: str | None = None, *, shots: str | None = None) -> Loaded:
        """Problems keyed by the row's ``id`` where it has one, else by its number."""
        file = locate(self.name, source or self.home)
        problems = []
        for number, row in enumerate(rows(self.name, file, ("problem", "answer")), start=1):
            answer = str(row["answer"]).strip()
            if not (answer.isascii() and answer.isdigit() and int(answer) <= 999):
                raise wrong_row(self.name, file, number, answer, "an answer from 0 to 999")
            fields = {"problem": str(row["problem"]), "answer": answer}
            problems.append(Problem(str(row.get("id", number)), fields))
        return Loaded(tuple(problems), (), {file.path.name: file.sha256}, file.notices)

    def messages(self, problem: Problem, examples: Sequence[Problem] = ()) -> list[Message]:
        """The problem, and the request for a box."""
        return [user(problem.fields["problem"] + BOX_REQUEST)]

    def raw_prompt(self, problem: Problem, examples: Sequence[Problem] = ()) -> str:
        """The same words, and a new line to write on."""
        return joined(self.messages(problem)) + "\n"

    def check_ready(self) -> None:
        """math-verify has to be installed."""
        check_math_verify()

    def grade(self, problem: Problem, answer: str, *, raw: bool = False) -> Grade:
        """The last box has to hold the integer."""
        return grade_integer(answer, problem.fields["answer"])
