"""A server that answers anything at all: an ending of ours, nothing leaked, nothing run."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("inspect_ai")

KEY = "sk-canary-of-the-user"
MODELS = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode()
DEEP = b'{"choices":' * 5000 + b"1" + b"}" * 5000
ESCAPES = "\x1b[2J\x1b]0;title\x07[red]x[/red]\u202e <script>harmed()</script>"


def chat(content: object, **more: object) -> bytes:
    """A reply as OpenAI's protocol has it, with one thing of the server's choice in it."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}
    choice["message"]["content"] = content  # type: ignore[index]
    reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
    return json.dumps({**reply, "choices": [choice], **more}).encode()


REPLIES: dict[str, tuple[int, dict[str, str], bytes]] = {
    "a list": (200, {}, b"[]"),
    "nothing": (200, {}, b""),
    "null": (200, {}, b"null"),
    "NaN": (200, {}, b"NaN"),
    "a page": (200, {"Content-Type": "text/html"}, b"<html><script>x</script></html>"),
    "no UTF-8": (200, {}, b'{"choices": "\xff\xfe"}'),
    "nested deeply": (200, {}, DEEP),
    "choices that are a number": (200, {}, b'{"choices": 1}'),
    "no message": (200, {}, b'{"choices": [{"message": null}]}'),
    "content of another kind": (200, {}, chat({"a": [1]})),
    "usage of another kind": (200, {}, chat("4", usage={"prompt_tokens": "x"})),
    "an answer of escapes": (200, {}, chat(ESCAPES)),
    "a refusal of escapes": (400, {}, json.dumps({"error": {"message": ESCAPES}}).encode()),
    "a failure of escapes": (500, {}, ESCAPES.encode()),
    "a redirect to a file": (302, {"Location": "file:///etc/passwd"}, b""),
    "a redirect elsewhere": (307, {"Location": "{elsewhere}/v1/chat/completions"}, b""),
    "less than it promised": (200, {"Content-Length": "100000"}, b'{"choices":'),
}


class Servers:
    """One that answers what it is told, and one elsewhere that notes what reaches it."""

    def __init__(self) -> None:
        self.reply: tuple[int, dict[str, str], bytes] = (200, {}, b"")
        self.lists_models = False
        self.elsewhere: list[str] = []
        servers = self

        class Answering(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                listed = servers.lists_models and self.path.endswith("/models")
                status, headers, body = (200, {}, MODELS) if listed else servers.reply
                self.send_response(status)
                given = {"Content-Type": "application/json", "Content-Length": str(len(body))}
                for name, value in (given | headers).items():
                    self.send_header(name, value.replace("{elsewhere}", servers.addresses[1]))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *_: object) -> None:
                pass

        class Noting(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                servers.elsewhere.append(str(self.headers))
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *_: object) -> None:
                pass

        self.http = [ThreadingHTTPServer(("127.0.0.1", 0), kind) for kind in (Answering, Noting)]
        # Another name of this machine, so that it is another host to the client.
        self.addresses = [f"http://127.0.0.1:{self.http[0].server_port}"]
        self.addresses.append(f"http://localhost:{self.http[1].server_port}")
        for server in self.http:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        for server in self.http:
            server.shutdown()
            server.server_close()


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    started = Servers()
    yield started
    started.close()


@pytest.mark.parametrize(
    ("what", "lists_models"),
    [
        *((what, True) for what in REPLIES),
        *((what, False) for what in ("a list", "NaN", "nested deeply", "a redirect elsewhere")),
    ],
)
def test_any_reply_ends_in_a_result_or_a_message(
    commands: Any, servers: Servers, tmp_path: Path, what: str, lists_models: bool
) -> None:
    servers.reply, servers.elsewhere, servers.lists_models = REPLIES[what], [], lists_models
    command = (
        *("eval", f"m={servers.addresses[0]}/v1#m", "--task", "sapling", "--limit", 1, "-n", 1),
        *("--retries", 0, "--timeout", 5, "--max-failures", 1, "-o", "run"),
    )
    done = commands.start(*command, cwd=tmp_path, more={"OPENAI_API_KEY": KEY}).wait(60)
    said = done.stdout + done.stderr
    assert done.exit_code in (0, 2, 3, 4), said
    assert "Traceback" not in said
    assert not set(said) & {"\x1b", "\x07", "\u202e"}
    assert len(said) < 20_000
    assert KEY not in said
    # A key goes to the server that was named, and to no other that it points to.
    assert not [headers for headers in servers.elsewhere if KEY in headers]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path
