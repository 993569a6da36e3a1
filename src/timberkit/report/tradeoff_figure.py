"""The plane of a search: what is held runs across, what is raised upwards, merges are a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timberkit.metrics import Interval
from timberkit.report.drawing import figure_label, figure_style, save_figure
from timberkit.report.pass_at_k_figures import COLOURS, MARKERS, REFERENCE_COLOUR

TITLES = {
    "search": "problems searched on",
    "constraint": "problems held to",
    "confirm": "problems never searched on",
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A model in the plane, in percent.

    ``role``: "instruct" and "merge" make the line, others stand alone. ``low``, ``high``: where it
    is; ``gap``: how far above the line, whose interval is drawn.
    """

    name: str
    role: str
    low: float
    high: float
    gap: Interval | None = None


def tradeoff_figures(
    splits: Mapping[str, Sequence[Mark]], stem: Path, *, low: str, high: str
) -> list[Path]:
    """Draw one figure with a panel a split, twice: ``stem.svg`` and ``stem.png``.

    Args:
        splits: models by split, the same in each, Instruct first and merges in their order.
        stem: where to write, without a suffix. low, high: names of the two metrics.

    Returns:
        The files written. Equal arguments give equal SVG bytes.

    Raises:
        MissingExtraError: matplotlib is not installed. OSError: the files cannot be written.
    """
    with figure_style() as new_figure:
        figure = new_figure(figsize=(7.0, 3.6))
        panels = figure.subplots(1, len(splits), squeeze=False)[0]
        for axes, (split, marks) in zip(panels, splits.items(), strict=True):
            _draw(axes, marks)
            axes.set_title(TITLES.get(split, split))
            axes.set_xlabel(f"{low} (%)")
        panels[0].set_ylabel(f"{high} (%)")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower left", ncols=3)
        return save_figure(figure, stem)


def _draw(axes: Any, marks: Sequence[Mark]) -> None:
    line = [mark for mark in marks if mark.role in ("instruct", "merge")]
    axes.plot(
        [mark.low for mark in line], [mark.high for mark in line], "-o",
        color=REFERENCE_COLOUR, linewidth=1.2, markersize=3, label="Instruct and its merges",
    )  # fmt: skip
    axes.plot(
        line[0].low, line[0].high, "s", color=REFERENCE_COLOUR, markersize=6,
        label="Instruct",
    )  # fmt: skip
    others = [mark for mark in marks if mark.role not in ("instruct", "merge")]
    for place, mark in enumerate(others):
        axes.errorbar(
            mark.low, mark.high,
            yerr=None if mark.gap is None else _arms(mark.gap),
            fmt=MARKERS[place % len(MARKERS)], color=COLOURS[place % len(COLOURS)],
            markersize=7 if place == 0 else 5, linewidth=1,
            label=figure_label(mark.name, longest=40),
        )  # fmt: skip
    axes.grid(True, color="#dddddd", linewidth=0.6)


def _arms(interval: Interval) -> list[list[float]]:
    return [[interval.value - interval.low], [interval.high - interval.value]]
