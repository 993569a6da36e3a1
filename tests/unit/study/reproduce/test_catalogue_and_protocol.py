"""Which models and benchmarks a study has: the paper's, whole."""

from __future__ import annotations

import re

import numpy as np
import pytest

from timberkit.errors import UsageError
from timberkit.evaluation.models import parse_model
from timberkit.pairs import PAIRS, find_pair
from timberkit.study.published import published
from timberkit.study.reproduce.asking import model_name
from timberkit.study.reproduce.catalogue import PAPER, catalogue
from timberkit.study.reproduce.protocol import Benchmark, protocol, temperatures
from timberkit.study.reproduce.scope import best_of, study_benchmarks
from timberkit.study.reproduce.scores import Scores
from timberkit.study_recipe import StudyRecipe, build_study_recipe


def recipe(**fields: object) -> StudyRecipe:
    return build_study_recipe({"base": "org/base", "instruct": "org/instruct", **fields})


def put(found: tuple[Benchmark, ...]) -> dict[str, tuple[int, int | None]]:
    return {each.key: (each.task.problems, each.task.rollouts) for each in found}


def test_the_papers_outputs_are_22_and_hold_every_published_setting() -> None:
    assert len(PAPER) == len(set(PAPER)) == 22
    found = {entry.key: entry.model for entry in catalogue(recipe())}
    tables = published()
    for lam in tables["lambda_grid"]:
        assert found[f"timber_lam{lam}"].parameter == lam
    table = tables["truncation_table_3"]
    assert all(f"truncate-rank_ratio{row['rank_ratio']:g}" in found for row in table["Truncate-R"])
    assert all(
        f"truncate-energy_energy{row['energy'] / 100:g}" in found for row in table["Truncate-E"]
    )


def test_controls_are_of_timber_or_of_every_edit_and_a_merge_has_no_matched_merge() -> None:
    few = [e.model for e in catalogue(recipe(noise_seeds=5)) if e.model.role == "control"]
    assert {model.of for model in few} == {
        "timber-l", "timber_lam0.2", "timber_lam0.5", "timber_lam0.8",
    }  # fmt: skip
    assert len(few) == 4 * 6
    every = [e.model for e in catalogue(recipe(controls="all", noise_seeds=2))]
    of_merge = [model for model in every if model.of == "merge_mu0.8"]
    assert {model.group for model in of_merge} == {"noise"}
    of_edits = {model.of for model in every if model.role == "control"}
    assert of_edits == {model.key for model in every if model.role == "variant"}
    assert not [e for e in catalogue(recipe(controls="none")) if e.model.role == "control"]


def test_own_variants_join_with_their_controls_and_are_there_once() -> None:
    found = catalogue(recipe(variants=["shrink", "timber-l"], controls="all", noise_seeds=1))
    keys = [entry.key for entry in found]
    assert len(keys) == len(set(keys))
    assert {"shrink", "matched-merge_of_shrink", "noise_seed0_of_shrink"} <= set(keys)


def test_keys_are_safe_names_and_labels_are_all_different() -> None:
    found = catalogue(recipe(catalogue="ablations", controls="all"), (1.0, 1.2))
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", entry.key) for entry in found)
    labels = [entry.model.label for entry in found]
    assert len(set(labels)) == len(labels)
    names = [model_name(entry.key) for entry in found]
    assert len(set(names)) == len(names)
    assert parse_model(f"{max(names, key=len)}.thinking=org/model").kind == "hub"


def test_thinking_pairs_are_asked_in_both_modes_as_the_paper_did() -> None:
    found = protocol(recipe(pair="qwen3-0.6b"), find_pair("qwen3-0.6b"))
    assert put(found) == {
        "ifeval:released": (541, 3),
        "math:released": (5000, 3),
        "math500:released": (500, 3),
        "gpqa-diamond:released": (198, 3),
        "hellaswag:released": (10042, 3),
        "aime24:released+thinking": (30, 320),
        "humaneval:released+thinking": (164, 3),
        "gpqa-diamond:released+thinking": (198, 256),
    }
    assert [each.thinking for each in found] == [False] * 5 + [True] * 3
    assert [each.key for each in found if each.selects] == ["aime24:released+thinking"]
    assert all(each.task.whole for each in found)


def test_other_pairs_are_asked_in_their_plain_mode_and_the_smallest_four_times() -> None:
    found = protocol(recipe(pair="llama-3.2-1b"), find_pair("llama-3.2-1b"))
    assert put(found)["ifeval:released"] == (541, 4)
    assert put(found)["aime24:released"] == (30, 320)
    assert put(found)["gpqa-diamond:released"] == (198, 256)
    assert {each.thinking for each in found} == {False}
    assert {each.thinking for each in protocol(recipe())} == {None}


def test_scale_takes_a_share_but_leaves_enough_to_compare() -> None:
    found = put(protocol(recipe(scale=0.1), find_pair("llama-3.2-3b")))
    assert found["math:released"] == (500, 3)
    assert found["aime24:released"] == (10, 32)
    assert not any(
        each.task.whole for each in protocol(recipe(scale=0.1), find_pair("llama-3.2-3b"))
    )


def test_a_choice_of_tasks_keeps_their_files_and_settings() -> None:
    chosen = recipe(tasks=[{"name": "math500", "setting": "paper", "data": "m.jsonl"}])
    (found,) = protocol(chosen, find_pair("llama-3.2-3b"))
    assert (found.key, found.choice.data) == ("math500:paper", "m.jsonl")


def test_base_and_temperatures_are_asked_for_many_rollouts_only() -> None:
    entries = {entry.key: entry for entry in catalogue(recipe(), (1.2,))}
    found = {each.key: each for each in protocol(recipe(), find_pair("llama-3.2-3b"))}
    for key in ("base", "instruct_T1.2"):
        assert not found["math:released"].is_put_to(entries[key])
        assert found["aime24:released"].is_put_to(entries[key])
    assert found["math:released"].is_put_to(entries["timber-l"])


def test_embedded_pair_is_exact_with_a_few_models_sampled() -> None:
    found = protocol(recipe(pair="sapling"))
    assert [each.task.how for each in found] == ["exact", "exact", "sampled"]
    asked = [e.key for e in catalogue(recipe(pair="sapling")) if found[2].is_put_to(e)]
    assert asked == ["base", "instruct", "timber_lam0.2", "merge_mu0.8"]
    assert temperatures(recipe(pair="sapling")) == (1.2, 1.5)
    assert temperatures(recipe()) == (1.0, 1.2)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tasks": ["math-500"]}, "math500"),
        ({"tasks": ["sapling"]}, "protocol of this pair"),
        ({"tasks": ["math500:nosuch"]}, "released"),
        ({"tasks": ["math500:released", "math500:paper"]}, "two settings"),
        ({"pair": "sapling", "tasks": ["aime24"]}, "sapling"),
    ],
)
def test_a_benchmark_that_is_not_known_is_refused_before_anything_is_done(
    fields: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        protocol(recipe(**fields))


def test_hub_ids_of_a_pair_of_the_paper_get_its_protocol() -> None:
    pair = find_pair("llama-3.2-1b")
    found = study_benchmarks(recipe(base=pair.base, instruct=pair.instruct))
    assert put(found)["ifeval:released"] == (541, 4)
    thinking = find_pair("qwen3-0.6b")
    modes = {b.thinking for b in study_benchmarks(recipe(base=thinking.base,
                                                         instruct=thinking.instruct))}  # fmt: skip
    assert modes == {True, False}


def test_best_is_the_best_of_what_was_asked() -> None:
    entries = catalogue(recipe())
    benchmarks = protocol(recipe(), find_pair("llama-3.2-3b"))
    only_aime = {
        (key, "aime24:released"): Scores(("a", "b"), np.array(p))
        for key, p in (("timber-l", [0.1, 0.2]), ("merge_mu0.8", [0.3, 0.2]))
    }
    best = best_of(entries, benchmarks, only_aime)
    assert best is not None
    assert best.key == "merge_mu0.8"
    assert best_of(entries, benchmarks, {}) is None


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_every_ready_made_pair_has_a_protocol(pair: object) -> None:
    named = find_pair(pair.name)  # type: ignore[attr-defined]
    chosen = recipe(pair=named.name)
    found = protocol(chosen, named)
    assert any(each.averaged for each in found)
    assert sum(each.selects for each in found) == 1
