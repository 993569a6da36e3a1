"""Programs that mean harm: none passes, none gets out, none lives on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from timberkit.errors import ResourceError, UsageError
from timberkit.evaluation import sandbox
from timberkit.evaluation.sandbox import Limits, require_sandbox, run_program


def _usable() -> str:
    try:
        require_sandbox()
    except (UsageError, ResourceError) as error:
        return str(error)
    return ""


needs_cage = pytest.mark.skipif(bool(_usable()), reason=_usable())
FLOOD = """
import os
while True:
    for pipe in range(3, 8):
        try: os.write(pipe, bytes(9999))
        except OSError: pass
"""
DEAF = """
import signal
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
"""
QUICK = Limits(seconds=5, cpu_seconds=2)


@needs_cage
def test_a_program_that_reaches_its_end_passes() -> None:
    outcome = run_program("import math, typing\nassert math.isclose(0.1 + 0.2, 0.3)\n")
    assert outcome.passed
    assert outcome.reason == ""
    assert outcome.seconds < 10


@needs_cage
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2, 'they differ'", "AssertionError: they differ"),
        ("def f(:", "SyntaxError"),
        ("x = 1\x00", "SyntaxError|ValueError"),
        ("import numpy", "ModuleNotFoundError"),
        ("def f(): f()\nf()", "RecursionError|without reaching"),
        ("raise BaseException('\\ud800')", "BaseException"),
    ],
)
def test_a_program_with_an_error_fails_and_says_which(program: str, reason: str) -> None:
    outcome = run_program(program, limits=QUICK)
    assert not outcome.passed
    assert any(part in outcome.reason for part in reason.split("|")), outcome


@needs_cage
@pytest.mark.parametrize(
    "program",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "raise SystemExit",
        "quit()",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os\nprint('0' * 64)\nos.write(1, b'a' * 64)\nos._exit(0)",
        # The shape of a nonce on every descriptor there is, then a clean exit.
        "import os\nfor pipe in range(64):\n    try: os.write(pipe, b'a' * 64)\n"
        "    except OSError: pass\nos._exit(0)",
        "import os\nfor pipe in range(3, 64):\n    try: os.write(pipe, b'')\n"
        "    except OSError: pass\nos._exit(0)",
        # Nothing that is sent before the end helps, not even if the end is then reached.
        "import os\nfor pipe in range(64):\n    try: os.write(pipe, b'a' * 64)\n"
        "    except OSError: pass\n",
        "import os\nfor pipe in range(64):\n    try: os.close(pipe)\n    except OSError: pass\n",
        # Deceives what is imported later, but not what was kept before.
        "import os\nos.read = lambda *_: b'a' * 64\nassert 1 == 2",
        "import builtins\nbuiltins.AssertionError = None\nassert 1 == 2",
    ],
)
def test_success_cannot_be_forged_by_ending_or_printing(program: str) -> None:
    assert not run_program(program, limits=QUICK).passed


@needs_cage
def test_there_is_no_network_not_even_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for call in (
            "create_connection(('1.1.1.1', 53), 2)",
            f"create_connection(('127.0.0.1', {port}), 2)",
            "getaddrinfo('example.org', 80)",
        ):
            outcome = run_program(f"import socket\nsocket.{call}\n", limits=QUICK)
            assert not outcome.passed
            assert "rror: [Errno" in outcome.reason


@needs_cage
def test_nothing_outside_can_be_written_or_seen(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("birch")
    places = [str(secret), "/usr/x", "/etc/x", "/root/x", "/home/x", "/x", "/dev/x", "/dev/shm/x"]
    places += [f"{sys.base_prefix}/x", "/python/x", "/proc/x", "/var/tmp/x"]
    for place in places:
        program = f"open({place!r}, 'w').write('x')"
        assert not run_program(program, limits=QUICK).passed, place
    assert secret.read_text() == "birch"
    assert not run_program(f"open({str(secret)!r}).read()", limits=QUICK).passed
    known = {"PWD", "LC_CTYPE", "LD_LIBRARY_PATH"}
    program = f"import os\nassert set(os.environ) <= {known}, dict(os.environ)\n"
    assert run_program(program, limits=QUICK).passed
    assert not Path("/tmp/timberkit-escape").exists()
    assert run_program("open('/tmp/timberkit-escape', 'w').write('x')", limits=QUICK).passed
    assert not Path("/tmp/timberkit-escape").exists()


@needs_cage
def test_the_program_is_not_root_and_cannot_become_it() -> None:
    program = (
        "import os\nassert os.getuid() == os.geteuid() != 0\n"
        "try: os.setuid(0)\nexcept OSError: pass\nelse: raise ValueError('root')\n"
    )
    outcome = run_program(program, limits=QUICK)
    assert outcome.passed, outcome


@needs_cage
def test_a_fork_bomb_is_bounded_and_leaves_nothing() -> None:
    program = (
        "import os, time\nchildren = 0\nwhile children < 500:\n"
        "    try: child = os.fork()\n    except OSError: break\n"
        "    if child == 0: time.sleep(30); os._exit(0)\n    children += 1\n"
        "raise ValueError(f'{children} children')\n"
    )
    outcome = run_program(program, limits=QUICK)
    assert not outcome.passed
    assert outcome.seconds < 10
    most = Limits().processes
    assert outcome.reason in [f"ValueError: {count} children" for count in range(most)], outcome
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    assert not run_program(bomb, limits=Limits(seconds=2, cpu_seconds=1)).passed


@needs_cage
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("x = bytearray(4 << 30)", "MemoryError"),
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", "MemoryError"),
        ("with open('/tmp/x', 'wb') as f:\n    for _ in range(64): f.write(bytes(1 << 20))", ""),
        ("for n in range(64):\n    open(f'/tmp/{n}', 'wb').write(bytes(1 << 20))", "OSError"),
        ("while True: pass", ""),
        ("import time; time.sleep(60)", "timed out"),
        ("while True: print('x' * 1000)", ""),
        (FLOOD, ""),
        (DEAF, ""),
        ("x = 10 ** 10 ** 10", ""),
    ],
)
def test_memory_disk_time_and_output_are_bounded(program: str, reason: str) -> None:
    seconds = 1 if reason == "timed out" else 3
    limits = Limits(seconds=seconds, cpu_seconds=1, memory_bytes=256 << 20)
    outcome = run_program(program, limits=limits)
    assert not outcome.passed
    assert outcome.seconds < 9
    assert reason in outcome.reason, outcome


@needs_cage
def test_many_threads_can_use_it_at_a_time() -> None:
    outcomes: list[bool] = []

    def run() -> None:
        outcomes.append(run_program("assert sorted([2, 1]) == [1, 2]").passed)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 8


@needs_cage
def test_no_process_outlives_a_killed_parent() -> None:
    code = (
        "from timberkit.evaluation.sandbox import run_program, Limits\nprint('on', flush=True)\n"
        "run_program('import time; time.sleep(45.125)', limits=Limits(seconds=45))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        parent.stdout.readline()
        assert _until(lambda: _bubblewraps_of(parent.pid) != [])
        children = _bubblewraps_of(parent.pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert _until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def _bubblewraps_of(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    named = [(int(pid), Path(f"/proc/{pid}/comm")) for pid in children]
    return [pid for pid, name in named if name.exists() and name.read_text().strip() == "bwrap"]


def _until(condition: object) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_without_bubblewrap_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    sandbox._why_not.cache_clear()
    try:
        with pytest.raises(UsageError, match=r"bwrap: not found.*apt-get install bubblewrap"):
            run_program("raise SystemError('was run')")
    finally:
        sandbox._why_not.cache_clear()


def test_a_bubblewrap_that_may_not_work_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bwrap = tmp_path / "bwrap"
    bwrap.write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"
    )
    bwrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    sandbox._why_not.cache_clear()
    try:
        with pytest.raises(ResourceError, match="No permissions to create new namespace"):
            run_program("pass")
    finally:
        sandbox._why_not.cache_clear()


def test_unsandboxed_only_when_told_so_and_still_with_limits_and_nonce() -> None:
    assert run_program("assert 1 + 1 == 2", unsandboxed=True).passed
    assert not run_program("import os; os._exit(0)", unsandboxed=True).passed
    slept = run_program("import time; time.sleep(60)", limits=Limits(seconds=1), unsandboxed=True)
    assert slept.reason == "timed out"
    much = run_program("x = bytearray(4 << 30)", limits=QUICK, unsandboxed=True)
    assert much.reason.startswith("MemoryError")
