"""The exact evaluator against slow truths: one forward pass per string, exhaustive search, theory.

The oracle below shares only the vocabulary with the evaluator: no tree, no batching, no padding.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from timberkit.errors import InputError
from timberkit.sapling import (
    LONGEST_ANSWER_TOKENS,
    PreparedProblems,
    Problem,
    base_folder,
    correct_answers,
    instruct_folder,
    is_correct,
    load_model,
    load_problems,
    success_probabilities,
)
from timberkit.sapling.training.settings import SMOKE
from timberkit.sapling.training.supervised import new_model
from timberkit.sapling.vocabulary import EOS, VOCABULARY, chat_prompt, encode

FOLDERS = {"base": base_folder(), "instruct": instruct_folder()}


@pytest.fixture(scope="module", params=FOLDERS)
def model(request: pytest.FixtureRequest) -> Any:
    return load_model(FOLDERS[request.param])


@torch.inference_mode()
def probability(model: Any, problem: Problem, answer: str, temperature: float) -> float:
    """Probability of one answer and the end token after it, by the chain rule."""
    prompt, continuation = chat_prompt(problem), encode(f"{answer} {EOS}")
    logits = model(input_ids=torch.tensor([prompt + continuation])).logits[0].double()
    logs = (logits / temperature).log_softmax(dim=-1)[len(prompt) - 1 : -1]
    return float(logs[range(len(continuation)), continuation].sum().exp())


def oracle(model: Any, problem: Problem, temperature: float) -> float:
    answers = correct_answers(problem)
    return sum(probability(model, problem, answer, temperature) for answer in answers)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
def test_exact_probability_equals_one_forward_pass_per_answer(
    model: Any, temperature: float
) -> None:
    problems = load_problems(n=8) + load_problems("held-out-4", n=2)
    expected = [oracle(model, problem, temperature) for problem in problems]
    found = success_probabilities(model, problems, temperature=temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("problem", [Problem((2, 3), 6), Problem((4, 2), 2), Problem((5, 5), 10)])
def test_no_accepted_string_is_missed(model: Any, problem: Problem) -> None:
    words = [*"1234567", "10", *"+-*/=;"]
    texts = [" ".join(choice) for choice in itertools.product(words, repeat=4)]
    last = str(problem.target)  # any other last word is refused, see the checker's own tests
    accepted = [text for first in texts if is_correct(problem, text := f"{first} {last}")]
    expected = sum(probability(model, problem, text, 1.0) for text in accepted)
    assert accepted
    assert success_probabilities(model, [problem])[0] == pytest.approx(expected, rel=1e-5)


def test_uniform_model_gives_answers_times_vocabulary_to_the_minus_length() -> None:
    model = new_model(SMOKE.model, seed=0).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
    problems = load_problems(n=5) + load_problems("held-out-4", n=5)
    expected = [
        len(correct_answers(problem)) * len(VOCABULARY) ** -(6.0 * (len(problem.numbers) - 1))
        for problem in problems
    ]
    np.testing.assert_allclose(success_probabilities(model, problems), expected, rtol=1e-5)


def test_probabilities_of_all_targets_of_one_prompt_sum_to_at_most_one(model: Any) -> None:
    """Whatever the prompt asks for, the valid chains of all targets are disjoint strings."""
    asked = load_problems(n=1)[0]
    chains = {
        answer
        for target in range(1, 100)
        for answer in correct_answers(Problem(asked.numbers, target))
    }
    total = sum(probability(model, asked, answer, 1.0) for answer in chains)
    assert success_probabilities(model, [asked])[0] < total <= 1.0


@pytest.mark.parametrize("temperature", [0.02, 1.0, 50.0])
def test_probabilities_stay_within_0_and_1(model: Any, temperature: float) -> None:
    found = success_probabilities(model, load_problems(n=100), temperature=temperature)
    assert found.dtype == np.float64
    assert ((found >= 0) & (found <= 1)).all()


def test_low_temperature_is_greedy_decoding(model: Any) -> None:
    problems = load_problems(n=40)
    prompts = torch.tensor([chat_prompt(problem) for problem in problems])
    output = model.generate(
        prompts, attention_mask=torch.ones_like(prompts), do_sample=False, temperature=None,
        top_p=None, top_k=None,
    )[:, prompts.shape[1] :]  # fmt: skip
    texts = [" ".join(VOCABULARY[token] for token in row) for row in output.tolist()]
    greedy = [
        is_correct(problem, text.split(f" {EOS}")[0])
        for problem, text in zip(problems, texts, strict=True)
    ]
    found = success_probabilities(model, problems, temperature=0.005)
    decided = (found < 0.01) | (found > 0.99)
    assert decided.mean() > 0.8
    assert (found[decided] > 0.5).tolist() == np.array(greedy)[decided].tolist()


def test_result_depends_neither_on_company_nor_on_order_nor_on_threads(model: Any) -> None:
    problems = load_problems(n=30) + load_problems("held-out-4", n=3)
    together = success_probabilities(model, problems)
    backwards = success_probabilities(model, problems[::-1], threads=1)[::-1]
    alone = [success_probabilities(model, [problem])[0] for problem in problems]
    np.testing.assert_allclose(backwards, together, rtol=1e-5)
    np.testing.assert_allclose(alone, together, rtol=1e-5)


def test_folder_and_loaded_model_give_the_same(model: Any) -> None:
    problems = load_problems(n=3)
    folders = [success_probabilities(str(folder), problems) for folder in FOLDERS.values()]
    loaded = success_probabilities(model, problems)
    assert any(np.array_equal(found, loaded) for found in folders)


@pytest.mark.parametrize("name", FOLDERS)
def test_bf16_arithmetic_changes_little(name: str) -> None:
    from transformers import AutoModelForCausalLM

    problems = load_problems(n=50)
    rough = AutoModelForCausalLM.from_pretrained(FOLDERS[name], dtype=torch.bfloat16)
    difference = success_probabilities(rough, problems) - success_probabilities(
        FOLDERS[name], problems
    )
    assert 0 < abs(difference).max() < 0.05
    assert abs(difference.mean()) < 0.005


def test_no_problems_and_unreachable_targets(model: Any) -> None:
    assert success_probabilities(model, []).shape == (0,)
    assert success_probabilities(model, [Problem((1, 1), 50)]).tolist() == [0.0]


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_invalid_temperature_is_refused(model: Any, temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        success_probabilities(model, load_problems(n=1), temperature=temperature)


def test_missing_folder_is_refused() -> None:
    with pytest.raises(InputError, match="nowhere"):
        success_probabilities("nowhere", load_problems(n=1))


def test_longest_answer_is_that_of_four_numbers() -> None:
    assert LONGEST_ANSWER_TOKENS == 18
    answers = correct_answers(load_problems("held-out-4", n=1)[0])
    assert {len(encode(answer)) + 1 for answer in answers} == {18}


def test_problems_prepared_once_serve_every_model() -> None:
    """A prepared set says of any model and temperature what a fresh call says."""
    problems = [*load_problems(n=30), *load_problems("held-out-4", n=5), Problem((1, 1), 99)]
    prepared = PreparedProblems(problems)
    for folder in FOLDERS.values():
        loaded = load_model(folder)
        for temperature in (1.0, 0.7):
            found = prepared.success(loaded, temperature=temperature)
            expected = success_probabilities(folder, problems, temperature=temperature)
            np.testing.assert_array_equal(found, expected)
    assert found[-1] == 0.0
    with pytest.raises(ValueError, match="temperature"):
        prepared.success(loaded, temperature=0.0)
