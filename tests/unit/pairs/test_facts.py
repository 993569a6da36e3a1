"""What the list says of a pair is what its files and a plan say."""

from __future__ import annotations

import pytest

from timberkit.pairs import PAIRS, Pair, find_pair, pair_facts


def test_the_embedded_pair_is_counted_from_its_files() -> None:
    facts = pair_facts(find_pair("sapling"))
    assert (facts.parameters, facts.size_bytes, facts.matrices) == (462_080, 924_160, 3 * 7)
    assert not facts.on_hub


@pytest.mark.parametrize(
    ("name", "matrices"),
    [("llama-3.2-1b", 16 * 7), ("qwen3-14b", 40 * 7), ("qwen3-30b-a3b", 48 * (4 + 128 * 3))],
)
def test_linear_weights_are_counted_each_expert_apart(name: str, matrices: int) -> None:
    facts = pair_facts(find_pair(name))
    assert facts.matrices == matrices
    assert facts.size_bytes == 2 * facts.parameters


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_names_and_kinds_are_those_of_the_catalogue(pair: Pair) -> None:
    facts = pair_facts(pair)
    for field in ("name", "base", "instruct", "paper_model", "thinking", "moe", "on_hub"):
        assert getattr(facts, field) == getattr(pair, field)
