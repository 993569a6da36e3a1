"""What an evaluation of one model takes: memory from its sizes, hours from a stated speed.

    evaluation_cost(find_pair("qwen3-0.6b"), requests=9_600, tokens_each=12_000)

Memory is arithmetic: the weights, and for every token that is held, a key and a value in each
layer. A server adds its own (activations, graphs, fragments of the cache), so it is a floor; where
the cache does not fit, a server answers fewer requests at once. Hours cannot be known from sizes:
they are tokens over a speed that is assumed unless it is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from timberkit.errors import UsageError
from timberkit.evaluation.backends import VLLM_CONNECTIONS
from timberkit.pairs.catalogue import Pair
from timberkit.pairs.shapes import pair_config, planned_pair

ASSUMED_TOKENS_PER_SECOND = 2_000.0
"""Output tokens a second, of all requests together: an assumption, the same for every model and
machine, not a measurement. A server's log has the real one."""
CONCURRENCY = VLLM_CONNECTIONS
"""Requests at once, where nothing else is said: what ``timberkit eval`` puts to its own server."""
CACHE_ELEMENT_BYTES = 2
"""Keys and values are held in bfloat16."""


@dataclass(frozen=True, slots=True)
class EvaluationCost:
    """What so many requests to one model take.

    ``weights_bytes``: of all tensors, all experts included. ``kv_cache_bytes``: of
    ``concurrency`` answers at full length. ``output_tokens``: of all requests. ``hours``: these
    over ``tokens_per_second``, of which ``speed_is_assumed`` says that nobody gave it.
    """

    requests: int
    tokens_each: int
    concurrency: int
    weights_bytes: int
    kv_bytes_per_token: int
    kv_cache_bytes: int
    output_tokens: int
    tokens_per_second: float
    speed_is_assumed: bool
    hours: float

    @property
    def memory_bytes(self) -> int:
        """Weights and cache: the least that a GPU, or several, must hold for this concurrency."""
        return self.weights_bytes + self.kv_cache_bytes


def kv_bytes_per_token(pair: Pair) -> int:
    """Bytes of cache for one token: ``2 * layers * key-value heads * head_dim * 2``.

    The first 2 for key and value, the last for bfloat16.

    >>> from timberkit.pairs import find_pair
    >>> kv_bytes_per_token(find_pair("llama-3.1-8b"))
    131072
    """
    config = pair_config(pair)
    heads = int(config["num_key_value_heads"]) * int(config["head_dim"])
    return 2 * int(config["num_hidden_layers"]) * heads * CACHE_ELEMENT_BYTES


def evaluation_cost(
    pair: Pair,
    requests: int,
    tokens_each: int,
    tokens_per_second: float | None = None,
    *,
    concurrency: int = CONCURRENCY,
) -> EvaluationCost:
    """What ``requests`` answers of ``tokens_each`` tokens take of one model of a pair.

    ``tokens_each``: prompt and answer together, since both lie in the cache; counted as output for
    the hours, which overstates them where prompts are long. ``tokens_per_second``: output of all
    requests together; ``ASSUMED_TOKENS_PER_SECOND`` when None. ``concurrency``: requests at once,
    at most ``requests``. Raises UsageError for a number below its least: 0 requests, 1 token, 1 at
    once, a speed above 0. O(number of tensors); reads no weights.
    """
    for name, value, least in (
        ("requests", requests, 0),
        ("tokens_each", tokens_each, 1),
        ("concurrency", concurrency, 1),
    ):
        if value < least:
            raise UsageError(f"{name}: found {value}, expected at least {least}")
    speed = ASSUMED_TOKENS_PER_SECOND if tokens_per_second is None else tokens_per_second
    if not 0 < speed < math.inf:
        raise UsageError(f"tokens_per_second: found {speed}, expected a number above 0")
    held = min(concurrency, requests)
    per_token = kv_bytes_per_token(pair)
    output_tokens = requests * tokens_each
    return EvaluationCost(
        requests=requests,
        tokens_each=tokens_each,
        concurrency=held,
        weights_bytes=planned_pair(pair)[1].size_bytes,
        kv_bytes_per_token=per_token,
        kv_cache_bytes=per_token * tokens_each * held,
        output_tokens=output_tokens,
        tokens_per_second=speed,
        speed_is_assumed=tokens_per_second is None,
        hours=output_tokens / speed / 3600,
    )
