"""Units: their digests and seeds, and the words for what differs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from timberkit.checkpoint.run_folder import differing_fields
from timberkit.evaluation.units import Unit, rollout_seed

UNIT = Unit("m", "m", "aime24", "released", "aime24_released", {"seed": 0, "sampling": {"a": 1}})


def test_seeds_are_those_of_every_run_and_platform() -> None:
    assert rollout_seed(0, "aime24", "60", 1) == 1_314_598_440
    assert 0 <= rollout_seed(-1, "x", "\u2028", 3) < 1 << 31


@pytest.mark.parametrize(
    "other", [(1, "aime24", "60", 1), (0, "math", "60", 1), (0, "aime24", "6", 1)]
)
def test_another_seed_task_problem_or_rollout_draws_otherwise(
    other: tuple[int, str, str, int],
) -> None:
    seeds = {rollout_seed(0, "aime24", "60", rollout) for rollout in range(1, 1001)}
    assert len(seeds) == 1000
    assert rollout_seed(*other) != rollout_seed(0, "aime24", "60", 1)


def test_digest_follows_settings_and_key_but_not_file_names() -> None:
    assert replace(UNIT, stem="other").digest == UNIT.digest
    assert replace(UNIT, settings={"sampling": {"a": 1}, "seed": 0}).digest == UNIT.digest
    assert replace(UNIT, settings={"seed": 1, "sampling": {"a": 1}}).digest != UNIT.digest
    assert replace(UNIT, model="n").digest != UNIT.digest


def test_differences_are_named_field_by_field() -> None:
    old = {"seed": 0, "sampling": {"top_p": 0.9, "top_k": 20}, "data": {}}
    new = {"seed": 0, "sampling": {"top_p": 0.95, "top_k": 20, "min_p": None}, "data": {}}
    assert differing_fields(old, new) == [
        "sampling.min_p: not there before, null now",
        "sampling.top_p: 0.9 before, 0.95 now",
    ]
    assert differing_fields(old, old) == []
