"""What the figures of a page show of one analysis, as JSON values: grids, boxes, curves by layer.

Numbers are rounded to five significant digits. Where a layer has several matrices of a module (its
experts) a grid shows their median, a curve their median and the 10th and 90th percentile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timberkit.measurements import Analysis, WeightMeasurement
from timberkit.report.groups import (
    Module,
    Value,
    layers_of,
    median,
    modules_of,
    of_overlap,
    of_rounding,
    quantiles,
)
from timberkit.report.text import significant

ALL_MODULES = "All modules"

RATIOS: Mapping[str, Value] = {
    "base": lambda weight: weight.base.ratio,
    "instruct": lambda weight: weight.instruct.ratio,
    "difference": lambda weight: weight.instruct.ratio - weight.base.ratio,
    "delta": lambda weight: weight.delta.ratio,
    "null": lambda weight: weight.null.ratio,
}
BY_LAYER: Mapping[str, Value] = {
    "tail_energy": lambda weight: 1 - weight.cut.head_energy,
    "null_tail_energy": lambda weight: weight.null.tail_energy,
    "tail_sum": lambda weight: weight.cut.tail_sum,
    "error": of_rounding("error_over_correction"),
    "delta_noise": of_rounding("delta_noise"),
    "changed": of_rounding("changed"),
}
MOST_NULLS = 8
SIDES = ("left", "right", "delta_left", "delta_right")


def figure_data(analysis: Analysis) -> dict[str, Any]:
    """Everything that the figures but the spectra show.

    Returns:
        ``modules`` and ``layers`` (names of rows and columns), ``grids`` (modules x layers, None
        where there is nothing), ``boxes`` (a row for all modules, then each), ``curves`` and
        ``overlaps`` (of all modules, then each), ``hidden`` (by layer, or None).
    """
    modules = modules_of(analysis)
    layers = layers_of(modules)
    rows = [_together(modules), *modules]
    return {
        "modules": [module.label for module in modules],
        "layers": layers,
        "grids": {name: _grid(modules, layers, value) for name, value in RATIOS.items()},
        "boxes": [_box(row) for row in rows],
        "curves": {
            name: [_curve(row, layers, value) for row in rows] for name, value in BY_LAYER.items()
        },
        "overlaps": {side: [_overlaps(row, layers, side) for row in rows] for side in SIDES},
        "hidden": _hidden(analysis),
    }


def _together(modules: Sequence[Module]) -> Module:
    """All modules as one, so that a curve of all is drawn like that of any."""
    merged: dict[int | None, list[WeightMeasurement]] = {}
    for module in modules:
        for layer, weights in module.layers.items():
            merged.setdefault(layer, []).extend(weights)
    return Module(ALL_MODULES, "", merged)


def _grid(modules: Sequence[Module], layers: Sequence[int], value: Value) -> list[Any]:
    return [
        [_short(median(module.layers.get(layer, ()), value)) for layer in layers]
        for module in modules
    ]


def _box(module: Module) -> dict[str, Any]:
    """Quartiles over all matrices, whiskers from least to greatest, a point for each layer."""
    weights = module.weights
    nulls = sorted({round(weight.null.ratio, 4) for weight in weights})
    box: dict[str, Any] = {
        "label": module.label,
        "count": len(weights),
        # One for each shape; of many shapes the least and the greatest.
        "null": nulls if len(nulls) <= MOST_NULLS else [nulls[0], nulls[-1]],
    }
    for name in ("base", "instruct", "delta"):
        value = RATIOS[name]
        box[name] = {
            "five": _shorten(quantiles(weights, value, (0, 0.25, 0.5, 0.75, 1)) or ()),
            "points": _shorten(median(group, value) for group in module.layers.values()),
        }
    return box


def _curve(module: Module, layers: Sequence[int], value: Value) -> dict[str, Any] | None:
    found = [quantiles(module.layers.get(layer, ()), value, (0.1, 0.5, 0.9)) for layer in layers]
    if not any(found):
        return None
    low, middle, high = (
        _shorten(None if triple is None else triple[place] for triple in found)
        for place in range(3)
    )
    several = any(len(module.layers.get(layer, ())) > 1 for layer in layers)
    return {"mid": middle} | ({"low": low, "high": high} if several else {})


def _overlaps(module: Module, layers: Sequence[int], side: str) -> dict[str, Any] | None:
    """By number of directions (K last): the median overlap of each layer, and that of chance."""
    found: dict[str, Any] = {}
    for label in _dimensions(module.weights, side):
        measured, chance = (
            _shorten(
                median(module.layers.get(layer, ()), of_overlap(side, label, field))
                for layer in layers
            )
            for field in ("overlap", "chance")
        )
        found[label] = {"overlap": measured, "chance": chance}
    return found or None


def _dimensions(weights: Sequence[WeightMeasurement], side: str) -> list[str]:
    measured = [getattr(weight.subspaces, side) for weight in weights if weight.subspaces]
    counts = {overlap.dimension for overlaps in measured for overlap in overlaps[:-1]}
    return [str(count) for count in sorted(counts)] + (["K"] if any(measured) else [])


def _hidden(analysis: Analysis) -> dict[str, Any] | None:
    states = sorted(analysis.hidden_states, key=lambda state: state.layer)
    if not states:
        return None
    return {
        "layers": [state.layer for state in states],
        "base": _shorten(state.base for state in states),
        "instruct": _shorten(state.instruct for state in states),
        "difference": _shorten(state.difference for state in states),
        "tokens": max(state.tokens for state in states),
    }


def _short(value: float | None) -> float | None:
    return significant(value)


def _shorten(values: Any) -> list[float | None]:
    return [significant(value) for value in values]
