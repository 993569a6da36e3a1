"""Answers drawn together are the answers that each would be alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from timberkit.errors import InputError
from timberkit.evaluation.decoding import Decoder, Finished, Request, draw

transformers = pytest.importorskip("transformers")

PROMPTS = ((5, 6, 7, 8, 9, 10, 11, 12, 13), (3,), (9, 8, 7, 6), (3, 4), (9, 8, 7, 6))
SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def made(kind: str, **fields: Any) -> Any:
    """A small model of random weights, the same at every call."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **fields})
    model = transformers.AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.5)
    return model.train(mode=False)


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen3": {"head_dim": 8},
    "Mistral": {"sliding_window": 4},
    "Gemma2": {"sliding_window": 4, "head_dim": 8},
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
}


def requests(**fields: Any) -> list[Request]:
    return [
        Request(prompt=prompt, seed=seed, tag=seed, **{"max_tokens": 12, **fields})
        for seed, prompt in enumerate(PROMPTS)
    ]


def drawn(decoder: Decoder, waves: Sequence[Sequence[Request]], gap: int = 3) -> list[Finished]:
    """All answers in the order of their tags, one more wave joining every few steps."""
    found: list[Finished] = []
    left = list(waves)
    while decoder.rows or left:
        if left:
            decoder.admit(left.pop(0))
        for _ in range(gap):
            found += decoder.step() if decoder.rows else []
    return sorted(found, key=lambda each: each.request.tag)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_greedy_answers_are_those_of_generate_however_they_are_batched(kind: str) -> None:
    model = made(kind, **ARCHITECTURES[kind])
    asked = requests(temperature=0.0)
    waves = [asked[:2], asked[2:3], asked[3:]]
    found = drawn(Decoder(model, frozenset({2})), waves)
    for request, finished in zip(asked, found, strict=True):
        alone = model.generate(
            torch.tensor([request.prompt]), do_sample=False, max_new_tokens=12, eos_token_id=2
        )
        assert finished.tokens == alone[0, len(request.prompt) :].tolist(), request


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_sampled_answer_depends_on_its_seed_and_not_on_its_company(kind: str) -> None:
    model = made(kind, **ARCHITECTURES[kind])
    asked = requests(temperature=0.7, top_p=0.95)
    together = drawn(Decoder(model, frozenset({2})), [asked])
    joined = drawn(Decoder(model, frozenset({2})), [[each] for each in reversed(asked)], gap=1)
    alone = [drawn(Decoder(model, frozenset({2})), [[each]])[0] for each in asked]
    tokens = [each.tokens for each in alone]
    assert tokens == [each.tokens for each in together] == [each.tokens for each in joined]
    if kind != "Gemma2":  # whose random weights leave it little choice
        assert tokens[2] != tokens[4], "one prompt, two seeds"


def test_answers_of_different_settings_share_a_batch() -> None:
    model = made("Llama")
    mixed = [*requests(temperature=0.0)[:2], *requests(temperature=1.5, top_k=3)[2:]]
    found = drawn(Decoder(model, frozenset({2})), [mixed])
    alone = [drawn(Decoder(model, frozenset({2})), [[each]])[0] for each in mixed]
    assert [each.tokens for each in found] == [each.tokens for each in alone]


def test_an_answer_says_why_it_ended() -> None:
    model = made("Llama")
    decoder = Decoder(model, frozenset(range(20)))
    found = drawn(decoder, [requests(temperature=1.0, max_tokens=40)])
    assert {each.reason for each in found} == {"stop"}
    assert all(each.tokens[-1] < 20 and min(each.tokens[:-1], default=20) >= 20 for each in found)
    limited = drawn(Decoder(model, frozenset()), [requests(limit_reason="model_length")])
    assert {(each.reason, len(each.tokens)) for each in limited} == {("model_length", 12)}


def test_forgotten_answers_can_be_begun_again() -> None:
    decoder = Decoder(made("Llama"), frozenset())
    asked = requests(temperature=1.0)
    first = drawn(decoder, [asked])
    decoder.admit(asked)
    decoder.step()
    assert {each.tag for each in decoder.clear()} == set(range(len(asked)))
    assert [each.tokens for each in drawn(decoder, [asked])] == [each.tokens for each in first]


def test_tokens_come_as_often_as_they_are_probable() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, float("-inf"), 1.0]])
    count = 20_000
    uniforms = [(index + 0.5) / count for index in range(count)]
    tokens, bad = draw(logits.expand(count, -1), uniforms, 0.8, None, None, None)
    seen = torch.bincount(tokens, minlength=5) / count
    expected = torch.softmax(logits[0].double() / 0.8, dim=-1)
    assert not bad.any()
    torch.testing.assert_close(seen.double(), expected, atol=1.5 / count, rtol=0)


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ((1.0, 2, None, None), {0, 1}),
        ((1.0, None, 0.6, None), {0, 1}),
        ((1.0, None, None, 0.5), {0, 1}),
        ((1.0, 3, 0.4, None), {0}),
        ((1e-3, None, None, None), {0}),
        ((0, None, None, None), {0}),
        ((1.0, None, 1.0, None), {0, 1, 2, 3}),
    ],
)
def test_filters_leave_what_they_leave_in_transformers(
    filters: tuple[Any, ...], kept: set[int]
) -> None:
    logits = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]])).expand(1000, -1)
    tokens, _ = draw(logits, [index / 1000 for index in range(1000)], *filters)
    assert set(tokens.tolist()) == kept


def test_no_token_of_probability_0_is_drawn_at_the_ends_of_the_unit_interval() -> None:
    out = float("-inf")
    logits = torch.tensor([[out, 1.0, 1.0, out]]).expand(3, -1)
    tokens, _ = draw(logits, [0.0, 0.5, 1 - 2**-53], 1.0, None, None, None)
    assert tokens.tolist() == [1, 2, 2]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_that_gives_nan_is_reported_and_spoils_no_other_answer(temperature: float) -> None:
    model = made("Llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[3] = float("nan")
    asked = requests(temperature=temperature)
    found = drawn(Decoder(model, frozenset(range(3))), [asked])
    broken = [each.request.tag for each in found if each.error is not None]
    assert {1, 3} <= set(broken), "their prompts begin with the broken token"
    assert isinstance(found[1].error, InputError)
    assert "NaN" in str(found[1].error)
    assert len(broken) < len(asked)


def test_a_recurrent_model_is_refused_with_a_way_out() -> None:
    config = transformers.MambaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, state_size=4
    )
    with pytest.raises(InputError, match="--serve vllm"):
        Decoder(transformers.MambaForCausalLM(config), frozenset())
