"""Thinking and answer apart, in every way that templates and servers write them."""

from __future__ import annotations

import pytest

from timberkit.evaluation.reasoning import opens_reasoning, split_response


@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "answer", "finished"),
    [
        ("4", False, "", "4", True),
        ("<think>\n2 and 2\n</think>\n\n4", False, "2 and 2", "4", True),
        ("2 and 2\n</think>\n\n4", True, "2 and 2", "4", True),
        ("<think>2 and 2</think>4", True, "2 and 2", "4", True),
        ("2 and 2</think>4", False, "2 and 2", "4", True),
        ("<think></think>4", False, "", "4", True),
        ("<think>a</think>so<think>b</think>4", False, "a\nb", "so\n4", True),
        ("<think>2 and 2", False, "2 and 2", "", False),
        ("2 and 2 is 4", True, "2 and 2 is 4", "", False),
        ("<think>a</think>4<think>b", False, "a\nb", "", False),
        ("", False, "", "", True),
        ("", True, "", "", False),
    ],
)
def test_a_response_is_split(
    text: str, opened: bool, reasoning: str, answer: str, finished: bool
) -> None:
    parts = split_response(text, opened=opened)
    assert (parts.reasoning, parts.answer, parts.finished) == (reasoning, answer, finished)
    assert not parts.truncated


@pytest.mark.parametrize("reason", ["length", "max_tokens", "model_length"])
def test_a_limit_on_tokens_truncates_wherever_it_strikes(reason: str) -> None:
    inside = split_response("<think>on and on", stop_reason=reason)
    assert (inside.answer, inside.truncated) == ("", True)
    after = split_response("<think>a</think>the answer", stop_reason=reason)
    assert (after.answer, after.finished, after.truncated) == ("the answer", True, True)


def test_other_tags_are_possible() -> None:
    parts = split_response("[R]a[/R]b", opening="[R]", closing="[/R]")
    assert (parts.reasoning, parts.answer) == ("a", "b")


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|assistant|>", False),
        ("<|assistant|><think>\n", True),
        ("<|assistant|><think>\n\n</think>\n\n", False),
        ("<think>old</think><|assistant|>", False),
    ],
)
def test_a_prompt_that_opens_the_block_is_known(prompt: str, opened: bool) -> None:
    assert opens_reasoning(prompt) is opened
