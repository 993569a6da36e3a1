"""The search by a linear model of every problem, on made problems whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from timberkit.engine.plan import PlannedTensor
from timberkit.study.search.candidates import Candidate, Space
from timberkit.study.search.model import Goal, Trust, model_cost, search_by_model
from timberkit.study.search.objective import Objective

KS = (1, 64)
SIZE, PROBLEMS = 6, 80


def space() -> Space:
    tensors = [
        PlannedTensor(f"model.layers.{i}.mlp.up_proj.weight", "refine", "", "ffn", i, (4, 4),
                      "BF16", 1)
        for i in range(SIZE)
    ]  # fmt: skip
    return Space.of(tensors, edges=(), by="matrix")


class Truth:
    """Log-odds that follow the gains, with or without a bend."""

    def __init__(self, *, bend: float = 0.0) -> None:
        rng = np.random.default_rng(4)
        self._at_instruct = rng.normal(-2.5, 2.0, PROBLEMS)
        self._slopes = rng.normal(0.0, 0.6, (SIZE, PROBLEMS))
        self._bend = bend
        self.asked: list[str] = []

    def __call__(self, candidate: Candidate) -> NDArray[np.float64]:
        self.asked.append(candidate.key)
        move = space().vector(candidate) - 1.0
        log_odds = self._at_instruct + move @ self._slopes - self._bend * (move @ move)
        return np.asarray(1 / (1 + np.exp(-log_odds)))


def goal(truth: Truth) -> Goal:
    held = 100 * float(truth(space().constant("", 1.0)).mean())
    truth.asked.clear()
    return Goal(Objective(0.0, 4.0, 0.5, 0.8), KS, held)


def value(vector: NDArray[np.float64], truth: Truth) -> float:
    p = truth(space().candidate("", vector))
    return goal(truth).value(np.log(p / (1 - p)))


def trust(rounds: int) -> Trust:
    return Trust(rounds, low=0.0, high=2.0)


def test_the_slopes_of_the_goal_are_its_differences() -> None:
    here = goal(Truth())
    log_odds = np.linspace(-6, 3, 9)
    for shift in (-0.5, 0.0, 0.5):  # inside, at and outside the constraint
        moved = Goal(here.objective, KS, 100 * float((1 / (1 + np.exp(-log_odds))).mean()) + shift)
        _, slopes = moved.with_slopes(log_odds)
        for place in range(len(log_odds)):
            step = np.zeros(len(log_odds))
            step[place] = 1e-6
            difference = (moved.value(log_odds + step) - moved.value(log_odds - step)) / 2e-6
            assert slopes[place] == pytest.approx(difference, rel=1e-4, abs=1e-7)


def test_the_goal_is_the_objective() -> None:
    p = np.random.default_rng(1).random((2, 30))
    scores = [np.stack([1 - (1 - each) ** k for k in KS], axis=1) for each in p]
    objective = Objective(0.7, 4.0, 0.5, 0.8)
    here = Goal(objective, KS, 100 * float(p[1].mean()))
    expected = objective.value(scores[0], scores[1])
    assert here.value(np.log(p[0] / (1 - p[0]))) == pytest.approx(expected)


@pytest.mark.parametrize("bend", [0.0, 0.15])
def test_it_comes_near_the_best_there_is_within_few_evaluations(bend: float) -> None:
    truth = Truth(bend=bend)
    found = search_by_model(space(), np.full(SIZE, 0.9), trust(4), truth, goal(truth))
    assert [label for label, _ in found] == [f"model, round {i}" for i in (1, 2, 3, 4)]
    assert len(truth.asked) <= model_cost(SIZE, 4)
    values = [value(vector, truth) for _, vector in found]
    assert values == sorted(values)
    rng = np.random.default_rng(2)
    guesses = [value(rng.uniform(0, 2, SIZE), truth) for _ in range(2000)]
    assert values[-1] > max(guesses)
    assert values[-1] > value(np.full(SIZE, 0.9), truth) + 1.5


def test_it_asks_the_same_again_and_stays_within_the_range() -> None:
    asked = []
    for _ in range(2):
        truth = Truth()
        found = search_by_model(space(), np.full(SIZE, 2.0), trust(2), truth, goal(truth))
        asked.append(list(truth.asked))
        assert all(vector.min() >= 0.0 and vector.max() <= 2.0 for _, vector in found)
    assert asked[0] == asked[1]


def test_no_rounds_ask_nothing() -> None:
    truth = Truth()
    assert search_by_model(space(), np.ones(SIZE), trust(0), truth, goal(truth)) == []
    assert truth.asked == []


def test_certain_and_hopeless_problems_are_no_trouble() -> None:
    def chances(candidate: Candidate) -> NDArray[np.float64]:
        level = space().vector(candidate).mean() / 4
        return np.array([0.0, 1.0, level, level / 2])

    here = Goal(Objective(0.0, 4.0, 0.5, 0.8), KS, 30.0)
    found = search_by_model(space(), np.ones(SIZE), trust(2), chances, here)
    assert np.isfinite(found[-1][1]).all()
