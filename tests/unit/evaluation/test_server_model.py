"""Asking a server: what is sent, what is sent again, what becomes of servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from timberkit.errors import InterruptedRunError, SourceError, UsageError
from timberkit.evaluation.models import parse_model

pytest.importorskip("inspect_ai")
from inspect_ai.model import GenerateConfig

from timberkit.evaluation.server_model import Server, find_server
from timberkit.evaluation.server_probe import is_loopback

KEY = "sk-very-secret-key"
Reply = Callable[[str, dict[str, Any]], tuple[int, Any] | None]


class Stub:
    """A server that keeps what it is sent; ``reply`` gives status and JSON for a POST, or none."""

    def __init__(self, reply: Reply | None = None, models: Any = None) -> None:
        self.reply = reply or (lambda path, body: (200, completion(path, "yes")))
        self.models = {"data": [{"id": "m", "created": 1}]} if models is None else models
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub.headers.append({name.lower(): value for name, value in self.headers.items()})
                status, content = (
                    stub.models if isinstance(stub.models, tuple) else (200, stub.models)
                )
                self.answer(status, content)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stub.bodies.append(body)
                stub.headers.append({name.lower(): value for name, value in self.headers.items()})
                found = stub.reply(self.path, body)
                if found is None:  # the connection closes without an answer
                    self.close_connection = True
                else:
                    self.answer(*found)

            def answer(self, status: int, content: Any) -> None:
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", content["to"])
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = _Listening(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Listening(ThreadingHTTPServer):
    """With room for many connections at once."""

    daemon_threads = True
    request_queue_size = 128


def completion(path: str, text: str, **fields: Any) -> dict[str, Any]:
    chat = {"message": {"role": "assistant", "content": text}}
    part = chat if path.endswith("/chat/completions") else {"text": text}
    return {
        "id": "1",
        "created": 1,
        "model": "m",
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": "stop", **part, **fields}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


@contextmanager
def stubs(*given: Stub) -> Iterator[None]:
    try:
        yield
    finally:
        for stub in given:
            stub.stop()


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMBERKIT_API_KEY", KEY)
    # A proxy of the user's must not stand between this machine and itself.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")


def find(*given: Stub, name: str = "", **options: Any) -> Server:
    addresses = ",".join(stub.address for stub in given)
    return find_server(parse_model(addresses + (f"#{name}" if name else "")), **options)


def ask(server: Server, count: int = 1, *, raw: bool = False, **config: Any) -> list[Any]:
    """Outputs or exceptions of some requests at once."""
    fields = {"max_connections": 16, "max_retries": 2, "max_tokens": 5, "temperature": 1.0}
    model = server.inspect_model("tuned", GenerateConfig(**{**fields, **config}), raw=raw)

    async def run() -> list[Any]:
        try:
            asked = [
                model.generate("2+2?", config=GenerateConfig(seed=seed)) for seed in range(count)
            ]
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await model.api.aclose()

    return asyncio.run(run())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly any wait before a request is sent again."""
    from tenacity import wait_none

    from timberkit.evaluation import server_model

    monkeypatch.setattr(server_model, "_waits", wait_none)


def test_a_chat_is_sent_with_every_field_that_is_set_and_no_other() -> None:
    stub = Stub()
    with stubs(stub):
        body = {"top_k": 20, "chat_template_kwargs": {"enable_thinking": False}}
        [output] = ask(find(stub), top_p=0.95, extra_body=body, stop_seqs=["\n"])
    assert stub.bodies == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "2+2?"}],
            "max_tokens": 5,
            "temperature": 1.0,
            "top_p": 0.95,
            "top_k": 20,
            "seed": 0,
            "stop": ["\n"],
            "chat_template_kwargs": {"enable_thinking": False},
        }
    ]
    assert (output.completion, output.stop_reason, output.usage.output_tokens) == ("yes", "stop", 2)


def test_a_raw_prompt_goes_to_completions_as_it_is() -> None:
    stub = Stub(lambda path, body: (200, completion(path, "4", finish_reason="length")))
    with stubs(stub):
        [output] = ask(find(stub), raw=True, extra_body={"top_k": 20})
    assert stub.bodies[0]["prompt"] == "2+2?"
    assert stub.bodies[0]["top_k"] == 20
    assert "messages" not in stub.bodies[0]
    assert (output.completion, output.stop_reason) == ("4", "max_tokens")


def test_every_request_has_the_seed_it_was_given() -> None:
    stub = Stub()
    with stubs(stub):
        ask(find(stub), 20)
    assert sorted(body["seed"] for body in stub.bodies) == list(range(20))


def test_the_key_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub()
    with stubs(stub):
        ask(find(stub))
        monkeypatch.delenv("TIMBERKIT_API_KEY")
        find(stub)
        monkeypatch.setenv("OPENAI_API_KEY", "other")
        find(stub)
    sent = [headers["authorization"] for headers in stub.headers]
    assert sent == [f"Bearer {key}" for key in (KEY, KEY, "none", "other")]


def test_the_key_is_in_no_message_and_no_representation() -> None:
    stub = Stub(lambda path, body: (401, {"error": {"message": f"wrong key {KEY}"}}))
    with stubs(stub):
        server = find(stub)
        [error] = ask(server)
    assert isinstance(error, Exception)
    assert "wrong key [key]" in str(error)
    chained, texts = error, []
    while chained is not None and not getattr(chained, "__suppress_context__", False):
        texts.append(str(chained))
        chained = chained.__context__
    assert not any(KEY in text for text in [*texts, repr(error), repr(server)])
    assert KEY not in json.dumps(server.fingerprint)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_in_trouble_is_asked_again(status: int) -> None:
    left = [status, status]
    stub = Stub(
        lambda path, body: (
            (left.pop(), {"error": {"message": "busy"}}) if left else (200, completion(path, "yes"))
        )
    )
    with stubs(stub):
        [output] = ask(find(stub))
    assert output.completion == "yes"
    assert len(stub.bodies) == 3


@pytest.mark.usefixtures("quick")
def test_a_request_is_sent_again_a_bounded_number_of_times() -> None:
    stub = Stub(lambda path, body: (500, {"error": {"message": "kernel"}}))
    with stubs(stub):
        [error] = ask(find(stub))
    assert "kernel" in str(error)
    assert len(stub.bodies) == 3


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_request_that_is_wrong_is_not_sent_again(status: int, raw: bool) -> None:
    stub = Stub(lambda path, body: (status, {"error": {"message": "Unexpected fields: top_k"}}))
    with stubs(stub):
        [error] = ask(find(stub), raw=raw)
    assert isinstance(error, Exception)
    assert len(stub.bodies) == 1
    if (status, raw) != (404, True):
        assert "Unexpected fields: top_k" in str(error)


def test_an_answer_that_takes_too_long_is_not_asked_for_again() -> None:
    def slow(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        time.sleep(1.5)
        return 200, completion(path, "late")

    stub = Stub(slow)
    with stubs(stub):
        [error] = ask(find(stub, request_seconds=0.3))
    assert "--timeout" in str(error)
    assert len(stub.bodies) == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("content", [b"", b"not json", b'"text"', b"[]", b'{"choices": []}'])
def test_an_answer_that_is_none_fails_its_request_only(content: bytes) -> None:
    stub = Stub(lambda path, body: (200, content))
    with stubs(stub):
        [found] = ask(find(stub))
    assert isinstance(found, Exception) or found.completion == ""


def test_endpoints_share_the_requests() -> None:
    first, second = Stub(), Stub()
    with stubs(first, second):
        outputs = ask(find(first, second), 40)
    assert all(output.completion == "yes" for output in outputs)
    assert min(len(first.bodies), len(second.bodies)) >= 10


@pytest.mark.usefixtures("quick")
def test_an_endpoint_that_dies_is_left_alone_with_one_notice_and_nothing_is_lost() -> None:
    notices: list[str] = []
    first, second = Stub(), Stub()
    server = find(first, second, notify=notices.append)
    first.stop()
    with stubs(second):
        outputs = ask(server, 40)
    assert [getattr(output, "completion", output) for output in outputs] == ["yes"] * 40
    assert len(second.bodies) == 40
    assert len(notices) == 1
    assert first.address in notices[0]


@pytest.mark.usefixtures("quick")
def test_an_endpoint_that_dies_in_the_middle_hands_its_requests_to_the_others() -> None:
    """With requests under way: their connections break, as those of a killed process do."""
    notices: list[str] = []
    first, second, third = Stub(), Stub(), Stub()

    def dies(path: str, body: dict[str, Any]) -> tuple[int, Any] | None:
        if len(first.bodies) <= 5:
            return 200, completion(path, "yes")
        first.stop()
        return None

    first.reply = dies
    server = find(first, second, third, notify=notices.append)
    with stubs(first, second, third):
        outputs = ask(server, 90)
    assert [getattr(output, "completion", output) for output in outputs] == ["yes"] * 90
    answered = len(second.bodies), len(third.bodies)
    assert sum(answered) == 85
    assert min(answered) >= 25
    assert len(notices) == 1
    assert first.address in notices[0]


@pytest.mark.usefixtures("quick")
def test_a_server_that_will_not_come_back_ends_the_run_at_once() -> None:
    stub = Stub()
    death = InterruptedRunError("the server ended")
    server = find(stub, why_dead=lambda: death)
    stub.stop()
    assert ask(server) == [death]


def test_the_only_model_of_a_server_needs_no_name() -> None:
    stub = Stub(models={"data": [{"id": "org/m", "max_model_len": 4096, "created": 123}]})
    with stubs(stub):
        server = find(stub)
    assert server.served_name == "org/m"
    assert server.fingerprint["said"] == [{"id": "org/m", "max_model_len": 4096}]


def test_several_models_need_a_name_and_are_listed() -> None:
    stub = Stub(models={"data": [{"id": "a"}, {"id": "b"}]})
    with stubs(stub):
        with pytest.raises(UsageError, match="has 2 models \\('a', 'b'\\)"):
            find(stub)
        assert find(stub, name="b").served_name == "b"
        with pytest.raises(SourceError, match="no model 'c'; it has 'a', 'b'"):
            find(stub, name="c")


def test_endpoints_with_different_models_are_refused() -> None:
    first, second = Stub(models={"data": [{"id": "a"}]}), Stub(models={"data": [{"id": "b"}]})
    with stubs(first, second), pytest.raises(UsageError, match="different models"):
        find(first, second)


@pytest.mark.parametrize("status", [404, 500])
def test_a_gateway_without_a_list_is_believed_with_a_notice(status: int) -> None:
    notices: list[str] = []
    stub = Stub(models=(status, {}))
    with stubs(stub):
        with pytest.raises(UsageError, match="#served-name"):
            find(stub)
        assert find(stub, name="m", notify=notices.append).served_name == "m"
    assert "believed" in notices[0]


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ((401, {}), "TIMBERKIT_API_KEY"),
        ((503, {}), "HTTP 503"),
        ((200, b"<html>"), "cannot be reached"),
        ((200, b"[" * 100_000), "cannot be reached"),
        ((200, []), "expected a list of models"),
        ((200, {"data": 5}), "expected a list of models"),
        ((200, {"data": [{"id": 5}, None]}), "has no model 'm'; it has none"),
    ],
)
def test_what_is_no_such_server_is_said(models: Any, says: str) -> None:
    stub = Stub(models=models)
    with stubs(stub), pytest.raises(SourceError, match=says):
        find(stub, name="m")


def test_the_key_does_not_follow_a_redirect() -> None:
    elsewhere = Stub()
    stub = Stub(models=(302, {"to": f"{elsewhere.address}/models"}))
    with stubs(stub, elsewhere), pytest.raises(SourceError, match="HTTP 302"):
        find(stub, name="m")
    assert elsewhere.headers == []


def test_nobody_there_is_said_within_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(SourceError, match="is the server running"):
        find_server(parse_model(address))


@pytest.mark.parametrize(
    ("reply", "opened"),
    [
        ((200, {"token_strs": ["<|im_start|>", "assistant", "Ċ", "<think>", "Ċ"]}), True),
        ((200, {"token_strs": ["assistant", "Ċ", "<think>", "</think>"]}), False),
        ((404, {}), False),
        ((200, {"token_strs": 5}), False),
        ((200, b"no"), False),
    ],
)
def test_a_template_that_opens_reasoning_is_found_out_where_a_server_tells(
    reply: tuple[int, Any], opened: bool
) -> None:
    asked: list[str] = []

    def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        asked.append(path)
        return reply if path == "/tokenize" else (404, {})

    stub = Stub(answer)
    with stubs(stub):
        assert find(stub).opens_reasoning({"enable_thinking": True}) is opened
    assert asked[0] == "/tokenize"
    assert stub.bodies[0]["chat_template_kwargs"] == {"enable_thinking": True}


def test_llama_cpp_tells_by_its_own_path() -> None:
    stub = Stub(
        lambda path, body: (
            (200, {"prompt": "<|assistant|><think>\n"}) if path == "/apply-template" else (404, {})
        )
    )
    with stubs(stub):
        assert find(stub).opens_reasoning({})


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://localhost:1/v1", True),
        ("http://127.8.0.1/v1", True),
        ("http://[::1]:8/v1", True),
        ("http://10.0.0.1/v1", False),
        ("http://localhost.example.org/v1", False),
    ],
)
def test_only_this_machine_is_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected
