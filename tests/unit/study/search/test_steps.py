"""The parts of a search that know no model: objective, halving, CMA-ES, settings."""

from __future__ import annotations

import numpy as np
import pytest

from timberkit.engine.plan import PlannedTensor
from timberkit.errors import RecipeError
from timberkit.study.search.candidates import Candidate, Space, Vector
from timberkit.study.search.evaluators import FULL, Effort
from timberkit.study.search.halving import halve, halving_cost
from timberkit.study.search.objective import Objective
from timberkit.study.search.sequential import Sequence, centres, search_by_cma
from timberkit.study.search.settings import build_settings, parse_metric

PAIR = {"base": "b", "instruct": "i"}


def test_the_objective_is_the_second_score_where_the_first_is_kept() -> None:
    objective = Objective(margin=0.0, penalty=4.0, tolerance=0.5, confidence=0.9)
    instruct = np.full((4, 2), 0.5)
    better = instruct + np.array([0.05, 0.02])
    assert objective.value(better, instruct) == pytest.approx(52.0, abs=1e-4)
    worse = instruct + np.array([-0.05, 0.02])
    assert objective.value(worse, instruct) == pytest.approx(52.0 - 4 * 5, abs=1e-4)
    # A margin asks for that much more.
    strict = Objective(margin=5.0, penalty=4.0, tolerance=0.5, confidence=0.9)
    assert strict.value(instruct, instruct) == pytest.approx(50.0 - 4 * 5, abs=1e-4)


def test_the_constraint_is_judged_by_the_end_of_its_interval() -> None:
    objective = Objective(margin=0.0, penalty=4.0, tolerance=0.5, confidence=0.9)
    instruct = np.full((100, 2), 0.5)
    assert objective.keeps(instruct, instruct)
    assert objective.keeps(instruct - 0.005, instruct)
    assert not objective.keeps(instruct - 0.006, instruct)
    # The mean is kept exactly, but not surely.
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.2, 100)
    noisy = instruct.copy()
    noisy[:, 0] += noise - noise.mean()
    assert not objective.keeps(noisy, instruct)
    assert objective.lowest(noisy, instruct) == pytest.approx(-1.2816 * 2.0 * noise.std() / 0.2,
                                                             rel=0.1)  # fmt: skip


def test_halving_spends_full_effort_on_the_better_ones_only() -> None:
    candidates = [Candidate(str(i), (), {"x": (i / 10,)}) for i in range(8)]
    asked: list[tuple[str, float]] = []

    def value(candidate: Candidate, effort: Effort) -> float:
        asked.append((candidate.label, effort.share))
        gain = candidate.gains["x"][0]
        return gain if effort.share < 1 else -gain

    rungs = (Effort(0.25), FULL)
    ranked = halve([*candidates, candidates[0]], value, rungs=rungs, keep=0.3)
    assert [candidate.label for candidate, _ in ranked] == ["5", "6", "7"]
    assert sorted(label for label, share in asked if share == 1) == ["5", "6", "7"]
    assert len(asked) == halving_cost(8, rungs, 0.3) == 11


def space(size: int) -> Space:
    tensors = [
        PlannedTensor(f"model.layers.{i}.mlp.up_proj.weight", "refine", "", "ffn", i, (4, 4),
                      "BF16", 1)
        for i in range(size)
    ]  # fmt: skip
    return Space.of(tensors, edges=(), by="matrix")


def how(evaluations: int, seed: int = 0) -> Sequence:
    return Sequence(evaluations, population=8, sigma=0.3, low=-1.5, high=3.0, seed=seed)


def test_cma_finds_a_hidden_optimum_though_every_generation_is_judged_otherwise() -> None:
    here = space(5)
    optimum = np.array([0.5, 1.5, 0.0, 1.0, 2.0])
    blocks: list[int] = []

    def judge(candidate: Candidate, generation: int) -> float:
        blocks.append(generation)
        offset = 10.0 * np.sin(generation)  # as when other problems are asked
        return offset - float(np.square(here.vector(candidate) - optimum).sum())

    start = np.ones(5)
    generations = search_by_cma(here, start, how(400), judge)
    assert [len(members) for members in generations] == [8] * 50
    assert blocks == sorted(blocks)
    first = np.mean([vector for vector, _ in generations[0]], axis=0)
    assert np.linalg.norm(first - start) < 0.6  # it begins where it is told
    label, centre = centres(generations)[1]
    assert label == "centre of 5 generations"
    assert np.linalg.norm(centre - optimum) < 0.1


def test_cma_asks_the_same_for_the_same_values_and_seed() -> None:
    here = space(3)

    def run(seed: int) -> list[list[float]]:
        seen: list[list[float]] = []

        def judge(candidate: Candidate, generation: int) -> float:
            seen.append(list(here.vector(candidate)))
            return -sum(seen[-1])

        search_by_cma(here, np.ones(3), how(40, seed), judge)
        return seen

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_no_evaluations_leave_no_generations_and_no_centres() -> None:
    def never(candidate: Candidate, generation: int) -> float:
        raise AssertionError(candidate)

    found = search_by_cma(space(2), np.ones(2), how(0), never)
    assert found == []
    assert centres(found) == []


def test_gains_stay_within_their_range() -> None:
    here = space(2)
    seen: list[Vector] = []

    def judge(candidate: Candidate, generation: int) -> float:
        seen.append(here.vector(candidate))
        return float(seen[-1].sum())

    search_by_cma(here, np.array([3.0, -9.0]), how(80), judge)
    assert np.min(seen) >= -1.5
    assert np.max(seen) <= 3.0


@pytest.mark.parametrize("text", ["pass@0", "pass64", "mean@4", "pass@", "pass@64x"])
def test_a_metric_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="write pass@K"):
        parse_metric(text)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"objective": 4, "keep": 4}, "the same metric"),
        ({"edges": [4, 4]}, "that rise"),
        ({"edges": [0]}, "that rise"),
        ({"merges": [0.9, 0.8]}, "fall from 1"),
        ({"merges": [1.0]}, "fall from 1"),
        ({"merges": [1.0, 0.8, 0.9]}, "fall from 1"),
        ({"low": 1.2}, "1 and start inside"),
        ({"start": 5}, "1 and start inside"),
        ({"shares": [1, 0, 1]}, "above 0"),
        ({"levels": []}, "expected gains"),
        ({"by": "head"}, "by"),
        ({"unknown": 1}, "unknown"),
        (
            {"evaluation": {"models": ["m"], "tasks": ["sapling"], "rollouts": 8}},
            "expected at least 64 for Pass@64",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        build_settings(PAIR | fields)


def test_settings_come_back_from_json() -> None:
    settings = build_settings(PAIR | {"edges": [2, 8], "shares": [3, 1, 1], "limit": 5})
    assert build_settings(settings.model_dump(mode="json")) == settings
