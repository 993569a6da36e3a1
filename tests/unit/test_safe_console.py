"""Whatever a stranger writes, a terminal shows it and does nothing else."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Group
from rich.table import Table
from rich.text import Text

from timberkit import terminal
from timberkit.safe_console import SafeConsole, spelled_out

HOSTILE = (
    "\x1b[31mred",
    "\x1b]8;;https://example.invalid/\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]0;title\x07",
    "\x1b]52;c;ZWNobw==\x07",
    "\x9b2J",
    "one\r\nerror: two",
    "\u202egnp.exe",
    "\u2028\u2029\x85",
    "[red]x[/red] [link=https://example.invalid/]y[/link] [/] [",
    ":smile: :warning:",
    "\x00\x07\x08\x0b\x0c\x7f",
)


def written(text: str, *, colour: bool = False) -> str:
    """What a console writes of a text, in every way that the commands use."""
    stream = io.StringIO()
    console = SafeConsole(file=stream, width=200, force_terminal=colour, soft_wrap=True)
    table = Table(title=Text(text))
    table.add_column(Text(text))
    table.add_row(Text(text))
    console.print(text)
    console.print(Text(text), Group(text, table))
    return stream.getvalue()


def acted_on(text: str) -> set[str]:
    """The signs in it that a terminal acts on, or that turn the order of others."""
    return {
        sign
        for sign in text
        if sign not in "\n\t" and unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp")
    }


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(categories=["Cc", "Cf", "L", "P", "Zl", "Zp"]), max_size=30))
def test_no_text_reaches_the_stream_with_a_sign_that_acts(text: str) -> None:
    assert not acted_on(written(text))
    assert not acted_on(spelled_out(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_of_it_is_markup_or_lost_on_a_terminal(text: str) -> None:
    assert not acted_on(written(text))
    coloured = written(text, colour=True)
    assert "\x1b]" not in coloured
    assert "\x07" not in coloured
    assert "\x1b[31m" not in coloured
    for word in ("[red]x[/red]", "[link=https://example.invalid/]y[/link]", ":smile:"):
        if word in text:
            assert word in written(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_progress_bars_show_it_as_text(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(
        terminal, "messages", lambda: SafeConsole(file=stream, width=200, force_terminal=False)
    )
    with terminal.new_bar() as bar:
        bar.add_task(text, detail=text)
    assert not acted_on(stream.getvalue())
    if "[red]" in text:
        assert stream.getvalue().count("[red]x[/red]") == 2


def test_the_consoles_of_the_commands_are_of_this_kind() -> None:
    assert isinstance(terminal.results(), SafeConsole)
    assert isinstance(terminal.messages(), SafeConsole)
