"""Weights in the order and the groups that figures show: by module, and by layer within it.

The experts of a layer are one group, whatever their number. Names of modules are escaped for
reading here (``text.visible``); nothing below needs the raw ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from timberkit.measurements import Analysis, WeightMeasurement
from timberkit.report.text import visible

Value = Callable[[WeightMeasurement], float | None]

LONGEST_LABEL = 28
_NUMBERS = re.compile(r"(?:^|\.)\d+(?=\.|$)", re.ASCII)
_FAMILIES = ("embedding", "attention", "ffn", "expert", "ssm", "router", "head")
_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Module:
    """All weights of one part of the model, such as ``self_attn.q_proj``, by layer.

    ``layers`` maps a layer (None outside any) to its weights: one, or one for each expert.
    """

    label: str
    family: str
    layers: dict[int | None, list[WeightMeasurement]] = field(default_factory=dict)

    @property
    def weights(self) -> list[WeightMeasurement]:
        """All weights of the module, layer after layer."""
        return [weight for group in self.layers.values() for weight in group]


def modules_of(analysis: Analysis) -> list[Module]:
    """The modules of an analysis: attention, feed-forward, experts, all else; each by layer.

    A label is the last word of the module where that is enough to tell modules apart.
    """
    found: dict[tuple[str, str], Module] = {}
    for weight in analysis.weights:
        name = _NUMBERS.sub("", weight.module).strip(".") or weight.module
        module = found.setdefault((weight.family, name), Module(name, weight.family))
        module.layers.setdefault(weight.layer, []).append(weight)
    ordered = sorted(found.items(), key=lambda item: _place(*item[0]))
    labels = _labels([key for key, _ in ordered])
    return [
        Module(label, key[0], dict(sorted(module.layers.items(), key=lambda item: _depth(item[0]))))
        for label, (key, module) in zip(labels, ordered, strict=True)
    ]


def layers_of(modules: Iterable[Module]) -> list[int]:
    """All layer numbers, ascending; weights outside any layer have none."""
    return sorted({layer for module in modules for layer in module.layers if layer is not None})


def quantiles(
    weights: Iterable[WeightMeasurement], value: Value, shares: Sequence[float]
) -> list[float] | None:
    """Quantiles of a value over weights; None where none of them has it."""
    found = [x for x in map(value, weights) if x is not None]
    if len(found) == 1:  # thirty times quicker, and asked of every cell of a long table
        return [float(found[0])] * len(shares)
    return [float(x) for x in np.quantile(found, shares)] if found else None


def of_rounding(field: str) -> Value:
    """A field of ``RoundingMeasurement``; None where rounding was not measured."""
    return lambda weight: None if weight.rounding is None else getattr(weight.rounding, field)


def of_overlap(side: str, dimension: str, field: str) -> Value:
    """A field of the overlap on one side in so many directions; "K" stands for the cut."""

    def value(weight: WeightMeasurement) -> float | None:
        overlaps = () if weight.subspaces is None else getattr(weight.subspaces, side)
        # The last is at K, the others at fixed numbers; K may be one of those, too.
        fitting = (
            overlaps[-1:]
            if dimension == "K"
            else [one for one in overlaps[:-1] if str(one.dimension) == dimension]
        )
        return float(getattr(fitting[0], field)) if fitting else None

    return value


def median(weights: Iterable[WeightMeasurement], value: Value) -> float | None:
    """The median of a value over weights, those without it left out; None where none has it."""
    found = quantiles(weights, value, [0.5])
    return None if found is None else found[0]


def typical(weights: Sequence[WeightMeasurement]) -> WeightMeasurement:
    """The weight whose delta's ratio lies closest to the median of the group; the first of equals.

    Where some weights kept their singular values, it is one of those.
    """
    candidates = [weight for weight in weights if weight.delta.singular_values] or list(weights)
    middle = float(np.median([weight.delta.ratio for weight in weights]))
    return min(candidates, key=lambda weight: abs(weight.delta.ratio - middle))


def _depth(layer: int | None) -> int:
    return -1 if layer is None else layer


def _place(family: str, name: str) -> tuple[int, int, str]:
    last = name.rsplit(".", 1)[-1]
    return (
        _FAMILIES.index(family) if family in _FAMILIES else len(_FAMILIES),
        _ORDER.index(last) if last in _ORDER else len(_ORDER),
        name,
    )


def _labels(keys: Sequence[tuple[str, str]]) -> list[str]:
    """Labels that are all different, as short as that allows."""
    short = [name.rsplit(".", 1)[-1] for _, name in keys]
    labels = []
    for (family, name), last in zip(keys, short, strict=True):
        alone = bool(last) and short.count(last) == 1
        same_name = sum(other == name for _, other in keys) > 1
        label = last if alone else f"{name} ({family})" if same_name else name
        label = visible(label, longest=LONGEST_LABEL)
        number = 2
        while label in labels:  # two long names that differ only in their middle
            label = f"{visible(name, longest=LONGEST_LABEL - 4)} #{number}"
            number += 1
        labels.append(label)
    return labels
