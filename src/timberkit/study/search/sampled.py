"""Candidates judged by rollouts: a checkpoint is written, asked by ``timberkit eval``, and reused.

There is one scratch checkpoint, ``candidate/`` in the folder of the search: what no candidate
changes is copied once, the others' bytes are written in place, one matrix in memory at a time.
Each candidate has an evaluation run of its own below ``rollouts/``, so that asking more of it asks
only what is new, and a search that was killed goes on from the last answer. Any backend of
``timberkit eval`` serves. The splits are drawn from the benchmark's problems by a seed.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timberkit.checkpoint.sidecars import copy_sidecars
from timberkit.checkpoint.writer import create_shard, write_pieces
from timberkit.engine.job import JobContext, perform
from timberkit.engine.plan import RefinementPlan
from timberkit.engine.sources import OpenPair
from timberkit.engine.tasks import RefineTask
from timberkit.errors import UsageError
from timberkit.evaluation.planning import plan_evaluation
from timberkit.evaluation.run import EvaluationOptions, evaluate
from timberkit.evaluation_recipe import EvaluationRecipe
from timberkit.rollouts import ROLLOUTS_NAME, read_rollouts
from timberkit.study.search.candidates import Candidate
from timberkit.study.search.evaluators import Effort, Split
from timberkit.study.search.factors import Factors

CANDIDATE = "candidate"
FEWEST_PROBLEMS = 3
"""One for each split."""


def drawn_splits(
    keys: Sequence[str], shares: tuple[float, float, float], seed: int
) -> dict[Split, tuple[str, ...]]:
    """Problems shared out at random: search, constraint, confirm, in the benchmark's order.

    ``shares``: positive, of any sum. Each split gets at least one. UsageError for fewer than three
    problems.

    >>> {split: len(found) for split, found in drawn_splits("abcdefghij", (5, 2, 3), 0).items()}
    {'search': 5, 'constraint': 2, 'confirm': 3}
    """
    if len(keys) < FEWEST_PROBLEMS:
        raise UsageError(
            f"found {len(keys)} problems, expected at least {FEWEST_PROBLEMS}: a search needs some"
            " to search on, others to hold Pass@1 to, and others to confirm; raise --limit"
        )
    order = list(range(len(keys)))
    random.Random(seed).shuffle(order)
    whole = sum(shares)
    first = min(max(round(len(keys) * shares[0] / whole), 1), len(keys) - 2)
    second = min(max(round(len(keys) * shares[1] / whole), 1), len(keys) - first - 1)
    parts = (order[:first], order[first : first + second], order[first + second :])
    names: tuple[Split, ...] = ("search", "constraint", "confirm")
    return {
        name: tuple(keys[i] for i in sorted(part)) for name, part in zip(names, parts, strict=True)
    }


def problem_splits(
    recipe: EvaluationRecipe, pair: OpenPair, shares: tuple[float, float, float], seed: int
) -> dict[Split, tuple[str, ...]]:
    """The splits of a recipe's benchmark; raises as ``plan_evaluation``, and what keeps it from
    being run here."""
    planned = plan_evaluation(_of_model(recipe, pair.instruct.folder))
    planned.refuse_unready()
    return drawn_splits(planned.tasks[0].asked, shares, seed)


def write_weights(factors: Factors, candidate: Candidate, folder: Path) -> None:
    """Write every matrix of a candidate where it belongs in shards that are there already."""
    for task, raw in factors.weights(candidate):
        write_pieces(folder / task.target.path, task.target.pieces, raw.data)


class SampledEvaluator:
    """Writes, asks, counts: see ``evaluators.Evaluator``.

    ``recipe``: of the evaluation, whose ``models`` and ``problems`` are set anew for every
    candidate, ``rollouts`` the most that a problem is asked. ``folder``: of the search.
    """

    def __init__(
        self,
        pair: OpenPair,
        plan: RefinementPlan,
        factors: Factors,
        recipe: EvaluationRecipe,
        folder: Path,
        *,
        shares: tuple[float, float, float] = (2.0, 1.0, 1.0),
        seed: int = 0,
        options: EvaluationOptions | None = None,
    ) -> None:
        self._pair, self._plan, self._factors = pair, plan, factors
        self._recipe, self._folder, self._options = recipe, folder, options
        self._splits = problem_splits(recipe, pair, shares, seed)
        self._is_whole = False

    def sizes(self) -> Mapping[Split, int]:
        """See ``Evaluator``."""
        return {split: len(keys) for split, keys in self._splits.items()}

    def plan(self, effort: Effort) -> Effort:
        """The block does not matter, and a share means a whole number of rollouts."""
        return Effort(self._rollouts(effort) / self._recipe.rollouts)

    def outcome(self, candidate: Candidate, split: Split, effort: Effort) -> dict[str, Any]:
        """See ``Evaluator``: ``{"n": [...], "c": [...]}``, the split's problems in order.

        Rollouts that an earlier call asked of this candidate and split beyond the effort are not
        counted.
        """
        rollouts, keys = self._rollouts(effort), self._splits[split]
        self._write(candidate)
        run = self._folder / "rollouts" / f"{candidate.key}-{split}"
        recipe = _of_model(self._recipe, self._folder / CANDIDATE).model_copy(
            update={"rollouts": rollouts, "problems": keys, "limit": None}
        )
        evaluate(recipe, run, options=self._options)
        n, c = dict.fromkeys(keys, 0), dict.fromkeys(keys, 0)
        for rollout in read_rollouts(run / ROLLOUTS_NAME, texts=False):
            if rollout.problem in n and rollout.rollout <= rollouts:
                n[rollout.problem] += 1
                c[rollout.problem] += rollout.correct
        return {"n": list(n.values()), "c": list(c.values())}

    def close(self) -> None:
        """Remove the scratch checkpoint; the rollouts stay."""
        shutil.rmtree(self._folder / CANDIDATE, ignore_errors=True)

    def _rollouts(self, effort: Effort) -> int:
        return max(round(self._recipe.rollouts * effort.share), 1)

    def _write(self, candidate: Candidate) -> None:
        target = self._folder / CANDIDATE
        if not self._is_whole:
            self._prepare(target)
        write_weights(self._factors, candidate, target)

    def _prepare(self, target: Path) -> None:
        """What all candidates have in common."""
        for shard in self._plan.layout.shards:
            create_shard(target / shard.name, shard)
        context = JobContext(folders=(str(target),))
        for task in self._plan.tasks:
            if not isinstance(task, RefineTask):
                perform(context, task)
        copy_sidecars(self._pair.instruct, target, dtype=None, base_folder=self._pair.base.folder)
        self._is_whole = True


def _of_model(recipe: EvaluationRecipe, folder: Path) -> EvaluationRecipe:
    return recipe.model_copy(update={"models": (f"candidate={folder}",)})
