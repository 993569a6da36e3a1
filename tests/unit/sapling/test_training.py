"""The training parts, one by one: corpus, schedule, batches, reward, advantages."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from timberkit.sapling import Problem, is_correct, is_held_out, problem_pool
from timberkit.sapling.training.corpus import base_document, chat_document
from timberkit.sapling.training.reinforcement import (
    advantages,
    draw_problems,
    reward,
    sample_answers,
)
from timberkit.sapling.training.settings import RL_PRESETS, SHIPPED, SMOKE, RlSettings
from timberkit.sapling.training.supervised import (
    IGNORED,
    learning_rate_scale,
    new_model,
    padded_batch,
)
from timberkit.sapling.training.write import draw_held_out
from timberkit.sapling.vocabulary import EOS, IDS, PAD, chat_prompt, encode

DOCUMENTS = [base_document(random.Random(seed)) for seed in range(4000)]


def read_chat(document: str) -> tuple[Problem, str]:
    """Problem and answer of a document in chat format."""
    prompt, answer = document.removesuffix(" </s>").split(" <|assistant|> ")
    numbers, target = prompt.split(" nums ")[1].removesuffix(" :").split(" make ")
    return Problem(tuple(map(int, numbers.split())), int(target)), answer


def test_every_document_fits_the_vocabulary_and_the_model() -> None:
    lengths = [len(encode(document)) for document in DOCUMENTS]
    assert max(lengths) <= SHIPPED.model.positions
    assert all(document.startswith("<s> ") for document in DOCUMENTS)
    assert all(document.endswith(" </s>") for document in DOCUMENTS)


def test_shares_of_the_base_corpus() -> None:
    countdown = [text for text in DOCUMENTS if " make " in text or " puzzle " in text]
    chats = [read_chat(text) for text in DOCUMENTS if "<|user|>" in text]
    wrong = sum(not is_correct(problem, answer) for problem, answer in chats)
    assert len(countdown) / len(DOCUMENTS) == pytest.approx(0.72, abs=0.03)
    assert len(chats) / len(DOCUMENTS) == pytest.approx(0.05, abs=0.015)
    assert wrong / len(chats) == pytest.approx(0.25, abs=0.1)


def test_fine_tuning_shows_correct_answers_to_training_problems_only() -> None:
    rng = random.Random(5)
    for _ in range(1000):
        problem, answer = chat_document(rng)
        assert is_correct(problem, answer)
        assert not is_held_out(problem)


def test_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    scales = [learning_rate_scale(step, steps=100, warmup=10) for step in range(100)]
    assert scales[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert all(left >= right for left, right in itertools.pairwise(scales[10:]))
    assert scales[-1] == pytest.approx(0.1, abs=0.01)


def test_padded_batch_shifts_labels_and_silences_the_prompt() -> None:
    inputs, labels = padded_batch([([1, 7, 8, 2], 2), ([1, 2], 1)])
    assert inputs.tolist() == [[1, 7, 8], [1, IDS[PAD], IDS[PAD]]]
    assert labels.tolist() == [[IGNORED, 8, 2], [2, IGNORED, IGNORED]]


def test_advantages_are_standardised_within_their_group() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    found = advantages(rewards, group=4)
    assert found[:4].mean().item() == pytest.approx(0, abs=1e-6)
    assert found[:4].pow(2).mean().item() == pytest.approx(1)
    assert found[4:].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("7 + 3 = 10 ; 10 * 6 = 60 </s>", 1.0),
        ("7 + 3 = 10 ; 10 * 6 = 60 </s> <pad> <pad>", 1.0),
        ("7 + 3 = 10 ; 10 * 6 = 60", 0.0),
        ("7 + 3 = 10 ; <s> 10 * 6 = 60 </s>", 0.0),
        ("7 + 3 = 10 </s>", 0.0),
        ("</s>", 0.0),
    ],
)
def test_reward_wants_a_correct_answer_that_ends(answer: str, expected: float) -> None:
    assert reward(Problem((6, 3, 7), 60), encode(answer)) == expected


def test_sampled_answers_are_padded_after_their_end() -> None:
    model = new_model(SMOKE.model, seed=0).eval()
    prompts = torch.tensor([chat_prompt(Problem((6, 3, 7), 60))] * 200)
    answers = sample_answers(model, prompts, torch.Generator().manual_seed(0))
    assert answers.shape == (200, 12)
    ended = [row for row in answers.tolist() if IDS[EOS] in row]
    assert ended
    for row in ended:
        assert set(row[row.index(IDS[EOS]) + 1 :]) <= {IDS[PAD]}


def test_asking_for_more_problems_than_the_pool_holds_is_refused() -> None:
    pool = len(problem_pool(3, held_out=False))
    with pytest.raises(ValueError, match=f"to {pool}"):
        draw_problems(RlSettings(problems=pool + 1), random.Random(0))
    with pytest.raises(ValueError, match="Sample larger"):
        draw_held_out([(3, 10_000)], seed=0)


def test_both_presets_draw_distinct_training_problems() -> None:
    for preset in RL_PRESETS.values():
        problems = draw_problems(preset, random.Random(0))
        assert len({problem.key for problem in problems}) == preset.problems
        assert not any(is_held_out(problem) for problem in problems)
    assert SHIPPED.rl == RL_PRESETS["B"]


def test_new_model_depends_on_its_seed_only_and_leaves_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (new_model(SMOKE.model, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [model.model.embed_tokens.weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
