"""A server of our own, played by a stand-in called ``vllm``: started, watched, always stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from timberkit.errors import InputError, InterruptedRunError, UsageError
from timberkit.evaluation import vllm_server as vllm
from timberkit.evaluation.vllm_server import StartedServer, VllmOptions, log_tail, vllm_server

STAND_IN = """#!{python}
import json, os, pathlib, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

kind, here = {kind!r}, pathlib.Path({here!r})
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
here.joinpath("pids").write_text(json.dumps([os.getpid(), worker.pid]))
here.joinpath("arguments").write_text(json.dumps(sys.argv[1:]))
names = ("VLLM_API_KEY", "VLLM_NO_USAGE_STATS", "TIMBERKIT_API_KEY", "OPENAI_API_KEY")
here.joinpath("environment").write_text(json.dumps({{n: os.environ.get(n) for n in names}}))
print("loading", "weights\\x1b[31m", flush=True)
if kind == "exits":
    print("CUDA error: no device", flush=True)
    sys.exit(7)
if kind == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
name = sys.argv[sys.argv.index("--served-model-name") + 1]
port = int(sys.argv[sys.argv.index("--port") + 1])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        healthy = kind != "never ready"
        content = json.dumps({{"data": [{{"id": name}}]}}).encode()
        right_key = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        status = 200 if healthy and (self.path == "/health" or right_key) else 503
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a ``vllm`` of a kind on the PATH; what it notes of itself lies in the folder returned."""

    def make(kind: str) -> Path:
        here = tmp_path / "notes"
        here.mkdir()
        program = tmp_path / "bin" / "vllm"
        program.parent.mkdir()
        program.write_text(STAND_IN.format(python=sys.executable, kind=kind, here=str(here)))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return here

    return make


def options(tmp_path: Path, **fields: Any) -> VllmOptions:
    return VllmOptions(**{"log_folder": tmp_path / "servers", "notify": lambda _: None, **fields})


def pids(here: Path) -> list[int]:
    found: list[int] = json.loads((here / "pids").read_text())
    return found


def gone(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def all_gone(processes: list[int], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if all(map(gone, processes)):
            return True
        time.sleep(0.05)
    return False


def test_it_is_started_on_this_machine_only_asked_with_a_key_and_stopped_with_its_workers(
    tmp_path: Path, stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMBERKIT_API_KEY", "for another server")
    here = stand_in("good")
    given = options(
        tmp_path, tensor_parallel=2, data_parallel=4, arguments=("--max-model-len", "4096")
    )
    with vllm_server(tmp_path / "a model", "tuned", given) as server:
        find = pytest.importorskip("timberkit.evaluation.server_model").find_server
        assert find(server.source, key=server.key).served_name == "tuned"
        assert server.why_dead() is None
        assert server.key not in repr(server)
        assert not any(map(gone, pids(here)))
    arguments = json.loads((here / "arguments").read_text())
    port = arguments[arguments.index("--port") + 1]
    assert arguments == [
        *("serve", str(tmp_path / "a model"), "--host", "127.0.0.1", "--port", port),
        *("--served-model-name", "tuned", "--generation-config", "vllm"),
        *("--tensor-parallel-size", "2", "--data-parallel-size", "4"),
        *("--max-model-len", "4096"),
    ]
    environment = json.loads((here / "environment").read_text())
    assert environment == {
        "VLLM_API_KEY": server.key,
        "VLLM_NO_USAGE_STATS": "1",
        "TIMBERKIT_API_KEY": None,
        "OPENAI_API_KEY": None,
    }
    assert server.key not in " ".join(arguments)
    assert "loading weights" in (tmp_path / "servers/tuned.log").read_text()
    assert all_gone(pids(here))


def test_a_server_that_ends_at_once_is_reported_with_the_end_of_its_log(
    tmp_path: Path, stand_in: Callable[[str], Path]
) -> None:
    here = stand_in("exits")
    with (
        pytest.raises(InputError, match="exit code 7") as caught,
        vllm_server(tmp_path, "tuned", options(tmp_path)),
    ):
        pytest.fail("it never was ready")
    assert "CUDA error: no device" in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert all_gone(pids(here)), "its worker too"


def test_a_server_that_is_never_ready_is_given_up_and_stopped(
    tmp_path: Path, stand_in: Callable[[str], Path]
) -> None:
    here = stand_in("never ready")
    with (
        pytest.raises(InputError, match=r"not ready after 1 s.*\n.*loading weights"),
        vllm_server(tmp_path, "tuned", options(tmp_path, start_seconds=1)),
    ):
        pytest.fail("it never was ready")
    assert all_gone(pids(here))


def test_a_server_that_dies_in_the_middle_says_so(
    tmp_path: Path, stand_in: Callable[[str], Path]
) -> None:
    here = stand_in("good")
    with vllm_server(tmp_path, "tuned", options(tmp_path)) as server:
        os.kill(pids(here)[0], signal.SIGKILL)
        assert _death(server) is not None
        assert "exit code 137" in str(_death(server))
    assert all_gone(pids(here))


def _death(server: StartedServer) -> InterruptedRunError | None:
    deadline = time.monotonic() + 10
    while server.why_dead() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return server.why_dead()


def test_a_server_that_ignores_sigterm_is_killed(
    tmp_path: Path, stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "GRACE_SECONDS", 0.5)
    here = stand_in("stubborn")
    with vllm_server(tmp_path, "tuned", options(tmp_path)):
        pass
    assert all_gone(pids(here))


def test_an_error_in_the_block_stops_it_too(
    tmp_path: Path, stand_in: Callable[[str], Path]
) -> None:
    here = stand_in("good")
    with pytest.raises(KeyboardInterrupt), vllm_server(tmp_path, "tuned", options(tmp_path)):
        raise KeyboardInterrupt
    assert all_gone(pids(here))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_however_the_run_ends_the_server_ends(
    tmp_path: Path, stand_in: Callable[[str], Path], number: signal.Signals
) -> None:
    here = stand_in("good")
    program = (
        "import pathlib, time\n"
        "from timberkit.evaluation.vllm_server import VllmOptions, vllm_server\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "with vllm_server(folder, 'tuned', VllmOptions(folder / 'servers')):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"ready\n"
        assert not any(map(gone, pids(here)))
        run.send_signal(number)
        run.wait(timeout=30)
    assert all_gone(pids(here))


def test_a_slow_start_is_told_of(
    tmp_path: Path, stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "FIRST_NOTICE_SECONDS", 0.1)
    stand_in("never ready")
    notices: list[str] = []
    given = options(tmp_path, start_seconds=1.5, notify=notices.append)
    with pytest.raises(InputError), vllm_server(tmp_path, "tuned", given):
        pytest.fail("it never was ready")
    assert 2 <= len(notices) <= 5
    assert "has been starting for" in notices[0]


def test_without_vllm_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(UsageError, match="pip install vllm"),
        vllm_server(tmp_path, "tuned", options(tmp_path)),
    ):
        pytest.fail("there is none")


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--host=0.0.0.0", "--host is set by timberkit"),
        ("--served_model_name", "is set by timberkit"),
        ("--api-key", "is set by timberkit"),
        ("--trust-remote-code", "runs code"),
        ("--trust_remote_code=True", "runs code"),
    ],
)
def test_arguments_that_would_undo_what_is_promised_are_refused(
    tmp_path: Path, stand_in: Callable[[str], Path], argument: str, says: str
) -> None:
    stand_in("good")
    given = options(tmp_path, arguments=(argument,))
    with pytest.raises(UsageError, match=says), vllm_server(tmp_path, "tuned", given):
        pytest.fail("it was started")


def test_the_end_of_a_huge_log_is_read_quickly_and_is_fit_for_a_terminal(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 50_000_000 + b"\n\x1b[2Jlast\xff\n\n")
    assert log_tail(log, lines=1) == " [2Jlast\ufffd"
    assert len(log_tail(log)) < 500
    assert log_tail(tmp_path / "none") == "(no log)"
