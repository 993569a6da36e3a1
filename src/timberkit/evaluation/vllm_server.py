"""A vLLM server of our own: started for one model, on this machine only, and always stopped.

    with vllm_server(folder, "refined", options) as server:
        find_server(server.source, key=server.key)

It listens on 127.0.0.1 and asks for a key that is made for this run; its log is a file in the run
folder. It is told not to apply the sampling of ``generation_config.json`` by itself, so that what
is not sent is off. However this process ends, the server ends with it (``server_keeper``).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from timberkit.errors import InputError, InterruptedRunError, UsageError
from timberkit.evaluation.models import ModelSource

OURS = ("--host", "--port", "--served-model-name", "--api-key", "--uds", "--generation-config")
"""Arguments of vLLM that are set here."""

GRACE_SECONDS = 20.0
"""How long the server may take to end by itself."""
FIRST_NOTICE_SECONDS = 15.0
"""A start that takes longer is told of, and again whenever it has taken twice as long."""
_KEEPER = Path(__file__).with_name("server_keeper.py")
_POLL_SECONDS = 0.25
_TAIL_LINES = 15
_TAIL_BYTES = 16384
_MOST_LINE = 200


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How the server is started; see ``BackendOptions``."""

    log_folder: Path
    tensor_parallel: int = 1
    data_parallel: int = 1
    arguments: tuple[str, ...] = ()
    start_seconds: float = 1800.0
    notify: Callable[[str], None] = print


@dataclass(frozen=True, slots=True)
class StartedServer:
    """A server that answers; ``why_dead`` gives the error to raise once it has ended."""

    source: ModelSource
    key: str = field(repr=False)
    why_dead: Callable[[], InterruptedRunError | None] = field(repr=False)


@contextmanager
def vllm_server(folder: Path, name: str, options: VllmOptions) -> Iterator[StartedServer]:
    """Start ``vllm serve`` on a folder, wait until it is healthy, stop it at the end.

    ``name``: under which it serves the model. Raises UsageError where vLLM is not installed or an
    argument is one that is set here, InputError where the server ends or is not ready in time, with
    the end of its log. Cost: minutes for a large model.
    """
    program = shutil.which("vllm")
    if program is None:
        raise UsageError(
            "vllm: not found on the PATH; install it (pip install vllm, on a machine with GPUs), or"
            " start a server yourself and give its address: NAME=http://HOST:PORT/v1"
        )
    _refuse_ours(options.arguments)
    options.log_folder.mkdir(parents=True, exist_ok=True)
    log = options.log_folder / f"{name}.log"
    port, key = _free_port(), secrets.token_hex(16)
    command = [program, *_arguments(folder, name, port, options)]
    with log.open("wb") as output:
        process = _start(command, key, output)
    try:
        _wait_until_healthy(process, port, name, log, options)
        address = f"http://127.0.0.1:{port}/v1"
        source = ModelSource(name, "server", address, None, name)
        yield StartedServer(source, key, lambda: _why_dead(process, name, log))
    finally:
        _stop(process)


def _refuse_ours(arguments: Sequence[str]) -> None:
    for argument in arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag in OURS:
            raise UsageError(f"--serve-args: {flag} is set by timberkit; leave it out")
        if flag == "--trust-remote-code":
            raise UsageError(
                "--serve-args: --trust-remote-code runs code that comes with a checkpoint; if you"
                " want that, start the server yourself and give its address"
            )


def _arguments(folder: Path, name: str, port: int, options: VllmOptions) -> list[str]:
    found = ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    found += ["--served-model-name", name, "--generation-config", "vllm"]
    if options.tensor_parallel > 1:
        found += ["--tensor-parallel-size", str(options.tensor_parallel)]
    if options.data_parallel > 1:
        found += ["--data-parallel-size", str(options.data_parallel)]
    return [*found, *options.arguments]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _start(command: list[str], key: str, output: BinaryIO) -> subprocess.Popen[bytes]:
    # The key stands in the environment, because everybody can read arguments.
    environment = {
        **os.environ,
        "VLLM_API_KEY": key,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    for name in ("TIMBERKIT_API_KEY", "OPENAI_API_KEY"):
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(_KEEPER), str(GRACE_SECONDS), *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is for this process, which then stops the server
        env=environment,
    )


def _wait_until_healthy(
    process: subprocess.Popen[bytes], port: int, name: str, log: Path, options: VllmOptions
) -> None:
    started = time.monotonic()
    told_after = FIRST_NOTICE_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        if _is_healthy(opener, port):
            return
        passed = time.monotonic() - started
        if process.poll() is not None:
            raise InputError(
                f"{name}: vllm ended with exit code {process.returncode} before it was ready; the"
                f" end of its log {log}:\n{log_tail(log)}"
            )
        if passed > options.start_seconds:
            raise InputError(
                f"{name}: vllm was not ready after {options.start_seconds:g} s; give it more time,"
                f" or look at the end of its log {log}:\n{log_tail(log)}"
            )
        if passed > told_after:
            last = log_tail(log, lines=1)
            options.notify(f"{name}: vllm has been starting for {passed:.0f} s: {last}")
            told_after *= 2
        time.sleep(_POLL_SECONDS)


def _is_healthy(opener: urllib.request.OpenerDirector, port: int) -> bool:
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:  # urllib's errors are of it
        return False


def _why_dead(process: subprocess.Popen[bytes], name: str, log: Path) -> InterruptedRunError | None:
    if process.poll() is None:
        return None
    return InterruptedRunError(
        f"{name}: the vllm server ended with exit code {process.returncode}; what was answered is"
        f" kept, and the same command continues; the end of its log {log}:\n{log_tail(log)}"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Close the keeper's input, wait until it has ended the server, and insist."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(timeout=GRACE_SECONDS + 10)
    except subprocess.TimeoutExpired:
        process.kill()  # the server's first process dies with it
        process.wait()


def log_tail(log: Path, *, lines: int = _TAIL_LINES) -> str:
    """The last lines of a log, fit for a terminal."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return "(no log)"
    found = [line for line in text.splitlines() if line.strip()][-lines:]
    shown = ("".join(c if c.isprintable() else " " for c in line)[:_MOST_LINE] for line in found)
    return "\n".join(shown) or "(the log is empty)"
