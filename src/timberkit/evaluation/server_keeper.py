"""Runs a server, and ends it with all it started as soon as its own input ends.

    python -I -S server_keeper.py GRACE_SECONDS COMMAND [ARGUMENT ...]

The process that wants the server holds the other end of the input. However that process dies, the
pipe closes, and nothing of the server stays behind on the GPU: its group gets SIGTERM, and SIGKILL
after a grace. Where the server ends by itself, this ends with its exit code. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading


def main(arguments: list[str]) -> int:
    """Run the command until it or the input ends."""
    grace_seconds, command = float(arguments[0]), arguments[1:]
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_keeper
    )
    wanted = threading.Event()

    def read_to_end() -> None:
        while os.read(0, 4096):
            pass
        wanted.set()
        _signal_group(server.pid, signal.SIGTERM)

    threading.Thread(target=read_to_end, daemon=True).start()
    while True:
        try:
            server.wait(timeout=grace_seconds if wanted.is_set() else 0.2)
        except subprocess.TimeoutExpired:
            if not wanted.is_set():
                continue
            _signal_group(server.pid, signal.SIGKILL)
            server.wait()
        # What the server started may outlive it.
        _signal_group(server.pid, signal.SIGKILL)
        code = server.returncode
        return 128 - code if code < 0 else code


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _die_with_keeper() -> None:
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
