"""The spectra of the deltas that a page carries: one for each layer and module, thinned out.

A spectrum of 4096 values shows no more on a screen than two hundred of them, if the first ones,
where directions leave the random bulk, are all kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from timberkit.measurements import Analysis, WeightMeasurement
from timberkit.parts import matrix_name
from timberkit.report.groups import modules_of, typical
from timberkit.report.null_curve import null_singular_values
from timberkit.report.text import significant, visible

POINTS = 200


def thinned(r: int, points: int = POINTS) -> list[int]:
    """Up to ``points`` places of 1 to r: a quarter the leading ones, the rest evenly, the last too.

    >>> thinned(5)
    [1, 2, 3, 4, 5]
    >>> thinned(1000, 8)
    [1, 2, 168, 335, 501, 667, 834, 1000]
    """
    if r <= points:
        return list(range(1, r + 1))
    leading = max(points // 4, 1)
    rest = np.linspace(leading, r, points - leading + 1)[1:]
    return [*range(1, leading + 1), *(round(float(place)) for place in rest)]


def spectra_data(analysis: Analysis, points: int = POINTS) -> dict[str, Any]:
    """Delta spectra by module and layer, with what is needed to draw cut, bulk edge and null.

    Returns:
        ``modules`` (labels), ``layers`` (of each module; None outside any), ``matrices`` (likewise
        nested; None without singular values), ``places`` and ``nulls`` by shape: the thinned
        places, and the null curve at unit noise scale at them.
    """
    modules = modules_of(analysis)
    places: dict[str, list[int]] = {}
    nulls: dict[str, list[float | None]] = {}
    matrices = []
    for module in modules:
        row = []
        for group in module.layers.values():
            weight = typical(group)
            row.append(_matrix(weight, len(group), points))
            shape = f"{weight.rows}x{weight.columns}"
            if row[-1] is not None and shape not in places:
                places[shape] = thinned(min(weight.rows, weight.columns), points)
                curve = null_singular_values(
                    weight.rows, weight.columns, noise_scale=1.0, positions=places[shape]
                )
                nulls[shape] = [significant(float(value)) for value in curve]
        matrices.append(row)
    return {
        "modules": [module.label for module in modules],
        "layers": [list(module.layers) for module in modules],
        "matrices": matrices,
        "places": places,
        "nulls": nulls,
    }


def _matrix(weight: WeightMeasurement, alike: int, points: int) -> dict[str, Any] | None:
    values = weight.delta.singular_values
    if not values:
        return None
    cut = min(max(weight.cut.cut, 1), len(values))
    return {
        "name": visible(matrix_name(weight.name, None, weight.part)),
        "index": weight.index,
        "alike": alike,
        "shape": f"{weight.rows}x{weight.columns}",
        "values": _at(values, thinned(len(values), points)),
        "cut": weight.cut.cut,
        "at_cut": significant(values[cut - 1]),
        "effective_rank": significant(weight.delta.effective_rank),
        "head_energy": significant(weight.cut.head_energy),
        "tail_sum": significant(weight.cut.tail_sum),
        "noise_scale": significant(weight.bulk.noise_scale),
        "edge": significant(weight.bulk.edge),
        "spikes": weight.bulk.spikes,
        "energy_outside": significant(weight.bulk.energy_outside),
    }


def _at(values: Sequence[float], places: Sequence[int]) -> list[float | None]:
    return [significant(values[place - 1], 4) for place in places]
