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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

_BATCH_TOKENS = 1024  # padded tokens per forward pass; 512 to 16384 tried, quickest on one core


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
    Cost: one forward pass over every distinct prefix of a correct answer, on one core about 0.4 s
    for 300 problems with 3 numbers (37 prefixes each) and 1 s for 100 with 4 (230 each). Who asks
    the same problems of many models prepares them once: ``PreparedProblems``.
    """
    _check_temperature(temperature)
    with torch_threads(threads):
        loaded = load_model(model) if isinstance(model, str | Path) else model
        return PreparedProblems(problems).success(loaded, temperature=temperature)


class PreparedProblems:
    """Problems laid out once, for models that come one after another.

    Memory: about 25 kB a problem with 3 numbers, 400 kB with 4, most of it attention masks.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._count = len(problems)
        self._batches = [_Batch.of(rows) for rows in _batches(_rows(problems))]

    def success(self, model: PreTrainedModel, *, temperature: float = 1.0) -> NDArray[np.float64]:
        """As ``success_probabilities`` for a loaded model, with torch's threads as they are."""
        _check_temperature(temperature)
        success = np.zeros(self._count)
        for batch in self._batches:
            np.add.at(success, batch.problems, batch.scores(model, temperature))
        return np.minimum(success, 1.0)


def _check_temperature(temperature: float) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be finite and > 0, got {temperature}")


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


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows of one forward pass, as tensors.

    ``tokens``, ``positions`` (rows, longest); ``visible`` (rows, 1, longest, longest). An *edge* is
    a token of an answer, or its end, given what precedes: ``sources`` are the places, in the
    flattened batch, whose next token is asked of the model, ``edge_source`` (edges,) indexes these,
    ``edge_token`` (edges,) says which token. ``paths`` (answers, longest answer) are the edges of
    each answer, filled up with one more edge than there is, whose logarithm is 0; ``problems``
    (answers,) says whose answer it is.
    """

    tokens: Tensor
    positions: Tensor
    visible: Tensor
    sources: Tensor
    edge_source: Tensor
    edge_token: Tensor
    paths: Tensor
    problems: NDArray[np.int64]

    @classmethod
    def of(cls, rows: list[TrieRow]) -> _Batch:
        """Lay rows out."""
        import torch

        tokens, positions, visible = _padded(rows)
        places: list[int] = []
        words: list[int] = []
        answers: list[list[int]] = []
        for index, row in enumerate(rows):
            start = len(places) - row.prompt_length
            places.extend(index * tokens.shape[1] + p for p in row.parents[row.prompt_length :])
            words.extend(row.tokens[row.prompt_length :])
            for end in row.ends:
                steps = _ancestors(row, end)
                answers.append([len(places), *(start + step for step in steps)])
                places.append(index * tokens.shape[1] + end)
                words.append(IDS[EOS])
        longest = max(map(len, answers))
        filled = [path + [len(places)] * (longest - len(path)) for path in answers]
        sources, edge_source = np.unique(np.array(places), return_inverse=True)
        return cls(
            tokens, positions, visible.unsqueeze(1),
            torch.from_numpy(sources), torch.from_numpy(edge_source), torch.tensor(words),
            torch.tensor(filled),
            np.array([row.problem for row in rows for _ in row.ends], dtype=np.int64),
        )  # fmt: skip

    def scores(self, model: PreTrainedModel, temperature: float) -> NDArray[np.float64]:
        """Probability of each answer, (answers,)."""
        import torch

        llama: Any = model
        body, head = llama.get_decoder(), llama.get_output_embeddings()
        hidden_value = torch.finfo(model.dtype).min
        mask = torch.zeros(self.visible.shape, dtype=model.dtype)
        mask.masked_fill_(~self.visible, hidden_value)
        with torch.inference_mode():
            states = body(
                input_ids=self.tokens.to(model.device),
                position_ids=self.positions.to(model.device),
                attention_mask=mask.to(model.device),
                use_cache=False,
            ).last_hidden_state
            # Logits are asked where an answer goes on, not at every token of the prompt.
            logits = head(states.flatten(0, 1)[self.sources.to(model.device)])
            logs = (logits.double() / temperature).log_softmax(dim=-1).cpu()
            edges = torch.cat(
                [logs[self.edge_source, self.edge_token], torch.zeros(1, dtype=torch.float64)]
            )
            found: NDArray[np.float64] = edges[self.paths].sum(dim=1).exp().numpy()
            return found


def _ancestors(row: TrieRow, end: int) -> list[int]:
    """The tokens of an answer, its last one first."""
    steps = []
    while end >= row.prompt_length:
        steps.append(end)
        end = row.parents[end]
    return steps


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
