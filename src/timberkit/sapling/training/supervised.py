"""The two supervised stages: pretraining the Base model and fine-tuning it on correct answers.

Both minimise next-token cross-entropy over padded batches of documents; pretraining on every
token, fine-tuning on the answer's tokens only.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from timberkit.sapling.training.corpus import base_document, chat_document, chat_text
from timberkit.sapling.training.settings import ModelShape, PretrainSettings, SftSettings
from timberkit.sapling.vocabulary import BOS, EOS, IDS, PAD, VOCABULARY, chat_prompt, encode

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

IGNORED = -100  # label of a token that carries no loss
FINAL_LEARNING_RATE = 0.1  # of the peak, at the end of the cosine

Example = tuple[list[int], int]
"""Token ids of a document and how many of its first tokens carry no loss."""


def new_model(shape: ModelShape, seed: int) -> LlamaForCausalLM:
    """A freshly initialised Llama model in float32 with tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        pad_token_id=IDS[PAD],
        bos_token_id=IDS[BOS],
        eos_token_id=IDS[EOS],
    )
    with torch.random.fork_rng(devices=[]):  # leaves the caller's generator as it was
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def pretrain(
    model: LlamaForCausalLM, settings: PretrainSettings, say: Callable[[str], None]
) -> int:
    """Train the Base model in place; returns the number of tokens seen."""
    rng = random.Random(settings.seed)

    def example() -> Example:
        return encode(base_document(rng)), 1

    weights = list(model.parameters())
    matrices: dict[str, Any] = {"params": [weight for weight in weights if weight.ndim >= 2]}
    gains: dict[str, Any] = {"params": [weight for weight in weights if weight.ndim < 2]}
    optimizer = torch.optim.AdamW(
        [matrices, gains | {"weight_decay": 0.0}],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    return _train(model, optimizer, example, settings, say, name="pretrain")


def fine_tune(model: LlamaForCausalLM, settings: SftSettings, say: Callable[[str], None]) -> int:
    """Fine-tune in place on correct chat answers; returns the number of tokens seen."""
    rng = random.Random(settings.seed)

    def example() -> Example:
        problem, answer = chat_document(rng)
        return encode(chat_text(problem, answer)), len(chat_prompt(problem))

    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    return _train(model, optimizer, example, settings, say, name="sft")


def _train(
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    example: Callable[[], Example],
    settings: PretrainSettings | SftSettings,
    say: Callable[[str], None],
    *,
    name: str,
) -> int:
    def scale(step: int) -> float:
        return learning_rate_scale(step, steps=settings.steps, warmup=settings.warmup)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    model.train()
    tokens = 0
    for step in range(settings.steps):
        examples = [example() for _ in range(settings.batch)]
        tokens += sum(len(ids) for ids, _ in examples)
        inputs, labels = padded_batch(examples)
        logits = model(input_ids=inputs).logits
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == settings.steps - 1:
            say(f"{name} {step + 1}/{settings.steps}: loss {loss.item():.4f}")
    model.train(mode=False)
    return tokens


def learning_rate_scale(step: int, *, steps: int, warmup: int) -> float:
    """Factor on the peak learning rate: linear warm-up, then a cosine down to a tenth.

    >>> learning_rate_scale(0, steps=10, warmup=2), learning_rate_scale(10, steps=10, warmup=2)
    (0.5, 0.1)
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return FINAL_LEARNING_RATE + (1 - FINAL_LEARNING_RATE) * cosine


def padded_batch(examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels, both ``(batch, longest - 1)`` int64, padded on the right.

    Attention is causal and padding comes last, so no attention mask is needed.
    """
    length = max(len(ids) for ids, _ in examples) - 1
    inputs = torch.full((len(examples), length), IDS[PAD])
    labels = torch.full((len(examples), length), IGNORED)
    for row, (ids, silent) in enumerate(examples):
        inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        labels[row, silent - 1 : len(ids) - 1] = torch.tensor(ids[silent:])
    return inputs, labels
