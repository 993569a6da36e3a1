"""A recipe in mergekit's words, where it has the words: gains that no singular value decides.

    config = mergekit_config(open_pair(recipe))
    yaml.safe_dump(config, sort_keys=False)

``W_base + mu (W_instruct - W_base)`` is mergekit's ``linear`` with the weights mu and 1 - mu, in
float32. Which tensor has which mu is said by its filters, which look for a text in the name; every
tensor is looked up in what is written, so that none gets another gain than the plan gives it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from timberkit.checkpoint.reader import TORCH_NAMES
from timberkit.config import Source, at, variant_name
from timberkit.engine.adapter_plan import plan_pair
from timberkit.engine.plan import RefinementPlan
from timberkit.engine.sources import OpenPair
from timberkit.errors import UsageError
from timberkit.spectral.filters import constant_gain

_LAYER = re.compile(r"^(.*\.)(\d+)(\..*)$")
METHOD = "linear"


def mergekit_config(pair: OpenPair) -> dict[str, Any]:
    """The configuration of mergekit that makes what a recipe makes, up to rounding.

    Raises as ``plan_refinement``, and UsageError for what mergekit has no words for: methods whose
    gains follow the singular values, noise, parts of a fused weight that are treated differently,
    several variants, two vocabularies. O(tensors squared) at worst.
    """
    recipe = pair.recipe
    if len(recipe.variants) != 1:
        given = ", ".join(variant_name(variant) for variant in recipe.variants)
        raise UsageError(
            f"variants: found {given}; a mergekit file makes one model: name one with --variant"
        )
    plan = plan_pair(pair)
    for name, entry in pair.instruct.tensors.items():
        other = pair.base.tensors.get(name)
        if other is None or other.shape != entry.shape:
            found = "is not in Base" if other is None else "has another shape in Base"
            raise UsageError(
                f"tensor {name!r}: {found}, and mergekit pairs all tensors by name and shape, those"
                " that are kept too"
            )
    gains = _gains(plan)
    names = list(pair.instruct.tensors)
    weights = _conditions(names, gains)
    return {
        "merge_method": METHOD,
        "models": [
            {"model": _named(recipe.instruct), "parameters": {"weight": weights}},
            {"model": _named(recipe.base), "parameters": {"weight": _complement(weights)}},
        ],
        "parameters": {"normalize": False},
        "dtype": "float32",
        "out_dtype": recipe.dtype or _stored(pair, plan),
    }


def _gains(plan: RefinementPlan) -> dict[str, float]:
    """The gain of each refined tensor."""
    [variant] = plan.recipe.variants
    found: dict[str, float] = {}
    for task in plan.refine_tasks:
        gain = constant_gain(at(variant, task.position(plan.layers)))
        if gain is None:
            raise UsageError(
                f"{variant_name(variant)}: mergekit has no equivalent, expected one gain for all"
                " singular directions, such as merge:mu=0.8: it works on weights, not on the"
                " singular values of their delta; the refined model itself can be one of its models"
            )
        if found.setdefault(task.name, gain) != gain:
            raise UsageError(
                f"{variant_name(variant)}: treats the parts of {task.name!r} differently, and"
                " mergekit sees one weight"
            )
    return found


def _conditions(names: Sequence[str], gains: Mapping[str, float]) -> float | list[dict[str, Any]]:
    """mergekit's conditions that give each name its gain, 1 to those without; a number for all."""
    wanted = {name: gains.get(name, 1.0) for name in names}
    if len(set(wanted.values())) == 1:
        return next(iter(wanted.values()))
    endings: dict[str, set[float]] = {}
    for name, gain in wanted.items():
        endings.setdefault(_ending(name), set()).add(gain)
    filters = {
        ending if len(endings[ending]) == 1 else name: gain
        for name, gain in wanted.items()
        for ending in (_ending(name),)
        if gain != 1.0 or len(endings[ending]) > 1
    }
    # The first that fits counts: the longest text is the most particular one.
    ordered = sorted(filters.items(), key=lambda item: (-len(item[0]), item[0]))
    conditions: list[dict[str, Any]] = [{"filter": text, "value": gain} for text, gain in ordered]
    conditions.append({"value": 1.0})
    for name, gain in wanted.items():
        found = next(c["value"] for c in conditions if c.get("filter", "") in name)
        if found != gain:
            raise UsageError(f"tensor {name!r}: no filter of mergekit tells it from others")
    return conditions


def _ending(name: str) -> str:
    """A name from its layer's number on: the same for this weight of every layer."""
    match = _LAYER.match(name)
    return name if match is None else match[3]


def _complement(weights: float | list[dict[str, Any]]) -> float | list[dict[str, Any]]:
    if isinstance(weights, float):
        return 1.0 - weights
    return [{**condition, "value": 1.0 - condition["value"]} for condition in weights]


def _named(source: Source) -> str:
    """A model as mergekit takes it: a hub id with its revision, or a path."""
    return str(source) if source.revision else os.path.expanduser(source.location)


def _stored(pair: OpenPair, plan: RefinementPlan) -> str:
    """The dtype that most refined weights of Instruct have."""
    stored = [pair.instruct.tensors[tensor.name].dtype for tensor in plan.refined]
    return TORCH_NAMES[max(set(stored), key=stored.count)]
