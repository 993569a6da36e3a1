"""Thinking and answer apart.

A reasoning model writes ``<think> … </think>`` before its answer. Some chat templates open the
block themselves, at the end of the prompt: then only the closing tag is in the response. A response
that ends inside the block has no answer: it counts as wrong, and as truncated where the limit on
tokens ended it.
"""

from __future__ import annotations

from dataclasses import dataclass

OPENING, CLOSING = "<think>", "</think>"

LENGTH_STOPS = frozenset({"length", "max_tokens", "model_length"})
"""Stop reasons of servers and engines that say: the limit on tokens, not the model, ended it."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response in its parts.

    ``reasoning`` is empty for a model that does not think. ``answer`` is empty where the
    response ended inside its reasoning (``finished`` is False then). ``truncated``: the limit on
    tokens ended the response, wherever.
    """

    reasoning: str
    answer: str
    finished: bool
    truncated: bool


def opens_reasoning(rendered_prompt: str, *, opening: str = OPENING) -> bool:
    """Whether a rendered chat prompt ends with an open reasoning block.

    >>> opens_reasoning("<|im_start|>assistant\\n<think>\\n")
    True
    >>> opens_reasoning("<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n")
    False
    """
    return rendered_prompt.rstrip().endswith(opening)


def split_response(
    text: str,
    *,
    stop_reason: str = "stop",
    opened: bool = False,
    opening: str = OPENING,
    closing: str = CLOSING,
) -> Response:
    """Split a response into reasoning and answer.

    ``text``: the response as generated, without the prompt. ``opened``: the prompt ended with
    the opening tag. A closing tag without an opening one also says so, as nobody writes it
    otherwise. Further complete blocks after the first are reasoning too; a block that is never
    closed takes the rest. White space around the parts is dropped. O(characters).

    >>> split_response("<think>2 and 2</think> 4").answer
    '4'
    >>> split_response("2 and 2 make", opened=True, stop_reason="length")
    Response(reasoning='2 and 2 make', answer='', finished=False, truncated=True)
    """
    truncated = stop_reason in LENGTH_STOPS
    thoughts: list[str] = []
    answers: list[str] = []
    start, end = text.find(opening), text.find(closing)
    inside = opened or (end >= 0 and (start < 0 or end < start))
    rest = text
    if inside and rest.lstrip().startswith(opening):  # a server may repeat the tag of the prompt
        rest = rest.lstrip()[len(opening) :]
    while True:
        part, tag, rest = rest.partition(closing if inside else opening)
        (thoughts if inside else answers).append(part.strip())
        if not tag:
            break
        inside = not inside
    return Response(
        reasoning="\n".join(filter(None, thoughts)),
        answer="" if inside else "\n".join(filter(None, answers)),
        finished=not inside,
        truncated=truncated,
    )
