"""The words that Sapling models read and write, one token each, and the chat prompt in them.

147 words: six special ones, the numbers 0 to 99, the signs, and the words of the training
corpus. The tokenizer files in the shipped folders hold the same list; this module lets the exact
evaluator and the training work without a tokenizer object.

Only the standard library is needed here.
"""

from __future__ import annotations

from timberkit.sapling.puzzle import Problem

PAD, BOS, EOS, UNK, USER, ASSISTANT = (
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "<|user|>",
    "<|assistant|>",
)
SPECIAL_WORDS = (PAD, BOS, EOS, UNK, USER, ASSISTANT)

_SIGNS = ("+", "-", "*", "/", "=", ";", ":", "->", "?")
_WORDS = (
    *("nums", "make", "from", "puzzle", "calc", "what", "is", "compare", "more", "less", "equal"),
    *("sort", "up", "down", "count", "to", "in", "list", "first", "last", "largest", "smallest"),
    *("reverse", "sum", "length", "parity", "even", "odd", "double", "half", "after", "before"),
)

VOCABULARY: tuple[str, ...] = (*SPECIAL_WORDS, *map(str, range(100)), *_SIGNS, *_WORDS)
"""Every word; a word's position is its token id."""

IDS: dict[str, int] = {word: index for index, word in enumerate(VOCABULARY)}
"""Word to token id."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|> {{ message['content'] }} "
    "{% elif message['role'] == 'assistant' %}<|assistant|> {{ message['content'] }} "
    "{{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant messages are known') }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Jinja template that the shipped folders carry as ``chat_template.jinja``."""


def encode(text: str) -> list[int]:
    """Token ids of white-space separated words.

    Raises ``ValueError`` naming the first word outside the vocabulary.

    >>> encode("7 + 3 = 10")
    [13, 106, 9, 110, 16]
    """
    try:
        return [IDS[word] for word in text.split()]
    except KeyError as error:
        raise ValueError(f"the word {error.args[0]!r} is not in the Sapling vocabulary") from None


def chat_prompt(problem: Problem) -> list[int]:
    """Token ids of the chat prompt of a problem, ready for the answer's first token.

    Equal to ``tokenizer.apply_chat_template([{"role": "user", "content": problem.prompt}],
    add_generation_prompt=True)`` with the shipped tokenizers. Length: numbers + 7.
    """
    return encode(f"{BOS} {USER} {problem.prompt} {ASSISTANT}")
