"""What the figures for paper share (matplotlib, extra ``report``): style, labels, files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from timberkit.errors import MissingExtraError
from timberkit.report.text import visible

PNG_DPI = 200
LETTERS = frozenset("’‘“”–—…×→−λμτσ")
"""Beyond ASCII, in labels: few, and in every font that matplotlib may find."""


@contextmanager
def figure_style() -> Iterator[Callable[..., Any]]:
    """Settings that make figures alike, and equal ones equal bytes; yields a maker of them.

    Raises MissingExtraError where matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", extra="report") from None
    settings: Any = {
        "svg.hashsalt": "timberkit",
        "svg.fonttype": "none",
        # A dollar sign in the name of a tensor or a model is no formula.
        "text.parse_math": False,
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
    }
    with mpl.rc_context(settings):
        yield lambda **options: Figure(layout="constrained", **options)


def save_figure(figure: Any, stem: Path) -> list[Path]:
    """Write ``stem.svg`` and ``stem.png``, without date or program; returns both."""
    written = []
    for suffix, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        path = stem.with_name(f"{stem.name}.{suffix}")
        figure.savefig(path, format=suffix, dpi=PNG_DPI, facecolor="white", metadata=metadata)
        written.append(path)
    return written


def figure_label(text: str, *, longest: int) -> str:
    """A label in letters that every font has; a missing one would warn and show a box."""
    shown = (
        letter if letter in LETTERS else letter.encode("ascii", "backslashreplace").decode("ascii")
        for letter in text
    )  # fmt: skip
    return visible("".join(shown), longest=longest)
