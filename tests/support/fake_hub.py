"""A Hub on 127.0.0.1, as far as huggingface_hub asks it for an upload without hf_xet.

Written from the client: what it sends and what it reads of the answers. Weights are LFS objects,
all else is in the commit. ``refuse`` and ``hold`` make it misbehave.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "secret" * 6
REPO = r"/(?P<repo>[^/]+/[^/]+)"


@dataclass
class FakeRepository:
    """Commits by branch, newest last: an id and all files."""

    private: bool
    branches: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)

    def files(self, branch: str = "main") -> dict[str, bytes]:
        """What the branch holds, but for what the Hub puts there itself."""
        files = self.branches[branch][-1][1]
        return {name: data for name, data in files.items() if name != ".gitattributes"}

    def add(self, branch: str, files: Mapping[str, bytes]) -> str:
        """A commit after which the branch holds these files."""
        commits = self.branches.setdefault(branch, [])
        text = json.dumps([branch, len(commits), sorted(files)]).encode()
        commits.append((hashlib.sha1(text).hexdigest(), dict(files)))
        return commits[-1][0]


class FakeHub:
    """State and misbehaviour; ``url`` is its address."""

    def __init__(self) -> None:
        self.repositories: dict[str, FakeRepository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.bodies: dict[str, Any] = {}
        self.refuse: dict[str, int] = {}
        """Part of a path -> status; 0 ends the connection without an answer."""
        self.invalid_card: str | None = None
        self.make_public = False
        self.held: str | None = None
        self.holding = threading.Event()
        self.url = ""

    def make(self, repo: str, *, private: bool = True, **files: bytes) -> FakeRepository:
        """A repository that was there before."""
        made = FakeRepository(private)
        made.add("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        if files:
            made.add("main", {".gitattributes": b"", **files})
        self.repositories[repo] = made
        return made

    def sent(self, method: str, part: str) -> list[str]:
        """Paths of the requests of a method that hold a part."""
        return [path for way, path in self.requests if way == method and part in path]


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serve until the end of the block."""
    hub = FakeHub()

    class Bound(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    server.daemon_threads = True
    server.block_on_close = False
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: object) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.state, urlsplit(self.path).path
        hub.requests.append((self.command, path))
        if self.command == "PUT" and hub.held is not None and hub.held in path:
            hub.holding.set()
            self.close_connection = True
            self.rfile.read(1)
            threading.Event().wait(60)
            return
        body = self._body()
        for part, status in hub.refuse.items():
            if part in f"{self.command} {path}":
                self._refuse(status)
                return
        if self.command != "PUT" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {}, "Invalid credentials in Authorization header")
            return
        for method, pattern, name in _ROUTES:
            match = re.fullmatch(pattern, path)
            if method == self.command and match:
                hub.bodies[name] = body
                places = {key: unquote(value) for key, value in match.groupdict().items()}
                getattr(self, f"_{name}")(body, **places)
                return
        raise AssertionError(f"unexpected request: {self.command} {self.path}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _refuse(self, status: int) -> None:
        if status:
            self._send(status, {"error": "no", "token": TOKEN}, "no")
        else:
            self.close_connection = True
            self.connection.close()

    def _send(self, status: int, value: object, message: str = "", code: str = "") -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, text in (("X-Error-Message", message), ("X-Error-Code", code)):
            if text:
                self.send_header(name, text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _found(self, repo: str, branch: str) -> FakeRepository | None:
        found = self.state.repositories.get(repo)
        if found is None:
            self._send(404, {}, "Repository not found", "RepoNotFound")
        elif branch not in found.branches:
            self._send(404, {}, "Invalid rev id", "RevisionNotFound")
            return None
        return found

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.state.repositories:
            self._send(409, {}, "You already created this model repo")
            return
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.state.make(repo, private=private and not self.state.make_public)
        self._send(200, {"url": f"{self.state.url}/{repo}"})

    def _info(self, _body: bytes, repo: str, branch: str = "main") -> None:
        found = self._found(repo, branch)
        if found is None:
            return
        commit, files = found.branches[branch][-1]
        blobs = "blobs" in parse_qs(urlsplit(self.path).query)
        siblings = [{"rfilename": n, **(_blob(n, d) if blobs else {})} for n, d in files.items()]
        fields = {"id": repo, "private": found.private, "sha": commit, "siblings": siblings}
        self._send(200, {**fields, "tags": [], "downloads": 0, "likes": 0})

    def _tree(self, _body: bytes, repo: str, branch: str) -> None:
        found = self._found(repo, branch)
        if found is not None:
            files = found.branches[branch][-1][1].items()
            entries = [(name, _blob(name, data)) for name, data in files]
            self._send(
                200,
                [
                    {"type": "file", "path": name, "size": blob["size"], "oid": blob["blobId"]}
                    for name, blob in entries
                ],
            )

    def _commits(self, _body: bytes, repo: str, branch: str) -> None:
        found = self._found(repo, branch)
        if found is not None:
            fields = {"authors": [], "date": "2026-01-01T00:00:00.000Z", "title": "", "message": ""}
            commits = reversed(found.branches[branch])
            self._send(200, [{"id": commit, **fields} for commit, _ in commits])

    def _branch(self, body: bytes, repo: str, branch: str) -> None:
        found = self.state.repositories[repo]
        start = json.loads(body)["startingPoint"]
        (commit,) = [entry for entry in found.branches["main"] if entry[0] == start]
        found.branches[branch] = [commit]
        self._send(200, {})

    def _card(self, _body: bytes) -> None:
        if self.state.invalid_card is None:
            self._send(200, {"errors": [], "warnings": []})
        else:
            errors = [{"message": self.state.invalid_card}]
            self._send(400, {"errors": errors, "warnings": []})

    def _preupload(self, body: bytes, repo: str, branch: str) -> None:
        found = self._found(repo, branch)
        if found is None:
            return
        there = found.branches[branch][-1][1]
        answers = []
        for file in json.loads(body)["files"]:
            name = file["path"]
            blob = _blob(name, there[name]) if name in there else {}
            oid = blob["lfs"]["sha256"] if "lfs" in blob else blob.get("blobId")
            mode = "lfs" if _is_large(name) else "regular"
            answers.append({"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._send(200, {"files": answers})

    def _batch(self, body: bytes, repo: str) -> None:
        assert repo in self.state.repositories
        objects = []
        for item in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.state.url}/lfs/{item['oid']}"}}
            known = item["oid"] in self.state.objects
            objects.append({**item, **({} if known else {"actions": upload})})
        self._send(200, {"transfer": "basic", "objects": objects})

    def _object(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.state.objects[oid] = body
        self._send(200, {})

    def _commit(self, body: bytes, repo: str, branch: str) -> None:
        found = self._found(repo, branch)
        if found is None:
            return
        header, *lines = [json.loads(line) for line in body.splitlines()]
        head, files = found.branches[branch][-1]
        if header["value"].get("parentCommit") not in (None, head):
            self._send(412, {}, "A commit has happened since")
            return
        files = dict(files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.state.objects[value["oid"]]
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        commit = found.add(branch, files)
        url = f"{self.state.url}/{repo}/commit/{commit}"
        self._send(200, {"commitUrl": url, "commitOid": commit})


_ROUTES = (
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "card"),
    ("GET", f"/api/models{REPO}", "info"),
    ("GET", f"/api/models{REPO}/revision/(?P<branch>[^/]+)", "info"),
    ("GET", f"/api/models{REPO}/tree/(?P<branch>[^/]+)", "tree"),
    ("GET", f"/api/models{REPO}/commits/(?P<branch>[^/]+)", "commits"),
    ("POST", f"/api/models{REPO}/branch/(?P<branch>[^/]+)", "branch"),
    ("POST", f"/api/models{REPO}/preupload/(?P<branch>[^/]+)", "preupload"),
    ("POST", f"/api/models{REPO}/commit/(?P<branch>[^/]+)", "commit"),
    ("POST", f"{REPO}.git/info/lfs/objects/batch", "batch"),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", "object"),
)


def _is_large(name: str) -> bool:
    return name.endswith(".safetensors")


def _blob(name: str, data: bytes) -> dict[str, Any]:
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    blob: dict[str, Any] = {"size": len(data), "blobId": git}
    if _is_large(name):
        sha256 = hashlib.sha256(data).hexdigest()
        blob["lfs"] = {"size": len(data), "sha256": sha256, "pointerSize": 130}
    return blob
