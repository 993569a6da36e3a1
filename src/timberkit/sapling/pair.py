"""Where the shipped pair and its problems lie.

``data/base`` and ``data/instruct`` are ordinary Hugging Face folders; ``data/held_out.jsonl``
holds problems that no training stage has seen. Importing this module touches no file.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from timberkit.errors import InputError
from timberkit.sapling.puzzle import Problem

SPLITS = {"held-out": 3, "held-out-4": 4}
"""Split name to how many numbers its problems have: 300 problems with 3, 100 with 4.

Instruct was rewarded on 3-number problems only, so ``held-out-4`` lies outside that training.
"""

HELD_OUT_FILE = "held_out.jsonl"


def base_folder() -> Path:
    """Folder of the shipped Base model."""
    return _data() / "base"


def instruct_folder() -> Path:
    """Folder of the shipped Instruct model, post-trained from the Base model."""
    return _data() / "instruct"


def load_problems(split: str = "held-out", *, n: int | None = None) -> list[Problem]:
    """The first ``n`` problems of a shipped split, always in the same order.

    ``split``: a key of ``SPLITS``. ``n``: 1 to the size of the split; ``None`` for all.
    The order is random, so the first ``n`` are a fair sample. Raises ``InputError`` for an
    unknown split or an ``n`` out of range. Milliseconds.
    """
    if split not in SPLITS:
        raise InputError(f"split {split!r}: not found, expected one of {', '.join(SPLITS)}")
    problems = [
        problem
        for problem in read_problems(_data() / HELD_OUT_FILE)
        if len(problem.numbers) == SPLITS[split]
    ]
    if n is None:
        return problems
    if not 1 <= n <= len(problems):
        raise InputError(f"split {split!r}: n = {n}, expected 1 to {len(problems)}; lower n")
    return problems[:n]


def read_problems(path: Path) -> list[Problem]:
    """Problems from a JSON-lines file with ``numbers`` and ``target`` in every line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    records = (json.loads(line) for line in lines)
    return [Problem(tuple(record["numbers"]), record["target"]) for record in records]


def _data() -> Path:
    return Path(str(resources.files("timberkit.sapling").joinpath("data")))
