"""The stages in order: pretrain, fine-tune, reinforce, measure, write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from timberkit.errors import MissingExtraError, OutputExistsError
from timberkit.sapling.models import torch_threads
from timberkit.sapling.pair import HELD_OUT_FILE, SPLITS
from timberkit.sapling.puzzle import Problem
from timberkit.sapling.training.card import base_card, instruct_card
from timberkit.sapling.training.measure import Curve, pass_at_k
from timberkit.sapling.training.reinforcement import reinforce
from timberkit.sapling.training.settings import Settings
from timberkit.sapling.training.supervised import fine_tune, new_model, pretrain
from timberkit.sapling.training.write import draw_held_out, write_model, write_problems

MEASUREMENTS_FILE = "measured.json"
"""Exact Pass@k in percent: split, then stage (``base``, ``sft``, ``instruct``), then k."""


def train_pair(output: Path, settings: Settings, say: Callable[[str], None] = print) -> None:
    """Train a pair and write it to a new folder.

    ``output`` gets ``base/``, ``instruct/``, ``held_out.jsonl`` and ``measured.json``, all at
    once when everything is done (until then the work lies in a sibling ``*.partial``). ``say``
    receives progress lines. Uses one torch thread; equal settings on a like machine give equal
    bytes. Raises ``OutputExistsError`` if ``output`` or its partial folder exists, and
    ``MissingExtraError`` without transformers. About 12 minutes with the shipped settings.
    """
    partial = output.with_name(f"{output.name}.partial")
    for path in (output, partial):
        if path.exists():
            raise OutputExistsError(
                f"{path}: already exists, expected a new folder; a finished or stopped training "
                "run left it; remove it or choose another --output"
            )
    _require_transformers()
    partial.mkdir(parents=True)
    with torch_threads(1):
        _train_into(partial, settings, say)
    partial.rename(output)


def _train_into(folder: Path, settings: Settings, say: Callable[[str], None]) -> None:
    problems = draw_held_out(settings.held_out_problems, settings.held_out_seed)
    write_problems(problems, folder / HELD_OUT_FILE)
    measured: dict[str, dict[str, Curve]] = {split: {} for split in SPLITS}

    def measure(stage: str, stored: Path) -> None:
        for split, numbers in SPLITS.items():
            measured[split][stage] = pass_at_k(stored, _with_count(problems, numbers))
            say(f"{stage} on {split}: Pass@k {measured[split][stage]}")

    model = new_model(settings.model, settings.pretrain.seed)
    tokens = pretrain(model, settings.pretrain, say)
    model = write_model(model, folder / "base")
    measure("base", folder / "base")

    fine_tune(model, settings.sft, say)
    model = write_model(model, folder / "sft")
    measure("sft", folder / "sft")
    shutil.rmtree(folder / "sft")

    reinforce(model, settings.rl, say)
    model = write_model(model, folder / "instruct")
    measure("instruct", folder / "instruct")

    parameters = model.num_parameters()
    cards = {
        "base": base_card(settings, parameters=parameters, tokens=tokens, measured=measured),
        "instruct": instruct_card(settings, parameters=parameters, measured=measured),
    }
    for name, card in cards.items():
        (folder / name / "README.md").write_text(card, encoding="utf-8")
    text = json.dumps(measured, indent=2) + "\n"
    (folder / MEASUREMENTS_FILE).write_text(text, encoding="utf-8")


def _with_count(problems: list[Problem], numbers: int) -> list[Problem]:
    return [problem for problem in problems if len(problem.numbers) == numbers]


def _require_transformers() -> None:
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("transformers", extra="eval") from error
