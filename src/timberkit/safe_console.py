"""A console that no text can command: what a terminal would act on is spelled out.

Names of tensors, answers of models and errors of servers come from strangers. An escape sequence in
one could recolour, overwrite or link what stands around it, set the window's title, or write to the
clipboard; ``[red]`` and ``:smile:`` are markup of rich's own. Here is the one place that all output
of the commands passes, below tables and progress bars, so that no caller can forget it; the name of
the user's account goes no further either.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from timberkit.home import from_home
from timberkit.report.text import visible


class SafeConsole(Console):
    """A rich console without markup, emoji codes and highlighting, for text of any origin.

    >>> SafeConsole(width=40).print("a\\x1b[31mb [red]c :smile:")
    a\\u001b[31mb [red]c :smile:
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of anything, with ``visible`` text; rich's own controls stay."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(spelled_out(segment.text), segment.style, None)


def spelled_out(text: str) -> str:
    """A message of several lines as text that no terminal acts on, the user's home as ``~``.

    >>> spelled_out("a.json: found 'x\\x1b[2J'\\nexpected y")
    "a.json: found 'x\\\\u001b[2J'\\nexpected y"
    """
    return visible(from_home(text), longest=None, keep="\n\t")
