"""Names and shapes of every tensor of a pair, without its files.

``shapes.json`` has the sizes that decide them, as in a model's config.json, and for each
architecture the parts it is made of: names with ``{layer}`` and ``{expert}``, dimensions as
products of sizes. Base and Instruct of a pair have the same. The embedded pair
is read from its own files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.layout import Checkpoint
from timberkit.checkpoint.planned import planned_checkpoint
from timberkit.pairs.catalogue import Pair

DTYPE = "BF16"
"""Of all seven: they are published in it."""


@lru_cache(maxsize=2)
def planned_pair(pair: Pair) -> tuple[Checkpoint, Checkpoint]:
    """Base and Instruct as ``engine.plan.plan_refinement`` takes them; no network, no weights.

    Of the paper's pairs they are laid out from their shapes, each as one file: how the hub splits
    it changes the size of headers by some kilobytes, and nothing else in a plan. The embedded pair
    is opened where it is shipped. O(number of tensors): 18,867 for the largest.
    """
    if not pair.on_hub:
        return open_checkpoint(Path(pair.base)), open_checkpoint(Path(pair.instruct))
    config = pair_config(pair)
    shapes = tensor_shapes(config)
    base, instruct = (
        planned_checkpoint(source, shapes, DTYPE, config) for source in (pair.base, pair.instruct)
    )
    return base, instruct


def pair_config(pair: Pair) -> Mapping[str, Any]:
    """The sizes of a pair, under the names of config.json."""
    if not pair.on_hub:
        return open_checkpoint(Path(pair.instruct)).config
    config: Mapping[str, Any] = _tables()["models"][pair.name]["config"]
    return config


def shape_source(pair: Pair) -> str:
    """Where the shapes of a pair come from, and what is assumed about them."""
    if not pair.on_hub:
        return "From the headers of the shipped files."
    tables = _tables()
    assumed = tables["models"][pair.name].get("assumed")
    source = str(tables["source"])
    return source if assumed is None else f"{source} Assumed: {assumed}"


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name to shape of every stored tensor of a model with these sizes.

    ``config``: the fields of config.json that an architecture in ``shapes.json`` names (llama,
    qwen3, qwen3_moe). A head that is tied to the embedding is not stored. Raises KeyError for
    another ``model_type`` or a size that is missing.

    >>> from timberkit.pairs import find_pair
    >>> sizes = pair_config(find_pair("qwen3-8b"))
    >>> tensor_shapes(sizes)["model.layers.35.self_attn.k_proj.weight"]
    (1024, 4096)
    """
    tables = _tables()
    found: dict[str, tuple[int, ...]] = {}
    for part in tables["architectures"][config["model_type"]]:
        if part == "head" and config["tie_word_embeddings"]:
            continue
        for pattern, dimensions in tables["parts"][part].items():
            shape = tuple(_dimension(factors, config) for factors in dimensions)
            found |= dict.fromkeys(_names(pattern, config), shape)
    return found


def _dimension(factors: str, config: Mapping[str, Any]) -> int:
    return math.prod(int(config[factor]) for factor in factors.split("*"))


def _names(pattern: str, config: Mapping[str, Any]) -> Iterator[str]:
    """The names that a pattern stands for."""
    layers = range(config["num_hidden_layers"]) if "{layer}" in pattern else (0,)
    experts = range(config["num_experts"]) if "{expert}" in pattern else (0,)
    for layer in layers:
        for expert in experts:
            yield pattern.format(layer=layer, expert=expert)


@cache
def _tables() -> dict[str, Any]:
    text = files("timberkit.pairs").joinpath("shapes.json").read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables
