"""The table of every matrix, column by column, small enough for tens of thousands of rows.

Names repeat themselves but for their numbers, so each is stored as a pattern and its numbers:
``model.layers.#.mlp.experts.#.up_proj.weight`` once, and 3 and 17 for the row. Numbers are 32-bit
floats in base64, which is shorter than five digits of each.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from timberkit.measurements import WeightMeasurement
from timberkit.parts import matrix_name
from timberkit.report.groups import Module, median, of_overlap, of_rounding
from timberkit.report.text import visible

_DIGITS = re.compile(r"(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: ``key`` heads it in the CSV, ``label`` and ``help`` on the page."""

    key: str
    label: str
    help: str
    kind: Literal["count", "ratio", "share", "size"]
    value: Callable[[WeightMeasurement], float | None]


COLUMNS = (
    Column(
        "base_ratio", "Base", "Effective rank of Base over full rank", "ratio",
        lambda w: w.base.ratio,
    ),
    Column(
        "instruct_ratio", "Instruct", "Effective rank of Instruct over full rank", "ratio",
        lambda w: w.instruct.ratio,
    ),
    Column(
        "delta_ratio", "Delta", "Effective rank of Instruct minus Base, over full rank", "ratio",
        lambda w: w.delta.ratio,
    ),
    Column(
        "null_ratio", "Noise", "What random noise of this shape would have", "ratio",
        lambda w: w.null.ratio,
    ),
    Column("cut", "K", "Directions that Timber keeps whole", "count", lambda w: w.cut.cut),
    Column(
        "tail_energy", "Tail energy", "Share of the delta’s energy after K", "share",
        lambda w: 1 - w.cut.head_energy,
    ),
    Column(
        "null_tail_energy", "Noise’s tail", "The same share for random noise", "share",
        lambda w: w.null.tail_energy,
    ),
    Column(
        "tail_sum", "Tail sum", "Share of the sum of singular values after K", "share",
        lambda w: w.cut.tail_sum,
    ),
    Column(
        "relative_delta", "Delta / Base", "Norm of the delta over the norm of Base", "share",
        lambda w: w.relative_delta,
    ),
    Column(
        "spikes", "Spikes", "Singular values above the edge of the random bulk", "count",
        lambda w: w.bulk.spikes,
    ),
    Column(
        "energy_outside", "Their energy", "Share of the delta’s energy in the spikes", "share",
        lambda w: w.bulk.energy_outside,
    ),
    Column(
        "correction_over_weight", "Correction", "Norm of Timber’s correction over the weight’s",
        "share", of_rounding("correction_over_weight"),
    ),
    Column(
        "error_over_correction", "Rounding", "Rounding error over the correction", "share",
        of_rounding("error_over_correction"),
    ),
    Column(
        "changed", "Changed", "Share of elements that change after rounding", "share",
        of_rounding("changed"),
    ),
    Column(
        "overlap_left", "Overlap out", "Overlap of Base and Instruct in K directions, output side",
        "ratio", of_overlap("left", "K", "overlap"),
    ),
    Column(
        "overlap_right", "Overlap in", "Overlap of Base and Instruct in K directions, input side",
        "ratio", of_overlap("right", "K", "overlap"),
    ),
    Column("rows", "Rows", "Rows of the matrix", "count", lambda w: w.rows),
    Column("columns", "Columns", "Columns of the matrix", "count", lambda w: w.columns),
)  # fmt: skip
"""Numbers of the table, in order; name, layer and module stand before them, dtypes after."""


def table_data(modules: Sequence[Module], *, each_expert: bool = True) -> dict[str, Any]:
    """All weights as columns.

    Args:
        modules: from ``modules_of``; rows come by layer, then module, then number of the expert.
        each_expert: a row for each matrix; else one for each layer and module, of medians.

    Returns:
        ``total`` matrices, ``each_expert``, ``modules`` and ``families`` and ``dtypes`` (words that
        rows point into), ``patterns``, and the columns themselves under ``rows``; those of
        ``COLUMNS`` packed.
    """
    groups = sorted(
        ((layer, place, group) for place, module in enumerate(modules)
         for layer, group in module.layers.items()),
        key=lambda item: (-1 if item[0] is None else item[0], item[1]),
    )  # fmt: skip
    words: dict[str, int] = {}
    patterns: dict[str, int] = {}
    names, parts, layers, dtypes, numbers = [], [], [], [], []
    for layer, place, group in groups:
        for members in [[weight] for weight in group] if each_expert else [group]:
            first = members[0]
            names.append(_name(first, len(members), patterns))
            parts.append(place)
            layers.append(layer)
            stored = " / ".join(dict.fromkeys((first.base_dtype, first.instruct_dtype)))
            dtypes.append(words.setdefault(visible(stored), len(words)))
            numbers.append([median(members, column.value) for column in COLUMNS])
    return {
        "total": sum(len(group) for _, _, group in groups),
        "each_expert": each_expert,
        "modules": [module.label for module in modules],
        "families": [visible(module.family) for module in modules],
        "dtypes": list(words),
        "patterns": list(patterns),
        "rows": {
            "name": names,
            "module": parts,
            "layer": layers,
            "dtype": dtypes,
            **{
                column.key: _packed([row[place] for row in numbers])
                for place, column in enumerate(COLUMNS)
            },
        },
    }


def _packed(values: Sequence[float | None]) -> str | None:
    """Base64 of little-endian 32-bit floats, NaN for None; None where nothing was measured."""
    if all(value is None for value in values):
        return None
    floats = np.array([np.nan if value is None else value for value in values], dtype="<f4")
    return base64.b64encode(floats.tobytes()).decode("ascii")


def _name(weight: WeightMeasurement, alike: int, patterns: dict[str, int]) -> list[int | str]:
    """[pattern, number, number, …]: the pattern's ``\\0`` are its numbers, in order."""
    name = visible(matrix_name(weight.name, None, weight.part))
    if alike > 1:
        name += f" and {alike - 1} more"
    elif weight.index is not None:
        name += f"[{weight.index}]"
    pieces = _DIGITS.split(name)
    place = patterns.setdefault("\0".join(pieces[::2]), len(patterns))
    # Digits that would not come back from a number (007, or too many) stay a text.
    return [place, *(int(x) if str(int(x)) == x and len(x) < 15 else x for x in pieces[1::2])]
