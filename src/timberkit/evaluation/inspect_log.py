"""Rollouts as inspect_ai logs: written whole, many rollouts a file, and read back.

A unit's rollouts lie in ``logs/<model>/<task>_<setting>_0001.eval`` and so on, up to
``timberkit.evaluation.store.MOST_TOGETHER`` in each, ordinary logs that ``inspect view`` opens. In
a sample, ``id`` and ``epoch`` are problem and rollout, ``output.completion`` is the whole text, the
assistant message has reasoning and response apart, and the score ``timberkit`` holds grade, answer
and reason. ``eval.metadata["timberkit"]`` says which unit the log belongs to.

Logs are written and read by inspect_ai's own functions.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timberkit.errors import InputError, InterruptedRunError
from timberkit.evaluation.journal import Generation, Key
from timberkit.evaluation.reasoning import CLOSING, LENGTH_STOPS, OPENING, Response
from timberkit.evaluation.task import Grade, Message, Problem
from timberkit.evaluation.units import Unit
from timberkit.rollouts import Rollout

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample
    from inspect_ai.model import ChatMessage, ModelOutput

SCORER = "timberkit"
READ_TOGETHER = 16
"""Rollouts read from a log at once: a hundred kilobytes each, a few times over."""
_STOPS = {"length": "max_tokens", "stop": "stop", "content_filter": "content_filter"}
_AGAIN = "another program wrote it, or it is broken; move it away, and the run asks again"


@dataclass(frozen=True, slots=True)
class LoggedRollout:
    """What is known of a rollout in a log without reading its text."""

    key: Key
    correct: bool
    has_answer: bool
    truncated: bool
    failed: bool
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A generation with its parts and its grade, and what was asked."""

    generation: Generation
    response: Response
    grade: Grade
    problem: Problem
    prompt: Sequence[Message] | str


def as_chat(prompt: Sequence[Message] | str) -> list[ChatMessage]:
    """A prompt as inspect_ai's messages; plain text is one message from the user."""
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    if isinstance(prompt, str):
        return [ChatMessageUser(content=prompt, source="input")]
    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser}
    return [
        ChatMessageAssistant(content=message["content"], source="input")
        if message["role"] == "assistant"
        else kinds[message["role"]](content=message["content"], source="input")
        for message in prompt
    ]


def whole_text(output: ModelOutput) -> str:
    """Everything that was generated, as the model wrote it.

    A server or inspect_ai may have taken the reasoning out; it is put back between its tags, open
    where the limit on tokens ended the response before anything else came.
    """
    if output.empty:
        return ""
    content = output.message.content
    if isinstance(content, str):
        return content
    pieces = []
    for part in content:
        if part.type == "reasoning":
            pieces.append(f"{OPENING}{part.reasoning}{CLOSING}\n")
        elif part.type == "text":
            pieces.append(part.text)
    text = "".join(pieces)
    ends_inside = content and content[-1].type == "reasoning"
    if ends_inside and output.stop_reason in LENGTH_STOPS:
        text = text.removesuffix(f"{CLOSING}\n")
    return text


def stop_of(output: ModelOutput) -> str:
    """Why a generation ended, in the words of ``timberkit.rollouts.STOPS``."""
    if output.empty:
        return "unknown"
    reason = output.stop_reason
    if reason in LENGTH_STOPS:
        return "length"
    return reason if reason in ("stop", "content_filter") else "unknown"


def write_log(path: Path, unit: Unit, judged: Iterable[Judged]) -> None:
    """Write one log, whole or not at all. Memory for all of its rollouts at once.

    Raises InterruptedRunError when the disk is full or fails. About 3 ms a rollout.
    """
    from inspect_ai.log import write_eval_log

    log = _log(unit, [_sample(unit, each) for each in judged])
    draft = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_eval_log(log, draft, format="eval")
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise InterruptedRunError(
            f"{path}: cannot be written: {error.strerror}; what is done so far is kept; free some"
            " space and run the same command again"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def read_logged(path: Path, digest: str) -> list[LoggedRollout]:
    """What a log of a unit holds, without the texts.

    Raises InputError for a log that cannot be read or is of another unit.
    """
    from inspect_ai.log import read_eval_log, read_eval_log_sample_summaries

    with _readable(path):
        header = read_eval_log(path, header_only=True)
        found = (header.eval.metadata or {}).get(SCORER)
        if not isinstance(found, dict) or found.get("digest") != digest:
            raise InputError(f"{path}: is no log of this unit with these settings; {_AGAIN}")
        return [_logged(summary) for summary in read_eval_log_sample_summaries(path)]


def read_rollouts_of(path: Path, unit: Unit, keys: Sequence[Key]) -> Iterator[Rollout]:
    """Some rollouts of a log, in this order, a few at a time; InputError as ``read_logged``."""
    from inspect_ai.log import read_eval_log_samples_by_id

    for start in range(0, len(keys), READ_TOGETHER):
        with _readable(path):
            samples = read_eval_log_samples_by_id(
                path, keys[start : start + READ_TOGETHER], resolve_attachments="full"
            )
            rollouts = [_rollout(unit, sample) for sample in samples]
        yield from rollouts


def _log(unit: Unit, samples: list[EvalSample]) -> EvalLog:
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalLog,
        EvalMetric,
        EvalResults,
        EvalScore,
        EvalSpec,
        EvalStats,
    )
    from inspect_ai.model import GenerateConfig

    now = datetime.now(UTC).isoformat(timespec="seconds")
    sampling = unit.settings["sampling"]
    right = sum(_is_correct(sample.scores) for sample in samples)
    metric = EvalMetric(name="accuracy", value=right / max(len(samples), 1))
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=now,
            task=unit.task,
            task_id=unit.digest[:22],
            task_args={"setting": unit.setting, "prompt": unit.settings["prompt"]},
            dataset=EvalDataset(name=unit.task, samples=len({sample.id for sample in samples})),
            model=unit.model,
            model_generate_config=GenerateConfig(
                **{
                    name: sampling[name]
                    for name in ("temperature", "top_p", "top_k", "max_tokens")
                    if sampling.get(name) is not None
                }
            ),
            config=EvalConfig(epochs=max((sample.epoch for sample in samples), default=1)),
            packages={name: version(name) for name in ("inspect_ai", "timberkit")},
            metadata={SCORER: unit.as_json()},
        ),
        results=EvalResults(
            total_samples=len(samples),
            completed_samples=sum(sample.error is None for sample in samples),
            scores=[EvalScore(name=SCORER, scorer=SCORER, metrics={"accuracy": metric})],
        ),
        stats=EvalStats(started_at=now, completed_at=now),
        samples=samples,
    )


def _sample(unit: Unit, judged: Judged) -> EvalSample:
    from inspect_ai.log import EvalError, EvalSample
    from inspect_ai.model import (
        ChatCompletionChoice,
        ChatMessageAssistant,
        Content,
        ContentReasoning,
        ContentText,
        ModelOutput,
        ModelUsage,
    )
    from inspect_ai.scorer import CORRECT, INCORRECT, Score

    done, grade, response = judged.generation, judged.grade, judged.response
    usage = ModelUsage(
        input_tokens=done.input_tokens or 0,
        output_tokens=done.output_tokens or 0,
        total_tokens=(done.input_tokens or 0) + (done.output_tokens or 0),
    )
    content: list[Content] = []
    if response.reasoning:
        content.append(ContentReasoning(reasoning=response.reasoning))
    content.append(ContentText(text=response.answer))
    message = ChatMessageAssistant(content=content, source="generate", model=unit.model)
    prompt = as_chat(judged.prompt)
    return EvalSample(
        id=done.problem,
        epoch=done.rollout,
        input=judged.prompt if isinstance(judged.prompt, str) else prompt,
        target=str(judged.problem.fields.get("answer", "")),
        messages=[*prompt, message],
        output=ModelOutput(
            model=unit.model,
            choices=[
                ChatCompletionChoice(
                    message=message,
                    stop_reason=_STOPS.get(done.stop, "unknown"),  # type: ignore[arg-type]
                )
            ],
            completion=done.text,
            usage=usage,
            time=done.seconds,
        ),
        scores={
            SCORER: Score(
                value=CORRECT if grade.correct else INCORRECT,
                answer=grade.answer,
                explanation=grade.reason or None,
            )
        },
        metadata={
            "seed": done.seed,
            "stop": done.stop,
            "input_tokens": done.input_tokens,
            "output_tokens": done.output_tokens,
        },
        model_usage={unit.model: usage},
        total_time=done.seconds,
        error=None
        if done.error is None
        else EvalError(message=done.error, traceback="", traceback_ansi=""),
    )


def _logged(summary: Any) -> LoggedRollout:
    score = summary.scores[SCORER]
    return LoggedRollout(
        key=(str(summary.id), summary.epoch),
        correct=_is_correct(summary.scores),
        has_answer=score.answer is not None,
        truncated=summary.metadata.get("stop") == "length",
        failed=summary.error is not None,
        output_tokens=int(summary.metadata.get("output_tokens") or 0),
    )


def _is_correct(scores: Any) -> bool:
    return bool(scores and scores[SCORER].value == "C")


def _rollout(unit: Unit, sample: EvalSample) -> Rollout:
    score = (sample.scores or {})[SCORER]
    reasoning, response = "", ""
    for part in sample.output.message.content_list:
        if part.type == "reasoning":
            reasoning = part.reasoning
        elif part.type == "text":
            response = part.text
    return Rollout(
        model=unit.model,
        task=unit.task,
        setting=unit.setting,
        problem=str(sample.id),
        rollout=sample.epoch,
        correct=_is_correct(sample.scores),
        answer=score.answer,
        reason=score.explanation or "",
        stop=str(sample.metadata["stop"]),
        text=sample.output.completion if sample.output.completion else "",
        reasoning=reasoning,
        response=response,
        seed=sample.metadata["seed"],
        temperature=unit.settings["sampling"].get("temperature"),
        input_tokens=sample.metadata["input_tokens"],
        output_tokens=sample.metadata["output_tokens"],
        seconds=sample.total_time,
        error=None if sample.error is None else sample.error.message,
    )


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever a broken log makes inspect_ai raise becomes an InputError."""
    import zipfile

    try:
        yield
    except (OSError, ValueError, KeyError, IndexError, TypeError, zipfile.BadZipFile) as error:
        kind = type(error).__name__
        raise InputError(f"{path}: cannot be read ({kind}: {str(error)[:200]}); {_AGAIN}") from None
