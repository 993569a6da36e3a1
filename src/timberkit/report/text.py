"""Text from strangers' checkpoints, made safe to show: on a page, in a script tag, in a figure.

Names, titles and facts are hostile. Three things stand between them and the reader: what cannot be
seen is spelled out here (``visible``), markup is escaped where it is put (jinja2 in HTML,
``script_json`` in script tags, ``escaped`` in page/theme.js for Plotly, which reads tags in
labels), and the page's Content-Security-Policy runs no script but its own.
"""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

LONGEST_NAME = 200
NO_BREAK = "\u00a0"
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def visible(text: object, *, longest: int | None = LONGEST_NAME, keep: str = "") -> str:
    """The text with every character that shows nothing, or moves others, spelled as ``\\uXXXX``.

    Control characters, bidirectional overrides, lone surrogates, line and paragraph separators are
    spelled out, but for those in ``keep``; more than ``longest`` characters lose their middle, so
    that two long texts may come to look the same. O(length), 10 ms for 100 KB.

    >>> visible("q_proj\\u202etxt")
    'q_proj\\\\u202etxt'
    >>> visible("abcdefghij", longest=5)
    'ab…ij'
    """
    raw = str(text)
    if longest is not None and len(raw) > longest:
        ends = (longest - 1) // 2
        raw = f"{raw[:ends]}…{raw[-ends:]}"
    unseen = {
        ord(letter): f"\\u{ord(letter):04x}"
        for letter in set(raw).difference(keep)
        if unicodedata.category(letter) in _UNSEEN
    }
    return raw.translate(unseen) if unseen else raw


def readable(text: str) -> str:
    """A whole answer made ``visible``: lines and tabs stay, however their ends were written.

    >>> readable("one\\r\\n\\ttwo\\x1b[31m")
    'one\\n\\ttwo\\\\u001b[31m'
    """
    return visible(text.replace("\r\n", "\n"), longest=None, keep="\n\t")


def script_json(value: Any) -> str:
    """JSON that may stand inside ``<script type="application/json">`` whatever its strings hold.

    Everything beyond ASCII, U+2028 included, becomes ``\\uXXXX``, and so do ``<``, ``>`` and ``&``:
    no string can end the script tag or begin a comment. Raises ValueError for NaN and infinity,
    which are no JSON.

    >>> script_json({"name": "</script>"})
    '{"name":"\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def significant(value: float | None, digits: int = 5) -> float | None:
    """The number to so many significant digits; None for None, NaN and infinity.

    >>> significant(0.123456789)
    0.12346
    """
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    # 0.0 would print its sign and "3.0" two characters too many, ten thousand times over.
    return int(rounded) if rounded == int(rounded) and abs(rounded) < 1e15 else rounded


def percent(share: float | None) -> str:
    """A share as percent with two or three telling digits, a dash for None; it does not wrap.

    >>> [percent(x).replace(NO_BREAK, " ") for x in (0.0123, 0.456, 0.9996, 0.00004, None)]
    ['1.23 %', '45.6 %', '99.96 %', '0.004 %', '–']
    """
    if share is None or not math.isfinite(share):
        return "–"
    points = 100 * share
    if points == 0:
        return f"0{NO_BREAK}%"
    if abs(points) >= 99 and abs(points) < 100:
        return f"{points:.2f}{NO_BREAK}%"
    if abs(points) >= 10:
        return f"{points:.1f}{NO_BREAK}%"
    return f"{points:.2f}{NO_BREAK}%" if abs(points) >= 0.1 else f"{points:.1g}{NO_BREAK}%"
