"""Answers in LaTeX: what stands in the last box, and when two strings mean the same.

String equivalence is the grading of the MATH benchmark: both answers are brought into a plain
form by rules of rewriting, and compared as strings. The rules are those that Hendrycks et al.
(arXiv 2103.03874) and Lewkowycz et al. (Minerva, arXiv 2206.14858, appendix D.1) describe, in the
variant that OpenCompass 0.5.4 calls ``MATHEvaluator`` version 2, without two of its slips: there
``\\dfrac`` is mangled in an answer without a box, and ``\\text`` twice in an answer swallows what
stands between. Nothing is computed: 1/2 and 0.5 differ. For answers as mathematics there is
``timberkit.evaluation.math_verified``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_Rule = tuple[re.Pattern[str], str]


def last_boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{…}`` or, without one, ``\\fbox{…}``; None if not closed.

    >>> last_boxed(r"So $\\boxed{\\frac{1}{2}}$.")
    '\\\\frac{1}{2}'
    """
    start = max(text.rfind(r"\boxed"), -1)
    if start < 0:
        start = text.rfind(r"\fbox")
    opening = text.find("{", start) if start >= 0 else -1
    if opening < 0 or text[start:opening].strip() not in (r"\boxed", r"\fbox"):
        return None
    depth = 0
    for position in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[opening + 1 : position]
    return None


def stated_answer(text: str) -> str | None:
    """What a response gives as its answer: the last box, or the sentence that says so.

    Without a box it is the first sentence (up to a full stop) that contains ``final answer`` or
    ``answer is``; without that the first sentence. An outer pair of braces left by prompts with
    doubled ones is dropped. None for an empty response.

    >>> stated_answer("Well. The final answer is $7$. I hope it is correct.")
    '7'
    """
    boxed = last_boxed(text)
    if boxed:
        doubled = re.fullmatch(r"\{(.*)\}", boxed)
        return (doubled.group(1) if doubled else boxed) or None
    sentences = text.split(".")
    for sentence in sentences:
        if re.search("final answer|answer is", sentence.lower()):
            return _bare(sentence) or None
    return _bare(sentences[0]) or None


def equivalent(answer: str, gold: str) -> bool:
    """Whether two LaTeX answers are the same string after rewriting.

    True where the stripped forms agree, or the bare forms, or the bare forms of the stripped ones.
    Symmetric. O(characters) times the number of rules.

    >>> equivalent(r"\\dfrac12", r"\\frac{1}{2}"), equivalent("0.5", r"\\frac{1}{2}")
    (True, False)
    """
    stripped = _stripped(answer), _stripped(gold)
    return (
        answer == gold
        or stripped[0] == stripped[1]
        or _bare(stripped[0]) == _bare(stripped[1])
        or _bare(answer) == _bare(gold)
    )


def _rules(pairs: Iterable[tuple[str, str]]) -> tuple[_Rule, ...]:
    return tuple((re.compile(pattern, re.DOTALL), by) for pattern, by in pairs)


# In this order: later rules rely on what earlier ones took away.
_STRIP = _rules(
    (
        (r"\n", ""),
        (r"\.+$", ""),  # the full stop of a sentence
        (r"\\[! ]", ""),  # thin spaces
        (r"\\\\", r"\\"),
        (r"\\\\", r"\\"),
        (r"[td]frac", "frac"),
        (r"\\(left|right)", ""),
        (r"(?<=.)\s*\\text\{[^{}]*\}$", ""),  # a unit after the number
        (r"\^(\{\\circ\}|\\circ)", ""),
        (r"\\?\$", ""),
        (r"\\text", ""),
        (r"x\\in", ""),
        (r"\\?%", ""),
        (r"([ {])\.", r"\g<1>0."),
        (r"\\cdot", ""),
        (r"infinity", r"\\infty"),
        (r"(?<!\\)inf(?!ty)", r"\\infty"),
        (r"and", ""),
        (r"\\mathbf", ""),
        (r"\\mbox\{.*?\}", ""),
        (r"(\d)\.0+(?!\d)", r"\1"),
        (r"^\.", "0."),
        (r"^[^=]{0,2}=(?=[^=]*$)", ""),  # "k = " in front of a value
        (r"\\sqrt(\w+)", r"\\sqrt{\1}"),
        (r" ", ""),
        (r"\\frac([^{}\\])([^{}\\])", r"\\frac{\1}{\2}"),  # \frac12
        (r"\\frac([^{}\\])\{", r"\\frac{\1}{"),  # \frac1{72}
        (r"^(-?(?:0|[1-9]\d*))/(-?(?:0|[1-9]\d*))$", r"\\frac{\1}{\2}"),
    )
)

_UNITS = (
    *("square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units"),
    *("points", "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters"),
    *("meals", "edges", "students", "childrentickets", "multiples", "sue"),
)

_BARE = _rules(
    (
        (r"an ", ""),
        (r"a ", ""),
        (r"\.\$", "$"),
        (r"\\\$", ""),
        (r"\\ ", ""),
        (r" ", ""),
        (r"mbox", "text"),
        (r",?\\text\{and\}", ","),
        (r"\\text\{m\}", r"\\text{}"),
        (r"\\le(?!ft)", "<"),
        ("|".join(_UNITS), ""),
        (r"\\l?dots", ""),
        (r"\\text\{[s.\n]*\}(\^[23])?", ""),
        (r"\\mathrm\{th\}", ""),
        (r"\^(\\circ|\{\\circ\})", ""),
        (r'\\;|,\\!|\{,\}|"|[\n\r\f]', ""),
        (r"\\text\{\((.*?)\)\}", r"\1"),
        (r"\\(?:text|textbf|overline)\{(.*?)\}", r"\1"),
        (r"\\boxed\{(.*)\}", r"\1"),
        (r".*finalansweris", ""),
        (r".*answer?is:?", ""),
        (r".*oxed\{(.*?)\}.*", r"\1"),
        (r".*\$(.+?)\$.*", r"\1"),
        (r"\\?(?<!f)rac", r"\\frac"),  # an f lost as a form feed
        (r"frac([^{])(.)", r"frac{\1}{\2}"),
        (r"sqrt([^{])", r"sqrt{\1}"),
        (r"\$", ""),
    )
)


def _stripped(text: str) -> str:
    text = _rewritten(text.strip(), _STRIP)
    return text.replace("j", "i") if "i" not in text else text


def _bare(text: str) -> str:
    text = _rewritten(text, _BARE).strip()
    digits = text.replace(",", "")
    return digits if digits.isdigit() else text


def _rewritten(text: str, rules: tuple[_Rule, ...]) -> str:
    for pattern, by in rules:
        text = pattern.sub(by, text)
    return text
