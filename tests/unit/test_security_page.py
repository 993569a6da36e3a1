"""SECURITY.md names tests that are there, and so do its promises."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_test_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`(tests/[\w/.]+)`", PAGE))
    assert len(named) > 15
    assert [place for place in sorted(named) if not (ROOT / place).exists()] == []


def test_every_row_of_defences_names_a_test() -> None:
    rows = PAGE.split("| against |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(rows) > 10
    assert [row for row in rows if "`tests/" not in row.split("|")[-2]] == []


def test_every_link_and_command_of_the_page_is_there() -> None:
    for target in re.findall(r"\]\(([\w/.]+)\)", PAGE):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for goal in re.findall(r"`make (\w+)`", PAGE):
        assert f"\n{goal}: " in makefile, goal
