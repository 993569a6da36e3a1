"""Which sampling a model gets, and where each value came from."""

from __future__ import annotations

from typing import Any

import pytest

from timberkit.errors import CheckpointError, UsageError
from timberkit.evaluation.sampling import (
    PRESETS,
    ModelFacts,
    Sampling,
    detect_family,
    preset,
    resolve_sampling,
)
from timberkit.study.published import published

LLAMA_1B = {
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "vocab_size": 128256,
}
QWEN3_TEMPLATE = "{% if enable_thinking is defined and not enable_thinking %}<think>"


def facts(**fields: Any) -> ModelFacts:
    fields.setdefault("names", ("model",))
    return ModelFacts(files_known=True, **fields)


def qwen3(**fields: Any) -> ModelFacts:
    return facts(config={"model_type": "qwen3"}, chat_template=QWEN3_TEMPLATE, **fields)


def test_presets_are_the_rows_of_table_4() -> None:
    rows = {
        "Llama-3.2-1B": preset("llama-3.2-1b"),
        "Llama-3.2-3B": preset("llama-3.2-3b"),
        "Llama-3.1-8B": preset("llama-3.1-8b"),
        "Qwen3 non-thinking": preset("qwen3", thinking=False),
        "Qwen3 thinking": preset("qwen3", thinking=True),
    }
    table = published()["sampling_table_4"]
    assert set(table) == set(rows)
    for name, expected in table.items():
        fields = ("temperature", "top_p", "top_k", "max_tokens")
        values = {field: getattr(rows[name], field) for field in fields}
        assert {k: v for k, v in values.items() if v is not None} == expected, name


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_where_its_values_are_from(name: str) -> None:
    found = preset(name)
    assert all("preset" in origin for _, _, origin in found.table())


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", "llama-3.2-1b"),
        ("unsloth/llama-3.2-3b", "llama-3.2-3b"),
        ("Meta-Llama-3.1-8B", "llama-3.1-8b"),
        ("Llama-3.1-80B", None),
        ("Qwen/Qwen3-0.6B", "qwen3"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3"),
        ("Qwen/Qwen3.5-4B", None),
        ("Qwen/Qwen2.5-7B", None),
        ("Qwen/Qwen30-7B", None),
        ("someone/model", None),
    ],
)
def test_a_served_model_is_known_by_its_name(name: str, family: str | None) -> None:
    assert detect_family(ModelFacts((name,))) == family


def test_a_config_decides_against_the_name() -> None:
    assert detect_family(facts(names=("Qwen3-tuned",), config=LLAMA_1B)) == "llama-3.2-1b"
    assert detect_family(facts(names=("Qwen3",), config={"model_type": "gemma3"})) is None
    assert detect_family(facts(config=LLAMA_1B | {"vocab_size": 32000})) is None
    assert detect_family(facts(config={"model_type": "llama", "hidden_size": [1]})) is None


def test_what_is_given_wins_and_is_called_given() -> None:
    found = resolve_sampling(facts(config=LLAMA_1B), given={"temperature": 1.2})
    origins = {name: origin for name, _, origin in found.table()}
    assert (found.temperature, found.top_p, found.max_tokens) == (1.2, 0.9, 4096)
    assert origins["temperature"] == "given"
    assert "Table 4" in origins["top_p"]


def test_an_unknown_model_is_sampled_as_its_checkpoint_says() -> None:
    own = {"do_sample": True, "temperature": 0.8, "top_k": 0, "top_p": 0.9, "max_new_tokens": 32}
    found = resolve_sampling(facts(generation_config=own))
    assert (found.temperature, found.top_p, found.top_k, found.max_tokens) == (0.8, 0.9, None, 32)
    assert found.origins["temperature"] == "generation_config.json"


def test_a_greedy_generation_config_does_not_make_all_rollouts_equal() -> None:
    found = resolve_sampling(facts(generation_config={"temperature": 0.2, "top_k": 5}))
    assert (found.temperature, found.top_k) == (1.0, None)
    assert "nothing is known" in found.origins["temperature"]


@pytest.mark.parametrize(
    "broken", [{"temperature": "hot"}, {"top_p": 7}, {"top_k": [1]}, {"max_new_tokens": 10**400}]
)
def test_a_broken_generation_config_is_named(broken: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        resolve_sampling(facts(generation_config={"do_sample": True, **broken}))


def test_qwen3_thinks_unless_it_is_told_not_to() -> None:
    by_itself = resolve_sampling(qwen3())
    told = resolve_sampling(qwen3(), thinking=False)
    assert (by_itself.thinking, by_itself.chat_template_kwargs) == (True, {"enable_thinking": True})
    assert (told.thinking, told.chat_template_kwargs) == (False, {"enable_thinking": False})
    assert (by_itself.max_tokens, told.max_tokens) == (38912, 8192)


def test_a_qwen3_edition_without_the_switch_is_sampled_as_what_it_is() -> None:
    name = ("Qwen/Qwen3-4B-Instruct-2507",)
    config = {"model_type": "qwen3"}
    template = "{{ content.split('</think>')[-1] }}<think>"
    on_disk = resolve_sampling(facts(names=name, config=config, chat_template=template))
    served = resolve_sampling(ModelFacts(name))
    thinking = resolve_sampling(facts(config=config, chat_template="...<think>\n"))
    assert on_disk.temperature == served.temperature == 0.7
    assert (thinking.temperature, thinking.chat_template_kwargs) == (0.6, {})


def test_a_raw_prompt_has_no_thinking() -> None:
    found = resolve_sampling(qwen3(), raw=True)
    assert (found.thinking, dict(found.chat_template_kwargs)) == (None, {})
    assert found.temperature == 0.7


def test_thinking_asked_of_a_model_that_cannot_is_refused() -> None:
    with pytest.raises(UsageError, match="no switch for thinking, and --thinking was"):
        resolve_sampling(facts(config=LLAMA_1B, chat_template="{{ messages }}"), thinking=True)


def test_template_arguments_are_added_to_the_switch() -> None:
    given = {"chat_template_kwargs": {"documents": []}}
    found = resolve_sampling(qwen3(), given=given)
    assert found.chat_template_kwargs == {"enable_thinking": True, "documents": []}


def test_greedy_keeps_the_length_of_the_family_and_drops_the_filters() -> None:
    found = resolve_sampling(qwen3(), preset_name="greedy")
    assert (found.temperature, found.top_p, found.top_k) == (0.0, None, None)
    assert found.max_tokens == 38912


def test_top_k_0_turns_it_off() -> None:
    assert resolve_sampling(qwen3(), given={"top_k": 0}).top_k is None


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": 2.5},
        {"max_tokens": 0},
        {"max_tokens": True},
        {"min_p": 2},
        {"stops": [""]},
        {"temprature": 1},
    ],
)
def test_a_value_out_of_range_is_refused(given: dict[str, Any]) -> None:
    name = next(iter(given))
    with pytest.raises(UsageError, match=name):
        resolve_sampling(facts(), given=given)


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"choose one of llama-3\.2-1b"):
        resolve_sampling(facts(), preset_name="gpt")


def test_origins_do_not_make_samplings_differ_but_every_other_field_does() -> None:
    assert Sampling(temperature=1.0, origins={"temperature": "x"}) == Sampling(temperature=1.0)
    assert "origins" not in Sampling().as_json()
    assert Sampling(stops=("\n",)).as_json()["stops"] == ["\n"]
