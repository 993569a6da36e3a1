"""Models, opened: something that can be asked, from a folder, the Hub or a server.

    with open_model(parse_model("runs/refined")) as model:
        asked = model.inspect_model(sampling, raw=False)     # an inspect_ai Model

Files on this disk are answered by transformers in this process (``local_model``), or by a vLLM
server that is started here and stopped at the end (``vllm_server``); addresses by whatever
listens there (``server_model``). ``describe`` looks at a model without opening it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from timberkit.errors import MissingExtraError, UsageError
from timberkit.evaluation.model_files import ModelFiles, fingerprint, read_facts
from timberkit.evaluation.models import ModelSource
from timberkit.evaluation.reasoning import opens_reasoning
from timberkit.evaluation.sampling import ModelFacts, Sampling

if TYPE_CHECKING:
    from inspect_ai.model import GenerateConfig, Model

    from timberkit.evaluation.server_model import Server

DTYPES = ("auto", "float64", "float32", "bfloat16", "float16")
"""What a local model can compute in; ``auto`` is as stored."""
Backend = Literal["auto", "transformers", "vllm"]

VLLM_CONNECTIONS = 256
"""Requests under way at a vLLM server of our own: as many as it takes up at once by default."""


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """How models are run; nothing here is meant to change what a model would answer.

    ``dtype``: of a local model, one of ``DTYPES``, None: as stored on a GPU, float32 on the CPU
    (float64 for very small ones, see ``loading``). ``device``: ``cpu``, ``cuda`` or ``cuda:N``.
    ``batch_size``: rollouts that a local model advances together. ``connections``: requests under
    way at once, None for 64 at each server. ``request_seconds``: how long one answer may take.
    ``retries``: how often a request that failed is sent again.
    ``fields``: ``standard`` sends a server no field that OpenAI's protocol lacks.
    ``opens_reasoning``: whether a server's chat template opens ``<think>``, None to find out.
    ``tensor_parallel``, ``data_parallel``, ``vllm_arguments``, ``start_seconds``: of a vLLM server
    that is started here; its log goes to ``log_folder``. ``notify`` takes notices for the user.
    """

    dtype: str | None = None
    device: str | None = None
    batch_size: int | None = None
    connections: int | None = None
    request_seconds: float = 4 * 3600.0
    retries: int = 6
    fields: Literal["all", "standard"] = "all"
    opens_reasoning: bool | None = None
    tensor_parallel: int = 1
    data_parallel: int = 1
    vllm_arguments: tuple[str, ...] = ()
    start_seconds: float = 1800.0
    log_folder: Path | None = None
    notify: Callable[[str], None] = print

    def __post_init__(self) -> None:
        """Raise UsageError for a value that is of no use."""
        if self.dtype not in (None, *DTYPES):
            raise UsageError(f"dtype {self.dtype!r}: unknown; choose one of {', '.join(DTYPES)}")
        for name in ("batch_size", "connections", "tensor_parallel", "data_parallel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}: found {value}, expected at least 1")
        for name in ("request_seconds", "start_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name}: found {getattr(self, name)}, expected a time above 0")
        if self.retries < 0:
            raise UsageError(f"retries: found {self.retries}, expected at least 0")


class OpenModel(Protocol):
    """A model that can be asked, until its ``open_model`` block ends."""

    @property
    def source(self) -> ModelSource:
        """What was opened; of the Hub with its commit, of a server with the served name."""

    @property
    def facts(self) -> ModelFacts:
        """What ``resolve_sampling`` looks at."""

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """JSON that identifies the weights, the tokenizer and the templates."""

    def opens_reasoning(self, sampling: Sampling, *, raw: bool) -> bool:
        """Whether prompts will end with an open ``<think>``."""

    def inspect_model(self, sampling: Sampling, *, raw: bool) -> Model:
        """A model for inspect_ai that draws answers in this way.

        Its config carries ``max_connections``: how many requests to have under way. ``raw``: the
        one user message of a request is the prompt itself, no chat template is applied.
        """


def describe(source: ModelSource) -> ModelFacts:
    """What is known of a model without opening it.

    A model of the Hub is fetched; a server without a served name is asked which model it has.
    Raises SourceError or CheckpointError for what cannot be found or read.
    """
    if source.kind == "server":
        if source.served_name is None:
            source = _served(source)
        return ModelFacts((source.name, source.served_name or source.location))
    return read_facts(ModelFiles.of(source))


@contextmanager
def open_model(
    source: ModelSource, *, backend: Backend = "auto", options: BackendOptions | None = None
) -> Iterator[OpenModel]:
    """Open a model; everything that was started for it is stopped at the end of the block.

    ``backend``: ``transformers`` (``auto``) or ``vllm`` for files; servers have none. Raises
    SourceError, CheckpointError and InputError for a
    model that cannot be opened, MissingExtraError without the extra ``eval``. Cost: transformers
    reads all weights; vLLM takes minutes to start.
    """
    options = options or BackendOptions()
    _require_inspect()
    if source.kind == "server":
        if backend != "auto":
            options.notify(f"{source.name}: is a server already; {backend} has no effect on it")
        yield _asked_server(source, options)
        return
    files = ModelFiles.of(source)
    opened = _vllm(files, options) if backend == "vllm" else _local(files, options)
    with opened as model:
        yield model


@contextmanager
def _local(files: ModelFiles, options: BackendOptions) -> Iterator[_OpenFiles]:
    from timberkit.evaluation.local_engine import LocalEngine
    from timberkit.evaluation.local_model import connections, inspect_model

    facts, identity = read_facts(files), fingerprint(files)
    engine = LocalEngine(
        files.folder,
        dtype=options.dtype,
        device=options.device,
        batch_size=options.batch_size,
        notify=options.notify,
    )

    def make(name: str, config: GenerateConfig, raw: bool) -> Model:
        return inspect_model(engine, name, config, raw=raw)

    try:
        identity["dtype"] = engine.dtype
        under_way = options.connections or connections(engine.batch_size)
        yield _OpenFiles(files, facts, identity, make, under_way, options)
    finally:
        engine.close()


@contextmanager
def _vllm(files: ModelFiles, options: BackendOptions) -> Iterator[_OpenFiles]:
    from timberkit.evaluation.server_model import find_server
    from timberkit.evaluation.vllm_server import VllmOptions, vllm_server

    facts, identity = read_facts(files), fingerprint(files)
    _note_ignored(options, "vLLM (see --serve-args)", ("dtype", "device", "batch_size"))
    asked = VllmOptions(
        log_folder=options.log_folder or Path.cwd(),
        tensor_parallel=options.tensor_parallel,
        data_parallel=options.data_parallel,
        arguments=options.vllm_arguments,
        start_seconds=options.start_seconds,
        notify=options.notify,
    )
    with vllm_server(files.folder, files.source.name, asked) as started:
        server = find_server(
            started.source,
            request_seconds=options.request_seconds,
            key=started.key,
            notify=options.notify,
            why_dead=started.why_dead,
        )

        def make(name: str, config: GenerateConfig, raw: bool) -> Model:
            return server.inspect_model(name, config, raw=raw)

        under_way = options.connections or VLLM_CONNECTIONS * options.data_parallel
        yield _OpenFiles(files, facts, identity, make, under_way, options)


@dataclass(frozen=True, slots=True)
class _OpenFiles:
    """A model of files, answered by this process or by a server of its own."""

    files: ModelFiles
    facts: ModelFacts
    fingerprint: Mapping[str, Any]
    make: Callable[[str, GenerateConfig, bool], Model]
    connections: int
    options: BackendOptions

    @property
    def source(self) -> ModelSource:
        return self.files.source

    def opens_reasoning(self, sampling: Sampling, *, raw: bool) -> bool:
        if raw or not self.facts.chat_template:
            return False
        from timberkit.evaluation.loading import load_tokenizer
        from timberkit.evaluation.local_engine import render_chat

        messages = [{"role": "user", "content": "1"}]
        arguments = dict(sampling.chat_template_kwargs)
        tokenizer = load_tokenizer(self.files.folder)
        return opens_reasoning(render_chat(tokenizer, self.source.name, messages, arguments))

    def inspect_model(self, sampling: Sampling, *, raw: bool) -> Model:
        if not raw and not self.facts.chat_template:
            raise UsageError(
                f"{self.source.name}: has no chat template, so it cannot be asked in a chat; ask it"
                f" with plain text, as Base models are (--raw {self.source.name})"
            )
        config = generate_config(
            sampling, raw=raw, connections=self.connections, options=self.options
        )
        return self.make(self.source.name, config, raw)


@dataclass(frozen=True, slots=True)
class _OpenServer:
    """A model behind somebody's server."""

    source: ModelSource
    server: Server
    options: BackendOptions

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts((self.source.name, self.server.served_name))

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"kind": "server", **self.server.fingerprint}

    def opens_reasoning(self, sampling: Sampling, *, raw: bool) -> bool:
        if raw or self.options.opens_reasoning is not None:
            return not raw and bool(self.options.opens_reasoning)
        return self.server.opens_reasoning(sampling.chat_template_kwargs)

    def inspect_model(self, sampling: Sampling, *, raw: bool) -> Model:
        from timberkit.evaluation.server_model import CONNECTIONS

        connections = self.options.connections or CONNECTIONS * len(self.server.endpoints)
        config = generate_config(sampling, raw=raw, connections=connections, options=self.options)
        return self.server.inspect_model(self.source.name, config, raw=raw)


def generate_config(
    sampling: Sampling, *, raw: bool, connections: int, options: BackendOptions
) -> GenerateConfig:
    """The sampling as inspect_ai's configuration.

    ``top_k`` and what else OpenAI's protocol lacks go into ``extra_body``, as inspect's providers
    drop them silently otherwise; ``fields="standard"`` leaves them out, with a notice.
    """
    from inspect_ai.model import GenerateConfig

    extra = {
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "chat_template_kwargs": None if raw else dict(sampling.chat_template_kwargs) or None,
    }
    extra = {name: value for name, value in extra.items() if value is not None}
    if extra and options.fields == "standard":
        options.notify(f"not sent, as only standard fields are: {', '.join(extra)}")
        extra = {}
    return GenerateConfig(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        stop_seqs=list(sampling.stops) or None,
        extra_body=extra or None,
        max_connections=connections,
        max_retries=options.retries,
    )


def _served(source: ModelSource) -> ModelSource:
    """The source with the name of the one model that its server has."""
    _require_inspect()
    from timberkit.evaluation.server_model import find_server

    found = find_server(source, notify=lambda _: None)
    return replace(source, served_name=found.served_name)


def _asked_server(source: ModelSource, options: BackendOptions) -> _OpenServer:
    from timberkit.evaluation.server_model import find_server

    _note_ignored(options, "a server", ("dtype", "device", "batch_size"))
    server = find_server(source, request_seconds=options.request_seconds, notify=options.notify)
    return _OpenServer(replace(source, served_name=server.served_name), server, options)


def _note_ignored(options: BackendOptions, what: str, names: tuple[str, ...]) -> None:
    given = [name for name in names if getattr(options, name) is not None]
    if given:
        options.notify(f"{', '.join(given)}: has no effect on {what}")


def _require_inspect() -> None:
    for package in ("inspect_ai", "openai"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra="eval")
