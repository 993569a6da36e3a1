"""Parts of a model: where a matrix stands in it, and the words that choose by that.

    Position("model.layers.3.mlp.up_proj.weight", "ffn", layer=3, layers=28)
    parse_layers("4-20,25")

Depth is counted in layers of the language model: those of a vision or audio tower are none of its.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from timberkit.errors import RecipeError, quoted

Kind: TypeAlias = Literal[
    "attention",
    "ffn",
    "expert",
    "router",
    "embedding",
    "head",
    "norm",
    "bias",
    "vision",
    "convolution",
    "ssm",
    "state",
    "unknown",
]
"""Families of tensors: what ``checkpoint.families`` tells apart by their names."""

DEPTH_TOLERANCE = 1e-3
"""Fractions of the depth that are no further apart are the same: a third may be called 0.333."""

PARAMETER = re.compile(r"\.(weight|bias)$")


@dataclass(frozen=True, slots=True)
class Position:
    """Where a matrix stands in its model.

    Attributes:
        name: of the tensor.
        family: see ``Kind``.
        layer: its number, from 0; None outside any.
        layers: of the model, by the numbers in Instruct's names: the highest and one.
        index: place of the matrix among the experts of a tensor, None where it has one matrix.
        part: name of the projection in a fused weight, such as ``q``; None where it is no part.
    """

    name: str
    family: str
    layer: int | None
    layers: int
    index: int | None = None
    part: str | None = None

    @property
    def matrix(self) -> str:
        """Name of the matrix: see ``matrix_name``."""
        return matrix_name(self.name, self.index, self.part)

    @property
    def module(self) -> str:
        """Short name of what holds the tensor: see ``module_name``."""
        return module_name(self.name)

    @property
    def projection(self) -> str:
        """The same of a weight stored by itself: ``q_proj`` for part ``q`` of ``qkv_proj``."""
        return self.module if self.part is None else f"{self.part}_proj"

    @property
    def depth(self) -> int | None:
        """The layer of the language model, None outside any: in a tower beside it, too."""
        return None if self.family == "vision" else self.layer


def matrix_name(name: str, index: int | None, part: str | None = None) -> str:
    """Name of one matrix of a checkpoint: of its tensor, its place and its part in a fused one.

    >>> matrix_name("mlp.experts", 3), matrix_name("qkv_proj", None, "q")
    ('mlp.experts [3]', 'qkv_proj [q]')
    >>> matrix_name("gate_up_proj", 3, "up")
    'gate_up_proj [3 up]'
    """
    places = [str(place) for place in (index, part) if place is not None]
    return f"{name} [{' '.join(places)}]" if places else name


def module_name(name: str) -> str:
    """Last word of a tensor's name that is no number, before ``.weight`` or ``.bias``.

    >>> module_name("model.layers.3.self_attn.q_proj.weight"), module_name("mlp.experts.up_proj")
    ('q_proj', 'up_proj')
    """
    parts = PARAMETER.sub("", name).split(".")
    return next((part for part in reversed(parts) if not part.isdigit()), name)


def parse_layers(text: str) -> tuple[tuple[int, int], ...]:
    """Parse ``4-20,25`` into inclusive ranges.

    Raises RecipeError for anything else, a range that runs backwards included.

    >>> parse_layers("4-20,25")
    ((4, 20), (25, 25))
    """
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part, re.ASCII)
        if match is None:
            raise RecipeError(
                f"layers {quoted(text)}: cannot read {quoted(part)}; write such as 4-20,25"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise RecipeError(f"layers {quoted(text)}: {part.strip()} runs backwards")
        ranges.append((first, last))
    return tuple(ranges)


def layer_at(fraction: float, layers: int) -> int:
    """The lowest layer l with ``l / layers >= fraction``, ``DEPTH_TOLERANCE`` allowed.

    It rises with the fraction, so that fractions that follow each other share the layers out:
    ``layer_at(start) <= l < layer_at(stop)``. All of them lie between 0 and 1.

    >>> [layer_at(fraction, 28) for fraction in (0, 1 / 3, 0.667, 1)]
    [0, 10, 19, 28]
    """
    return math.ceil(fraction * layers - min(DEPTH_TOLERANCE * layers, 0.25))
