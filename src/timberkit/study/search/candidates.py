"""What is searched: gains for every matrix and band of directions, and numbers that stand for them.

    space = Space.of(tensors, edges=(4,), by="thirds")
    space.candidate("first try", np.full(space.size, 0.8))      # the merge at mu = 0.8

A *candidate* says for each tensor by what its directions are multiplied: those before the first
edge, those between two edges, those after the last. Gains are rounded to ``DIGITS`` digits, so that
a recipe on paper is the very candidate that was measured. A *space* has fewer numbers: tensors of
one group share theirs, and simple rules (``rules``) fewer still.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from timberkit.checkpoint.families import classify
from timberkit.engine.plan import PlannedTensor

Vector: TypeAlias = NDArray[np.float64]
By = Literal["matrix", "thirds", "module", "layer"]
GROUPINGS: tuple[str, ...] = get_args(By)
DIGITS = 4
"""Of a gain, behind the point."""


@dataclass(frozen=True)
class Candidate:
    """Gains for every tensor, in the order of bands; ``label`` is for people and decides nothing.

    ``edges``: numbers of directions at which a band ends, rising; a matrix with fewer directions
    has no bands behind them.
    """

    label: str
    edges: tuple[int, ...]
    gains: Mapping[str, tuple[float, ...]]

    @cached_property
    def key(self) -> str:
        """The same for equal gains, whatever the label: 16 hex digits."""
        text = json.dumps([list(self.edges), sorted(self.gains.items())], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def variant(self) -> dict[str, Any]:
        """The candidate as a variant of a recipe: what ``timberkit refine`` is given.

        The only place that knows how the method ``free`` is written.
        """
        gains = {name: list(levels) for name, levels in sorted(self.gains.items())}
        return {"method": "free", "edges": list(self.edges), "gains": gains}

    def towards_instruct(self, share: float, label: str) -> Candidate:
        """``1 + share (g - 1)`` in place of every gain g: Instruct at 0, the candidate at 1."""
        gains = {
            name: tuple(_rounded(1.0 + share * (gain - 1.0)) for gain in levels)
            for name, levels in self.gains.items()
        }
        return Candidate(label, self.edges, gains)


def _rounded(gain: float) -> float:
    return round(float(gain), DIGITS) + 0.0  # -0.0 is the same gain


@dataclass(frozen=True)
class Space:
    """Tensors in groups; a vector has, group by group, a gain for each band.

    ``depths``: of each tensor, 0 in the first layer and 1 in the last; None outside any.
    """

    tensors: tuple[str, ...]
    families: tuple[str, ...]
    depths: tuple[float | None, ...]
    groups: tuple[str, ...]
    edges: tuple[int, ...]

    @classmethod
    def of(cls, tensors: Sequence[PlannedTensor], *, edges: tuple[int, ...], by: By) -> Space:
        """Group the tensors that a plan refines.

        ``by``: "matrix" gives each tensor gains of its own, "module" all tensors of a module (such
        as q_proj) the same, "layer" all of a layer, "thirds" those of a module in the first, middle
        or last third of the layers.
        """
        names = tuple(tensor.name for tensor in tensors)
        last = max((tensor.layer for tensor in tensors if tensor.layer is not None), default=0)
        depths = tuple(
            None if tensor.layer is None else tensor.layer / last if last else 0.0
            for tensor in tensors
        )
        return cls(
            tensors=names,
            families=tuple(tensor.family for tensor in tensors),
            depths=depths,
            groups=tuple(_group(tensor, last + 1, by) for tensor in tensors),
            edges=edges,
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The groups, each once, in the order of the tensors."""
        return tuple(dict.fromkeys(self.groups))

    @property
    def bands(self) -> int:
        """How many bands a matrix has."""
        return len(self.edges) + 1

    @property
    def size(self) -> int:
        """How many numbers a vector has."""
        return len(self.names) * self.bands

    def candidate(self, label: str, vector: Vector) -> Candidate:
        """The candidate that a vector (size,) stands for."""
        rows = dict(zip(self.names, vector.reshape(len(self.names), self.bands), strict=True))
        return self.with_gains(label, [rows[group] for group in self.groups])

    def with_gains(self, label: str, gains: Sequence[Sequence[float] | Vector]) -> Candidate:
        """A candidate from gains tensor by tensor, one of them standing for all bands."""
        levels = (tuple(_rounded(gain) for gain in each) for each in gains)
        full = (each * self.bands if len(each) == 1 else each for each in levels)
        return Candidate(label, self.edges, dict(zip(self.tensors, full, strict=True)))

    def constant(self, label: str, gain: float) -> Candidate:
        """The same gain everywhere: a merge."""
        return self.with_gains(label, [(gain,)] * len(self.tensors))

    def vector(self, candidate: Candidate) -> Vector:
        """The vector nearest to a candidate: the mean gain of each group and band, (size,)."""
        gains = np.array([candidate.gains[name] for name in self.tensors])
        groups = np.array(self.groups)
        return np.concatenate([gains[groups == name].mean(axis=0) for name in self.names])


def _group(tensor: PlannedTensor, layers: int, by: By) -> str:
    module = classify(tensor.name, tensor.shape).module
    if by == "matrix":
        return tensor.name
    if by == "module" or tensor.layer is None:
        return module
    if by == "layer":
        return f"layer {tensor.layer}"
    return f"{('early', 'middle', 'late')[min(3 * tensor.layer // layers, 2)]} {module}"


def rules(
    space: Space, levels: Sequence[float], merges: Sequence[float]
) -> dict[str, list[Candidate]]:
    """A grid over each simple rule.

    =========  ===========================================================================
    merge      one gain
    bands      one gain for the directions before the last edge, one for those after
    ramp       from a gain in the first layer to one in the last, evenly
    families   one gain for attention, one for everything else
    thirds     one gain each for the first, middle and last third of the layers
    =========  ===========================================================================

    Args:
        space: what candidates are made in.
        levels: gains that are combined with each other; merges: gains of the merges.

    Returns:
        Candidates by rule; a rule that the model has no use for (no bands, one layer) has none.
        ``len(levels)`` squared a rule, cubed for thirds.
    """
    found: dict[str, list[Candidate]] = {
        "merge": [space.constant(f"merge {mu:g}", mu) for mu in merges]
    }
    pairs = [pair for pair in itertools.product(levels, repeat=2) if pair[0] != pair[1]]
    found["bands"] = [
        space.with_gains(
            f"leading {first:g}, rest {last:g}",
            [(first,) * len(space.edges) + (last,)] * len(space.tensors),
        )
        for first, last in pairs
        if space.edges
    ]
    found["ramp"] = [
        space.with_gains(
            f"ramp {first:g} to {last:g}",
            [(1.0 if depth is None else first + (last - first) * depth,) for depth in space.depths],
        )
        for first, last in pairs
        if len(set(space.depths)) > 1
    ]
    found["families"] = [
        space.with_gains(
            f"attention {first:g}, others {last:g}",
            [(first if family == "attention" else last,) for family in space.families],
        )
        for first, last in pairs
        if len({family == "attention" for family in space.families}) > 1
    ]
    triples = [triple for triple in itertools.product(levels, repeat=3) if len(set(triple)) > 1]
    found["thirds"] = [
        space.with_gains(
            f"early {gains[0]:g}, middle {gains[1]:g}, late {gains[2]:g}",
            [(1.0 if depth is None else gains[min(int(3 * depth), 2)],) for depth in space.depths],
        )
        for gains in triples
        if len(set(space.depths)) > 2
    ]
    return found
