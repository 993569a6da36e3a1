"""Lambda chosen as the paper did, and what choosing on a held-out half would give.

The paper chose lambda by Mean@k on AIME'24, one of its own benchmarks. The best of several models
that are all alike still looks better than each of them; by how much, random halves tell: choose on
one half of the problems, score on the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from timberkit.findings import Selection
from timberkit.study.reproduce.catalogue import INSTRUCT, Entry
from timberkit.study.reproduce.scores import Scores, aligned

HALVES = 1_000


def choose_lambda(
    entries: Sequence[Entry],
    scores: Mapping[str, Scores],
    task: str,
    *,
    halves: int = HALVES,
    seed: int = 0,
) -> Selection | None:
    """Choose among Timber's lambdas (Timber-L is not among them) by the mean on one benchmark.

    Each of ``halves`` random halves of the problems chooses one, which is scored on the other half;
    ties go to the smaller lambda, as they do for the choice on all problems. None with fewer than
    two candidates or four problems. O(halves * problems * candidates).
    """
    candidates = [
        entry.key
        for entry in entries
        if entry.model.group == "timber" and entry.model.parameter and entry.key in scores
    ]
    if len(candidates) < 2 or INSTRUCT not in scores:
        return None
    tables = aligned([scores[key] for key in (INSTRUCT, *candidates)])
    instruct, *values = (each.table([1])[:, 0] for each in tables)
    problems = len(instruct)
    if problems < 4:
        return None
    table = np.stack(values)
    means = table.mean(axis=1)
    chosen = int(np.argmax(means))
    rng = np.random.default_rng(seed)
    picks = np.zeros(len(candidates), dtype=np.int64)
    held_out = 0.0
    for _ in range(halves):
        order = rng.permutation(problems)
        first, second = order[: problems // 2], order[problems // 2 :]
        pick = int(np.argmax(table[:, first].mean(axis=1)))
        picks[pick] += 1
        held_out += float(table[pick, second].mean()) / halves
    score = float(means[chosen])
    return Selection(
        task, tuple(candidates), candidates[chosen], score, held_out, float(instruct.mean()),
        score - held_out, halves, tuple(map(int, picks)),
    )  # fmt: skip
