"""What one run with several Instruct models reads, beside separate runs with each of them.

    python benchmarks/several.py BASE INSTRUCT [INSTRUCT ...] --work FOLDER

Bytes are what read calls of this process moved (``/proc/self/io``), after a first run that has done
the imports; sources are read by calls, never mapped. Seconds and memory are those of commands of
their own (``process_meter``). One worker, Timber. Prints one line of JSON. Linux only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from process_meter import measure

import timberkit

METHOD = ("--workers", "1", "--quiet")


def refine(*arguments: str) -> list[str]:
    """The command of a refinement."""
    return [sys.executable, "-m", "timberkit", "refine", *arguments, *METHOD]


def read_bytes(base: str, instruct: str | Sequence[str], output: Path) -> int:
    """Bytes that a run in this process reads."""
    before = _moved()
    timberkit.refine(base, instruct, output)
    return _moved() - before


def _moved() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def main() -> None:
    """Measure both ways and print bytes read, seconds, memory and their ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("base")
    parser.add_argument("instruct", nargs="+")
    parser.add_argument("--work", type=Path, required=True, help="new folder for the outputs")
    given = parser.parse_args()
    given.work.mkdir()
    options = [
        text
        for i, instruct in enumerate(given.instruct)
        for text in ("--instruct", f"m{i}={instruct}")
    ]
    together = measure(refine("--base", given.base, *options, "-o", str(given.work / "together")))
    apart = [
        measure(refine(given.base, instruct, "-o", str(given.work / f"apart{i}")))
        for i, instruct in enumerate(given.instruct)
    ]
    if any(usage.exit_code for usage in (together, *apart)):
        sys.exit("a run failed")
    base_bytes = sum(file.stat().st_size for file in Path(given.base).glob("*.safetensors"))
    named = [f"m{i}={instruct}" for i, instruct in enumerate(given.instruct)]
    read_bytes(given.base, given.instruct[0], given.work / "warm")
    read_together = read_bytes(given.base, named, given.work / "read")
    read = sum(
        read_bytes(given.base, instruct, given.work / f"read{i}")
        for i, instruct in enumerate(given.instruct)
    )
    print(
        json.dumps(
            {
                "models": len(given.instruct),
                "base_bytes": base_bytes,
                "read_bytes_apart": read,
                "read_bytes_together": read_together,
                "saved_of_base": round((read - read_together) / base_bytes, 3),
                "read_ratio": round(read_together / read, 3),
                "seconds_apart": round(sum(usage.wall_seconds for usage in apart), 2),
                "seconds_together": round(together.wall_seconds, 2),
                "largest_rss_apart": max(usage.largest_rss_bytes for usage in apart),
                "largest_rss_together": together.largest_rss_bytes,
            }
        )
    )


if __name__ == "__main__":
    main()
