"""What edits did: planted effects are found, and controls that share them are told."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from timberkit.metrics import Interval
from timberkit.study.reproduce.catalogue import Entry, catalogue
from timberkit.study.reproduce.effects import (
    Drawing,
    contrast,
    controlled,
    plane,
    says,
    straightness,
)
from timberkit.study.reproduce.scores import Scores
from timberkit.study_recipe import build_study_recipe

DRAWING = Drawing(resamples=400)
KS = (1, 64)
MERGES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.4, 0.2)
EDIT = "timber_lam0.2"


@pytest.fixture(scope="module")
def entries() -> tuple[Entry, ...]:
    fields = {"base": "a/b", "instruct": "a/c", "catalogue": "short", "noise_seeds": 5}
    return catalogue(build_study_recipe(fields))


def model(p: NDArray[np.float64]) -> Scores:
    return Scores(tuple(f"p{i}" for i in range(len(p))), np.clip(p, 0, 1))


@pytest.fixture(scope="module")
def p() -> NDArray[np.float64]:
    return np.random.default_rng(0).beta(0.5, 0.8, size=200)


def test_contrast_is_paired_and_finds_a_planted_difference(p: NDArray[np.float64]) -> None:
    found = contrast(("x", "instruct"), (model(p + 0.02 * (1 - p)), model(p)), "t", KS, DRAWING)
    assert [point.verdict for point in found.points] == ["better", "better"]
    assert found.points[0].difference.value == pytest.approx(0.02 * (1 - p).mean())


def test_crossing_of_base_is_told_and_that_of_two_alike_models_is_not(
    p: NDArray[np.float64],
) -> None:
    base = model(0.3 * p + 0.05)
    found = contrast(("base", "instruct"), (base, model(p)), "t", KS, DRAWING)
    assert (found.behind, found.ahead) == ("base", "instruct")
    assert found.crossing is not None
    assert found.crossing.k is not None
    rng = np.random.default_rng(1)
    alike = model(p * (1 + 1e-4 * rng.standard_normal(len(p))))
    assert contrast(("x", "instruct"), (alike, model(p)), "t", KS, DRAWING).crossing is None


def test_edit_above_the_frontier_of_merges_is_told_from_one_on_it(
    entries: tuple[Entry, ...], p: NDArray[np.float64]
) -> None:
    base = np.full_like(p, p.mean() / 2)

    def merged(mu: float) -> NDArray[np.float64]:
        return mu * p + (1 - mu) * base

    scores = {"base": model(base), "instruct": model(p)}
    for mu in MERGES:
        scores[f"merge_mu{mu}"] = model(merged(mu))
    scores[EDIT] = model(merged(0.85))
    scores["timber-l"] = model(np.maximum(merged(0.85), 0.05))
    curves = {
        key: {k: Interval(float(s.table([k]).mean()), 0.0, 1.0) for k in KS}
        for key, s in scores.items()
    }
    found = plane(entries, scores, curves, "t", (1, 64), DRAWING)
    assert found.frontier[0] == "base"
    assert found.frontier[-1] == "instruct"
    points = {point.model: point for point in found.points}
    assert points["timber-l"].verdict == "better"
    on_it = points[EDIT].gap
    assert on_it is not None
    inner = [scores[key] for key in found.frontier[1:]]
    coarse = straightness(inner, (1, 64))
    assert coarse is not None
    assert abs(on_it.value) <= coarse + 1e-3
    assert points["merge_mu0.8"].gap is None


def test_a_frontier_of_few_of_the_merges_tells_no_gap(
    entries: tuple[Entry, ...], p: NDArray[np.float64]
) -> None:
    scores = {"base": model(p / 2), "instruct": model(p), EDIT: model(p * 0.9)}
    curves = {key: dict.fromkeys(KS, Interval(0.5, 0.4, 0.6)) for key in scores}
    found = plane(entries, scores, curves, "t", KS, DRAWING)
    assert all(point.gap is None for point in found.points)


def test_below_a_frontier_of_sampled_scores_is_not_told(entries: tuple[Entry, ...]) -> None:
    """It is the best of noisy merges: what is one of them seems to lie below."""
    rng = np.random.default_rng(0)
    chance = rng.beta(0.5, 0.8, size=30)

    def drawn(mu: float) -> Scores:
        c = rng.binomial(64, mu * chance + (1 - mu) * 0.2)
        return Scores(tuple(map(str, range(30))), None, np.full(30, 64), c)

    scores = {"base": drawn(0.0), "instruct": drawn(1.0), EDIT: drawn(0.3)}
    scores |= {f"merge_mu{mu}": drawn(mu) for mu in MERGES}
    curves = {key: dict.fromkeys((1, 16), Interval(0.5, 0.4, 0.6)) for key in scores}
    found = plane(entries, scores, curves, "t", (1, 16), DRAWING)
    assert {point.verdict for point in found.points} <= {None, "better", "not distinguishable"}


def test_straightness_bounds_what_a_finer_frontier_would_show(p: NDArray[np.float64]) -> None:
    """The merges between the pieces' ends lie at most so far above them, however long these are."""

    def merged(mu: float) -> Scores:
        return model(mu * p + (1 - mu) * 0.3)

    gains = (0.0, 0.6, 0.7, 0.8, 0.9, 1.0)
    means = {mu: merged(mu).table(KS).mean(axis=0) for mu in np.linspace(0, 1, 101)}
    line = np.array(sorted(merged(mu).table(KS).mean(axis=0).tolist() for mu in gains))
    above = max(
        y - np.interp(x, line[:, 0], line[:, 1]) for mu, (x, y) in means.items() if mu > 0.6
    )
    told = straightness([merged(mu) for mu in gains], KS)
    assert told is not None
    assert above > 0.001
    assert above <= told < 10 * above
    flat = [model(np.array([x, x])) for x in (0.2, 0.3, 0.5)]
    assert straightness(flat, (1, 1)) == pytest.approx(0.0, abs=1e-12)
    assert straightness(flat[:2], (1, 1)) is None


def test_noise_is_seldom_beyond_noise(entries: tuple[Entry, ...]) -> None:
    """One draw taken for the edit, the others for its noise: told apart in 5 % or fewer."""
    rng = np.random.default_rng(4)
    p = rng.beta(0.5, 0.8, size=80)
    edit = next(entry for entry in entries if entry.key == EDIT)
    beyond = 0
    for _ in range(80):
        direction = rng.standard_normal(len(p))

        def draw(direction: NDArray[np.float64] = direction) -> Scores:
            # What noise does is alike on all problems of one draw, so draws differ as a whole.
            shift = 0.01 * rng.standard_normal() + 0.002 * direction
            return model(p + shift)

        scores = {"instruct": model(p), EDIT: draw()}
        scores |= {f"noise_seed{i}_of_{EDIT}": draw() for i in range(5)}
        found = controlled(edit, entries, scores, "t", 1, DRAWING)
        assert found is not None
        assert found.beyond_noise is not None
        beyond += not found.beyond_noise.contains_zero
    assert beyond <= 9  # 4 expected; more than 9 in one of a hundred


def test_two_draws_are_too_few_for_a_word(
    entries: tuple[Entry, ...], p: NDArray[np.float64]
) -> None:
    edit = next(entry for entry in entries if entry.key == EDIT)
    scores = {"instruct": model(p), EDIT: model(p * 0.9)}
    scores |= {f"noise_seed{i}_of_{EDIT}": model(p * 0.99) for i in range(2)}
    found = controlled(edit, entries, scores, "t", 1, DRAWING)
    assert found is not None
    assert found.noise_effect is not None
    assert found.beyond_noise is None


def test_effect_that_noise_shares_is_not_the_methods_own(
    entries: tuple[Entry, ...], p: NDArray[np.float64]
) -> None:
    rng = np.random.default_rng(2)
    shifted = p + 0.05 * (1 - p)
    scores = {
        "instruct": model(p),
        EDIT: model(shifted),
        f"matched-merge_of_{EDIT}": model(p),
        **{
            f"noise_seed{i}_of_{EDIT}": model(shifted + 0.002 * rng.standard_normal(len(p)))
            for i in range(5)
        },
    }
    edit = next(entry for entry in entries if entry.key == EDIT)
    found = controlled(edit, entries, scores, "t", 1, DRAWING)
    assert found is not None
    assert found.merge == f"matched-merge_of_{EDIT}"
    assert len(found.noise_effects) == 5
    assert found.beyond_merge is not None
    assert not found.beyond_merge.contains_zero
    assert found.beyond_noise is not None
    assert found.beyond_noise.contains_zero
    assert "noise of the same size cannot be told from it" in found.says
    bare = next(entry for entry in entries if entry.key == "merge_mu0.8")
    assert controlled(bare, entries, scores, "t", 1, DRAWING) is None


def test_sentence_names_what_an_effect_goes_beyond() -> None:
    big, none = Interval(0.05, 0.04, 0.06), Interval(0.0, -0.01, 0.01)
    assert says("X", 4, big, big, big).endswith(
        "beyond the merge that moves the weights as far (+5.00) and beyond noise of the same size"
        " (+5.00)."
    )
    assert "no effect" in says("X", 4, none, big, big)
    less = Interval(-0.03, -0.04, -0.02)
    assert says("X", 64, Interval(0.01, 0.005, 0.015), less, None).endswith(
        "but the merge that moves the weights as far has more of it."
    )
    assert "a negligible effect" in says("X", 4, Interval(0.001, 0.0005, 0.002), None, None)
