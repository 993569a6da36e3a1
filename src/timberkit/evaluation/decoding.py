"""Drawing answers from a transformers model, many at a time, each from its own random numbers.

    decoder = Decoder(model, ends=frozenset({2}))
    decoder.admit([Request(prompt=(1, 4, 6), seed=7, max_tokens=32)])
    while decoder.rows:
        finished = decoder.step()

Answers join and leave the batch at any step: prompts are computed by themselves (a prompt that
several answers share only once), padded on the left to the length of the others, and their keys
and values put beside theirs. An answer takes one uniform number from its generator for each token
and looks it up in the cumulated probabilities, in the order of the vocabulary; so it depends on
its seed, and on the rest of the batch only where rounding moves a probability across that number.

Only models whose memory is keys and values a token can be run; recurrent ones cannot be padded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from timberkit.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

StopReason = Literal["stop", "max_tokens", "model_length"]

_BLOCK = 64
"""Random numbers that a generator gives at a time."""
_PREFILL_TOKENS = {"cpu": 4096}
_PREFILL_TOKENS_GPU = 32768


@dataclass(slots=True)
class Request:
    """One answer to draw.

    ``temperature`` 0 takes the likeliest token; ``top_p``, ``top_k``, ``min_p`` None are off.
    ``limit_reason`` is given as the reason for stopping after ``max_tokens``. ``is_over`` is asked
    after every token, with all tokens so far, whether a stop string has come. ``tag`` is the
    caller's own.
    """

    prompt: tuple[int, ...]
    seed: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    limit_reason: StopReason = "max_tokens"
    is_over: Callable[[Sequence[int]], bool] | None = None
    tag: Any = None

    @property
    def _filters(self) -> tuple[float, int | None, float | None, float | None]:
        return self.temperature, self.top_k, self.top_p, self.min_p


@dataclass(slots=True)
class Finished:
    """A drawn answer: its tokens, an end token included, and why it ended.

    ``error`` is set, and the rest of no use, where the model gave no probabilities.
    """

    request: Request
    tokens: list[int]
    reason: StopReason
    error: InputError | None = None


@dataclass(slots=True)
class _Row:
    """One answer under way."""

    request: Request
    uniforms: Iterator[float]
    tokens: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens so far, the prompt included; the last one drawn is not in the cache yet."""
        return len(self.request.prompt) + len(self.tokens)


class Decoder:
    """A model and the answers that are being drawn from it; for one thread.

    ``model``: a causal language model of transformers, in evaluation mode, on one device. ``ends``:
    tokens that end an answer. Raises InputError for a model with recurrent state.
    """

    def __init__(self, model: PreTrainedModel, ends: frozenset[int]) -> None:
        if getattr(model, "_is_stateful", False):
            raise InputError(
                f"{type(model).__name__}: keeps a recurrent state, which this decoder cannot batch;"
                " serve the model (--serve vllm), or give the address of a server that has it"
            )
        self._model: Any = model
        self._ends = ends
        self._device = next(model.parameters()).device
        names = inspect.signature(model.forward).parameters
        self._has_positions = "position_ids" in names
        self._keeps_logits = "logits_to_keep" in names
        self._prefill_tokens = _PREFILL_TOKENS.get(self._device.type, _PREFILL_TOKENS_GPU)
        self.rows: list[_Row] = []
        self._cache: Any = None
        self._mask = torch.empty(0)
        self._logits = torch.empty(0)
        self._is_behind = False

    def clear(self) -> list[Request]:
        """Forget all answers under way; their requests, to be admitted again."""
        requests = [row.request for row in self.rows]
        self.rows, self._cache, self._is_behind = [], None, False
        self._mask = self._logits = torch.empty(0)
        return requests

    @torch.inference_mode()
    def admit(self, requests: Sequence[Request]) -> None:
        """Let these answers join: one forward pass over each different prompt.

        Where this raises, or ``step`` does, no answer is lost: ``clear`` gives all that joined.
        """
        self._catch_up()
        by_prompt: dict[tuple[int, ...], list[Request]] = {}
        for request in requests:
            by_prompt.setdefault(request.prompt, []).append(request)
        prompts = sorted(by_prompt, key=len)
        while prompts:
            longest = prompts[-1]
            count = max(1, self._prefill_tokens // len(longest))
            chunk, prompts = prompts[-count:], prompts[:-count]
            self._prefill(chunk, [by_prompt[prompt] for prompt in chunk])

    @torch.inference_mode()
    def step(self) -> list[Finished]:
        """Draw one token for every answer; those that ended are returned and leave the batch."""
        self._catch_up()
        drawn, lost = self._draw()
        finished, staying = [], []
        for index, (row, token) in enumerate(zip(self.rows, drawn, strict=True)):
            if lost[index]:
                finished.append(_no_probabilities(row))
                continue
            row.tokens.append(token)
            reason = self._reason(row, token)
            if reason is None:
                staying.append(index)
            else:
                finished.append(Finished(row.request, row.tokens, reason))
        self._keep(staying)
        # Only the next call computes on: were it to fail here, these answers would be lost.
        self._is_behind = bool(self.rows)
        return finished

    def _catch_up(self) -> None:
        """Compute the logits after the tokens that were drawn last."""
        if self._is_behind:
            last = torch.tensor([[row.tokens[-1]] for row in self.rows], device=self._device)
            positions = torch.tensor([[row.length - 1] for row in self.rows], device=self._device)
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], dim=1)
            self._logits = self._forward(last, positions, self._mask, self._cache)
            self._is_behind = False

    def _reason(self, row: _Row, token: int) -> StopReason | None:
        request = row.request
        if token in self._ends:
            return "stop"
        if request.is_over is not None and request.is_over(row.tokens):
            return "stop"
        return request.limit_reason if len(row.tokens) >= request.max_tokens else None

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """Logits (rows, vocabulary) after the last token of every row; fills the cache."""
        options: dict[str, Any] = {"position_ids": positions} if self._has_positions else {}
        if self._keeps_logits:
            options["logits_to_keep"] = 1
        output = self._model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _prefill(self, prompts: list[tuple[int, ...]], requests: list[list[Request]]) -> None:
        from transformers import DynamicCache

        longest = max(map(len, prompts))
        ids = torch.zeros((len(prompts), longest), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for index, prompt in enumerate(prompts):
            ids[index, longest - len(prompt) :] = torch.tensor(prompt)
            mask[index, longest - len(prompt) :] = 1
        mask = mask.to(self._device)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        # Without the config, layers with a sliding window keep all keys too, and can be padded.
        cache: Any = DynamicCache()
        logits = self._forward(ids.to(self._device), positions, mask, cache)
        copies = [index for index, each in enumerate(requests) for _ in each]
        rows = [_Row(request, _uniforms(request.seed)) for each in requests for request in each]
        if len(copies) > len(prompts):
            chosen = torch.tensor(copies, device=self._device)
            cache.batch_select_indices(chosen)
            mask, logits = mask[chosen], logits[chosen]
        if self.rows:
            self._mask = _joined(self._mask.unsqueeze(-1), mask.unsqueeze(-1)).squeeze(-1)
            self._logits = torch.cat([self._logits, logits])
            for ours, theirs in zip(self._cache.layers, cache.layers, strict=True):
                if ours.is_initialized:
                    ours.keys = _joined(ours.keys, theirs.keys)
                    ours.values = _joined(ours.values, theirs.values)
            self.rows += rows
        else:
            self.rows, self._cache, self._mask, self._logits = rows, cache, mask, logits

    def _draw(self) -> tuple[list[int], list[bool]]:
        """A token for every row, and whether its logits were not numbers."""
        tokens = [0] * len(self.rows)
        lost = [False] * len(self.rows)
        groups: dict[Any, list[int]] = {}
        for index, row in enumerate(self.rows):
            groups.setdefault(row.request._filters, []).append(index)
        for filters, indices in groups.items():
            logits = self._logits
            if len(groups) > 1:
                logits = logits[torch.tensor(indices, device=self._device)]
            uniforms = [next(self.rows[index].uniforms) for index in indices]
            drawn, bad = draw(logits, uniforms, *filters)
            for index, token, wrong in zip(indices, drawn.tolist(), bad.tolist(), strict=True):
                tokens[index], lost[index] = token, wrong
        return tokens, lost

    def _keep(self, staying: list[int]) -> None:
        """Drop all other rows, and the columns that only they needed."""
        if len(staying) == len(self.rows):
            return
        if not staying:
            self.clear()
            return
        self.rows = [self.rows[index] for index in staying]
        chosen = torch.tensor(staying, device=self._device)
        first = self._mask.shape[1] - max(row.length - 1 for row in self.rows)
        self._mask = self._mask[chosen, first:]
        for layer in self._cache.layers:
            if layer.is_initialized:
                layer.keys = layer.keys[chosen, :, first:]
                layer.values = layer.values[chosen, :, first:]


def draw(
    logits: Tensor,
    uniforms: Sequence[float],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
) -> tuple[Tensor, Tensor]:
    """One token for each row by inversion of its cumulated probabilities.

    ``logits``: (rows, vocabulary), any float dtype; softmax in float32 at least, sums in float64.
    ``uniforms``: one number in [0, 1) a row; not looked at for temperature 0. Filters as
    transformers applies them: temperature, top_k, top_p, min_p.
    Returns tokens (rows,) and whether a row had no probabilities: NaN, or no finite logit.
    """
    from transformers.generation import logits_process

    scores = logits if logits.dtype == torch.float64 else logits.float()
    if temperature == 0:
        best = scores.max(dim=-1)
        return best.indices, ~torch.isfinite(best.values)
    nothing: Any = None  # these warpers do not look at the tokens so far
    warpers: list[Any] = [logits_process.TemperatureLogitsWarper(float(temperature))]
    if top_k is not None:
        warpers.append(logits_process.TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1:
        warpers.append(logits_process.TopPLogitsWarper(top_p))
    if min_p is not None and min_p > 0:
        warpers.append(logits_process.MinPLogitsWarper(min_p))
    for warper in warpers:
        scores = warper(nothing, scores)
    cumulated = torch.softmax(scores, dim=-1).cumsum(dim=-1, dtype=torch.float64)
    total = cumulated[:, -1:]
    wanted = torch.tensor(uniforms, dtype=torch.float64, device=logits.device).unsqueeze(1) * total
    # Rounding must not reach the total: past it come only tokens of probability 0.
    wanted = torch.minimum(wanted, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulated, wanted, right=True).squeeze(1)
    return tokens.clamp_(max=logits.shape[-1] - 1), ~torch.isfinite(total).squeeze(1)


def _joined(ours: Tensor, theirs: Tensor) -> Tensor:
    """Two batches (rows, ..., tokens, width) as one, the shorter with zeros on its left."""
    longest = max(ours.shape[-2], theirs.shape[-2])
    padded = [
        torch.nn.functional.pad(each, (0, 0, longest - each.shape[-2], 0))
        if each.shape[-2] < longest
        else each
        for each in (ours, theirs)
    ]
    return torch.cat(padded)


def _uniforms(seed: int) -> Iterator[float]:
    """Uniform numbers in [0, 1), drawn on the CPU so that they do not depend on the device."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    while True:
        yield from torch.rand(_BLOCK, generator=generator, dtype=torch.float64).tolist()


def _no_probabilities(row: _Row) -> Finished:
    error = InputError(
        f"token {len(row.tokens) + 1} of an answer: the model gives NaN or infinite logits; its"
        " weights are damaged, or overflow in this dtype: try --dtype float32"
    )
    return Finished(row.request, row.tokens, "stop", error)
