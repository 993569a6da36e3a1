"""The pairs are the paper's, with its protocol, and are recognised by what users call them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from timberkit.checkpoint.index import open_checkpoint
from timberkit.errors import UsageError
from timberkit.evaluation.sampling import ModelFacts, resolve_sampling
from timberkit.evaluation.tasks import TASKS
from timberkit.pairs import PAIR_NAMES, PAIRS, ROLLOUTS, Pair, find_pair, pair_of
from timberkit.study.published import published

PAPER = [pair for pair in PAIRS if pair.paper_model is not None]
by_name = pytest.mark.parametrize("pair", PAPER, ids=lambda pair: pair.name)


def test_ids_and_kinds_are_the_published_ones_in_their_order() -> None:
    ours: list[dict[str, Any]] = [
        {
            "base": pair.base,
            "instruct": pair.instruct,
            "thinking": pair.thinking,
            "moe": pair.moe,
        }
        for pair in PAPER
    ]
    assert ours == published()["pairs"]


@by_name
def test_the_protocol_is_the_published_one(pair: Pair) -> None:
    numbers = published()
    assert pair.paper_model in numbers["mean_at_k_table_2"]
    repeats = numbers["benchmarks"]["repeats"]
    assert pair.repeats == repeats.get(pair.paper_model, repeats["larger models"])
    shown = numbers["benchmarks"]["rollouts_pass_at_k"]
    of_this = shown["model"].startswith(f"{pair.paper_model},")
    assert pair.rollouts == (ROLLOUTS if of_this else ())
    tasks = dict(ROLLOUTS)
    assert tasks == {"aime24": shown["AIME24"], "gpqa-diamond": shown["GPQA-Diamond"]}
    assert set(tasks) < set(TASKS)


@by_name
def test_each_mode_draws_as_the_evaluation_would_by_the_models_name(pair: Pair) -> None:
    facts = ModelFacts((pair.instruct,))
    for thinking in (False, True) if pair.thinking else (False,):
        wanted = resolve_sampling(facts, thinking=thinking if pair.thinking else None)
        assert pair.sampling(thinking=thinking) == wanted


def test_thinking_of_a_model_that_cannot_is_an_error() -> None:
    with pytest.raises(UsageError, match="no thinking mode"):
        find_pair("llama-3.2-1b").sampling(thinking=True)


def test_the_embedded_pair_goes_by_its_own_files() -> None:
    pair = find_pair("sapling")
    assert pair.sampling() is None
    assert open_checkpoint(Path(pair.base)).tensors.keys() > {"model.embed_tokens.weight"}


@pytest.mark.parametrize("name", ["qwen3-8b", " Qwen3-8B", "QWEN3-8B"])
def test_a_pair_is_found_in_any_case(name: str) -> None:
    assert find_pair(name).instruct == "Qwen/Qwen3-8B"


def test_an_unknown_name_lists_all_that_there_are() -> None:
    with pytest.raises(UsageError, match="'qwen3-4b': not known") as caught:
        find_pair("qwen3-4b")
    assert all(name in str(caught.value) for name in PAIR_NAMES)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_a_pair_is_recognised_by_its_own_sources(pair: Pair) -> None:
    assert pair_of(pair.base, pair.instruct) == pair
    assert pair_of(pair.instruct, pair.base) is None


@pytest.mark.parametrize(
    ("base", "instruct", "name"),
    [
        ("/models/Llama-3.2-1B/", "mine/llama-3.2-1b-instruct@abc", "llama-3.2-1b"),
        ("Qwen/Qwen3-8B-Base", "Qwen/Qwen3-14B", None),
        ("elsewhere/base", "elsewhere/instruct", None),
    ],
)
def test_folders_are_recognised_by_their_names(base: str, instruct: str, name: str | None) -> None:
    found = pair_of(base, instruct)
    assert (None if found is None else found.name) == name


def test_the_room_is_entered_without_torch() -> None:
    code = "import sys, timberkit.pairs; sys.exit(bool({'torch', 'transformers'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
