"""Tables in their forms: numbers in full, names that do nothing."""

from __future__ import annotations

import csv
import io

import pytest

from timberkit.metrics import Interval
from timberkit.report.tables import (
    Number,
    Table,
    comma_separated,
    difference_cell,
    latex,
    markdown,
    plain_cell,
    share_cell,
)

EFFECT = Interval(0.0123456789, -0.01, 0.04)


def table(*names: str) -> Table:
    rows = tuple(
        (name, share_cell(Interval(1 / 3, 0.25, 0.4)), difference_cell(EFFECT, "better"))
        for name in names
    )
    return Table("Scores", ("model", "Pass@1", "difference"), rows, "Percent.")


def test_a_number_reads_as_value_interval_word() -> None:
    assert str(share_cell(Interval(1 / 3, 0.25, 0.4))) == "33.3 [25.0, 40.0]"
    assert str(difference_cell(EFFECT, "better", 2)) == "+1.23 [-1.00, +4.00] better"
    assert str(share_cell(None)) == str(plain_cell(None)) == str(Number()) == "–"
    assert str(plain_cell(1234.5, "{:,.0f} s")) == "1,234 s"


def test_csv_has_every_digit_and_a_column_for_each_end() -> None:
    rows = list(csv.DictReader(io.StringIO(comma_separated(table("a")))))
    assert list(rows[0]) == [
        "model", "Pass@1", "Pass@1 low", "Pass@1 high",
        "difference", "difference low", "difference high", "difference word",
    ]  # fmt: skip
    assert float(rows[0]["Pass@1"]) == 1 / 3
    assert float(rows[0]["difference"]) == EFFECT.value
    assert rows[0]["difference word"] == "better"


def test_csv_leaves_what_is_not_known_empty() -> None:
    several = Table("t", ("a", "b"), (("x", Number()), ("y", share_cell(EFFECT)), ("z", "words")))
    assert comma_separated(several).splitlines() == [
        "a,b,b low,b high",
        "x,,,",
        f"y,{EFFECT.value!r},-0.01,0.04",
        "z,words,,",
    ]


@pytest.mark.parametrize("name", ["=1+1", "+1a", "-cmd", "@x", "\t=1", " =1", '=HYPERLINK("x")'])
def test_csv_holds_no_formula(name: str) -> None:
    rows = list(csv.reader(io.StringIO(comma_separated(table(name)))))
    assert rows[1][0] == f"'{name}"


def test_markdown_and_latex_show_names_as_they_are() -> None:
    text = markdown([table("a|b <i> *x* https://x.invalid &amp;")])
    assert r"a\|b \<i\> \*x\* https:\//x.invalid &amp;amp;" in text
    assert "| 33.3 \\[25.0, 40.0\\] |" in text
    assert r"50\% \& \textbackslash{}input\{x\}" in latex([table(r"50% & \input{x}")])
