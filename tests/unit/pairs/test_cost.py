"""The cost of an evaluation: arithmetic from sizes, and hours that say what they assume."""

from __future__ import annotations

from typing import Any

import pytest

from timberkit.errors import UsageError
from timberkit.pairs import (
    ASSUMED_TOKENS_PER_SECOND,
    CONCURRENCY,
    PAIRS,
    Pair,
    evaluation_cost,
    find_pair,
    kv_bytes_per_token,
)


def test_cache_of_a_token_by_hand() -> None:
    # 28 layers, 8 heads of 128, key and value, two bytes each.
    assert kv_bytes_per_token(find_pair("qwen3-0.6b")) == 28 * 8 * 128 * 2 * 2
    assert kv_bytes_per_token(find_pair("qwen3-30b-a3b")) == 48 * 4 * 128 * 2 * 2
    assert kv_bytes_per_token(find_pair("sapling")) == 3 * 2 * 32 * 2 * 2


def test_memory_tokens_and_hours_by_hand() -> None:
    pair = find_pair("qwen3-0.6b")
    cost = evaluation_cost(pair, 9_600, 10_000, 4_000.0, concurrency=100)
    assert cost.weights_bytes == 2 * 596_049_920
    assert cost.kv_cache_bytes == 114_688 * 10_000 * 100
    assert cost.memory_bytes == cost.weights_bytes + cost.kv_cache_bytes
    assert cost.output_tokens == 96_000_000
    assert cost.hours == pytest.approx(96_000_000 / 4_000 / 3600)
    assert not cost.speed_is_assumed


def test_without_a_speed_the_assumption_is_used_and_named() -> None:
    cost = evaluation_cost(find_pair("sapling"), 1_000, 100)
    assert cost.speed_is_assumed
    assert cost.tokens_per_second == ASSUMED_TOKENS_PER_SECOND
    assert cost.hours == pytest.approx(100_000 / ASSUMED_TOKENS_PER_SECOND / 3600)
    assert cost.concurrency == CONCURRENCY


def test_no_more_is_held_than_is_asked() -> None:
    few = evaluation_cost(find_pair("sapling"), 3, 100)
    assert few.concurrency == 3
    none = evaluation_cost(find_pair("sapling"), 0, 100)
    assert (none.kv_cache_bytes, none.output_tokens, none.hours) == (0, 0, 0.0)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_every_pair_has_a_cost(pair: Pair) -> None:
    cost = evaluation_cost(pair, 1, 1)
    assert cost.memory_bytes == cost.weights_bytes + kv_bytes_per_token(pair)


@pytest.mark.parametrize(
    "wrong",
    [
        {"requests": -1},
        {"tokens_each": 0},
        {"concurrency": 0},
        {"tokens_per_second": 0.0},
        {"tokens_per_second": float("nan")},
        {"tokens_per_second": float("inf")},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"requests": 1, "tokens_each": 1, **wrong}
    with pytest.raises(UsageError, match=next(iter(wrong))):
        evaluation_cost(find_pair("sapling"), **fields)
