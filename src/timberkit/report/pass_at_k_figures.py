"""Pass@k over k for several models on one task, with bands and crossing points, as SVG and PNG.

Drawn for paper, as ``analysis_figures`` is: white ground, text as text, colours that colour-blind
readers tell apart, and a marker of its own for every model.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timberkit.metrics import Interval
from timberkit.report.drawing import figure_label, figure_style, save_figure

COLOURS = ("#0072b2", "#c4540a", "#00795a", "#8a3ffc", "#a6761d", "#cc3377", "#3b9ab2", "#666600")
MARKERS = "osD^vP*X"
REFERENCE_COLOUR = "#222222"
_LONGEST_NAME = 40


@dataclass(frozen=True, slots=True)
class Mark:
    """A point on the k axis worth a line: where one curve passes another."""

    k: float
    text: str


def pass_at_k_figures(
    curves: Mapping[str, Mapping[int, Interval]],
    stem: Path,
    *,
    title: str,
    reference: str,
    marks: Sequence[Mark] = (),
    bands: Collection[str] | None = None,
) -> list[Path]:
    """Draw one figure, twice: ``stem.svg`` and ``stem.png``.

    Args:
        curves: model to Pass@k by k, shares with their intervals; k from 1.
        stem: where to write, without a suffix; its folder exists.
        title: of the figure.
        reference: the model drawn in black.
        marks: crossing points.
        bands: the models whose intervals are shaded; all of them when None.

    Returns:
        The files written. Equal arguments give equal SVG bytes.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: the files cannot be written.
    """
    with figure_style() as new_figure:
        figure = new_figure(figsize=(7.0, 4.2))
        axes = figure.add_subplot()
        _draw(axes, curves, reference, bands)
        _mark(axes, marks)
        axes.set_title(_label(title))
        return save_figure(figure, stem)


def _draw(
    axes: Any,
    curves: Mapping[str, Mapping[int, Interval]],
    reference: str,
    bands: Collection[str] | None,
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    others = [name for name in curves if name != reference]
    for name, points in curves.items():
        place = others.index(name) if name in others else -1
        colour = REFERENCE_COLOUR if place < 0 else COLOURS[place % len(COLOURS)]
        # A second round of the colours is told from the first by its line.
        line = "--" if place >= len(COLOURS) else "-"
        ks = sorted(points)
        low, high = ([100 * getattr(points[k], end) for k in ks] for end in ("low", "high"))
        if bands is None or name in bands:
            axes.fill_between(ks, low, high, color=colour, alpha=0.10, linewidth=0)
        axes.plot(
            ks, [100 * points[k].value for k in ks], line, color=colour, linewidth=1.5,
            marker="o" if place < 0 else MARKERS[(place + 1) % len(MARKERS)], markersize=4,
            label=_label(name),
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=16))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:g}"))
    axes.set_xlabel("k, attempts at a problem")
    axes.set_ylabel("Pass@k: problems solved at least once (%)")
    axes.grid(True, axis="y", color="#dddddd", linewidth=0.6)
    # Outside: no corner is free of curves on every task.
    axes.figure.legend(frameon=False, fontsize=8, loc="outside lower left", ncols=4)


def _mark(axes: Any, marks: Sequence[Mark]) -> None:
    middle = sum(math.log2(k) for k in axes.get_xlim()) / 2
    for place, mark in enumerate(marks):
        axes.axvline(mark.k, color="#555c61", linewidth=0.8, linestyle=":")
        # To the side where there is room.
        right = math.log2(mark.k) <= middle
        axes.annotate(
            _label(mark.text, longest=80), (mark.k, 0.02 + 0.05 * (place % 6)),
            xycoords=("data", "axes fraction"), xytext=(3 if right else -3, 0),
            textcoords="offset points", ha="left" if right else "right",
            fontsize=7, color="#555c61",
        )  # fmt: skip


def _label(text: str, *, longest: int = _LONGEST_NAME) -> str:
    return figure_label(text, longest=longest)
