"""Countdown puzzles: combine all given numbers, once each, to make a target.

A problem is a few numbers and a target; an answer is a chain of checked steps::

    nums 6 3 7 make 60 :
    7 + 3 = 10 ; 10 * 6 = 60

A step takes two numbers still on the table, combines them with ``+ - * /`` and puts the result
back. Every value must be a whole number from 1 to 99, and the last one must be the target. So an
answer to ``n`` numbers has ``n - 1`` steps and ``6 (n - 1) - 1`` words, and a problem has finitely
many correct answers: ``correct_answers`` lists them all, ``is_correct`` judges any text.

About 15 % of all problems are kept out of every kind of training. Which ones is decided by a hash
of the sorted numbers and the target (``is_held_out``), so no list has to be carried about.

Only the standard library is needed here.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache

from timberkit.errors import InputError

LARGEST_START = 12
"""The numbers of generated problems run from 1 to this; ``Problem`` itself takes 1 to 99."""

LARGEST_VALUE = 99
"""No number, intermediate value or target is above this."""

MOST_NUMBERS = 4
"""More numbers would make the list of correct answers too long to enumerate quickly."""

HELD_OUT_PERCENT = 15

_STEP_WORDS = 6  # "a op b = c" and the ";" or end that follows it


@dataclass(frozen=True, slots=True)
class Problem:
    """One puzzle: combine all ``numbers``, once each, to make ``target``.

    ``numbers``: 2 to 4 integers from 1 to 99, in the order in which the prompt shows them.
    ``target``: an integer from 1 to 99. It need not be reachable.
    Raises ``InputError`` for anything else.

    >>> Problem((6, 3, 7), 60).prompt
    'nums 6 3 7 make 60 :'
    """

    numbers: tuple[int, ...]
    target: int

    def __post_init__(self) -> None:
        if not 2 <= len(self.numbers) <= MOST_NUMBERS:
            raise InputError(
                f"puzzle {self.numbers} -> {self.target}: found {len(self.numbers)} numbers, "
                f"expected 2 to {MOST_NUMBERS}; give the numbers as a tuple"
            )
        for value in (*self.numbers, self.target):
            if not (type(value) is int and 1 <= value <= LARGEST_VALUE):
                raise InputError(
                    f"puzzle {self.numbers} -> {self.target}: found {value!r}, expected integers "
                    f"from 1 to {LARGEST_VALUE}; the vocabulary has no other numbers"
                )

    @property
    def prompt(self) -> str:
        """The text of the user's message: ``nums 6 3 7 make 60 :``."""
        return f"nums {' '.join(map(str, self.numbers))} make {self.target} :"

    @property
    def key(self) -> str:
        """The problem without the order of its numbers, as hashed by ``is_held_out``."""
        return f"{' '.join(map(str, sorted(self.numbers)))} -> {self.target}"


def is_held_out(problem: Problem) -> bool:
    """Whether the problem is kept out of all training.

    The first 8 bytes of BLAKE2b over ``problem.key``, modulo 100, are below 15. The order of the
    numbers does not matter. O(1).

    >>> is_held_out(Problem((6, 3, 7), 60)) == is_held_out(Problem((7, 6, 3), 60))
    True
    """
    digest = hashlib.blake2b(problem.key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100 < HELD_OUT_PERCENT


def answer_words(count: int) -> int:
    """Number of words in a correct answer to ``count`` numbers, the end token not included.

    ``6 (count - 1) - 1``. Raises ``ValueError`` for ``count < 2``.

    >>> answer_words(3)
    11
    """
    if count < 2:
        raise ValueError(f"an answer needs at least 2 numbers, got {count}")
    return _STEP_WORDS * (count - 1) - 1


def is_correct(problem: Problem, text: str) -> bool:
    """Whether ``text`` is a correct answer, judged word by word.

    The text must be exactly one chain ``a op b = c ; ...`` that uses every number once, computes
    every step rightly within 1 to 99 and ends on the target. Words are separated by any white
    space; numbers are written in plain decimal without sign or leading zero. Anything before or
    after the chain makes the answer wrong. Never raises for any text. O(words).

    >>> is_correct(Problem((6, 3, 7), 60), "7 + 3 = 10 ; 10 * 6 = 60")
    True
    >>> is_correct(Problem((6, 3, 7), 60), "6 * 3 = 18 ; 18 + 7 = 60")
    False
    """
    words = text.split()
    if len(words) != answer_words(len(problem.numbers)):
        return False
    table = [str(number) for number in problem.numbers]
    for start in range(0, len(words), _STEP_WORDS):
        left, sign, right, equals, result = words[start : start + 5]
        if equals != "=" or words[start + 5 : start + 6] not in ([], [";"]):
            return False
        if left not in table:
            return False
        table.remove(left)
        if right not in table:
            return False
        table.remove(right)
        if result != str(_apply(int(left), sign, int(right))):
            return False
        table.append(result)
    return table == [str(problem.target)]


def correct_answers(problem: Problem) -> tuple[str, ...]:
    """Every correct answer to a problem, without repetition, sorted.

    Empty when the target cannot be reached. At most 28 for 3 numbers from 1 to 12 and a few
    hundred for 4; about 0.05 ms for 3 numbers, 1 ms for 4 (results are remembered).

    >>> correct_answers(Problem((2, 3), 6))
    ('2 * 3 = 6', '3 * 2 = 6')
    """
    return tuple(sorted(_solutions(tuple(sorted(problem.numbers)), problem.target)))


def reachable_targets(numbers: Iterable[int]) -> tuple[int, ...]:
    """All values that the numbers can make, ascending.

    >>> reachable_targets([2, 3])
    (1, 5, 6)
    """
    return tuple(sorted(_reachable(tuple(sorted(numbers)))))


def problem_pool(count: int, *, held_out: bool) -> list[Problem]:
    """Every solvable problem with ``count`` numbers from 1 to 12 on one side of the split.

    Numbers are ascending, problems in lexicographic order. ``count``: 2 to 4.
    Complete enumeration, so drawing from the pool cannot loop. Both sides together hold 4,717
    problems with 3 numbers and about 65,000 with 4; below a second.
    Raises ``ValueError`` for another ``count``.
    """
    if not 2 <= count <= MOST_NUMBERS:
        raise ValueError(f"count must be 2 to {MOST_NUMBERS}, got {count}")
    multisets = itertools.combinations_with_replacement(range(1, LARGEST_START + 1), count)
    problems = (
        Problem(numbers, target) for numbers in multisets for target in reachable_targets(numbers)
    )
    return [problem for problem in problems if is_held_out(problem) == held_out]


def random_walk(numbers: Iterable[int], rng: random.Random) -> tuple[str, int]:
    """One random valid chain of steps over all numbers: its text and the value it ends on.

    Each step draws two numbers and then one of their valid moves, all equally likely.
    Always succeeds: two values from 1 to 99 have a valid move (a difference, or a quotient of 1).
    """
    table = list(numbers)
    steps = []
    while len(table) > 1:
        left = table.pop(rng.randrange(len(table)))
        right = table.pop(rng.randrange(len(table)))
        text, value = rng.choice(moves(left, right))
        steps.append(text)
        table.append(value)
    return " ; ".join(steps), table[0]


@cache
def moves(left: int, right: int) -> tuple[tuple[str, int], ...]:
    """All valid steps on two numbers, in both orders: their texts and results.

    >>> moves(2, 4)
    (('2 + 4 = 6', 6), ('2 * 4 = 8', 8), ('4 + 2 = 6', 6), ('4 - 2 = 2', 2), ('4 * 2 = 8', 8), \
('4 / 2 = 2', 2))
    """
    found = {}
    for a, b in ((left, right), (right, left)):
        for sign in "+-*/":
            value = _apply(a, sign, b)
            if value is not None:
                found[f"{a} {sign} {b} = {value}"] = value
    return tuple(found.items())


def _apply(left: int, sign: str, right: int) -> int | None:
    """The value of one step, or None where the step is not allowed."""
    if sign == "+":
        value = left + right
    elif sign == "-":
        value = left - right
    elif sign == "*":
        value = left * right
    elif sign == "/" and right != 0 and left % right == 0:
        value = left // right
    else:
        return None
    return value if 1 <= value <= LARGEST_VALUE else None


def _pairs(table: tuple[int, ...]) -> dict[tuple[int, int], tuple[int, ...]]:
    """Distinct pairs of values on a sorted table, each with what remains."""
    return {
        (table[i], table[j]): table[:i] + table[i + 1 : j] + table[j + 1 :]
        for i, j in itertools.combinations(range(len(table)), 2)
    }


@cache
def _reachable(table: tuple[int, ...]) -> frozenset[int]:
    if len(table) == 1:
        return frozenset(table)
    return frozenset(
        target
        for (left, right), rest in _pairs(table).items()
        for value in {value for _, value in moves(left, right)}
        for target in _reachable(tuple(sorted((*rest, value))))
    )


@lru_cache(maxsize=200_000)
def _solutions(table: tuple[int, ...], target: int) -> tuple[str, ...]:
    """Texts that lead from a sorted table to the target; distinct pairs give distinct texts."""
    found: list[str] = []
    for (left, right), rest in _pairs(table).items():
        for text, value in moves(left, right):
            if rest:
                tails = _solutions(tuple(sorted((*rest, value))), target)
                found.extend(f"{text} ; {tail}" for tail in tails)
            elif value == target:
                found.append(text)
    return tuple(found)
