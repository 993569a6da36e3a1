"""Ready-made pairs: the paper's seven and the embedded one, planned without network or weights.

==============  ==============================================================================
``catalogue``   names, hub ids, and the paper's protocol for each pair
``shapes``      every tensor of a pair, from sizes alone; ``planned_pair`` for a plan
``facts``       what a list says of each
``cost``        what an evaluation needs of memory, and its hours at an assumed speed
==============  ==============================================================================

Importing this package loads neither torch nor transformers.
"""

from timberkit.pairs.catalogue import PAIR_NAMES, PAIRS, ROLLOUTS, Pair, find_pair, pair_of
from timberkit.pairs.cost import (
    ASSUMED_TOKENS_PER_SECOND,
    CONCURRENCY,
    EvaluationCost,
    evaluation_cost,
    kv_bytes_per_token,
)
from timberkit.pairs.facts import PairFacts, pair_facts
from timberkit.pairs.shapes import pair_config, planned_pair, shape_source, tensor_shapes

__all__ = [
    "ASSUMED_TOKENS_PER_SECOND",
    "CONCURRENCY",
    "PAIRS",
    "PAIR_NAMES",
    "ROLLOUTS",
    "EvaluationCost",
    "Pair",
    "PairFacts",
    "evaluation_cost",
    "find_pair",
    "kv_bytes_per_token",
    "pair_config",
    "pair_facts",
    "pair_of",
    "planned_pair",
    "shape_source",
    "tensor_shapes",
]
