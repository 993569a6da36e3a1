"""What a study says in words: no more than its intervals allow."""

from __future__ import annotations

import numpy as np
import pytest

from timberkit.findings import Findings, StudyPair
from timberkit.study.reproduce.catalogue import catalogue
from timberkit.study.reproduce.conclude import conclude
from timberkit.study.reproduce.effects import Drawing
from timberkit.study.reproduce.protocol import protocol
from timberkit.study.reproduce.scores import Scores
from timberkit.study_recipe import build_study_recipe

TASK = "sapling:held-out"
RNG = np.random.default_rng(0)
MERGES = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
INSTRUCT = RNG.beta(0.4, 0.5, size=120)


def study(chances: dict[str, np.ndarray], **more: Scores) -> Findings:
    """A study of models with these chances on the first benchmark."""
    recipe = build_study_recipe({"pair": "sapling", "base": "b", "instruct": "i"})
    problems = tuple(f"p{i}" for i in range(len(INSTRUCT)))
    scores = {(key, TASK): Scores(problems, np.clip(p, 0, 1)) for key, p in chances.items()}
    scores |= {(key, TASK): each for key, each in more.items()}
    return conclude(
        StudyPair("sapling", "b", "i", None), catalogue(recipe), protocol(recipe), scores,
        settings={}, facts={}, kept=(), costs=(), notices=(), drawing=Drawing(resamples=300),
    )  # fmt: skip


def said(found: Findings, words: str) -> str:
    (one,) = [sentence for sentence in found.words if words in sentence]
    return one


def test_a_null_result_is_said_with_what_the_intervals_rule_out() -> None:
    found = study(
        {"instruct": INSTRUCT, "timber_lam0.2": INSTRUCT * 1.0001, "base": INSTRUCT / 2 + 0.05}
    )
    assert "rule out 0.5" in said(found, "null result")
    assert said(found, "Base passes Instruct from k =")


def test_a_wide_interval_is_no_null_result() -> None:
    noisy = INSTRUCT + 0.05 * np.random.default_rng(1).standard_normal(INSTRUCT.size)
    found = study({"instruct": INSTRUCT, "timber_lam0.2": noisy})
    assert "cannot be told" in said(found, "Timber")
    assert "could have missed" in said(found, "Timber")


def test_an_effect_is_said_with_its_direction() -> None:
    found = study({"instruct": INSTRUCT, "timber_lam0.5": INSTRUCT + 0.04 * (1 - INSTRUCT)})
    assert said(found, "Timber 0.5").endswith("better.")


def test_equal_scores_on_every_problem_are_no_evidence_of_equality() -> None:
    found = study({"instruct": INSTRUCT, "timber_lam0.2": INSTRUCT, "merge_mu0.8": INSTRUCT})
    (sentence,) = found.words
    assert "says nothing" in sentence
    found = study({"instruct": INSTRUCT, "timber_lam0.2": INSTRUCT, "merge_mu0.8": INSTRUCT / 2})
    assert "rules no difference out" in said(found, "Timber")


def test_an_edit_above_the_frontier_is_named_with_the_number_looked_at() -> None:
    base = np.full_like(INSTRUCT, INSTRUCT.mean() / 2)
    merges = {f"merge_mu{mu}": mu * INSTRUCT + (1 - mu) * base for mu in MERGES}
    lifted = np.maximum(merges["merge_mu0.8"], 0.12)
    found = study({"base": base, "instruct": INSTRUCT, **merges, "timber_lam0.2": lifted})
    sentence = said(found, "above the frontier")
    assert "Timber 0.2" in sentence
    assert "1 of 1" in sentence
    plain = study({"base": base, "instruct": INSTRUCT, **merges, "timber_lam0.2": INSTRUCT * 0.9})
    assert "none lies more than 0.5 points above" in said(plain, "frontier")


def test_nothing_was_bought_where_base_and_instruct_are_alike() -> None:
    rng = np.random.default_rng(3)
    found = study({"instruct": INSTRUCT, "base": INSTRUCT + 0.03 * rng.standard_normal(120)})
    assert not any("bought" in sentence for sentence in found.words)


def test_a_merge_that_is_better_at_both_trades_nothing() -> None:
    merged = np.clip(INSTRUCT + 0.05, 0, 1)
    found = study({"instruct": INSTRUCT, "merge_mu0.8": merged, "merge_mu0.9": INSTRUCT * 0.9})
    assert "Plain merging: of 2 merges Merge 0.8" in said(found, "Plain merging")


def test_one_difference_has_one_interval_and_one_word_wherever_it_stands() -> None:
    rng = np.random.default_rng(5)
    noisy = INSTRUCT + 0.03 * rng.standard_normal(120) + 0.004
    found = study({"instruct": INSTRUCT, "timber-l": noisy, "base": INSTRUCT / 2 + 0.08})
    told = {
        (contrast.model, point.k): point
        for contrast in found.contrasts
        for point in contrast.points
    }
    (figure,) = [table for table in found.paper if table.key.startswith("figure-5")]
    assert figure.axis is not None
    keys = {"Base": "base", "Timber-L": "timber-l"}
    looked_at = 0
    for row in figure.rows:
        for k, cell in zip(figure.axis, row.cells, strict=True):
            if row.label in keys:
                point = told[keys[row.label], int(k)]
                assert (cell.difference, cell.verdict) == (point.difference, point.verdict)
                looked_at += 1
    assert looked_at == 2 * len(figure.axis)


def test_tasks_are_shown_as_they_were_asked() -> None:
    found = study({"instruct": INSTRUCT, "timber_lam0.2": INSTRUCT})
    (task,) = found.tasks
    assert (task.problems, task.rollouts, task.whole) == (len(INSTRUCT), None, False)


def test_equal_scores_give_equal_findings() -> None:
    chances = {"instruct": INSTRUCT, "timber_lam0.2": INSTRUCT + 0.01}
    assert study(chances) == study(chances)


@pytest.mark.parametrize("model", ["Qwen3-0.6B", "Qwen3-8B"])
def test_the_papers_own_finding_stands_beside(model: str) -> None:
    from timberkit.study.published import published
    from timberkit.study.reproduce.words import paper_says

    shown = paper_says(published(), model)
    assert f"{published()['mean_at_k_table_2'][model]['Timber']:.2f}" in shown
    assert "neither confirms nor refutes" in paper_says(published(), None)
