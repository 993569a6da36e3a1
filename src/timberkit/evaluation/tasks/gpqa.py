"""GPQA-Diamond: 198 questions of graduate level, four options each (arXiv 2311.12022).

Prompt and grading are those of OpenCompass' ``gpqa_openai_simple_evals_gen_5aeece``: the text of
OpenAI's simple-evals, and the first ``ANSWER: X`` in the response. The options are rotated by the
row's number, so that the right one is at every letter equally often: the file's order is right,
wrong, wrong, wrong; row 1 (of 1, 2, …) starts with the second of them, row 2 with the third.

The set is gated, and its authors ask that it is not shown in plain text: it is fetched with the
user's own token, or read from the user's own ``gpqa_diamond.csv``. Public format: CSV with
``Question``, ``Correct Answer``, ``Incorrect Answer 1`` to ``3``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from timberkit.evaluation.data import locate, rows
from timberkit.evaluation.task import Grade, Loaded, Message, Problem, joined, judged, user

LETTERS = "ABCD"

# From OpenCompass 0.5.4 (Apache-2.0), which has it from OpenAI's simple-evals (MIT).
_PROMPT = """\
Answer the following multiple choice question. The last line of your response should be of the \
following format: 'ANSWER: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by \
step before answering.

{question}

A) {options[0]}
B) {options[1]}
C) {options[2]}
D) {options[3]}"""

_COLUMNS = (
    *("Question", "Correct Answer"),
    *("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
)
_ANSWER = re.compile(r"(?i:ANSWER)\s*:\s*([A-Da-d])")


@dataclass(frozen=True, slots=True)
class GpqaDiamond:
    """GPQA-Diamond. Its only setting is the released one."""

    setting: str = "released"

    name: ClassVar[str] = "gpqa-diamond"
    settings: ClassVar[tuple[str, ...]] = ("released",)
    stops: ClassVar[tuple[str, ...]] = ()
    grade_seconds: ClassVar[float] = 10.0
    home: ClassVar[str] = "hf://Idavidrein/gpqa/gpqa_diamond.csv"

    def load(self, source: str | None = None, *, shots: str | None = None) -> Loaded:
        """Problems keyed by ``Record ID`` where there is one, else by the row's number."""
        file = locate(self.name, source or self.home)
        problems = []
        for number, row in enumerate(rows(self.name, file, _COLUMNS), start=1):
            right_first = [str(row[column]) for column in _COLUMNS[1:]]
            turn = number % len(LETTERS)
            options = right_first[turn:] + right_first[:turn]
            # By the text, as two options of an item may be the same.
            answer = LETTERS[options.index(right_first[0])]
            fields = {"question": str(row["Question"]), "options": options, "answer": answer}
            problems.append(Problem(str(row.get("Record ID") or number), fields))
        # The digest of a gated file is nobody's to publish, so there is none to compare with.
        return Loaded(tuple(problems), (), {file.path.name: file.sha256})

    def messages(self, problem: Problem, examples: Sequence[Problem] = ()) -> list[Message]:
        """Instruction, question and options in one message."""
        return [user(_PROMPT.format(**problem.fields))]

    def raw_prompt(self, problem: Problem, examples: Sequence[Problem] = ()) -> str:
        """The same words, and a new line to write on."""
        return joined(self.messages(problem)) + "\n"

    def check_ready(self) -> None:
        """A letter is compared; nothing is needed."""

    def grade(self, problem: Problem, answer: str, *, raw: bool = False) -> Grade:
        """The first ``ANSWER: X``; a small letter is found, but is not the letter asked for."""
        match = _ANSWER.search(answer)
        letter = match.group(1) if match else None
        return judged(letter == problem.fields["answer"], letter)
