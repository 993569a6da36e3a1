"""What every benchmark is made of: problems, prompts in two forms, and a grader.

A task is a small frozen value: a name and a setting decide everything it does, so that a worker
process can build the same one again (``timberkit.evaluation.tasks.make_task``). The engine that
asks models knows this protocol and no benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict

MOST_ANSWER_CHARACTERS = 2_000
"""What a grade keeps of an answer; longer ones are cut."""


class Message(TypedDict):
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One item of a benchmark.

    ``key`` is unique in its task and the same at every load. ``fields`` holds JSON values: what
    the prompt and the grader need, nothing else.
    """

    key: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Grade:
    """The judgement of one answer.

    ``answer`` is what the grader took as the answer, None where it found none (a format failure).
    ``reason`` says in words why an answer is not right; empty for a right one.
    """

    correct: bool
    answer: str | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The problems of a benchmark, and where they came from.

    ``examples`` are solved problems that a few-shot prompt shows first. ``sha256`` maps the name
    of each file that was read to its digest. ``notices`` are for the reader of the results.
    """

    problems: tuple[Problem, ...]
    examples: tuple[Problem, ...] = ()
    sha256: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


class Task(Protocol):
    """A benchmark in one of its settings."""

    @property
    def name(self) -> str:
        """The name on the command line: ``aime24``."""

    @property
    def setting(self) -> str:
        """Which of ``settings``; the first is the default."""

    @property
    def settings(self) -> tuple[str, ...]:
        """All settings: ``released`` (the authors' configs), ``paper`` (its text) and others."""

    @property
    def stops(self) -> tuple[str, ...]:
        """Where the continuation of a raw prompt ends; chat answers end by themselves."""

    @property
    def grade_seconds(self) -> float:
        """How long judging one answer may take before it counts as wrong."""

    def load(self, source: str | None = None, *, shots: str | None = None) -> Loaded:
        """All problems, in the order of the file.

        ``source``: a local file in the benchmark's public format, or ``hf://org/name/path`` (with
        ``@revision`` after the name); None for its usual home on the Hub. ``shots`` likewise for
        examples that lie in a file of their own.
        Raises SourceError for a file that is missing, gated or in another format.
        """

    def messages(self, problem: Problem, examples: Sequence[Problem] = ()) -> list[Message]:
        """The chat prompt."""

    def raw_prompt(self, problem: Problem, examples: Sequence[Problem] = ()) -> str:
        """The same question as plain text, for Base models."""

    def check_ready(self) -> None:
        """Raise a TimberkitError, saying what to do, where this machine cannot judge answers."""

    def grade(self, problem: Problem, answer: str, *, raw: bool = False) -> Grade:
        """Judge the text that follows the reasoning; ``raw`` where ``raw_prompt`` was asked.

        Answers are hostile: call this in a worker process (``timberkit.evaluation.grading``).
        """


def joined(messages: Sequence[Message]) -> str:
    """A chat prompt as plain text: the contents, a line break between them.

    So OpenCompass asks a model that has no template, a Base model.

    >>> joined([{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}])
    '2+2?\\n4'
    """
    return "\n".join(message["content"] for message in messages)


def user(content: str) -> Message:
    """A message from the user."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """A message from the model, in an example."""
    return {"role": "assistant", "content": content}


def judged(correct: bool, answer: str | None, reason: str = "wrong answer") -> Grade:
    """A grade with a cut answer; without an answer it is wrong, and the reason says so.

    >>> judged(False, None).reason
    'no answer found in the expected form'
    """
    if answer is None:
        return Grade(False, None, "no answer found in the expected form")
    return Grade(correct, answer[:MOST_ANSWER_CHARACTERS], "" if correct else reason)
