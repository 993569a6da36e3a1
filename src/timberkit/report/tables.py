"""Tables of words and numbers: made once, shown as Markdown, LaTeX, CSV or HTML.

    markdown([Table("Scores", ("model", "Pass@1"), (("base", share_cell(interval)),))])

Names come from strangers: what cannot be seen is spelled out by whoever makes a table
(``name_of``); markup, and what a spreadsheet would run, is escaped by each form.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from timberkit.metrics import Interval
from timberkit.report.text import visible

NONE = "–"
LONGEST_NAME = 60


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a table.

    Attributes:
        text: as it is shown.
        value: what it says in full: to sort by, and for CSV; None where there is none.
        low, high: ends of its interval, where it has one.
        interval: these as they are shown, or empty.
        word: what may be said of it ("better", "worse", "not distinguishable"), or empty.
        difference: to a reference, in points with its interval, as it is shown, or empty; the word
            is then said of it.
    """

    text: str = NONE
    value: float | None = None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    word: str = ""
    difference: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.text, self.interval, self.difference, self.word)))


Cell: TypeAlias = str | Number


@dataclass(frozen=True, slots=True)
class Table:
    """Cells below headings; the first column are names. ``note`` stands below.

    ``columns`` and every row are equally long. ``key`` names the files of a table.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    key: str = ""


def name_of(text: str) -> str:
    """A name as it may be shown."""
    return visible(text, longest=LONGEST_NAME)


def sentence_of(text: str) -> str:
    """A sentence as it may be shown: longer than a name."""
    return visible(text, longest=1000)


def percent(share: float, digits: int = 1) -> str:
    """A share as percent, without the sign: 0.312 is 31.2."""
    return f"{100 * share:.{digits}f}"


def signed(share: float, digits: int = 1) -> str:
    """A difference in points, with its sign, and none for what rounds to zero.

    >>> signed(0.0123), signed(-0.0001)
    ('+1.2', '0.0')
    """
    rounded = round(100 * share, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def interval_of(interval: Interval, shown: Callable[[float], str]) -> str:
    """``[low, high]``."""
    return f"[{shown(interval.low)}, {shown(interval.high)}]"


def p_of(value: float) -> str:
    """A p-value with two telling digits.

    >>> p_of(0.04), p_of(0.00001), p_of(1.0)
    ('0.040', '<0.001', '1.00')
    """
    return "<0.001" if value < 0.001 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def share_cell(interval: Interval | None, word: str = "", digits: int = 1) -> Number:
    """A share with its interval, in percent; a dash for None."""
    return _cell(interval, lambda share: percent(share, digits), word)


def difference_cell(difference: Interval | None, word: str = "", digits: int = 1) -> Number:
    """A difference with its interval, in points with a sign; a dash for None."""
    return _cell(difference, lambda share: signed(share, digits), word)


def plain_cell(value: float | None, shown: str = "{:,.6g}") -> Number:
    """A number without an interval, formatted by ``shown``; a dash for None."""
    return Number() if value is None else Number(shown.format(value), value)


def _cell(interval: Interval | None, shown: Callable[[float], str], word: str) -> Number:
    if interval is None:
        return Number()
    return Number(
        shown(interval.value), interval.value, interval.low, interval.high,
        interval_of(interval, shown), word,
    )  # fmt: skip


def markdown(tables: Sequence[Table], *, notes: Sequence[str] = ()) -> str:
    """GitHub tables, one after another, and a list of notes below."""
    parts = []
    for table in tables:
        lines = [f"### {_in_markdown(table.title)}", ""]
        heads = (table.columns, ("---", *["---:"] * (len(table.columns) - 1)))
        for row in (*heads, *table.rows):
            cells = row if row[0] == "---" else [_in_markdown(str(cell)) for cell in row]
            lines.append(f"| {' | '.join(map(str, cells))} |")
        parts.append("\n".join([*lines, "", _in_markdown(table.note)]))
    if notes:
        parts.append("\n".join(f"- {_in_markdown(visible(note, longest=1000))}" for note in notes))
    return "\n\n".join(parts) + "\n"


def latex(tables: Sequence[Table]) -> str:
    """``tabular`` environments with booktabs rules, one after another; needs ``booktabs``."""
    parts = ["% Needs \\usepackage{booktabs}"]
    for table in tables:
        columns = "l" + "r" * (len(table.columns) - 1)
        body = [
            " & ".join(_in_latex(str(cell)) for cell in row) + r" \\"
            for row in (table.columns, *table.rows)
        ]
        parts.append(
            "\n".join(
                [
                    f"% {_in_comment(table.title)}",
                    f"\\begin{{tabular}}{{{columns}}}",
                    r"\toprule",
                    body[0],
                    r"\midrule",
                    *body[1:],
                    r"\bottomrule",
                    r"\end{tabular}",
                    f"% {_in_comment(table.note)}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def comma_separated(table: Table) -> str:
    """The table as CSV with full digits: an interval and a word have columns of their own.

    Written by ``csv_text``.
    """
    extras = [_extras(table, place) for place in range(len(table.columns))]
    heads = [
        name
        for column, more in zip(table.columns, extras, strict=True)
        for name in (column, *(f"{column} {extra}" for extra in more))
    ]
    lines: list[list[object]] = [list(heads)]
    for row in table.rows:
        pairs = zip(row, extras, strict=True)
        lines.append([value for cell, more in pairs for value in _in_csv(cell, more)])
    return csv_text(lines)


def csv_text(lines: Iterable[Sequence[object]]) -> str:
    """CSV as RFC 4180 asks: floats with all their digits, None empty, no text a formula.

    >>> csv_text([["=1", 0.1, None]])
    "'=1,0.1,\\r\\n"
    """
    buffer = io.StringIO()
    csv.writer(buffer).writerows(
        [unformulated(value) if isinstance(value, str) else value for value in line]
        for line in lines
    )
    return buffer.getvalue()


def unformulated(text: str) -> str:
    """The text, with an apostrophe in front where a spreadsheet would run it.

    >>> unformulated("=1+1"), unformulated("-0.5"), unformulated("-a")
    ("'=1+1", '-0.5', "'-a")
    """
    if not re.match(r"\s*[=+\-@\t\r]", text):
        return text
    return text if re.fullmatch(r"-?[0-9.]+(e[+-]?[0-9]+)?", text) else f"'{text}"


def _extras(table: Table, place: int) -> tuple[str, ...]:
    numbers = [row[place] for row in table.rows if isinstance(row[place], Number)]
    found = [cell for cell in numbers if isinstance(cell, Number)]
    ends = ("low", "high") if any(cell.low is not None for cell in found) else ()
    return (*ends, "word") if any(cell.word for cell in found) else ends


def _in_csv(cell: Cell, extras: Sequence[str]) -> Iterator[object]:
    if isinstance(cell, str):
        yield from (cell, *(None for _ in extras))
    else:
        yield from (cell.value, *(getattr(cell, extra) for extra in extras))


def _in_markdown(text: str) -> str:
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", text)
    # An entity would become a letter, and an address a link.
    return escaped.replace("&", "&amp;").replace("://", r":\//")


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--",
    "τ": r"$\tau$", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "[": "{[}", "]": "{]}", '"': r"\textquotedbl{}", "…": r"\ldots{}", "−": "$-$",
    "λ": r"$\lambda$", "μ": r"$\mu$",
}  # fmt: skip


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _in_comment(text: str) -> str:
    return " ".join(text.split())
