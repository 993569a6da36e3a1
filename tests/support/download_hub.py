"""A Hub on 127.0.0.1 that a model is fetched from, as far as huggingface_hub asks without hf_xet.

``breaks``: how often the connection ends in the middle of a file, by its name.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class DownloadHub:
    """One repository, ``org/model``, with the files of a folder; ``sent`` counts bytes by file."""

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.breaks: dict[str, int] = {}
        self.sent: dict[str, int] = {}
        self.url = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a GET or a HEAD."""
        path = unquote(urlsplit(request.path).path)
        if path.startswith("/api/models/org/model"):
            self._send(request, 200, self._about(path))
            return
        name = path.rpartition("/")[2]
        if f"/org/model/resolve/{COMMIT}/" not in path or name not in self.files:
            self._send(request, 404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        self._file(request, name)

    def _about(self, path: str) -> bytes:
        if "/tree/" in path:
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in sorted(self.files.items())
            ]
            return json.dumps(entries).encode()
        siblings = [{"rfilename": name} for name in sorted(self.files)]
        return json.dumps({"id": "org/model", "sha": COMMIT, "siblings": siblings}).encode()

    def _file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        data = self.files[name]
        start, status, headers = 0, 200, {}
        wanted = request.headers.get("Range", "")
        if wanted.startswith("bytes="):
            start, status = int(wanted[6:].partition("-")[0] or 0), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        headers |= {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if request.command == "GET" and self.breaks.get(name, 0) > 0:
            self.breaks[name] -= 1
            self._send(request, status, data[start:], headers, cut=(len(data) - start) // 2)
            return
        self._send(request, status, data[start:], headers)
        if request.command == "GET":
            self.sent[name] = self.sent.get(name, 0) + len(data) - start

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        request.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body[:cut])
        if cut is not None:
            request.wfile.flush()
            request.close_connection = True
            request.connection.close()


@contextmanager
def serve(folder: Path) -> Iterator[DownloadHub]:
    """The Hub with the files of a folder, while the block runs."""
    hub = DownloadHub(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.answer(self)

        def do_HEAD(self) -> None:
            hub.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
