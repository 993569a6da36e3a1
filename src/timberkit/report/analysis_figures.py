"""Figures 1 to 3 of the paper from an analysis (matplotlib, extra ``report``), as SVG and PNG.

Drawn for paper: white ground, text as text, colours that colour-blind readers tell apart. The page
(``offline_page``) shows the same and more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from timberkit.measurements import Analysis, WeightMeasurement
from timberkit.report.drawing import figure_label, figure_style, save_figure
from timberkit.report.groups import Module, layers_of, median, modules_of, typical
from timberkit.report.null_curve import null_singular_values
from timberkit.report.page_data import RATIOS
from timberkit.report.page_spectra import thinned

COLOURS = {"base": "#0072b2", "instruct": "#c4540a", "delta": "#00795a"}
MARKERS = {"base": "o", "instruct": "s", "delta": "D"}
NOISE, EDGE = "#555c61", "#8a3ffc"
MOST_PANELS = 12


def analysis_figures(analysis: Analysis, folder: Path) -> list[Path]:
    """Draw the three figures into an existing folder.

    ``effective_rank``: heat maps by layer and module of Base, Instruct and their difference.
    ``distribution``: effective rank over full rank by module, beside random noise of its shape.
    ``delta_spectra``: singular values of the deltas by module, every layer pale, a middle one in
    full with its noise curve, bulk edge and cut; left out where no singular values were kept.

    Returns:
        The files written, an SVG and a PNG of each. Equal analyses give equal SVG bytes.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: the folder cannot be written.
    """
    modules = modules_of(analysis)
    drawings: dict[str, Callable[[Any, Sequence[Module]], bool]] = {
        "effective_rank": _effective_rank,
        "distribution": _distribution,
        "delta_spectra": _delta_spectra,
    }
    written = []
    with figure_style() as new_figure:
        for name, draw in drawings.items():
            figure = new_figure()
            if draw(figure, modules):
                written += save_figure(figure, folder / name)
    return written


def _label(text: str) -> str:
    return figure_label(text, longest=24)


def _effective_rank(figure: Any, modules: Sequence[Module]) -> bool:
    layers = layers_of(modules)
    inside = [module for module in modules if any(layer is not None for layer in module.layers)]
    if not inside:
        return False
    grids = {name: _grid(inside, layers, name) for name in ("base", "instruct", "difference")}
    both = np.concatenate([grids["base"], grids["instruct"]])
    low, high = float(np.nanmin(both)), float(np.nanmax(both))
    reach = float(np.nanmax(np.abs(grids["difference"]))) or 1e-9
    figure.set_size_inches(7.0, 1.2 + 3 * max(0.9, 0.2 * len(inside)))
    panels = figure.subplots(3, 1, sharex=True)
    drawn = (
        ("base", "Base: effective rank / full rank", (low, max(high, low + 1e-6)), "cividis"),
        ("instruct", "Instruct, on the same scale", (low, max(high, low + 1e-6)), "cividis"),
        ("difference", "Instruct - Base", (-reach, reach), _diverging()),
    )
    for axes, (name, title, (least, greatest), colours) in zip(panels, drawn, strict=True):
        edges = np.arange(len(layers) + 1) - 0.5, np.arange(len(inside) + 1) - 0.5
        mesh = axes.pcolormesh(*edges, grids[name], vmin=least, vmax=greatest, cmap=colours)
        axes.set_title(title)
        axes.set_yticks(range(len(inside)), [_label(module.label) for module in inside])
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.colorbar(mesh, ax=axes, pad=0.02, aspect=12).outline.set_visible(False)
    step = max(1, math.ceil(len(layers) / 15))
    panels[-1].set_xticks(range(0, len(layers), step), [str(x) for x in layers[::step]])
    panels[-1].set_xlabel("Layer")
    return True


def _grid(modules: Sequence[Module], layers: Sequence[int], name: str) -> Any:
    found = [
        [median(module.layers.get(layer, ()), RATIOS[name]) for layer in layers]
        for module in modules
    ]
    return np.array(found, dtype=np.float64)


def _diverging() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("blue_orange", ["#0072b2", "#f4f5f6", "#d55e00"])


def _distribution(figure: Any, modules: Sequence[Module]) -> bool:
    figure.set_size_inches(7.0, 0.9 + 0.5 * len(modules))
    axes = figure.subplots()
    for row, module in enumerate(modules):
        nulls = sorted({round(weight.null.ratio, 4) for weight in module.weights})
        axes.vlines(nulls, row - 0.42, row + 0.42, colors=NOISE, linewidth=1.4)
        for place, (name, colour) in enumerate(COLOURS.items()):
            values = [RATIOS[name](weight) for weight in module.weights]
            least, first, middle, third, greatest = np.quantile(
                np.array(values, dtype=np.float64), [0, 0.25, 0.5, 0.75, 1]
            )
            y = row + 0.25 * (place - 1)
            axes.hlines(y, least, greatest, colors=colour, linewidth=0.7)
            axes.hlines(y, first, third, colors=colour, linewidth=4, alpha=0.4)
            axes.plot(
                middle, y, MARKERS[name], color=colour, markersize=4.5, markeredgecolor="white",
                markeredgewidth=0.6, label=name.capitalize() if row == 0 else None,
            )  # fmt: skip
    axes.plot([], [], "|", color=NOISE, markersize=10, markeredgewidth=1.4, label="Random noise")
    axes.set_yticks(range(len(modules)), [_label(module.label) for module in modules])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("Effective rank / full rank: median, middle half and range over matrices")
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
    return True


def _delta_spectra(figure: Any, modules: Sequence[Module]) -> bool:
    shown = [
        (module, kept)
        for module in modules
        if (kept := [w for w in map(typical, module.layers.values()) if w.delta.singular_values])
    ][:MOST_PANELS]
    if not shown:
        return False
    columns = min(len(shown), 4)
    rows = math.ceil(len(shown) / columns)
    figure.set_size_inches(max(1.85 * columns, 3.2), 0.5 + 1.75 * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axes, (module, kept) in zip(panels, shown, strict=False):
        for weight in kept:
            axes.plot(*_curve(weight), color=COLOURS["delta"], linewidth=0.5, alpha=0.18)
        _one_spectrum(axes, kept[len(kept) // 2])
        axes.set_title(_label(module.label))
    _logarithmic(panels[0], [_floor(kept[len(kept) // 2]) for _, kept in shown])
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    figure.supxlabel("Direction, strongest first", fontsize=9)
    figure.supylabel("Singular value of the delta", fontsize=9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=4, loc="outside upper left", fontsize=8)
    return True


def _one_spectrum(axes: Any, weight: WeightMeasurement) -> None:
    """One delta in full, with its noise curve, bulk edge and cut."""
    places, values = _curve(weight)
    layer = "" if weight.layer is None else f", layer {weight.layer}"
    axes.plot(places, values, color=COLOURS["delta"], linewidth=1.6, label=f"Delta{layer}")
    noise = null_singular_values(
        weight.rows, weight.columns, noise_scale=weight.bulk.noise_scale, positions=places
    )
    axes.plot(places, noise, "--", color="black", linewidth=0.8, label="Noise")
    axes.axhline(weight.bulk.edge, color=EDGE, linewidth=0.9, linestyle=":", label="Edge of noise")
    axes.axvline(weight.cut.cut, color="black", linewidth=0.7, label="K")


def _floor(weight: WeightMeasurement) -> float:
    """Where its panel may end: square matrices have values near zero, which say little."""
    values = np.array(weight.delta.singular_values)
    return max(float(values.min(initial=np.inf, where=values > 0)), 0.03 * weight.bulk.edge)


def _logarithmic(axes: Any, floors: Sequence[float]) -> None:
    """The axis that all panels share, with plain numbers; linear where every delta is zero."""
    from matplotlib.ticker import FuncFormatter

    bottom = min(floors)
    if math.isfinite(bottom):
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.85 * bottom)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _curve(weight: WeightMeasurement) -> tuple[list[int], Any]:
    values = np.array(weight.delta.singular_values or ())
    places = thinned(values.size)
    return places, values[np.array(places) - 1]
