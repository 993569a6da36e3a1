"""What runs inside the sandbox: take the limits on, change the user, run the program, prove it.

Started by ``timberkit.evaluation.sandbox`` with ``python -I -S`` and this file's text; only the
standard library is there. Two pipes lead out: from the first come a line of JSON (settings), the
program, and then the nonce, which is not read before the program has ended; into the second goes
the nonce, or a line that says what went wrong. Standard output and error lead nowhere.

A program that ends the process, whatever its exit code, never gets to the nonce. One written
against this very file could still read the nonce from the pipe and send it: tests in one process
with what they test can always be deceived by code that knows them.
"""

from __future__ import annotations

import json
import os
import resource
import sys


def main(instructions: int, results: int) -> None:
    """Run the program that arrives on ``instructions``; report on ``results``; never return."""
    read, write, leave = os.read, os.write, os._exit
    settings = json.loads(_line(instructions))
    program = _exactly(instructions, settings["bytes"])
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    _limit(settings)
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "program"})
    except BaseException as error:
        write(results, f"!{type(error).__name__}: {str(error)[:500]}".encode(errors="replace"))
        leave(1)
    write(results, read(instructions, 256))
    leave(0)


def _limit(settings: dict[str, int]) -> None:
    """Limits first, then the user, for the limit on processes binds every user but root."""
    for what, most in (
        (resource.RLIMIT_CPU, settings["cpu_seconds"]),
        (resource.RLIMIT_AS, settings["memory_bytes"]),
        (resource.RLIMIT_FSIZE, settings["file_bytes"]),
        (resource.RLIMIT_NPROC, settings["processes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (bound, bound))
    if settings["user"]:
        os.setgroups([])
        os.setgid(settings["user"])
        os.setuid(settings["user"])
    sys.setrecursionlimit(10_000)


def _line(pipe: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += _exactly(pipe, 1)
    return line


def _exactly(pipe: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(pipe, min(count, 65536))
        if not part:
            os._exit(3)
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
