"""Reinforcement learning with a verifiable reward, in the manner of GRPO.

For every problem a group of answers is sampled at temperature 1. An answer's reward is 1 when the
checker accepts it and 0 otherwise; its advantage is the reward minus the group's mean, over the
group's standard deviation. One update per batch ascends ``mean_t(advantage * log p(token_t))``:
with a single update the policy ratio is 1, so there is nothing to clip, and there is no KL term.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from timberkit.sapling.puzzle import Problem, answer_words, is_correct, problem_pool
from timberkit.sapling.training.settings import RlSettings
from timberkit.sapling.vocabulary import EOS, IDS, PAD, VOCABULARY, chat_prompt

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

COUNT = 3  # numbers per problem; prompts of one count have one length and need no padding
LONGEST_ANSWER = answer_words(COUNT) + 1  # the end token included


def reinforce(
    model: LlamaForCausalLM, settings: RlSettings, say: Callable[[str], None]
) -> list[float]:
    """Train in place; returns the mean reward of every step.

    Raises ``ValueError`` when ``settings.problems`` is more than the training pool holds.
    """
    rng = random.Random(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    problems = draw_problems(settings, rng)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    rewards_seen = []
    for step in range(settings.steps):
        batch = _next_batch(problems, settings.batch, step, rng)
        prompts = torch.tensor([chat_prompt(problem) for problem in batch])
        prompts = prompts.repeat_interleave(settings.group, dim=0)
        model.train(mode=False)
        answers = sample_answers(model, prompts, generator)
        rewards = torch.tensor(
            [
                reward(batch[row // settings.group], answer)
                for row, answer in enumerate(answers.tolist())
            ]
        )
        model.train()
        _update(model, optimizer, prompts, answers, advantages(rewards, settings.group))
        rewards_seen.append(rewards.mean().item())
        if step % 20 == 0 or step == settings.steps - 1:
            say(f"rl {step + 1}/{settings.steps}: reward {rewards_seen[-1]:.4f}")
    model.train(mode=False)
    return rewards_seen


def draw_problems(settings: RlSettings, rng: random.Random) -> list[Problem]:
    """Distinct training problems with their numbers shuffled, from the complete pool."""
    pool = problem_pool(COUNT, held_out=False)
    if not settings.batch <= settings.problems <= len(pool):
        raise ValueError(
            f"problems={settings.problems}, expected {settings.batch} (the batch) to {len(pool)}, "
            "which is all that the training pool holds"
        )
    return [
        Problem(tuple(rng.sample(problem.numbers, COUNT)), problem.target)
        for problem in rng.sample(pool, settings.problems)
    ]


def _next_batch(problems: list[Problem], size: int, step: int, rng: random.Random) -> list[Problem]:
    """The next ``size`` problems of a pass; every pass is shuffled anew, its rest is dropped."""
    place = step % (len(problems) // size)
    if place == 0:
        rng.shuffle(problems)
    return problems[place * size : (place + 1) * size]


@torch.no_grad()
def sample_answers(
    model: LlamaForCausalLM, prompts: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Answers sampled at temperature 1, ``(rows, 12)`` int64, padded after the end token."""
    answers = torch.full((len(prompts), LONGEST_ANSWER), IDS[PAD])
    alive = torch.ones(len(prompts), dtype=torch.bool)
    inputs, cache = prompts, None
    for place in range(LONGEST_ANSWER):
        output = model(input_ids=inputs, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        probabilities = output.logits[:, -1].softmax(dim=-1)
        drawn = torch.multinomial(probabilities, 1, generator=generator)
        answers[:, place] = torch.where(alive, drawn[:, 0], IDS[PAD])
        alive &= drawn[:, 0] != IDS[EOS]
        if not alive.any():
            break
        inputs = drawn
    return answers


def reward(problem: Problem, answer: list[int]) -> float:
    """1.0 for a correct answer that ends, else 0.0."""
    if IDS[EOS] not in answer:
        return 0.0
    words = (VOCABULARY[token] for token in answer[: answer.index(IDS[EOS])])
    return float(is_correct(problem, " ".join(words)))


def advantages(rewards: torch.Tensor, group: int) -> torch.Tensor:
    """Rewards standardised within consecutive groups; 0 where a group's rewards are all equal."""
    grouped = rewards.view(-1, group)
    centred = grouped - grouped.mean(dim=1, keepdim=True)
    spread = grouped.std(dim=1, correction=0, keepdim=True)
    return torch.where(spread > 0, centred / spread.clamp_min(1e-6), 0.0).flatten()


def _update(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    prompts: torch.Tensor,
    answers: torch.Tensor,
    advantage: torch.Tensor,
) -> None:
    useful = advantage != 0
    if not useful.any():
        return
    prompts, answers, advantage = prompts[useful], answers[useful], advantage[useful]
    inputs = torch.cat((prompts, answers[:, :-1]), dim=1)
    logits = model(input_ids=inputs).logits[:, prompts.shape[1] - 1 :]
    log_probabilities = logits.log_softmax(dim=-1).gather(2, answers.unsqueeze(2)).squeeze(2)
    counted = answers != IDS[PAD]
    loss = -(advantage.unsqueeze(1) * log_probabilities)[counted].sum() / counted.sum()
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
