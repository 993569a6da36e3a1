"""Boxes, stated answers, and string equivalence."""

from __future__ import annotations

import pytest

from timberkit.evaluation.latex_answers import equivalent, last_boxed, stated_answer


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{1} and \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\fbox{3}", "3"),
        (r"\boxed{\text{a}{b}}", r"\text{a}{b}"),
        (r"\boxed{never closed", None),
        (r"\boxed", None),
        ("no box", None),
        ("", None),
    ],
)
def test_the_last_box_is_found(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So it is $\boxed{{7}}$. Or 8.", "7"),
        ("We add. The final answer is $7$. I hope it is correct.", "7"),
        ("We add. So the answer is: 12 units.", "12"),
        ("12", "12"),
        ("", None),
    ],
)
def test_an_answer_is_stated(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\frac12", r"\dfrac{1}{2}"),
        ("1/2", r"\frac{1}{2}"),
        ("-3/4", r"\frac{-3}{4}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        ("10,000", "10000"),
        (r"90^\circ", "90"),
        (r"50\%", "50"),
        (r"\$5", "5"),
        ("x=5", "5"),
        (r"6\text{ cm}", "6"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"\sqrt2", r"\sqrt{2}"),
        ("5.00", "5"),
        (r"(-\infty, 2]", "(-infinity,2]"),
        ("[2,5).", "[2,5)"),
    ],
)
def test_the_same_answer_in_other_strings(one: str, other: str) -> None:
    assert equivalent(one, other)
    assert equivalent(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.5", r"\frac{1}{2}"),
        (r"\frac{2}{4}", r"\frac{1}{2}"),
        ("(1,2)", "(2,1)"),
        ("[2,5)", "[2,5]"),
        ("5", "-5"),
        ("", "0"),
        (r"\sqrt{2}", "2"),
    ],
)
def test_other_answers_are_other_answers(one: str, other: str) -> None:
    assert not equivalent(one, other)
    assert not equivalent(other, one)
