"""Answers compared as mathematics, by math-verify; only a boxed or announced answer counts.

With math-verify's defaults any number in a text can be the answer: of 500 gold solutions cut
before their box, 71 still counted as right. With the two settings here, none. Its time-outs use
SIGALRM, so call this in the main thread of a worker process; hostile input takes about 5 s.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from timberkit.errors import MissingExtraError
from timberkit.evaluation.latex_answers import last_boxed
from timberkit.evaluation.task import Grade, judged


def check_math_verify() -> None:
    """Raise MissingExtraError where math-verify is not installed."""
    _configuration()


def grade_expression(answer: str, gold: str) -> Grade:
    """Whether the last boxed expression of a response equals the gold answer.

    ``gold``: LaTeX without a box. Also counts ``final answer is $…$`` and its like, not a bare
    number. math-verify 0.9.0: numbers to 6 decimals, expressions by simplification, sets and
    matrices by element; at most 5 s for each parsing and for the comparison, then wrong.
    """
    from math_verify import parse, verify

    found = parse(answer, extraction_config=_configuration())
    if not found:
        return judged(False, None)
    expected = parse(rf"\boxed{{{gold}}}", extraction_config=_configuration())
    return judged(bool(verify(expected, found)), _as_text(found[0]))


def grade_integer(answer: str, gold: str) -> Grade:
    """Whether the last boxed expression of a response is an integer.

    Leading zeros mean nothing, in neither: contests print 25 as 025. ``\\text{}``, parentheses
    and a full stop around the digits are ignored; all else is ``grade_expression``'s.
    """
    boxed = last_boxed(answer)
    digits = re.sub(r"\\(text|textbf|mathbf|mathrm)\b|[{}()$\s]|\.$", "", boxed or "")
    if re.fullmatch(r"[0-9]{1,9}", digits):
        return judged(int(digits) == int(gold), str(int(digits)))
    return grade_expression(answer, str(int(gold)))


@cache
def _configuration() -> list[Any]:
    try:
        from math_verify import LatexExtractionConfig
    except ImportError:
        raise MissingExtraError("math-verify", extra="eval") from None
    return [LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)]


def _as_text(expression: object) -> str:
    try:
        return str(expression)
    except ValueError:  # an integer of more digits than Python prints
        return "an expression too long to print"
