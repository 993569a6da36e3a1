"""Exact success probabilities: the oracle of the whole evaluation.

A puzzle has finitely many correct answers, so the chance that a sampled answer is right can be
summed instead of estimated::

    p = sum over correct answers y of  prod_t softmax(logits(prompt, y_<t) / temperature)[y_t]

where ``y`` runs up to and including the end token. That is the success probability of
``model.generate`` on the chat prompt with the shipped generation config (no top-k, no top-p) and
any ``max_new_tokens >= 6 (n - 1)`` for ``n`` numbers. Then ``Pass@k = mean(1 - (1 - p)^k)`` holds
without sampling noise, and sampled rollouts must agree with it within their interval.

One thing is left out: an answer with a special token inside is wrong here, but right for a grader
that drops special tokens first. The shipped models draw such a token in fewer than 1 of 1,000
answers.

Example::

    from timberkit.sapling import base_folder, load_problems, success_probabilities
    p = success_probabilities(base_folder(), load_problems(n=20))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from timberkit.sapling.models import load_model, torch_threads
from timberkit.sapling.puzzle import MOST_NUMBERS, Problem, answer_words, correct_answers
from timberkit.sapling.trie import TrieRow, trie_rows
from timberkit.sapling.vocabulary import EOS, IDS, PAD, chat_prompt, encode

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

LONGEST_ANSWER_TOKENS = answer_words(MOST_NUMBERS) + 1
"""Tokens in the longest correct answer, end token included; ``max_new_tokens`` must allow it."""

_BATCH_TOKENS = 2048  # padded tokens per forward pass; 1024 to 16384 tried, quickest on one core


def success_probabilities(
    model: str | Path | PreTrainedModel,
    problems: Sequence[Problem],
    *,
    temperature: float = 1.0,
    threads: int | None = None,
) -> NDArray[np.float64]:
    """The probability that one sampled answer to each problem is correct.

    ``sum_y prod_t softmax(logits_t / temperature)[y_t]`` over all correct answers ``y``, prompted
    through the chat template, up to and including the end token.

    ``model``: a folder of a Sapling model (computed in float32, which holds the stored bf16
    weights exactly) or a loaded Llama model on the Sapling vocabulary, computed in its own dtype
    and on its own device. Sampling in bf16 arithmetic follows a slightly different distribution.
    ``problems``: any number; one whose target cannot be reached gets 0.
    ``temperature``: finite and > 0. ``threads``: torch threads for this call, ``None`` as set.

    Returns ``(len(problems),)`` float64 in [0, 1], in the order given. Softmax, products and sums
    are float64; the forward pass rounds as its dtype does, about 1e-6 relative in float32.
    Raises ``SourceError`` and ``InputError`` for an unsuitable folder, ``MissingExtraError``
    without transformers, ``ValueError`` for an invalid temperature or thread count.
    Cost: one forward pass over every distinct prefix of a correct answer, on one core about 0.5 s
    for 300 problems with 3 numbers (37 prefixes each) and 1 s for 100 with 4 (230 each).
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be finite and > 0, got {temperature}")
    with torch_threads(threads):
        loaded = load_model(model) if isinstance(model, str | Path) else model
        success = np.zeros(len(problems))
        for batch in _batches(_rows(problems)):
            for row, probability in zip(batch, _scores(loaded, batch, temperature), strict=True):
                success[row.problem] += probability
    return np.minimum(success, 1.0)


def _rows(problems: Sequence[Problem]) -> list[TrieRow]:
    return [
        row
        for index, problem in enumerate(problems)
        for row in trie_rows(
            index, chat_prompt(problem), [encode(answer) for answer in correct_answers(problem)]
        )
    ]


def _batches(rows: list[TrieRow]) -> list[list[TrieRow]]:
    """Rows of similar length together, so that little is spent on padding."""
    batches: list[list[TrieRow]] = []
    for row in sorted(rows, key=lambda row: -len(row.tokens)):
        longest = len(batches[-1][0].tokens) if batches else 0
        if batches and (len(batches[-1]) + 1) * longest <= _BATCH_TOKENS:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _scores(model: PreTrainedModel, batch: list[TrieRow], temperature: float) -> list[float]:
    """Total probability of the answers in each row."""
    import torch

    tokens, positions, visible = _padded(batch)
    hidden = torch.finfo(model.dtype).min
    mask = torch.zeros(visible.shape, dtype=model.dtype).masked_fill_(~visible, hidden)
    with torch.inference_mode():
        logits = model(
            input_ids=tokens.to(model.device),
            position_ids=positions.to(model.device),
            attention_mask=mask.unsqueeze(1).to(model.device),
            use_cache=False,
        ).logits
        log_probabilities = (logits.double() / temperature).log_softmax(dim=-1).cpu()
    return [
        _row_score(row, log_probabilities[index], visible[index]) for index, row in enumerate(batch)
    ]


def _row_score(row: TrieRow, log_probabilities: Tensor, visible: Tensor) -> float:
    """Chain rule along every branch: a prefix's log-probability is the sum over its ancestors."""
    import torch

    size, start = len(row.tokens), row.prompt_length
    edges = torch.zeros(size, dtype=torch.float64)
    edges[start:] = log_probabilities[row.parents[start:], row.tokens[start:]]
    ends = torch.tensor(row.ends)
    prefixes = visible[ends, :size].double() @ edges
    return float((prefixes + log_probabilities[ends, IDS[EOS]]).exp().sum())


def _padded(batch: list[TrieRow]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and positions ``(rows, longest)``, visibility ``(rows, longest, longest)``."""
    import torch

    longest = len(batch[0].tokens)
    tokens = torch.full((len(batch), longest), IDS[PAD])
    positions = torch.zeros((len(batch), longest), dtype=torch.int64)
    # Padding sees itself, because a softmax over nothing is NaN.
    visible = torch.eye(longest, dtype=torch.bool).repeat(len(batch), 1, 1)
    for index, row in enumerate(batch):
        size = len(row.tokens)
        tokens[index, :size] = torch.tensor(row.tokens)
        positions[index, :size] = torch.from_numpy(row.positions())
        visible[index, :size, :size] = torch.from_numpy(row.visible())
    return tokens, positions, visible
