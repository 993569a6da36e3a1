"""What a search would do and how long it would take, before it is begun; writes nothing that stays.

One evaluation is made to be timed, in a folder that is removed, unless rollouts would be asked.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from timberkit.study.search.evaluators import Effort
from timberkit.study.search.exact import ExactEvaluator, sapling_splits
from timberkit.study.search.factors import Factors
from timberkit.study.search.run import DIAL, FINALISTS, OpenSearch
from timberkit.study.search.settings import SearchSettings


def plan_search(settings: SearchSettings) -> dict[str, Any]:
    """The plan as JSON values.

    ``problems`` of each split; ``numbers`` that CMA-ES has, ``tensors`` they act on; about how many
    ``evaluations``, with the ``effort`` of each in words; ``seconds`` for all, None where rollouts
    are asked, with the most ``requests`` that this takes; ``factor_bytes`` on the disk. Raises as
    ``search`` does before it asks anything.
    """
    opened = OpenSearch.of(settings)
    directions = settings.edges[-1] if settings.edges else 0
    factor_bytes = sum(
        (task.rows + task.columns) * min(directions, task.rows, task.columns) * 4
        for task in opened.plan.refine_tasks
    )
    found: dict[str, Any] = {
        "numbers": opened.space.size,
        "tensors": len(opened.space.tensors),
        "evaluations": opened.expected(),
        "factor_bytes": factor_bytes,
    }
    if settings.evaluation is not None:
        from timberkit.study.search.sampled import problem_splits

        splits = problem_splits(settings.evaluation, opened.pair, settings.shares, settings.seed)
        rollouts = settings.evaluation.rollouts
        return found | {
            "problems": {split: len(keys) for split, keys in splits.items()},
            "effort": f"up to {rollouts} rollouts a problem",
            "requests": opened.expected() * len(splits["search"]) * rollouts,
            "seconds": None,
        }
    with TemporaryDirectory(prefix="timberkit-search-") as scratch:
        factors = Factors(Path(scratch), opened.plan.refine_tasks, directions)
        factors.make()
        evaluator = ExactEvaluator(
            opened.pair.instruct.folder, factors, sapling_splits(limit=settings.limit)
        )
        part = Effort(settings.share)
        seconds = []
        for gain in (1.0, 0.9):
            started = time.perf_counter()
            evaluator.outcome(opened.space.constant("timed", gain), "search", part)
            seconds.append(time.perf_counter() - started)
    sizes = evaluator.sizes()
    fulls = (FINALISTS + 5) * len(DIAL) / 2 * sizes["constraint"] / sizes["search"] + 40
    parts = 110 + (0 if settings.uses_model else opened.sequential_cost)
    fulls += opened.sequential_cost if settings.uses_model else 0
    whole = seconds[-1] * (parts + fulls / settings.share)
    return found | {
        "problems": {str(split): count for split, count in sizes.items()},
        "effort": "all problems searched on in each of the sequential search"
        if settings.uses_model
        else f"{settings.share:g} of the problems searched on in each of CMA-ES",
        "seconds": whole,
    }
