"""Ways out of the sandbox, each tried by a program that says what it got."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from timberkit.errors import ResourceError, UsageError
from timberkit.evaluation.sandbox import Limits, Outcome, require_sandbox, run_program
from timberkit.evaluation.sandbox_filter import MACHINES, seccomp_filter


def _usable() -> str:
    try:
        require_sandbox()
    except (UsageError, ResourceError) as error:
        return str(error)
    return ""


needs_cage = pytest.mark.skipif(bool(_usable()), reason=_usable())
needs_filter = pytest.mark.skipif(
    bool(_usable()) or platform.machine() != "x86_64", reason="calls by their numbers on x86_64"
)
QUICK = Limits(seconds=4, cpu_seconds=2)
CALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(*numbers):
    ctypes.set_errno(0)
    found = libc.syscall(*numbers)
    return "ok" if found != -1 else os.strerror(ctypes.get_errno())
"""


def said(program: str, *, limits: Limits = QUICK) -> str:
    """What a program raises as ValueError."""
    outcome = run_program(program, limits=limits)
    assert not outcome.passed
    assert outcome.reason.startswith("ValueError: "), outcome
    return outcome.reason.removeprefix("ValueError: ")


@pytest.fixture
def neighbour() -> Iterator[psutil.Process]:
    """A process of the same user outside, which must live on."""
    process = subprocess.Popen(["sleep", "60"])
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


@needs_cage
def test_other_processes_are_out_of_sight_and_reach(neighbour: psutil.Process) -> None:
    program = f"""
import os, signal
found = [os.path.exists("/proc/self"), os.path.exists("/sys/kernel")]
for process in (1, os.getppid(), {os.getpid()}, {neighbour.pid}, -1):
    try: os.kill(process, signal.SIGKILL)
    except OSError as error: found.append(error.errno in (1, 3))
    else: found.append(process)
raise ValueError(found)
"""
    found = said(program)
    # A number may be that of the program itself, or of its parent's, inside.
    assert found in ("[False, False, True, True, True, True, True]",)
    assert neighbour.is_running()
    assert neighbour.status() != psutil.STATUS_ZOMBIE


@needs_filter
@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        ("ptrace of the parent", "101, 16, os.getppid(), 0, 0"),
        ("ptrace of the first", "101, 16, 1, 0, 0"),
        ("reading another's memory", "310, os.getppid(), 0, 0, 0, 0, 0"),
        ("mount", "165, b'none', b'/tmp', b'tmpfs', 0, 0"),
        ("unmount", "166, b'/tmp', 2"),
        ("the new mounts", "430, b'tmpfs', 0"),
        ("a user namespace", "272, 0x10000000"),
        ("a user namespace by clone", "56, 0x10000000 | 17, 0, 0, 0, 0"),
        ("clone3", "435, 0, 0"),
        ("another root", "161, b'/tmp'"),
        ("the session's keyring", "250, 0, -3, 0"),
        ("a new key", "248, b'user', b'name', b'value', 5, -3"),
        ("a key by its name", "249, b'user', b'timberkit-canary', 0, -3"),
        ("System V memory", "29, 0, 1 << 28, 0o1777"),
        ("memory without a file", "319, b'name', 0"),
        ("secret memory", "447, 0"),
        ("a socket to the host", "41, 40, 1, 0"),
        ("a socket on this machine", "41, 1, 1, 0"),
        ("BPF", "321, 0, 0, 0"),
        ("performance counters", "298, 0, 0, -1, -1, 0"),
        ("io_uring", "425, 4, 0"),
        ("page faults", "323, 0"),
        ("a call of the x32 ABI", "0x40000000 + 39"),
    ],
)
def test_the_kernel_refuses_what_leads_around_the_walls(what: str, arguments: str) -> None:
    missing = "Function not implemented"
    expected = missing if what == "clone3" else "Operation not permitted"
    assert said(f"{CALL}\nraise ValueError(call({arguments}))") == expected


@needs_cage
def test_no_right_of_root_and_none_by_a_program_that_grants_it() -> None:
    program = f"""{CALL}
import subprocess
granted = []
for name in ("su", "mount", "umount", "passwd", "chsh", "newgrp", "sudo", "pkexec"):
    path = f"/usr/bin/{{name}}"
    if os.path.exists(path) and os.stat(path).st_mode & 0o4000:
        found = subprocess.run(
            ["/bin/sh", "-c", f"{{path}} --version >/dev/null 2>&1; id -u"], capture_output=True
        )
        granted.append(found.stdout.strip() == b"0")
raise ValueError(libc.prctl(39, 0, 0, 0, 0), any(granted), os.getgroups() == [], os.geteuid() > 0)
"""
    limits = Limits(seconds=8, cpu_seconds=4, processes=16)
    found = said(program, limits=limits)
    assert re.fullmatch(r"\(1, False, (True, True|False, True)\)", found), found
    if os.geteuid() == 0:
        assert found == "(1, False, True, True)"


@needs_cage
def test_links_lead_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("birch")
    program = f"""
import os
found = []
for place in ({str(secret)!r}, "/root/.ssh", "/home", "/etc/shadow", "/proc/1/root", "../../etc"):
    os.path.lexists("/tmp/link") and os.remove("/tmp/link")
    os.symlink(place, "/tmp/link")
    try: found.append(os.listdir("/tmp/link") if os.path.isdir("/tmp/link") else open("/tmp/link"))
    except OSError: pass
for old, new in (("/usr/bin/env", "/tmp/env"), ("/usr/lib/os-release", "/tmp/release")):
    try: os.link(old, new)
    except OSError: continue
    found.append(new)
raise ValueError(found)
"""
    assert said(program) == "[]"
    assert secret.read_text() == "birch"


@needs_cage
def test_no_daemon_stays_behind() -> None:
    program = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for descriptor in range(64):
            try: os.close(descriptor)
            except OSError: pass
        time.sleep(47.375)
    os._exit(0)
os.wait()
"""
    before = {process.pid for process in psutil.process_iter()}
    started = time.monotonic()
    run_program(program, limits=Limits(seconds=6, processes=8))
    assert time.monotonic() - started < 12
    deadline = time.monotonic() + 10
    while (left := _python_after(before)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def _python_after(before: set[int]) -> list[int]:
    """Processes begun since that run the program of the sandbox."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = " ".join(process.info["cmdline"] or ())
        if process.info["pid"] not in before and "What runs inside the sandbox" in command:
            found.append(process.info["pid"])
    return found


@needs_cage
def test_memory_is_bounded_whoever_holds_it() -> None:
    program = """
import os
held = 0
for number in range(4):
    for take in (
        lambda: os.memfd_create("m"), lambda: os.open(f"/dev/shm/{number}", os.O_CREAT | os.O_RDWR)
    ):
        try: held += bool(take())
        except OSError: pass
raise ValueError(held)
"""
    assert said(program) == "0"


@needs_cage
def test_the_environment_of_the_user_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "canary-value")
    program = "import os\nraise ValueError('canary' in str(dict(os.environ)), os.getcwd())"
    assert said(program) == "(False, '/tmp')"


@needs_filter
def test_a_key_of_the_session_stays_out_of_reach(tmp_path: Path) -> None:
    """The same program finds the key outside, so that the refusal inside says something."""
    code = f"""
import ctypes, sys
libc = ctypes.CDLL(None)
joined = libc.syscall(250, 1, b"timberkit-test")
added = libc.syscall(248, b"user", b"timberkit-canary", b"secret", 6, -3)
if joined == -1 or added == -1 or libc.syscall(250, 10, -3, b"user", b"timberkit-canary", 0) == -1:
    sys.exit(7)
from timberkit.evaluation.sandbox import run_program
program = {CALL!r} + "raise ValueError(call(250, 10, -3, b'user', b'timberkit-canary', 0))"
print(run_program(program).reason)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    if done.returncode == 7:
        pytest.skip("this machine lets nobody have keyrings")
    assert done.stdout.strip() == "ValueError: Operation not permitted", done


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_the_numbers_of_the_calls_are_those_of_the_kernels_headers(name: str) -> None:
    headers = {
        "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
        "aarch64": "/usr/include/asm-generic/unistd.h",
    }
    path = Path(headers[name])
    if not path.exists():
        pytest.skip(f"{path} is not here (Debian: linux-libc-dev)")
    known = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text()))
    machine = MACHINES[name]
    for call, number in {**machine.denied, "clone": machine.clone, "clone3": 435}.items():
        if call in known:
            assert int(known[call]) == number, call
    assert len(set(machine.denied) & set(known)) > 40


def test_a_filter_jumps_only_inside_itself() -> None:
    for name in MACHINES:
        program = seccomp_filter(name)
        assert program is not None
        count = len(program) // 8
        for place in range(count):
            _, yes, no, _ = _instruction(program, place)
            assert place + 1 + max(yes, no) < count or place == count - 1


def _instruction(program: bytes, place: int) -> tuple[int, int, int, int]:
    piece = program[8 * place : 8 * place + 8]
    code = int.from_bytes(piece[:2], sys.byteorder)
    return code, piece[2], piece[3], int.from_bytes(piece[4:], sys.byteorder)


def test_humaneval_refuses_to_run_where_there_is_no_sandbox(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from timberkit.evaluation import sandbox
    from timberkit.evaluation.tasks.humaneval import HumanEval

    monkeypatch.setattr(shutil, "which", lambda *_: None)
    sandbox._why_not.cache_clear()
    harmed = tmp_path / "harmed"
    try:
        task = HumanEval()
        with pytest.raises(UsageError, match="bwrap: not found"):
            task.check_ready()
        with pytest.raises(UsageError, match="bwrap: not found"):
            run_program(f"open({str(harmed)!r}, 'w')")
    finally:
        sandbox._why_not.cache_clear()
    assert not harmed.exists()


def _outcome_of(program: str) -> Outcome:
    return run_program(program, limits=Limits(seconds=1.5))


@needs_cage
def test_stopping_itself_or_its_time_does_not_hold_the_run_up() -> None:
    started = time.monotonic()
    assert not _outcome_of(f"import os\nos.kill(os.getpid(), {int(signal.SIGSTOP)})").passed
    assert not _outcome_of("import signal, time\nsignal.alarm(0)\ntime.sleep(99)").passed
    assert time.monotonic() - started < 2 * 1.5 + 4
