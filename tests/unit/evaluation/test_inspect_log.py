"""Logs: what inspect_ai's own reader finds in them, and what comes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from timberkit.evaluation.inspect_log import (
    Judged,
    as_chat,
    read_logged,
    read_rollouts_of,
    stop_of,
    whole_text,
    write_log,
)
from timberkit.evaluation.journal import Generation
from timberkit.evaluation.reasoning import split_response
from timberkit.evaluation.task import Grade, Problem, assistant, user
from timberkit.evaluation.units import Unit
from timberkit.rollouts import Rollout

inspect_ai = pytest.importorskip("inspect_ai")

UNIT = Unit(
    model="after",
    folder="after",
    task="math500",
    setting="paper",
    stem="math500_paper",
    settings={"sampling": {"temperature": 0.6, "top_k": 20, "max_tokens": 9}, "prompt": "chat"},
)
PROMPT = [user("2+2?"), assistant("4"), user("3+3?")]
HOSTILE = "\x1b[2J<script>\x00\u2028\u202e attachment://0 " + "\U0001f600"


def judged(text: str, *, key: str = "test/algebra/1.json", **fields: object) -> Judged:
    generation = replace(
        Generation(key, 1, 7, text=text, stop="stop", input_tokens=3, output_tokens=5, seconds=0.5),
        **fields,  # type: ignore[arg-type]
    )
    response = split_response(text, stop_reason=generation.stop)
    grade = Grade(False, response.answer or None, "wrong answer")
    return Judged(generation, response, grade, Problem(key, {"answer": "6"}), PROMPT)


def test_every_field_comes_back_from_a_log(tmp_path: Path) -> None:
    write_log(tmp_path / "a.eval", UNIT, [judged("<think>three\n\nand three</think>\n7")])
    (found,) = read_rollouts_of(tmp_path / "a.eval", UNIT, [("test/algebra/1.json", 1)])
    assert found == Rollout(
        model="after",
        task="math500",
        setting="paper",
        problem="test/algebra/1.json",
        rollout=1,
        correct=False,
        answer="7",
        reason="wrong answer",
        stop="stop",
        text="<think>three\n\nand three</think>\n7",
        reasoning="three\n\nand three",
        response="7",
        seed=7,
        temperature=0.6,
        input_tokens=3,
        output_tokens=5,
        seconds=0.5,
    )


@pytest.mark.parametrize("text", ["", HOSTILE, "a" * 200_000, "<think>" + HOSTILE, "</think>"])
def test_any_text_comes_back_as_it_was(tmp_path: Path, text: str) -> None:
    write_log(tmp_path / "a.eval", UNIT, [judged(text, stop="length")])
    (found,) = read_rollouts_of(tmp_path / "a.eval", UNIT, [("test/algebra/1.json", 1)])
    parts = split_response(text, stop_reason="length")
    assert (found.text, found.reasoning, found.response) == (text, parts.reasoning, parts.answer)
    assert found.stop == "length"


def test_failed_request_comes_back_with_its_error_and_without_tokens(tmp_path: Path) -> None:
    failed = judged("", stop="error", error="500", input_tokens=None, output_tokens=None)
    write_log(tmp_path / "a.eval", UNIT, [failed])
    (found,) = read_rollouts_of(tmp_path / "a.eval", UNIT, [("test/algebra/1.json", 1)])
    assert (found.error, found.stop, found.output_tokens) == ("500", "error", None)
    (logged,) = read_logged(tmp_path / "a.eval", UNIT.digest)
    assert (logged.failed, logged.correct, logged.output_tokens) == (True, False, 0)


def test_inspect_reads_the_log_with_reasoning_and_grade_apart(tmp_path: Path) -> None:
    from inspect_ai.log import read_eval_log

    write_log(tmp_path / "a.eval", UNIT, [judged("<think>hm</think>6"), judged("6", rollout=2)])
    log = read_eval_log(tmp_path / "a.eval")
    assert (log.status, log.eval.task, log.eval.model) == ("success", "math500", "after")
    assert log.results is not None
    assert log.results.scores[0].metrics["accuracy"].value == 0
    assert [(sample.id, sample.epoch) for sample in log.samples or []] == [
        ("test/algebra/1.json", 1),
        ("test/algebra/1.json", 2),
    ]
    sample = (log.samples or [])[0]
    assert [message.role for message in sample.messages] == [
        *("user", "assistant", "user", "assistant"),
    ]
    kinds = [part.type for part in sample.output.message.content_list]
    assert kinds == ["reasoning", "text"]
    assert sample.target == "6"
    assert sample.scores is not None
    assert sample.scores["timberkit"].explanation == "wrong answer"


def test_log_that_cannot_be_finished_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken() -> object:
        yield judged("6")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_log(tmp_path / "a.eval", UNIT, broken())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("parts", "stop", "text"),
    [
        (["reasoning", "text"], "stop", "<think>hm</think>\n6"),
        (["reasoning"], "max_tokens", "<think>hm"),
        (["reasoning"], "stop", "<think>hm</think>\n"),
        (["text"], "stop", "6"),
    ],
)
def test_reasoning_that_a_server_took_out_is_put_back(
    parts: list[str], stop: str, text: str
) -> None:
    from inspect_ai.model import ContentReasoning, ContentText, ModelOutput

    made = {"reasoning": ContentReasoning(reasoning="hm"), "text": ContentText(text="6")}
    output = ModelOutput.from_content("m", [made[part] for part in parts], stop)  # type: ignore[arg-type]
    assert whole_text(output) == text
    assert stop_of(output) == ("length" if stop == "max_tokens" else "stop")


def test_no_output_at_all_is_an_empty_text() -> None:
    from inspect_ai.model import ModelOutput

    assert (whole_text(ModelOutput()), stop_of(ModelOutput())) == ("", "unknown")


def test_prompts_keep_roles_and_words() -> None:
    chat = as_chat([{"role": "system", "content": "s"}, *PROMPT])
    assert [(message.role, message.text) for message in chat] == [
        ("system", "s"),
        ("user", "2+2?"),
        ("assistant", "4"),
        ("user", "3+3?"),
    ]
    assert [message.role for message in as_chat("plain")] == ["user"]
