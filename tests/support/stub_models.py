"""Models that answer at once: in this process, or behind a real server that counts requests.

``StubModel`` takes the place of ``open_model`` in tests of the engine. ``StubServer`` speaks enough
of OpenAI's protocol for real commands: it runs in threads of the test's process, so it survives the
commands that are killed.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from timberkit.evaluation.task import Grade, Problem
from timberkit.evaluation.tasks import make_task
from timberkit.sapling import puzzle

Answer = Callable[[str, int], str]


def some_right(prompt: str, seed: int) -> str:
    """An answer to a Sapling puzzle that is right for about half of the seeds, by its prompt."""
    numbers, target = prompt.removeprefix("nums ").removesuffix(" :").split(" make ")
    problem = puzzle.Problem(tuple(map(int, numbers.split())), int(target))
    answers = sorted(puzzle.correct_answers(problem))
    draw = int.from_bytes(hashlib.sha256(f"{prompt}{seed}".encode()).digest()[:4], "big")
    return answers[draw // 2 % len(answers)] if draw % 2 else f"wrong {draw}"


@dataclass
class StubModel:
    """A model whose answers a function gives. ``asked`` counts (prompt, seed)."""

    source: Any
    answer: Answer = some_right
    fingerprint: Mapping[str, Any] = field(default_factory=lambda: {"weights": "stub"})
    opened: bool = False
    stop_reason: str = "stop"
    connections: int = 8
    asked: Counter[tuple[str, int]] = field(default_factory=Counter)

    def opens_reasoning(self, sampling: Any, *, raw: bool) -> bool:
        """As it was told."""
        return self.opened

    def inspect_model(self, sampling: Any, *, raw: bool) -> Any:
        """A model of inspect_ai."""
        from inspect_ai.model import GenerateConfig, get_model

        _registered()
        config = GenerateConfig(max_connections=self.connections, max_retries=0)
        return get_model("timberkit_stub/stub", config=config, memoize=False, stub=self)


@cache
def _registered() -> type:
    """The provider behind ``StubModel``, known to inspect_ai from now on."""
    from inspect_ai.model import GenerateConfig, ModelAPI, ModelOutput, ModelUsage, modelapi
    from tenacity import wait_none

    @modelapi(name="timberkit_stub")
    class StubApi(ModelAPI):
        def __init__(
            self,
            model_name: str,
            base_url: str | None = None,
            api_key: str | None = None,
            config: GenerateConfig | None = None,
            *,
            stub: StubModel,
        ) -> None:
            super().__init__(model_name, config=config or GenerateConfig())
            self.stub = stub

        async def generate(
            self, input: Any, tools: Any, tool_choice: Any, config: Any
        ) -> ModelOutput:
            stub, prompt = self.stub, input[-1].text
            stub.asked[prompt, config.seed] += 1
            text = stub.answer(prompt, config.seed)
            output = ModelOutput.from_content("stub", text, stub.stop_reason)  # type: ignore[arg-type]
            output.usage = ModelUsage(input_tokens=3, output_tokens=len(text.split()))
            return output

        def retry_wait(self) -> Any:
            return wait_none()  # inspect_ai's own warns of a deprecated argument

    return StubApi


@contextmanager
def stub_opened(monkeypatch: Any, *models: StubModel) -> Iterator[None]:
    """From now on these models are what ``open_model`` finds, by their sources' names.

    Answers are judged in this process.
    """
    from timberkit.evaluation import planning, run
    from timberkit.evaluation.sampling import ModelFacts

    @contextmanager
    def open_stub(source: Any, **_: Any) -> Iterator[StubModel]:
        found = [model for model in models if model.source in (source.name, None)]
        yield found[0]

    monkeypatch.setattr(run, "open_model", open_stub)
    monkeypatch.setattr(run, "Graders", GradersHere)
    monkeypatch.setattr(planning, "describe", lambda source: ModelFacts((source.name,)))
    yield


class GradersHere:
    """Judges in this process, which takes no second to start."""

    def __init__(
        self, task: str, setting: str, *, workers: int, options: Iterable[str] = ()
    ) -> None:
        self._task = make_task(task, setting, **dict.fromkeys(options, True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def grade(self, problem: Problem, answer: str, *, raw: bool = False) -> Grade:
        """Judge one answer."""
        return self._task.grade(problem, answer, raw=raw)


class StubServer:
    """``http://127.0.0.1:PORT/v1``: answers chat and plain completions, and counts them.

    ``answer(prompt, seed)`` may raise ``RefusedError`` to send a status code. ``seconds`` is how
    long each answer takes. ``finish_reason`` goes with it.
    """

    def __init__(
        self,
        answer: Answer = some_right,
        *,
        seconds: float = 0.0,
        finish_reason: str = "stop",
        served: str = "stub",
    ) -> None:
        self.answer = answer
        self.seconds = seconds
        self.finish_reason = finish_reason
        self.served = served
        self.requests: list[dict[str, Any]] = []
        self.answered: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self._http.shutdown()
        self._http.server_close()

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and content for one request."""
        chat = path.endswith("/chat/completions")
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        if isinstance(prompt, list):
            prompt = "".join(part.get("text", "") for part in prompt)
        with self._lock:
            self.requests.append(body)
        if self.seconds:
            time.sleep(self.seconds)
        try:
            text = self.answer(prompt, body.get("seed", 0))
        except RefusedError as refused:
            return refused.status, {"error": {"message": refused.message, "type": "refused"}}
        with self._lock:
            self.answered[prompt, body.get("seed", 0)] += 1
        choice: dict[str, Any] = {"index": 0, "finish_reason": self.finish_reason}
        if chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        return 200, {
            "id": "stub",
            "object": "chat.completion" if chat else "text_completion",
            "created": 0,
            "model": self.served,
            "choices": [choice],
            "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
        }


class RefusedError(Exception):
    """The server answers with a status code."""

    def __init__(self, status: int, message: str = "refused") -> None:
        super().__init__(message)
        self.status, self.message = status, message


def _handler(server: StubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path.endswith("/models"):
                self._send(200, {"object": "list", "data": [{"id": server.served}]})
            else:
                self._send(200, {})

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            self._send(*server.reply(self.path, json.loads(self.rfile.read(length))))

        def _send(self, status: int, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):
                return

        def log_message(self, *_: Any) -> None:
            return

    return Handler
