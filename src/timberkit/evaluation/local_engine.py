"""A model of transformers in this process, which draws answers for many requests together.

    engine = LocalEngine(folder)
    prompt = engine.render([{"role": "user", "content": "2+2?"}], {})
    engine.submit(prompt, Sampling(temperature=1.0), seed=7).result().text
    engine.close()

Every answer has the random numbers of its own seed (``timberkit.evaluation.decoding``), exact
counts of tokens and its true reason for stopping.

All computing happens in one thread of its own. An answer depends on the others of its batch by
rounding alone: where a probability moves across the random number, the token is another. On the
CPU, models below ten million parameters are computed in float64 and this does not happen (the
chance is 1e-15 a token, measured on the embedded pair); in float32 it does about twice in a million
tokens; on a GPU in bfloat16 a long answer may well be another one, of the same distribution.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timberkit.errors import InputError
from timberkit.evaluation.decoding import Decoder, Finished, Request, StopReason
from timberkit.evaluation.loading import SMALL, load_model, load_tokenizer
from timberkit.evaluation.sampling import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_GATHER_SECONDS = 0.005
_CLOSE_SECONDS = 1.5
_STEPS_BETWEEN_JOINS = 8
_REMEMBERED_PROMPTS = 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """One drawn answer. ``output_tokens`` counts the end token, as servers do."""

    text: str
    reason: StopReason
    input_tokens: int
    output_tokens: int
    seconds: float


class LocalEngine:
    """One model in memory, and the thread that computes with it.

    ``folder``: a validated checkpoint. ``dtype``, ``device``: as for ``load_model``; device None is
    the first GPU, or else the CPU. ``batch_size``: answers that advance together; None chooses by
    the model's size and the memory of the GPU. A GPU that runs out of memory halves it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | None = None,
        notify: Callable[[str], None] = print,
    ) -> None:
        if device is None:
            import torch

            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._name = folder.name
        self._tokenizer: Any = load_tokenizer(folder)
        self._model: Any = load_model(folder, dtype=dtype, device=device)
        self._dtype = str(self._model.dtype).removeprefix("torch.")
        self._context = _context_tokens(self._model)
        embedding: Any = self._model.get_input_embeddings()
        self._known_tokens = int(embedding.weight.shape[0])
        self._decoder: Any = Decoder(self._model, _end_tokens(self._model, self._tokenizer))
        self.batch_size = batch_size or _chosen_batch_size(self._model, self._context)
        self._notify = notify
        # A fast tokenizer must not be used by two threads at a time.
        self._tokenizing = threading.Lock()
        self._encoded = lru_cache(maxsize=_REMEMBERED_PROMPTS)(self._encode)
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="timberkit-model", daemon=True)
        self._thread.start()

    @property
    def dtype(self) -> str:
        """The dtype that is computed in: ``float32``, …"""
        return self._dtype

    @property
    def has_chat_template(self) -> bool:
        """Whether chats can be turned into prompts."""
        return bool(getattr(self._tokenizer, "chat_template", None))

    def render(self, messages: Sequence[dict[str, str]], arguments: dict[str, Any]) -> str:
        """A chat as the text that the model continues.

        Raises InputError where the template refuses the messages.
        """
        with self._tokenizing:
            return render_chat(self._tokenizer, self._name, messages, arguments)

    def submit(
        self, prompt: str, sampling: Sampling, *, seed: int | None = None, raw: bool = False
    ) -> Future[Answer]:
        """Ask for one answer to a rendered prompt.

        ``seed`` decides the answer; None draws one. ``raw``: the tokenizer adds what begins a
        document, unless it stands there. Raises InputError for a prompt that is empty or has tokens
        that the model lacks, ValueError when closed. The future raises InputError where the model
        gives no probabilities, MemoryError where memory does not suffice for a single answer.
        """
        future: Future[Answer] = Future()
        ids = self._encoded(prompt, raw)
        wanted = sampling.max_tokens or DEFAULT_MAX_TOKENS
        room = wanted if self._context is None else self._context - len(ids)
        if room <= 0:
            future.set_result(Answer("", "model_length", len(ids), 0, 0.0))
            return future
        job = _Job(future, sampling.stops, time.monotonic())
        temperature = sampling.temperature
        request = Request(
            prompt=ids,
            seed=secrets.randbits(62) if seed is None else seed,
            max_tokens=min(wanted, room),
            temperature=DEFAULT_TEMPERATURE if temperature is None else temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            limit_reason="max_tokens" if wanted <= room else "model_length",
            is_over=_StopStrings(job.stops, self._text) if job.stops else None,
            tag=job,
        )
        with self._changed:
            if self._closed:
                raise ValueError("this model is closed")
            self._waiting.append(request)
            self._changed.notify()
        return future

    def close(self) -> None:
        """End the thread and free the model; answers under way fail. Twice is fine.

        A step that takes long is not waited for: its thread ends with it.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=_CLOSE_SECONDS)

    def _encode(self, prompt: str, raw: bool) -> tuple[int, ...]:
        with self._tokenizing:
            start = getattr(self._tokenizer, "bos_token", None)
            # Chat templates write the beginning themselves, and some prompts do: never twice.
            special = raw and not (start and prompt.startswith(start))
            ids = tuple(self._tokenizer(prompt, add_special_tokens=special)["input_ids"])
        if not ids:
            raise InputError(f"{self._name}: an empty prompt; the model needs something to go on")
        if max(ids) >= self._known_tokens:
            raise InputError(
                f"{self._name}: a prompt has the token {max(ids)}, the model knows"
                f" {self._known_tokens}; model and tokenizer do not belong together"
            )
        return ids

    def _text(self, tokens: Sequence[int]) -> str:
        with self._tokenizing:
            text: str = self._tokenizer.decode(
                list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        return text

    def _work(self) -> None:
        steps = 0
        while self._wait():
            with self._changed:
                free = self.batch_size - len(self._decoder.rows)
                ready = len(self._waiting) >= max(1, self.batch_size // 4)
                joining: list[Request] = []
                if not self._decoder.rows or ready or steps >= _STEPS_BETWEEN_JOINS:
                    while self._waiting and len(joining) < free:
                        joining.append(self._waiting.popleft())
            steps = 0 if joining else steps + 1
            joining = [each for each in joining if not each.tag.future.cancelled()]
            self._advance(joining)
        self._fail_all(RuntimeError("the model was closed"))
        self._decoder = self._model = None  # whoever still holds this must not hold its memory

    def _wait(self) -> bool:
        """Sleep until there is something to do; False when closed."""
        with self._changed:
            if not self._decoder.rows:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                full = self.batch_size
                self._changed.wait_for(
                    lambda: self._closed or len(self._waiting) >= full, timeout=_GATHER_SECONDS
                )
            return not self._closed

    def _advance(self, joining: list[Request]) -> None:
        import torch

        try:
            if joining:
                self._decoder.admit(joining)
            for finished in self._decoder.step() if self._decoder.rows else ():
                self._deliver(finished)
        except torch.OutOfMemoryError:
            self._with_less_memory(joining)
        except Exception as error:  # whatever a model's code raises: the requests must hear of it
            self._fail(self._decoder.clear(), error)
            self._fail(joining, error)

    def _with_less_memory(self, joining: list[Request]) -> None:
        """Begin all answers again with half the batch; a seed gives the same answer again."""
        import torch

        requests = list({id(each): each for each in (*self._decoder.clear(), *joining)}.values())
        torch.cuda.empty_cache()
        if self.batch_size == 1 or len(requests) == 1:
            error = MemoryError(  # of this request; shorter ones may go well
                f"{self._name}: the GPU's memory does not suffice for one answer of this length;"
                " lower --max-tokens, or use a larger GPU"
            )
            self._fail(requests, error)
            return
        self.batch_size = max(1, min(self.batch_size, len(requests)) // 2)
        self._notify(
            f"{self._name}: the GPU is out of memory; going on with {self.batch_size} at a time"
        )
        with self._changed:
            self._waiting.extendleft(reversed(requests))

    def _deliver(self, finished: Finished) -> None:
        job: _Job = finished.request.tag
        if finished.error is not None:
            self._fail([finished.request], finished.error)
            return
        try:
            text = self._text(finished.tokens)
        except Exception as error:  # of the tokenizer; the other answers are well
            self._fail([finished.request], error)
            return
        cut = min((place for stop in job.stops if (place := text.find(stop)) >= 0), default=None)
        answer = Answer(
            text if cut is None else text[:cut],
            finished.reason,
            len(finished.request.prompt),
            len(finished.tokens),
            time.monotonic() - job.asked,
        )
        with contextlib.suppress(InvalidStateError):  # cancelled
            job.future.set_result(answer)

    def _fail(self, requests: Sequence[Request], error: Exception) -> None:
        for request in requests:
            with contextlib.suppress(InvalidStateError):
                request.tag.future.set_exception(error)

    def _fail_all(self, error: Exception) -> None:
        self._fail(self._decoder.clear(), error)
        self._fail(list(self._waiting), error)
        self._waiting.clear()


def render_chat(
    tokenizer: Any, name: str, messages: Sequence[dict[str, str]], arguments: dict[str, Any]
) -> str:
    """A chat through the template of a tokenizer, ready for the model's answer."""
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, **arguments
        )
    except Exception as error:  # templates are programs, and raise what they like
        raise InputError(
            f"{name}: its chat template refuses the messages: {str(error)[:300]}; ask it with plain"
            " text (--prompt raw), or with a task setting whose prompt it takes"
        ) from None
    return text


@dataclass(slots=True)
class _Job:
    """What is kept of a request until its answer is there."""

    future: Future[Answer]
    stops: tuple[str, ...]
    asked: float


class _StopStrings:
    """Whether one of some texts has come in the tokens so far, without decoding them all anew."""

    def __init__(self, stops: tuple[str, ...], text: Callable[[Sequence[int]], str]) -> None:
        self._stops = stops
        self._text = text
        # A token has a character at least, but for parts of one, of which four make a character.
        self._tail = 4 * max(map(len, stops)) + 8

    def __call__(self, tokens: Sequence[int]) -> bool:
        return any(stop in self._text(tokens[-self._tail :]) for stop in self._stops)


def _context_tokens(model: PreTrainedModel) -> int | None:
    """How many tokens the model has positions for; None where its config says nothing."""
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return found if type(found) is int and found > 0 else None


def _end_tokens(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: those of generation_config.json and the tokenizer's own."""
    found = getattr(model.generation_config, "eos_token_id", None)
    ends = list(found) if isinstance(found, list | tuple) else [found]
    ends.append(getattr(tokenizer, "eos_token_id", None))
    return frozenset(each for each in ends if type(each) is int)


def _chosen_batch_size(model: PreTrainedModel, context: int | None) -> int:
    """Answers at a time: on a GPU what half the free memory holds, else by the model's size."""
    parameters = model.num_parameters()
    device = next(model.parameters()).device
    if device.type != "cuda":
        return 256 if parameters < SMALL else 32 if parameters < 10**9 else 8
    import torch

    config: Any = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = next(model.parameters()).element_size()
    bytes_a_token = 2 * config.num_hidden_layers * heads * width * size
    free, _ = torch.cuda.mem_get_info(device)
    expected_tokens = min(context or 4096, 4096)
    return int(max(1, min(256, free // 2 // (bytes_a_token * expected_tokens))))
