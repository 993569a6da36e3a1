"""HellaSwag: which of four endings continues a text (arXiv 1905.07830), 10,042 of them.

Both settings are generative, as the authors' configs are: the model writes a letter, no
log-likelihood is compared. ``released`` is OpenCompass' ``hellaswag_10shot_gen_e42710``: ten
solved examples as turns; ``paper`` has none, as its Table 2 says. OpenCompass takes its examples
from a sample of the training split that it does not publish in its package; here they are the
first ten rows of the training split, or of the file given for them.

Three formats are read: the public JSON lines (``activity_label``, ``ctx_a``, ``ctx_b``,
``endings``, ``label``), Parquet of the same, and the plain text of six lines an item (context,
label, four endings; ``.txt`` or ``.txt.bz2``), whose contexts differ from those of the others in
white space and capitals.
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from timberkit.errors import SourceError
from timberkit.evaluation.data import DataFile, locate, rows, wrong_row
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

LETTERS = "ABCD"
SHOTS = 10
_HUB = "hf://Rowan/hellaswag/data"

# Both from OpenCompass 0.5.4, hellaswag_10shot_gen_e42710 (Apache-2.0).
_INSTRUCTION = (
    "Continue the following text without adding any additional information or formatting:\n"
)
_QUESTION = "{context}\nA) {endings[0]}\nB) {endings[1]}\nC) {endings[2]}\nD) {endings[3]}\n"
_REQUEST = "What is the right option?"

# The English ones of OpenCompass' first_option_postprocess, in its order, most telling first.
_STATED = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"[\s:,]([A-D])[,.]?$",
        r"(?i:ANSWER)\s*:\s*([A-D])",
        r"[Tt]he (?:correct )?answer(?: is| is option| to the question is):?\s+\(?\*{0,2}([A-D])",
        r"[Tt]he correct (?:answer|option|answer option) is:?.*?boxed\{([A-D])\}",
        r"^([A-D])[\s.,:$]",
        r"([A-D]):",
        r"([A-D])",
    )
)


@dataclass(frozen=True, slots=True)
class HellaSwag:
    """HellaSwag's validation split: ``released`` with ten examples, ``paper`` without."""

    setting: str = "released"

    name: ClassVar[str] = "hellaswag"
    settings: ClassVar[tuple[str, ...]] = ("released", "paper")
    stops: ClassVar[tuple[str, ...]] = ("\n",)
    grade_seconds: ClassVar[float] = 10.0
    home: ClassVar[str] = f"{_HUB}/validation-00000-of-00001.parquet"
    shots_home: ClassVar[str] = f"{_HUB}/train-00000-of-00001.parquet"

    def load(self, source: str | None = None, *, shots: str | None = None) -> Loaded:
        """Problems keyed by their number from 0; ten examples for ``released``."""
        file = locate(self.name, source or self.home)
        problems = self._read(file)
        digests = {file.path.name: file.sha256}
        if self.setting != "released":
            return Loaded(problems, (), digests, file.notices)
        solved = locate(f"{self.name} examples", shots or self.shots_home)
        examples = self._read(solved)[:SHOTS]
        if len(examples) < SHOTS:
            raise SourceError(
                f"{self.name}: {solved.path.name} has {len(examples)} items, expected at least"
                f" {SHOTS} to show as examples; give HellaSwag's training split, or use the setting"
                " paper, which shows none"
            )
        if {_text(example) for example in examples} & {_text(problem) for problem in problems}:
            raise SourceError(
                f"{self.name}: an example of {solved.path.name} is also a problem of"
                f" {file.path.name}, which would show its answer; give HellaSwag's training split"
            )
        # An example beside the validation file may have the same name.
        digests[f"examples: {solved.path.name}"] = solved.sha256
        notice = (
            f"the examples are the first {SHOTS} rows of {solved.path.name}, not those of"
            " OpenCompass, which it does not publish"
        )
        return Loaded(problems, examples, digests, (*file.notices, notice))

    def _read(self, file: DataFile) -> tuple[Problem, ...]:
        if file.path.name.endswith((".txt", ".txt.bz2")):
            return self._read_text(file)
        found = rows(self.name, file, ("activity_label", "ctx_a", "ctx_b", "endings", "label"))
        return tuple(
            self._problem(
                file,
                number,
                _context(row),
                row["label"],
                [_clean(str(ending)) for ending in row["endings"]],
            )
            for number, row in enumerate(found)
        )

    def _read_text(self, file: DataFile) -> tuple[Problem, ...]:
        content = file.path.read_bytes()
        try:
            text = (bz2.decompress(content) if file.path.suffix == ".bz2" else content).decode()
        except (OSError, ValueError) as error:
            raise SourceError(
                f"{self.name}: {file.path.name} cannot be read ({type(error).__name__}); expected"
                " UTF-8 text, packed with bzip2 where it is named .bz2"
            ) from None
        lines = text.removesuffix("\n").split("\n")
        if len(lines) % 6:
            raise SourceError(
                f"{self.name}: {file.path.name} has {len(lines)} lines, expected six for each item:"
                " context, label 0 to 3, four endings; is the file whole?"
            )
        return tuple(
            self._problem(
                file, start // 6, lines[start], lines[start + 1], lines[start + 2 : start + 6]
            )
            for start in range(0, len(lines), 6)
        )

    def _problem(
        self, file: DataFile, number: int, context: str, label: object, endings: list[str]
    ) -> Problem:
        if str(label) not in ("0", "1", "2", "3") or len(endings) != len(LETTERS):
            found = f"label {label!r} and {len(endings)} endings"
            raise wrong_row(self.name, file, number + 1, found, "a label from 0 to 3 and 4 endings")
        # As OpenCompass does: what stands before the first colon, the activity, is not shown.
        shown = context.split(": ", 1)[-1]
        fields = {"context": shown, "endings": endings, "answer": LETTERS[int(str(label))]}
        return Problem(str(number), fields)

    def messages(self, problem: Problem, examples: Sequence[Problem] = ()) -> list[Message]:
        """The instruction, then each example and the problem as turns."""
        asked = [*examples, problem] if self.setting == "released" else [problem]
        turns: list[Message] = []
        for item in asked:
            turns += [user(_text(item) + _REQUEST), assistant(item.fields["answer"] + "\n")]
        turns[0] = user(_INSTRUCTION + "\n" + turns[0]["content"])
        return turns[:-1]

    def raw_prompt(self, problem: Problem, examples: Sequence[Problem] = ()) -> str:
        """The same as one text."""
        return joined(self.messages(problem, examples)) + "\n"

    def check_ready(self) -> None:
        """A letter is compared; nothing is needed."""

    def grade(self, problem: Problem, answer: str, *, raw: bool = False) -> Grade:
        """The letter stated most clearly; at last any capital A to D, as OpenCompass does."""
        text = answer.strip()
        found = (match for pattern in _STATED if (match := pattern.search(text)))
        match = next(found, None)
        letter = match.group(1) if match else None
        return judged(letter == problem.fields["answer"], letter)


def _context(row: dict[str, Any]) -> str:
    """Both parts of the context, as evaluation harnesses put them together."""
    return _clean(f"{row['activity_label']}: {row['ctx_a']} {str(row['ctx_b']).capitalize()}")


def _clean(text: str) -> str:
    """The mark-up of WikiHow's titles becomes a full stop, other marks in brackets vanish."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _text(problem: Problem) -> str:
    return _QUESTION.format(**problem.fields)
