"""The puzzle's grammar and checker, against brute force and hostile texts."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timberkit.errors import InputError
from timberkit.sapling import Problem, correct_answers, is_correct, is_held_out, problem_pool
from timberkit.sapling.puzzle import answer_words, moves, random_walk, reachable_targets

PROBLEM = Problem((6, 3, 7), 60)
RIGHT = "7 + 3 = 10 ; 10 * 6 = 60"

small_problems = st.builds(
    Problem,
    st.lists(st.integers(1, 12), min_size=2, max_size=3).map(tuple),
    st.integers(1, 99),
)


def brute_force(numbers: tuple[int, ...], target: int) -> set[str]:
    """Every correct answer by trying all orders and signs; shares no code with the package."""
    if len(numbers) == 1:
        return {""} if numbers[0] == target else set()
    found = set()
    for a, b, *rest in itertools.permutations(numbers):
        for sign in "+-*/":
            value = eval(f"{a} {sign} {b}")
            if value == int(value) and 1 <= value <= 99:
                step = f"{a} {sign} {b} = {int(value)}"
                tails = brute_force((*rest, int(value)), target)
                found |= {f"{step} ; {tail}" if tail else step for tail in tails}
    return found


@given(small_problems)
def test_correct_answers_are_those_that_brute_force_finds(problem: Problem) -> None:
    assert set(correct_answers(problem)) == brute_force(problem.numbers, problem.target)


@pytest.mark.parametrize("numbers", [(1, 1, 1, 1), (2, 3, 5, 7), (12, 4, 4, 9)])
def test_correct_answers_to_four_numbers_are_those_that_brute_force_finds(
    numbers: tuple[int, ...],
) -> None:
    target = reachable_targets(numbers)[-1]
    assert set(correct_answers(Problem(numbers, target))) == brute_force(numbers, target)


@given(small_problems)
def test_every_listed_answer_is_accepted_and_listed_once(problem: Problem) -> None:
    answers = correct_answers(problem)
    assert len(answers) == len(set(answers))
    assert all(is_correct(problem, answer) for answer in answers)
    assert all(len(answer.split()) == answer_words(len(problem.numbers)) for answer in answers)


@pytest.mark.parametrize("numbers", [(3, 2), (2, 2), (5, 10)])
def test_checker_accepts_nothing_else_among_all_strings_of_one_step(
    numbers: tuple[int, int],
) -> None:
    words = [*map(str, range(1, 21))]
    texts = [
        f"{a} {sign} {b} = {c}"
        for a in map(str, numbers)
        for b in map(str, range(1, 13))
        for sign in ("+", "-", "*", "/", "=", ";")
        for c in words
    ]
    for target in range(1, 21):
        problem = Problem(numbers, target)
        accepted = {text for text in texts if is_correct(problem, text)}
        assert accepted == brute_force(numbers, target)


@given(small_problems, st.randoms(use_true_random=False))
def test_random_walk_answers_the_problem_that_it_ends_on(
    problem: Problem, rng: random.Random
) -> None:
    text, value = random_walk(problem.numbers, rng)
    assert is_correct(Problem(problem.numbers, value), text)
    assert value in reachable_targets(problem.numbers)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7 + 3 = 10",
        f"{RIGHT} ;",
        f"{RIGHT} </s>",
        f"so {RIGHT}",
        "7 + 3 = 10 ; 10 * 6 = 61",
        "7 + 3 = 11 ; 10 * 6 = 60",
        "7 + 3 = 10 : 10 * 6 = 60",
        "7 + 3 = 10 ; 10 * 6 ; 60",
        "7 + 3 = 10 ; 10 x 6 = 60",
        "07 + 3 = 10 ; 10 * 6 = 60",
        "+7 + 3 = 10 ; 10 * 6 = 60",
        "٧ + 3 = 10 ; 10 * 6 = 60",
        "7 + 3 = 1_0 ; 1_0 * 6 = 60",
        "10 * 6 = 60 ; 60 * 1 = 60",
        "7 + 3 = 10 ; 10 * 10 = 60",
        "6 * 7 = 42 ; 42 + 18 = 60",
    ],
)
def test_checker_refuses(text: str) -> None:
    assert not is_correct(PROBLEM, text)


def test_checker_refuses_values_outside_1_to_99() -> None:
    assert not is_correct(Problem((2, 2, 5), 5), "2 - 2 = 0 ; 0 + 5 = 5")
    assert not is_correct(Problem((12, 12, 12), 12), "12 * 12 = 144 ; 144 / 12 = 12")
    assert not is_correct(Problem((2, 5, 9), 6), "2 - 5 = -3 ; 9 + -3 = 6")
    assert not is_correct(Problem((2, 5), 2), "5 / 2 = 2")


def test_checker_accepts_any_white_space_between_words() -> None:
    assert is_correct(PROBLEM, f"  {RIGHT.replace(' ', chr(10))}\t")


@given(st.text())
def test_checker_never_raises(text: str) -> None:
    assert not is_correct(PROBLEM, text)


def test_equal_numbers_may_each_be_used_once() -> None:
    assert is_correct(Problem((4, 4), 16), "4 * 4 = 16")
    assert not is_correct(Problem((4, 5), 16), "4 * 4 = 16")


def test_unreachable_target_has_no_answers() -> None:
    assert correct_answers(Problem((1, 1), 50)) == ()


@pytest.mark.parametrize(
    ("numbers", "target"),
    [((1,), 1), ((1, 2, 3, 4, 5), 6), ((0, 2), 2), ((1, 100), 2), ((1, 2), 0), ((1, True), 2)],
)
def test_problem_outside_the_vocabulary_is_refused(numbers: tuple[int, ...], target: int) -> None:
    with pytest.raises(InputError, match="expected"):
        Problem(numbers, target)


def test_answer_words_needs_two_numbers() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        answer_words(1)


@given(small_problems, st.randoms(use_true_random=False))
def test_split_ignores_the_order_of_the_numbers(problem: Problem, rng: random.Random) -> None:
    shuffled = Problem(tuple(rng.sample(problem.numbers, len(problem.numbers))), problem.target)
    assert is_held_out(shuffled) == is_held_out(problem)


def test_split_holds_out_about_15_percent_and_never_changes() -> None:
    held, trained = problem_pool(3, held_out=True), problem_pool(3, held_out=False)
    assert not set(held) & set(trained)
    assert 0.13 < len(held) / (len(held) + len(trained)) < 0.17
    assert (len(held), len(trained)) == (686, 4031)


def test_pool_refuses_other_counts() -> None:
    with pytest.raises(ValueError, match="2 to 4"):
        problem_pool(5, held_out=True)


@given(st.integers(1, 99), st.integers(1, 99))
def test_two_values_always_have_a_move(left: int, right: int) -> None:
    assert moves(left, right)
    assert all(1 <= value <= 99 for _, value in moves(left, right))
