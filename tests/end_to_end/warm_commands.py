"""A process that has imported everything and forks one ``python -m timberkit`` for each command.

Importing torch takes seconds, a small refinement a tenth of one, and these tests run a hundred
commands. Each command is still a process of its own: it is killed, gets signals, has its own
standard streams, and its exit code is what the kernel says. Only the interpreter's tidying up is
left out. One JSON object a line, in and out:

    {"args": ["refine", …], "cwd": …, "environment": {…}, "stdout": path, "stderr": path}
                       ->  {"pid": …}
    {"poll": pid}  ->  {"exit_code": null while it runs; negative for the signal that ended it}
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import sys
from contextlib import suppress
from typing import Any

COMMANDS = (
    *("cli", "terminal", "checkpoint.stage", "engine.estimate", "engine.run", "engine.verify"),
    *("study.analysis", "evaluation.run", "evaluation.server_model", "terminal_eval"),
    *("study.compare", "terminal_compare", "engine.diff", "terminal_diff"),
)
# What the commands import only where they need it, and many do.
LIBRARIES = (
    *("jinja2", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "pandas"),
    *("plotly.offline", "transformers.models.llama.modeling_llama"),
)


def redirect(descriptor: int, path: str, flags: int) -> None:
    """Give this process another file as one of its standard streams."""
    opened = os.open(path, flags, 0o644)
    os.dup2(opened, descriptor)
    os.close(opened)


def become(order: dict[str, Any]) -> None:
    """In the forked process: be ``python -m timberkit ARGS`` and end as it ends."""
    os.setsid()
    redirect(0, os.devnull, os.O_RDONLY)
    redirect(1, order["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    redirect(2, order["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.chdir(order["cwd"])
    os.environ.update(order["environment"])
    sys.argv = ["timberkit", *order["args"]]
    try:
        runpy.run_module("timberkit", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(ended.code or 0))


def exit_code(pid: int) -> int | None:
    """Exit code of a command that has ended, None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def warm() -> None:
    """Import everything, and read what a library would read once in every process."""
    gc.disable()
    for name in COMMANDS:
        importlib.import_module(f"timberkit.{name}")
    for name in LIBRARIES:
        with suppress(ImportError):  # a command that needs it says so itself
            importlib.import_module(name)
    with suppress(ImportError):
        from inspect_ai.model import get_model_info

        get_model_info("none/none")  # a list of all models there are


def serve() -> None:
    """Answer orders until standard input ends."""
    warm()
    gc.freeze()  # what is imported is shared by all commands: theirs is the smaller heap to tidy up
    gc.enable()
    while line := sys.stdin.readline():
        order = json.loads(line)
        if "poll" in order:
            print(json.dumps({"exit_code": exit_code(order["poll"])}), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            become(order)
            return
        print(json.dumps({"pid": pid}), flush=True)


if __name__ == "__main__":
    serve()
