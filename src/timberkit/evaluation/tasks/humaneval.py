"""HumanEval: 164 functions to write, judged by running their tests (arXiv 2107.03374).

Asked as by OpenCompass' ``humaneval_openai_sample_evals_gen_dcae0e``, which has the words of
OpenAI's simple-evals. The program that is run is the prompt, the first code block of the response
(all of it where there is none), and the tests; it runs in ``timberkit.evaluation.sandbox``.
Public format: JSON lines (gzipped or not) with ``task_id``, ``prompt``, ``entry_point``, ``test``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from timberkit.evaluation.data import locate, rows
from timberkit.evaluation.sandbox import Limits, require_sandbox, run_program
from timberkit.evaluation.task import Grade, Loaded, Message, Problem, judged, user

# From OpenCompass 0.5.4 (Apache-2.0), which has it from OpenAI's simple-evals (MIT).
_REQUEST = (
    "Read the following function signature and docstring, and fully implement the function"
    " described. Your response should only contain the code for this function.\n"
)
_COLUMNS = ("task_id", "prompt", "entry_point", "test")
_BLOCK = re.compile(r"```\w*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True)
class HumanEval:
    """HumanEval. ``unsandboxed``: run code from models without bubblewrap, at one's own risk."""

    setting: str = "released"
    unsandboxed: bool = False

    name: ClassVar[str] = "humaneval"
    settings: ClassVar[tuple[str, ...]] = ("released",)
    stops: ClassVar[tuple[str, ...]] = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    grade_seconds: ClassVar[float] = 30.0
    home: ClassVar[str] = (
        "hf://openai/openai_humaneval/openai_humaneval/test-00000-of-00001.parquet"
    )

    def load(self, source: str | None = None, *, shots: str | None = None) -> Loaded:
        """Problems keyed by ``task_id``."""
        file = locate(self.name, source or self.home)
        problems = tuple(
            Problem(str(row["task_id"]), {column: str(row[column]) for column in _COLUMNS[1:]})
            for row in rows(self.name, file, _COLUMNS)
        )
        return Loaded(problems, (), {file.path.name: file.sha256}, file.notices)

    def messages(self, problem: Problem, examples: Sequence[Problem] = ()) -> list[Message]:
        """The request, then signature and docstring."""
        return [user(_REQUEST + problem.fields["prompt"])]

    def raw_prompt(self, problem: Problem, examples: Sequence[Problem] = ()) -> str:
        """Signature and docstring alone: the continuation is the body."""
        return str(problem.fields["prompt"])

    def check_ready(self) -> None:
        """The sandbox has to work, unless ``unsandboxed``."""
        if not self.unsandboxed:
            require_sandbox()

    def grade(self, problem: Problem, answer: str, *, raw: bool = False) -> Grade:
        """All tests of the problem have to pass within 10 s."""
        if not answer.strip():
            return judged(False, None)
        code = body(answer) if raw else first_block(answer)
        outcome = run_program(
            whole_program(problem, code), limits=Limits(), unsandboxed=self.unsandboxed
        )
        return judged(outcome.passed, code, outcome.reason)


def first_block(text: str) -> str:
    """The first fenced code block of a response, or all of it; leading white space is dropped.

    >>> first_block("Here:\\n```python\\ndef f(): pass\\n```")
    'def f(): pass\\n'
    """
    block = _BLOCK.search(text)
    return (block.group(1) if block else text).lstrip()


def body(text: str) -> str:
    """The continuation of a raw prompt up to the first line that leaves the function."""
    ends = [end for stop in HumanEval.stops if (end := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]


def whole_program(problem: Problem, code: str) -> str:
    """What is run: prompt, code, tests, and the call of them, as in OpenAI's human-eval."""
    fields = problem.fields
    return f"{fields['prompt']}{code}\n{fields['test']}\ncheck({fields['entry_point']})\n"
