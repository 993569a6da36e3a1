"""Choosing lambda: what halves would have chosen, and by how much choosing flatters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from timberkit.study.reproduce.catalogue import Entry, catalogue
from timberkit.study.reproduce.scores import Scores
from timberkit.study.reproduce.selection import choose_lambda
from timberkit.study_recipe import build_study_recipe

KEYS = ("timber_lam0.2", "timber_lam0.5", "timber_lam0.8")


@pytest.fixture(scope="module")
def entries() -> tuple[Entry, ...]:
    return catalogue(build_study_recipe({"base": "a/b", "instruct": "a/c"}))


def scores(rows: dict[str, list[float]]) -> dict[str, Scores]:
    size = len(next(iter(rows.values())))
    problems = tuple(f"p{i}" for i in range(size))
    return {key: Scores(problems, np.array(p)) for key, p in rows.items()}


def test_best_lambda_is_chosen_and_ties_go_to_the_first(entries: tuple[Entry, ...]) -> None:
    even = [0.5] * 4
    found = choose_lambda(entries, scores(dict.fromkeys(("instruct", *KEYS), even)), "t")
    assert found is not None
    assert (found.chosen, found.flattery) == ("timber_lam0.2", pytest.approx(0.0, abs=1e-12))
    better = {"instruct": even, KEYS[0]: even, KEYS[1]: [0.6] * 4, KEYS[2]: even}
    found = choose_lambda(entries, scores(better), "t")
    assert found is not None
    assert (found.chosen, found.score) == (KEYS[1], pytest.approx(0.6))
    assert found.picks == (0, found.halves, 0)


def test_held_out_score_is_that_of_all_halves(entries: tuple[Entry, ...]) -> None:
    """Against the mean over every half of four problems."""
    rows = {
        "instruct": [0.5] * 4,
        KEYS[0]: [1.0, 0.0, 0.3, 0.1],
        KEYS[1]: [0.0, 1.0, 0.2, 0.3],
        KEYS[2]: [0.4, 0.4, 0.4, 0.4],
    }
    table = np.array([rows[key] for key in KEYS])
    halves = [
        (list(half), [i for i in range(4) if i not in half])
        for half in itertools.combinations(range(4), 2)
    ]
    truth = np.mean([table[table[:, a].mean(axis=1).argmax()][b].mean() for a, b in halves])
    found = choose_lambda(entries, scores(rows), "t", halves=20_000)
    assert found is not None
    assert found.held_out == pytest.approx(truth, abs=0.005)
    assert found.flattery == pytest.approx(found.score - found.held_out)


def test_choosing_among_alike_models_flatters(entries: tuple[Entry, ...]) -> None:
    rng = np.random.default_rng(0)
    flattery = []
    for _ in range(40):
        rows = {key: list(rng.random(30)) for key in ("instruct", *KEYS)}
        found = choose_lambda(entries, scores(rows), "t", halves=200)
        assert found is not None
        flattery.append(found.flattery)
    assert np.mean(flattery) > 0.02


def test_nothing_is_chosen_from_one_candidate_or_three_problems(
    entries: tuple[Entry, ...],
) -> None:
    single = scores({"instruct": [0.5] * 9, KEYS[0]: [0.5] * 9})
    three = scores(dict.fromkeys(("instruct", *KEYS), [0.5] * 3))
    assert choose_lambda(entries, single, "t") is None
    assert choose_lambda(entries, three, "t") is None
