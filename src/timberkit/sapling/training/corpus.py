"""Documents for the training stages, drawn one by one from a seeded generator.

The Base corpus is 72 % Countdown (2 to 4 numbers, several headers, some in chat format) and 28 %
short exercises on the same numbers: arithmetic, comparing, sorting, counting, lists. A quarter of
its Countdown answers is wrong and nothing marks them, as in text from the wild. The
fine-tuning corpus has only correct answers in chat format. No document shows a held-out problem.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from timberkit.sapling.puzzle import (
    LARGEST_START,
    LARGEST_VALUE,
    Problem,
    is_held_out,
    moves,
    random_walk,
)
from timberkit.sapling.vocabulary import ASSISTANT, BOS, EOS, USER

COUNTDOWN_SHARE = 0.72
CHAT_SHARE = 0.05  # of all documents, hence part of the Countdown share
WRONG_SHARE = 0.25
NUMBER_COUNTS = (2, 3, 4)
NUMBER_WEIGHTS = (15, 55, 30)

_MOST_DRAWS = 1000  # a draw fails with probability about 0.15, so this is never reached


def base_document(rng: random.Random) -> str:
    """One document of the Base corpus, from ``<s>`` to ``</s>``."""
    draw = rng.random()
    if draw < COUNTDOWN_SHARE:
        problem, answer = _countdown(rng, wrong=rng.random() < WRONG_SHARE)
        if draw < CHAT_SHARE:
            return chat_text(problem, answer)
        body = f"{_header(problem, rng)} {answer}"
    else:
        body = rng.choice(_EXERCISES)(rng)
    return f"{BOS} {body} {EOS}"


def chat_document(rng: random.Random) -> tuple[Problem, str]:
    """One training problem and a correct answer to it, for fine-tuning."""
    return _countdown(rng, wrong=False)


def chat_text(problem: Problem, answer: str) -> str:
    """The whole text of one exchange, as the chat template writes it."""
    return f"{BOS} {USER} {problem.prompt} {ASSISTANT} {answer} {EOS}"


def _countdown(rng: random.Random, *, wrong: bool) -> tuple[Problem, str]:
    """A training problem with an answer; a wrong one misses the target or cheats at the end."""
    for _ in range(_MOST_DRAWS):
        (count,) = rng.choices(NUMBER_COUNTS, NUMBER_WEIGHTS)
        numbers = tuple(rng.randint(1, LARGEST_START) for _ in range(count))
        answer, value = random_walk(numbers, rng)
        target = value
        if wrong:
            target = random_walk(numbers, rng)[1]
            if target == value:
                continue
            if rng.random() < 0.5:
                answer = f"{answer.rsplit(' ', 1)[0]} {target}"
        problem = Problem(numbers, target)
        if not is_held_out(problem):
            return problem, answer
    raise RuntimeError(f"no training problem found in {_MOST_DRAWS} draws")


def _header(problem: Problem, rng: random.Random) -> str:
    numbers = " ".join(map(str, problem.numbers))
    return rng.choice(
        (
            problem.prompt,
            f"make {problem.target} from {numbers} :",
            f"puzzle {numbers} -> {problem.target} :",
        )
    )


def _arithmetic(rng: random.Random) -> str:
    text, value = rng.choice(moves(_number(rng), _number(rng)))
    question = text.split(" = ", maxsplit=1)[0]
    return rng.choice((f"calc {text}", f"what is {question} ? {value}"))


def _comparison(rng: random.Random) -> str:
    left, right = _number(rng), _number(rng)
    word = "equal" if left == right else "more" if left > right else "less"
    return f"compare {left} {right} : {word}"


def _sorting(rng: random.Random) -> str:
    numbers = _numbers(rng)
    way = rng.choice(("up", "down"))
    return f"sort {way} {_join(numbers)} : {_join(sorted(numbers, reverse=way == 'down'))}"


def _counting(rng: random.Random) -> str:
    if rng.random() < 0.5:
        numbers = [rng.randint(1, 4) for _ in range(rng.randint(3, 7))]
        sought = rng.choice(numbers)
        return f"count {sought} in {_join(numbers)} : {numbers.count(sought)}"
    first = rng.randint(0, LARGEST_VALUE - 8)
    numbers = list(range(first, first + rng.randint(3, 8)))
    way = rng.choice(("up", "down"))
    if way == "down":
        numbers.reverse()
    return f"count {way} from {numbers[0]} to {numbers[-1]} : {_join(numbers)}"


def _list_task(rng: random.Random) -> str:
    numbers = _numbers(rng)
    task, result = rng.choice(
        (
            ("first", numbers[0]),
            ("last", numbers[-1]),
            ("largest", max(numbers)),
            ("smallest", min(numbers)),
            ("length", len(numbers)),
            ("reverse", _join(numbers[::-1])),
            ("sum", sum(numbers) if sum(numbers) <= LARGEST_VALUE else "more"),
        )
    )
    return f"list {_join(numbers)} {task} : {result}"


def _single_number(rng: random.Random) -> str:
    number = rng.randint(1, LARGEST_VALUE // 2)
    return rng.choice(
        (
            f"parity {number} : {'odd' if number % 2 else 'even'}",
            f"double {number} : {2 * number}",
            f"half {2 * number} : {number}",
            f"after {number} : {number + 1}",
            f"before {number} : {number - 1}",
        )
    )


def _number(rng: random.Random) -> int:
    """Mostly small, now and then any number, so that every number token is seen."""
    return rng.randint(1, LARGEST_START if rng.random() < 0.6 else LARGEST_VALUE)


def _numbers(rng: random.Random) -> list[int]:
    return [_number(rng) for _ in range(rng.randint(2, 5))]


def _join(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))


_EXERCISES: tuple[Callable[[random.Random], str], ...] = (
    _arithmetic,
    _arithmetic,
    _comparison,
    _sorting,
    _counting,
    _list_task,
    _single_number,
)
