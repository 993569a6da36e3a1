"""Models behind OpenAI's protocol: vLLM, SGLang, llama.cpp, ``transformers serve`` and others.

    server = find_server(parse_model("name=http://a:8000/v1,http://b:8000/v1#served"))
    model = server.inspect_model("name", config, raw=False)

inspect_ai's own providers send the requests. Around them: several endpoints of one model share the
load, and one that cannot be reached is left alone for a while; a failed request is sent again a
bounded number of times; one that takes too long is not, as its answer would take as long again.

The key is that of the environment, ``TIMBERKIT_API_KEY`` or ``OPENAI_API_KEY``. It goes to the
server and nowhere else: a message in which a server repeats it is blackened.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from inspect_ai._util.http_defaults_httpx2 import default_client_kwargs
from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelOutput,
    get_model,
    modelapi,
)
from inspect_ai.model._model_call import ModelCall
from inspect_ai.model._providers.openai_compatible import OpenAICompatibleAPI
from inspect_ai.model._providers.openai_compatible_completions import (
    OpenAICompatibleCompletionsAPI,
)
from inspect_ai.tool import ToolChoice, ToolInfo
from openai import (
    APIConnectionError,
    APITimeoutError,
    AsyncOpenAI,
    DefaultAsyncHttpxClient,
    Timeout,
)
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_none
from tenacity.wait import WaitBaseT, wait_exponential_jitter

from timberkit.checkpoint.header import shown
from timberkit.errors import SourceError, TimberkitError, UsageError
from timberkit.evaluation.models import ModelSource
from timberkit.evaluation.server_probe import (
    is_loopback,
    listed_models,
    names_of,
    only_name,
    template_opens_reasoning,
)

PROVIDER = "timberkit-server"
KEY_VARIABLES = ("TIMBERKIT_API_KEY", "OPENAI_API_KEY")
CONNECTIONS = 64
"""Requests under way at each endpoint, where nothing else is said."""

_CONNECT_SECONDS = 60.0
_AWAY_SECONDS = 60.0
_LONGEST_WAIT_SECONDS = 60.0
_MOST_SAID = 400
_SHORTEST_SECRET = 8
# Of what /models says, what is the same at every start of the same server.
_LASTING = ("id", "root", "parent", "max_model_len", "owned_by")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a model; ``said`` is its entry in the server's list of models."""

    address: str
    said: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Server:
    """A model that a server has, found by ``find_server``.

    ``key`` is never shown. ``why_dead`` says why the server will not come back, None while it may.
    """

    served_name: str
    endpoints: tuple[Endpoint, ...]
    request_seconds: float
    key: str = field(repr=False)
    notify: Callable[[str], None] = field(default=print, repr=False)
    why_dead: Callable[[], TimberkitError | None] = field(default=lambda: None, repr=False)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What identifies the model, as far as a server tells."""
        return {
            "addresses": [each.address for each in self.endpoints],
            "served_name": self.served_name,
            "said": [dict(each.said) for each in self.endpoints],
        }

    def inspect_model(self, name: str, config: GenerateConfig, *, raw: bool) -> Model:
        """This model for inspect_ai, under the name ``timberkit-server/NAME``."""
        model = get_model(f"{PROVIDER}/{name}", config=config, memoize=False, raw=raw)
        cast(ServerModel, model.api).connect(self)
        return model

    def opens_reasoning(self, chat_template_kwargs: Mapping[str, Any]) -> bool:
        """Whether the chat template opens ``<think>``; False where the server cannot tell."""
        first = self.endpoints[0].address
        return template_opens_reasoning(first, self.key, self.served_name, chat_template_kwargs)


def find_server(
    source: ModelSource,
    *,
    request_seconds: float = 4 * 3600.0,
    key: str | None = None,
    notify: Callable[[str], None] = print,
    why_dead: Callable[[], TimberkitError | None] = lambda: None,
) -> Server:
    """Ask every endpoint which models it has, and choose the one that was named.

    Raises SourceError for an endpoint that cannot be reached, refuses the key, or lacks the model
    (those it has are listed), and UsageError where none was named and it has several. Some gateways
    list nothing (404): then the model has to be named, and is believed to be there.
    """
    key = key or next(filter(None, map(os.environ.get, KEY_VARIABLES)), "none")
    endpoints, names = [], []
    for address in source.addresses:
        listed = listed_models(address, key)
        name = source.served_name or only_name(address, listed)
        if listed is None:
            notify(f"{address}: lists no models; {shown(name)} is believed to be there")
        elif name not in listed:
            raise SourceError(
                f"{address}: has no model {shown(name)}; it has {names_of(listed)}; write one of"
                " them after the #"
            )
        said = (listed or {}).get(name, {})
        endpoints.append(Endpoint(address, {k: said[k] for k in _LASTING if k in said}))
        names.append(name)
    if len(set(names)) > 1:
        raise UsageError(
            f"{source.location}: the endpoints have different models ({names_of(names)}); name one"
            " that all of them have, after a #"
        )
    return Server(names[0], tuple(endpoints), request_seconds, key, notify, why_dead)


@modelapi(name=PROVIDER)
class ServerModel(ModelAPI):
    """The provider ``timberkit-server/NAME`` of inspect_ai; ``Server.inspect_model`` makes it."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        raw: bool = False,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        self.raw = raw
        self._server: Server | None = None
        self._lines: list[_Line] = []

    def connect(self, server: Server) -> None:
        """Take on the endpoints of a server."""
        kind = _RawEndpoint if self.raw else _ChatEndpoint
        self._server = server
        self._lines = [_Line(each.address, kind(each.address, server)) for each in server.endpoints]

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput | tuple[ModelOutput | Exception, ModelCall]:
        """Send a request, and up to ``config.max_retries`` times again where that may help.

        That is: no connection, too many requests (429), an error of the server (5xx). Raises
        RequestError, or what ``why_dead`` gives once the server will not come back.
        """
        tries = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, RequestError) and error.again),
            wait=_waits(),
            stop=stop_after_attempt(1 + (config.max_retries or 0)),
            reraise=True,
        )
        return await tries(self._send, input, tools, tool_choice, config)

    def retry_wait(self) -> WaitBaseT | None:
        """Nothing is sent again but by ``generate``, whose last error tells what happened."""
        return wait_none()

    def max_connections(self) -> int:
        """For all endpoints together."""
        return CONNECTIONS * max(1, len(self._lines))

    def connection_key(self) -> str:
        """Every model by itself."""
        return self.model_name

    async def aclose(self) -> None:
        """Close the connections."""
        for line in self._lines:
            await line.api.aclose()

    async def _send(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput | tuple[ModelOutput | Exception, ModelCall]:
        """To the endpoint that has the least to do."""
        line = _choice(self._lines)
        line.busy += 1
        try:
            found = await line.api.generate(input, tools, tool_choice, config)
        except APIConnectionError as error:
            raise self._unanswered(line, error) from None
        except Exception as error:  # the client raises its own and others' for odd answers
            raise self._refused(line, error) from None
        finally:
            line.busy -= 1
        if isinstance(found, tuple) and isinstance(found[0], Exception):
            raise self._refused(line, found[0]) from None
        return found

    def _unanswered(self, line: _Line, error: APIConnectionError) -> Exception:
        """What to raise where no answer came, once the endpoint is marked."""
        assert self._server is not None
        dead = self._server.why_dead()
        if dead is not None:
            return dead
        if isinstance(error, APITimeoutError) and not _while_connecting(error):
            return RequestError(
                f"{line.address}: no answer within {self._server.request_seconds:g} s; give more"
                " time with --timeout, or ask for fewer tokens with --max-tokens",
                again=False,  # it would take as long again
            )
        now = time.monotonic()
        if len(self._lines) > 1 and line.away_until <= now:
            line.away_until = now + _AWAY_SECONDS
            self._server.notify(
                f"{line.address}: cannot be reached; its share goes to the other endpoints, and it"
                f" is tried again in {_AWAY_SECONDS:.0f} s"
            )
        reason = str(error.__cause__ or error)[:_MOST_SAID]
        return RequestError(f"{line.address}: no connection, or it broke: {reason}", again=True)

    def _refused(self, line: _Line, error: Exception) -> RequestError:
        """The error without the key, and without a body of any length."""
        assert self._server is not None
        said = str(error)[:_MOST_SAID]
        if len(self._server.key) >= _SHORTEST_SECRET:
            said = said.replace(self._server.key, "[key]")
        again = bool(line.api.should_retry(error))
        return RequestError(f"{line.address}: {type(error).__name__}: {said}", again=again)


class RequestError(RuntimeError):
    """A request failed; ``again``: sending it again may help."""

    def __init__(self, said: str, *, again: bool) -> None:
        super().__init__(said)
        self.again = again


def _waits() -> WaitBaseT:
    """A second at first, then twice as long each time, a minute at most."""
    return wait_exponential_jitter(max=_LONGEST_WAIT_SECONDS)


@dataclass(slots=True)
class _Line:
    """An endpoint and how it does."""

    address: str
    api: OpenAICompatibleAPI
    busy: int = 0
    away_until: float = 0.0


def _choice(lines: Sequence[_Line]) -> _Line:
    """The least busy endpoint that is there; where all are away, the one away the longest."""
    now = time.monotonic()
    there = [line for line in lines if line.away_until <= now]
    if there:
        return min(there, key=lambda line: line.busy)
    return min(lines, key=lambda line: line.away_until)


class _Endpoint(OpenAICompatibleAPI):
    """One address, with one try a request, and no proxy in front of this machine itself."""

    def __init__(self, address: str, server: Server) -> None:
        self._timeout = Timeout(server.request_seconds, connect=_CONNECT_SECONDS)
        self._is_local = is_loopback(address)
        super().__init__(
            model_name=f"timberkit/{server.served_name}",
            base_url=address,
            api_key=server.key,
            service="timberkit",
            client_timeout=server.request_seconds,
        )

    def model_family(self) -> str:
        """The name alone; looking it up in inspect's list of models takes a second."""
        return self.service_model_name()

    def _create_http_client(self) -> DefaultAsyncHttpxClient:
        options: dict[str, Any] = {"trust_env": False} if self._is_local else {}
        return DefaultAsyncHttpxClient(**default_client_kwargs(timeout=self._timeout, **options))

    def _create_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(
            api_key=self.api_key,
            base_url=self.base_url,
            http_client=self.http_client,
            timeout=self._timeout,
            max_retries=0,
        )


class _ChatEndpoint(_Endpoint):
    """Chats."""


class _RawEndpoint(_Endpoint, OpenAICompatibleCompletionsAPI):
    """Plain prompts."""


def _while_connecting(error: APITimeoutError) -> bool:
    cause = error.__cause__
    return type(cause).__name__ in ("ConnectTimeout", "PoolTimeout")
