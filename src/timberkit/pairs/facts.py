"""What a list of pairs says of each: sources, sizes, and how much of it is refined."""

from __future__ import annotations

from dataclasses import dataclass

from timberkit.config import Selection
from timberkit.engine.plan import select_tensors
from timberkit.pairs.catalogue import Pair
from timberkit.pairs.shapes import planned_pair


@dataclass(frozen=True, slots=True)
class PairFacts:
    """One pair in a list.

    ``parameters`` and ``size_bytes`` (of the tensors, as stored) are of one model. ``matrices``:
    the linear weights that ``refine`` treats by default, each expert counted.
    """

    name: str
    base: str
    instruct: str
    paper_model: str | None
    on_hub: bool
    thinking: bool
    moe: bool
    parameters: int
    size_bytes: int
    matrices: int


def pair_facts(pair: Pair) -> PairFacts:
    """Count a pair's parameters, bytes and matrices from its shapes. O(number of tensors)."""
    base, instruct = planned_pair(pair)
    planned = select_tensors(base.tensors, instruct.tensors, Selection())
    return PairFacts(
        name=pair.name,
        base=pair.base,
        instruct=pair.instruct,
        paper_model=pair.paper_model,
        on_hub=pair.on_hub,
        thinking=pair.thinking,
        moe=pair.moe,
        parameters=sum(entry.numel for entry in instruct.tensors.values()),
        size_bytes=instruct.size_bytes,
        matrices=sum(tensor.matrices for tensor in planned),
    )
