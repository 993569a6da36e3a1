"""Code from models, run in a cage: bubblewrap, limits, another user, and a nonce as the proof.

    run_program("assert 1 + 1 == 2").passed

Inside there is no network, no home, no ``/proc``; the system is ``/usr`` and Python's own folder,
read-only; the only place to write is a private ``/tmp`` of bounded size. Time, CPU, memory, file
size and the number of processes are limited. The limit on processes does not bind root, so under
root the program runs as a user of its own that nobody else is. Calls to the kernel that lead around
all this are refused (``sandbox_filter``). Exit codes prove nothing (``os._exit(0)``); what counts
is a nonce that is sent back after the last line of the program.

Without bubblewrap (Debian: ``apt-get install bubblewrap``) nothing is run, unless the caller says
``unsandboxed=True``: then only the limits and the nonce remain.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO

from timberkit.errors import ResourceError, UsageError
from timberkit.evaluation.pipes import receive_some, send_all
from timberkit.evaluation.sandbox_filter import seccomp_filter

_MOST_REPORT_BYTES = 4096
_FIRST_USER, _USERS = 1_000_000_000, 900_000_000
_PROGRAM = Path(__file__).with_name("sandbox_program.py")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use. ``processes`` counts threads, and bubblewrap's own where not root."""

    seconds: float = 10.0
    cpu_seconds: int = 8
    memory_bytes: int = 1 << 30
    file_bytes: int = 16 << 20
    folder_bytes: int = 32 << 20
    processes: int = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a program; ``reason`` is empty where it ran to its end without an error."""

    passed: bool
    reason: str
    seconds: float


def require_sandbox() -> None:
    """Raise where programs cannot be caged on this machine, saying what to do.

    UsageError without bubblewrap; ResourceError where it is there but may not work here. Runs a
    trivial program the first time, about 0.1 s; the answer is remembered.
    """
    failure = _why_not()
    if failure is not None:
        raise failure


def run_program(
    program: str, *, limits: Limits | None = None, unsandboxed: bool = False
) -> Outcome:
    """Run a Python program to its end in the sandbox.

    ``program``: source text; it passes when its last line has run and no exception got out.
    ``unsandboxed``: run it without bubblewrap; the caller answers for what it does.
    Returns within ``limits.seconds`` and a moment; everything the program started is dead then.
    Raises UsageError or ResourceError as ``require_sandbox`` does, and runs nothing. A start costs
    about 0.1 s.
    """
    if not unsandboxed:
        require_sandbox()
    return _run(program, limits or Limits(), caged=not unsandboxed)


@functools.cache
def _why_not() -> UsageError | ResourceError | None:
    if shutil.which("bwrap") is None:
        return UsageError(
            "bwrap: not found, and code from models is not run outside a sandbox; install it"
            " (Debian: apt-get install bubblewrap), or say that you want it unsandboxed"
        )
    outcome = _run("assert 1 + 1 == 2", Limits(seconds=30), caged=True)
    if not outcome.passed:
        return ResourceError(
            f"bwrap: cannot make a sandbox here ({outcome.reason}); containers often forbid"
            " namespaces: allow them (CAP_SYS_ADMIN, or unprivileged user namespaces), or say that"
            " you want code from models to run unsandboxed"
        )
    return None


def _run(program: str, limits: Limits, *, caged: bool) -> Outcome:
    started = time.monotonic()
    nonce = secrets.token_hex(32).encode()
    code = program.encode(errors="replace")
    user = _FIRST_USER + secrets.randbelow(_USERS) if caged and os.geteuid() == 0 else 0
    settings = {
        "bytes": len(code),
        "cpu_seconds": limits.cpu_seconds,
        "memory_bytes": limits.memory_bytes,
        "file_bytes": limits.file_bytes,
        # Outside a namespace of its own the limit counts all that the user runs on this machine.
        "processes": limits.processes if caged else 4096,
        "user": user,
    }
    header = json.dumps(settings).encode() + b"\n"
    with (
        tempfile.TemporaryDirectory(prefix="timberkit-") as folder,
        tempfile.TemporaryFile() as complaints,
        tempfile.TemporaryFile() as calls,
        contextlib.ExitStack() as pipes,
    ):
        instructions, to_program = _pipe(pipes)
        from_program, results = _pipe(pipes)
        filtered = _filtered(calls) if caged else []
        process = subprocess.Popen(
            [
                *(_caged(limits, user, filtered) if caged else [sys.executable]),
                *("-I", "-S", "-c", _PROGRAM.read_text(encoding="utf-8")),
                *(str(instructions.fileno()), str(results.fileno())),
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaints,  # of bubblewrap and of Python; the program's own go nowhere
            pass_fds=(instructions.fileno(), results.fileno(), calls.fileno()),
            start_new_session=True,
            env=None if caged else {"PATH": os.defpath},
        )
        instructions.close()
        results.close()
        deadline = started + limits.seconds
        try:
            with contextlib.suppress(TimeoutError, BrokenPipeError):
                send_all(to_program.fileno(), header + code + nonce, deadline)
            report = _receive(from_program, deadline)
        finally:
            _end(process)
            _wait_for_the_last(from_program)
        if report == nonce:
            return Outcome(True, "", time.monotonic() - started)
        complaints.seek(0)
        said = complaints.read(_MOST_REPORT_BYTES).decode(errors="replace").strip()
    reason = said or _reason(report, timed_out=time.monotonic() >= deadline)
    return Outcome(False, reason, time.monotonic() - started)


def _filtered(file: IO[bytes]) -> list[str]:
    """Flags of bubblewrap for the filter of calls, which is put into the file."""
    found = seccomp_filter()
    if found is None:
        return []
    file.write(found)
    file.flush()
    file.seek(0)
    return ["--seccomp", str(file.fileno())]


def _caged(limits: Limits, user: int, filtered: list[str]) -> list[str]:
    """The command up to Python's own arguments."""
    home = Path(sys.base_prefix)
    inside = home if home.is_relative_to("/usr") else Path("/python")
    command = ["bwrap", "--die-with-parent", "--new-session", "--clearenv", *filtered]
    if user:  # with a user namespace, no user but this one could be taken on
        command += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
        command += ["--unshare-cgroup-try", "--cap-drop", "ALL"]
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-all"]
    command += ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "lib", "lib32", "lib64"):
        outside = Path("/", name)
        if outside.is_symlink():
            command += ["--symlink", os.readlink(outside), f"/{name}"]
        elif outside.is_dir():
            command += ["--ro-bind", f"/{name}", f"/{name}"]
    command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    if inside != home:
        command += ["--ro-bind", str(home), str(inside)]
        command += ["--setenv", "LD_LIBRARY_PATH", str(inside / "lib")]
    command += ["--dev", "/dev", "--perms", "1777", "--size", str(limits.folder_bytes)]
    command += ["--tmpfs", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [*command, "--", str(inside / "bin" / version)]


def _pipe(owner: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    """The reading and the writing end of a pipe, closed with their owner at the latest."""
    read, write = os.pipe()
    return owner.enter_context(FileIO(read, "r")), owner.enter_context(FileIO(write, "w"))


def _receive(pipe: FileIO, deadline: float) -> bytes:
    """All that is reported before the deadline, up to a bound."""
    report = b""
    with contextlib.suppress(TimeoutError):
        while len(report) < _MOST_REPORT_BYTES:
            part = receive_some(pipe.fileno(), _MOST_REPORT_BYTES, deadline)
            if not part:
                break
            report += part
    return report


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the session; with bubblewrap's first process its whole world of processes dies."""
    # What has ended is not reaped yet, so its number belongs to nobody else.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_for_the_last(pipe: FileIO) -> None:
    """Until nobody holds the other end; the kernel takes a moment to end a world of processes."""
    deadline = time.monotonic() + 5.0
    with contextlib.suppress(TimeoutError):
        while receive_some(pipe.fileno(), 65536, deadline):
            pass


def _reason(report: bytes, *, timed_out: bool) -> str:
    if timed_out:
        return "timed out"
    if report.startswith(b"!"):
        return report[1:].decode(errors="replace")
    if report:
        return "something else than the nonce was sent"
    return "ended without reaching its last line"
