"""``python -m timberkit.sapling.training --output DIR [--smoke]``: train the pair again."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from timberkit.errors import TimberkitError
from timberkit.sapling.training.run import train_pair
from timberkit.sapling.training.settings import SHIPPED, SMOKE


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse flags, train, print progress; returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m timberkit.sapling.training",
        description="Train the Sapling pair from fixed seeds.",
        epilog="Exit codes: 0 done, 2 wrong call or output in the way, 3 unusable input.",
    )
    parser.add_argument("--output", type=Path, required=True, help="a folder that does not exist")
    parser.add_argument("--smoke", action="store_true", help="every stage in seconds, for tests")
    flags = parser.parse_args(arguments)
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - start:7.1f} s  {line}", flush=True)

    try:
        train_pair(flags.output, SMOKE if flags.smoke else SHIPPED, say)
    except TimberkitError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    say(f"wrote {flags.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
