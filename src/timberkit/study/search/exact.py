"""Candidates judged exactly: a model on the Sapling vocabulary in memory, no disk and no sampling.

Problems come in three splits that share none (``sapling_splits``):

==========  =================================================================================
search      the 1,531 three-number puzzles of the training side from which the shipped
            reinforcement learning drew none; Base has seen puzzles of that side in pretraining
constraint  508 held-out puzzles: the 300 that ship as ``held-out``, and 208 others
confirm     the other 178 held-out puzzles; no training, tuning or figure has seen them
==========  =================================================================================

Why not held-out puzzles alone: there are only 686. What a number does to Pass@64 shows on 300
puzzles, what it does to Pass@1 does not (docs/search.md has how far disjoint parts agree), and an
edit searched on 300 keeps its Pass@1 on these alone.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from timberkit.checkpoint.reader import TORCH_NAMES
from timberkit.dtypes import widen
from timberkit.sapling import (
    PreparedProblems,
    Problem,
    load_model,
    load_problems,
    problem_pool,
)
from timberkit.sapling.models import torch_threads
from timberkit.study.search.candidates import Candidate
from timberkit.study.search.evaluators import FULL, Effort, Split
from timberkit.study.search.factors import Factors

SPLIT_SEED = 5
CONSTRAINT_BESIDE_SHIPPED = 208
DIGITS = 9
"""Of a probability in the journal; what is read back is what was judged."""


def sapling_splits(*, limit: int | None = None) -> dict[Split, list[Problem]]:
    """The three splits of the shipped pair, always the same, numbers of a puzzle in any order.

    ``limit``: only the first so many of each.
    """
    # Training needs torch, which is slow to import.
    from timberkit.sapling.training.reinforcement import COUNT, draw_problems
    from timberkit.sapling.training.settings import SHIPPED

    rng = random.Random(SPLIT_SEED)
    shipped = load_problems("held-out")
    known = {problem.key for problem in shipped}
    others = [each for each in problem_pool(COUNT, held_out=True) if each.key not in known]
    rng.shuffle(others)
    others = _mixed(others, rng)
    drawn = {each.key for each in draw_problems(SHIPPED.rl, random.Random(SHIPPED.rl.seed))}
    unseen = [each for each in problem_pool(COUNT, held_out=False) if each.key not in drawn]
    rng.shuffle(unseen)
    return {
        "search": _mixed(unseen, rng)[:limit],
        "constraint": [*shipped, *others[:CONSTRAINT_BESIDE_SHIPPED]][:limit],
        "confirm": others[CONSTRAINT_BESIDE_SHIPPED:][:limit],
    }


def _mixed(problems: Sequence[Problem], rng: random.Random) -> list[Problem]:
    return [
        Problem(tuple(rng.sample(each.numbers, len(each.numbers))), each.target)
        for each in problems
    ]


class ExactEvaluator:
    """Sets the weights of one model and sums probabilities: see ``evaluators.Evaluator``.

    ``instruct``: folder of a Sapling model, whose other tensors every candidate has. Weights are
    rounded to the dtype of the output first, as they would be shipped. Uses one thread of torch.
    """

    def __init__(
        self,
        instruct: Path,
        factors: Factors,
        splits: Mapping[Split, Sequence[Problem]],
        *,
        temperature: float = 1.0,
    ) -> None:
        factors.hold()
        self._factors = factors
        self._splits = {split: list(problems) for split, problems in splits.items()}
        self._temperature = temperature
        self._model: Any = load_model(instruct)
        self._parameters = dict(self._model.named_parameters())
        self._prepared: dict[tuple[Split, Effort], PreparedProblems] = {}
        self._loaded = ""

    def sizes(self) -> Mapping[Split, int]:
        """See ``Evaluator``."""
        return {split: len(problems) for split, problems in self._splits.items()}

    def plan(self, effort: Effort) -> Effort:
        """Blocks count from 0 to ``round(1 / share) - 1`` and begin again."""
        blocks = max(round(1 / effort.share), 1)
        return Effort(1 / blocks, effort.block % blocks) if blocks > 1 else FULL

    def outcome(self, candidate: Candidate, split: Split, effort: Effort) -> dict[str, Any]:
        """See ``Evaluator``: ``{"p": [...]}``."""
        with torch_threads(1):
            self._load(candidate)
            found = self._problems(split, effort).success(
                self._model, temperature=self._temperature
            )
        return {"p": [round(float(p), DIGITS) for p in found]}

    def close(self) -> None:
        """Nothing is open."""

    def _problems(self, split: Split, effort: Effort) -> PreparedProblems:
        planned = self.plan(effort)
        if (split, planned) not in self._prepared:
            step = max(round(1 / planned.share), 1)
            chosen = self._splits[split][planned.block :: step]
            self._prepared[split, planned] = PreparedProblems(chosen)
        return self._prepared[split, planned]

    def _load(self, candidate: Candidate) -> None:
        import torch

        if candidate.key == self._loaded:
            return
        self._loaded = ""
        for task, raw in self._factors.weights(candidate):
            weight = widen(raw, TORCH_NAMES[task.target.dtype], np.float32)
            with torch.no_grad():
                self._parameters[task.name].copy_(torch.from_numpy(weight))
        self._loaded = candidate.key
