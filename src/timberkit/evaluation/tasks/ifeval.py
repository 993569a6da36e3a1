"""IFEval: 541 prompts with instructions that a program can check (arXiv 2311.07911).

The bare prompt is asked (OpenCompass' ``IFEval_gen_353ae7``); a response is right when it
follows every instruction to the letter: prompt-level strict accuracy. The checkers are those of
if-verifiable 0.1.2. Sentences are counted with NLTK's ``punkt_tab``, looked for in ``NLTK_DATA``;
languages are guessed by langdetect with a fixed seed, or the verdicts would vary.
Public format: JSON lines with ``key``, ``prompt``, ``instruction_id_list``, ``kwargs``.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from timberkit.errors import MissingExtraError, SourceError
from timberkit.evaluation.data import locate, rows, wrong_row
from timberkit.evaluation.task import Grade, Loaded, Message, Problem, judged, user


@dataclass(frozen=True, slots=True)
class IFEval:
    """IFEval. Its only setting is the released one."""

    setting: str = "released"

    name: ClassVar[str] = "ifeval"
    settings: ClassVar[tuple[str, ...]] = ("released",)
    stops: ClassVar[tuple[str, ...]] = ()
    grade_seconds: ClassVar[float] = 60.0
    home: ClassVar[str] = "hf://google/IFEval/ifeval_input_data.jsonl"

    def load(self, source: str | None = None, *, shots: str | None = None) -> Loaded:
        """Problems keyed by the row's ``key``."""
        columns = ("key", "prompt", "instruction_id_list", "kwargs")
        file = locate(self.name, source or self.home)
        problems = []
        for number, row in enumerate(rows(self.name, file, columns), start=1):
            names, arguments = row["instruction_id_list"], row["kwargs"]
            if not names or len(names) != len(arguments):
                found = f"{len(names)} instructions with {len(arguments)} sets of arguments"
                raise wrong_row(self.name, file, number, found, "one for each")
            fields = {
                "prompt": str(row["prompt"]),
                "instructions": list(names),
                "arguments": [_given(each) for each in arguments],
            }
            problems.append(Problem(str(row["key"]), fields))
        return Loaded(tuple(problems), (), {file.path.name: file.sha256}, file.notices)

    def messages(self, problem: Problem, examples: Sequence[Problem] = ()) -> list[Message]:
        """The prompt and nothing else."""
        return [user(problem.fields["prompt"])]

    def raw_prompt(self, problem: Problem, examples: Sequence[Problem] = ()) -> str:
        """The prompt, and a new line to write on."""
        return f"{problem.fields['prompt']}\n"

    def check_ready(self) -> None:
        """The checkers and their data have to be installed."""
        _checkers()

    def grade(self, problem: Problem, answer: str, *, raw: bool = False) -> Grade:
        """Every instruction has to be followed; the reason names those that are not.

        An empty response follows none. Raises SourceError for an instruction that the checkers
        do not know, which they would skip in silence.
        """
        checkers = _checkers()
        fields = problem.fields
        unknown = sorted(set(fields["instructions"]) - set(checkers))
        if unknown:
            raise SourceError(
                f"{self.name}: problem {problem.key}: no checker for {', '.join(unknown)}; expected"
                " instructions of IFEval's public file"
            )
        if not answer.strip():
            return judged(False, None)
        missed = [
            name
            for name, arguments in zip(fields["instructions"], fields["arguments"], strict=True)
            if not _follows(checkers[name](name), arguments, fields["prompt"], answer.strip())
        ]
        return judged(not missed, answer, f"not followed: {', '.join(missed)}")


def _follows(checker: Any, arguments: dict[str, Any], prompt: str, answer: str) -> bool:
    # What a row leaves open, a checker draws by lot: the same lot for every answer.
    random.seed(0)
    checker.build_description(**arguments)
    wanted = checker.get_instruction_args()
    if wanted and "prompt" in wanted:
        checker.build_description(prompt=prompt)
    return bool(checker.check_following(answer))


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    """What is set; files that passed through a table have None for everything else."""
    return {key: value for key, value in arguments.items() if value is not None}


def _checkers() -> dict[str, Any]:
    try:
        import nltk
        from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT
        from langdetect import DetectorFactory
    except ImportError:
        raise MissingExtraError("if-verifiable", extra="eval") from None
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        raise SourceError(
            "ifeval: NLTK's punkt_tab, which its checkers count sentences with, is not on this"
            " machine; fetch it with 'python -m nltk.downloader punkt_tab', or point NLTK_DATA to a"
            " folder that has tokenizers/punkt_tab"
        ) from None
    DetectorFactory.seed = 0
    checkers: dict[str, Any] = INSTRUCTION_DICT
    return checkers
