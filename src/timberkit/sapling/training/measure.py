"""Exact Pass@k of Sapling model folders, as a table.

::

    python -m timberkit.sapling.training.measure                  # the shipped pair
    python -m timberkit.sapling.training.measure FOLDER ...       # other folders

``Pass@k = mean over problems of 1 - (1 - p)^k`` with the exact success probability ``p``, chat
prompt, temperature 1; nothing is sampled.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from timberkit.errors import TimberkitError
from timberkit.sapling.exact import success_probabilities
from timberkit.sapling.pair import SPLITS, base_folder, instruct_folder, load_problems
from timberkit.sapling.puzzle import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KS = (1, 4, 16, 64, 256)
"""Numbers of attempts in the tables."""

Curve = dict[str, float]
"""Pass@k in percent by k, the keys as text so that they survive JSON."""


def pass_at_k(model: str | Path | PreTrainedModel, problems: Sequence[Problem]) -> Curve:
    """Exact Pass@k in percent, rounded to a tenth, for every k in ``KS``."""
    p = success_probabilities(model, problems)
    return {str(k): round(float(100 * (1 - (1 - p) ** k).mean()), 1) for k in KS}


def table(curves: Mapping[str, Curve]) -> str:
    """A Markdown table with one row per named curve."""
    head = "| Pass@k, % |" + "".join(f" k={k} |" for k in KS)
    rule = "|---|" + "---|" * len(KS)
    rows = [f"| {name} |" + "".join(f" {curve[str(k)]:.1f} |" for k in KS)
            for name, curve in curves.items()]  # fmt: skip
    return "\n".join((head, rule, *rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one table per split; returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m timberkit.sapling.training.measure")
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    folders = parser.parse_args(arguments).folders or [base_folder(), instruct_folder()]
    try:
        for split in SPLITS:
            problems = load_problems(split)
            print(f"{split}: {len(problems)} problems with {SPLITS[split]} numbers\n")
            print(table({folder.name: pass_at_k(folder, problems) for folder in folders}), "\n")
    except TimberkitError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
