"""Summaries: numbers computed by hand, and problems with different numbers of rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from timberkit.evaluation.results import _Counts, powers_of_two, summarise_unit
from timberkit.evaluation.run_files import RunFolder
from timberkit.evaluation.units import Unit
from timberkit.rollouts import Rollout

UNIT = Unit("m", "m", "aime24", "released", "aime24_released", {})


def summary(*rollouts: Rollout) -> dict[str, Any]:
    counts = _Counts()
    for each in rollouts:
        counts.count(each)
    run = RunFolder(Path("run"), {UNIT.key: UNIT})
    return summarise_unit(run, UNIT.key, counts)


def rollout(problem: str, number: int, *, correct: bool, **fields: Any) -> Rollout:
    values = {"answer": "1", "output_tokens": 10, "seconds": 0.5, **fields}
    return Rollout("m", "aime24", "released", problem, number, correct, **values)


def test_mean_and_pass_at_k_are_those_of_the_counts() -> None:
    found = summary(
        rollout("a", 1, correct=True),
        rollout("a", 2, correct=False, answer=None),
        # Cut off is not a failure of form.
        rollout("b", 1, correct=False, stop="length", answer=None),
        rollout("b", 2, correct=False, answer=None, error="500", output_tokens=None),
    )
    assert found["mean"]["value"] == pytest.approx(0.25)
    assert found["pass_at_k"]["1"]["value"] == pytest.approx(0.25)
    assert found["pass_at_k"]["2"]["value"] == pytest.approx(0.5)
    assert (found["truncated"], found["no_answer"], found["failed"]) == (0.25, 0.25, 0.25)
    assert (found["output_tokens"], found["output_tokens_per_rollout"]) == (30, 7.5)


def test_pass_at_k_goes_no_further_than_every_problem_does() -> None:
    found = summary(
        *(rollout("a", number, correct=True) for number in range(1, 6)),
        *(rollout("b", number, correct=False) for number in range(1, 4)),
    )
    assert found["rollouts_per_problem"] == [3, 5]
    assert list(found["pass_at_k"]) == ["1", "2", "3"]
    assert found["pass_at_k"]["3"]["value"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("most", "ks"), [(1, [1]), (2, [1, 2]), (64, [1, 2, 4, 8, 16, 32, 64]), (3, [1, 2, 3])]
)
def test_powers_of_two_end_with_the_most(most: int, ks: list[int]) -> None:
    assert powers_of_two(most) == ks
