"""Post-train the shipped Sapling Base once more from another seed, to ask what carries over.

    python benchmarks/second_pair.py --output DIR [--seed 13] [--base FOLDER]

The same fine-tuning and the same reinforcement learning (setting B) as the shipped Instruct, but
other random numbers: another order of documents, other problems, other sampled answers. ``DIR``
gets an ordinary Hugging Face folder. One core, about 7 minutes; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from timberkit.sapling import base_folder, load_model, load_problems
from timberkit.sapling.models import torch_threads
from timberkit.sapling.training.measure import pass_at_k
from timberkit.sapling.training.reinforcement import reinforce
from timberkit.sapling.training.settings import SHIPPED
from timberkit.sapling.training.supervised import fine_tune
from timberkit.sapling.training.write import write_model


def post_train(base: Path, output: Path, seed: int) -> dict[str, object]:
    """Fine-tune and reinforce ``base`` from ``seed``, write ``output``; what it measures."""
    started = time.perf_counter()
    model = load_model(base)
    with torch_threads(1):
        fine_tune(model, replace(SHIPPED.sft, seed=seed - 1), say)
        reinforce(model, replace(SHIPPED.rl, seed=seed), say)
    write_model(model, output)
    return {
        "seed": seed,
        "output": str(output),
        "pass_at_k": pass_at_k(output, load_problems("held-out")),
        "seconds": round(time.perf_counter() - started, 1),
    }


def say(line: str) -> None:
    """Progress, at once."""
    print(line, flush=True)


def main() -> None:
    """Parse flags, train, print one JSON line."""
    parser = argparse.ArgumentParser(description="A second Sapling Instruct from the same Base.")
    parser.add_argument("--output", type=Path, required=True, help="a folder that does not exist")
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--base", type=Path, default=base_folder())
    flags = parser.parse_args()
    print(json.dumps(post_train(flags.base, flags.output, flags.seed)))


if __name__ == "__main__":
    main()
