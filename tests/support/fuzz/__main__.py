"""Fuzz the parsers: replay the corpus, then mutate it, in a process of bounded memory each.

    PYTHONPATH=src:tests/support python -m fuzz --seconds 2
    PYTHONPATH=src:tests/support python -m fuzz --seconds 600 --findings build/fuzz eval-log

Prints one JSON line for each target: how many inputs were tried, how much memory they took, and
what went wrong. Hypothesis chooses and shrinks the changes. An input that ends the process (a crash
in a library, memory beyond the bound, no end within a time) is kept in ``--findings`` too, for it
is written there before it is tried. Exits 1 where anything was found.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from fuzz.mutations import mutated
from fuzz.targets import TARGETS, Target, exercise, memory_bytes, seeds_of

MOST_BYTES = 768 << 20
"""Address space that a parser may take besides what the imports took; no seed is above 100 KB."""
LONGEST_SECONDS = 20
"""Of one input."""
ROUND = 30
"""Mutations between two looks at the clock."""


def fuzz(name: str, seconds: float, seed: int, findings: Path) -> dict[str, Any]:
    """Try one target in this process; what is found is in the result and in ``findings``."""
    target, files = TARGETS[name], seeds_of(name)
    deadline = time.monotonic() + seconds
    tried = 0
    current = findings / f"{name}-current"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        target.make(folder)
        before = memory_bytes()
        limit = before["VmSize"] + MOST_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

        def one(suffix: str, data: bytes) -> None:
            nonlocal tried
            tried += 1
            for old in findings.glob(f"{current.name}.*"):
                old.unlink()
            current.with_suffix(suffix).write_bytes(data)
            faulthandler.dump_traceback_later(LONGEST_SECONDS, exit=True)
            try:
                exercise(target, folder, suffix, data)
            finally:
                faulthandler.cancel_dump_traceback_later()

        failure = _failure(lambda: [one(Path(n).suffix, data) for n, data in files.items()])
        failure = failure or _failure(lambda: _mutate(target, files, one, deadline, seed))
        after = memory_bytes()
    for left in findings.glob(f"{name}-current*"):
        if failure:
            left.replace(findings / f"{name}-finding{left.suffix}")
        else:
            left.unlink()
    grown = after["VmHWM"] - before["VmHWM"]
    return {"target": name, "tried": tried, "grown_bytes": grown, "failure": failure}


def _mutate(target: Target, files: dict[str, bytes], one: Any, deadline: float, seed: int) -> None:
    """Rounds of mutations until the time is over, one at least, each with a seed of its own."""
    by_suffix: dict[str, list[bytes]] = {}
    for name, data in files.items():
        by_suffix.setdefault(Path(name).suffix, []).append(data)
    inputs = st.one_of(
        *(st.tuples(st.just(suffix), mutated(each)) for suffix, each in by_suffix.items())
    )
    while True:

        @seeded(seed)
        @settings(
            max_examples=ROUND,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
        )
        @given(inputs)
        def test(found: tuple[str, bytes]) -> None:
            one(*found)

        test()
        seed += 1
        if time.monotonic() > deadline:
            return


def _failure(run: Any) -> str:
    try:
        run()
    except BaseException as error:
        told = traceback.format_exception(error, limit=-8)
        return "".join(f"{line[:300]}\n" for part in told for line in part.splitlines())[-6000:]
    return ""


def in_a_child(name: str, seconds: float, seed: int, findings: Path) -> dict[str, Any]:
    """Fork, fuzz, and read the result; a child that dies is a finding."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as report:
            json.dump(fuzz(name, seconds, seed, findings), report)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as report:
        said = report.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0 and said:
        return dict(json.loads(said))
    failure = f"the process ended with {status}; its last input is kept in {findings}"
    return {"target": name, "tried": None, "grown_bytes": None, "failure": failure}


def main() -> int:
    """Parse the command line, fuzz the targets one after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=2.0, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"))
    given_ = parser.parse_args()
    given_.findings.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    found = 0
    for name in given_.targets or TARGETS:
        result = in_a_child(name, given_.seconds, given_.seed, given_.findings)
        print(json.dumps(result), flush=True)
        found += bool(result["failure"])
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
