"""The exact evaluator, its splits, and the sentences of a search."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from timberkit.engine.run import refine
from timberkit.metrics import Interval
from timberkit.sapling import base_folder, instruct_folder, load_problems, success_probabilities
from timberkit.sapling.training.reinforcement import draw_problems
from timberkit.sapling.training.settings import SHIPPED
from timberkit.study.search.evaluators import FULL, Effort
from timberkit.study.search.exact import ExactEvaluator, sapling_splits
from timberkit.study.search.factors import Factors
from timberkit.study.search.findings import Named, Point, as_csv, points_of
from timberkit.study.search.run import OpenSearch
from timberkit.study.search.settings import build_settings
from timberkit.study.search.words import sentences

PAIR = {"base": "sapling:base", "instruct": "sapling:instruct", "edges": [4]}


def test_the_splits_share_no_puzzle_and_confirm_none_that_was_ever_used() -> None:
    splits = sapling_splits()
    assert {name: len(found) for name, found in splits.items()} == {
        "search": 1531, "constraint": 508, "confirm": 178,
    }  # fmt: skip
    keys = {name: {problem.key for problem in found} for name, found in splits.items()}
    assert sum(map(len, keys.values())) == len(set.union(*keys.values())) == 1531 + 508 + 178
    shipped = {problem.key for problem in load_problems("held-out")}
    assert shipped <= keys["constraint"]
    rewarded = {each.key for each in draw_problems(SHIPPED.rl, random.Random(SHIPPED.rl.seed))}
    assert not rewarded & set.union(*keys.values())
    assert sapling_splits() == splits
    assert [len(found) for found in sapling_splits(limit=7).values()] == [7, 7, 7]


@pytest.fixture(scope="module")
def opened() -> OpenSearch:
    return OpenSearch.of(build_settings(PAIR))


@pytest.fixture(scope="module")
def evaluator(opened: OpenSearch, tmp_path_factory: pytest.TempPathFactory) -> ExactEvaluator:
    factors = Factors(tmp_path_factory.mktemp("factors"), opened.plan.refine_tasks, 4)
    factors.make()
    return ExactEvaluator(instruct_folder(), factors, sapling_splits(limit=30))


def test_a_candidate_is_judged_as_its_checkpoint_would_be(
    opened: OpenSearch, evaluator: ExactEvaluator, tmp_path: Path
) -> None:
    """Merges and a cut by leading directions, written by ``refine`` and read again."""
    variants = {"merge:mu=0.7": (0.7, 0.7), "leading:count=4,gain=0.3": (0.3, 1.0)}
    folders = refine(
        base_folder(), instruct_folder(), tmp_path / "out", variants=tuple(variants)
    ).folders
    problems = sapling_splits(limit=30)["constraint"]
    for (name, gains), folder in zip(variants.items(), folders.values(), strict=True):
        found = evaluator.outcome(
            opened.space.with_gains(name, [gains] * len(opened.space.tensors)), "constraint", FULL
        )
        expected = success_probabilities(folder, problems)
        np.testing.assert_allclose(found["p"], expected, atol=2e-5)
    again = evaluator.outcome(opened.space.constant("", 1.0), "constraint", FULL)
    expected = success_probabilities(instruct_folder(), problems)
    np.testing.assert_allclose(again["p"], expected, atol=1e-8)


def test_blocks_share_the_problems_out(opened: OpenSearch, evaluator: ExactEvaluator) -> None:
    instruct = opened.space.constant("", 1.0)
    whole = evaluator.outcome(instruct, "search", FULL)["p"]
    parts = [evaluator.outcome(instruct, "search", Effort(0.3, block))["p"] for block in range(4)]
    assert parts[3] == parts[0]
    together = sorted(p for part in parts[:3] for p in part)
    assert together == pytest.approx(sorted(whole), abs=1e-6)
    assert evaluator.plan(Effort(0.3, 4)) == evaluator.plan(Effort(1 / 3, 1))
    assert evaluator.plan(Effort(0.9, 3)) == FULL


def test_points_set_everything_against_instruct_and_its_merges(opened: OpenSearch) -> None:
    space = opened.space
    models = [
        Named("instruct", "instruct", space.constant("instruct", 1.0)),
        Named("merge 0.5", "merge", space.constant("merge 0.5", 0.5)),
        Named("winner", "winner", space.constant("found", 0.8)),
    ]
    values = [(0.4, 0.7), (0.3, 0.9), (0.35, 0.85)]
    found = points_of(models, [np.tile(value, (5, 1)) for value in values], "confirm")
    assert [point.gap for point in found[:2]] == [None, None]
    winner = found[2]
    assert winner.difference.value == pytest.approx(-5.0)
    assert winner.gap is not None
    assert winner.gap.value == pytest.approx(5.0)
    assert winner.is_above
    rows = as_csv(found).splitlines()
    assert len(rows) == 4
    assert rows[3].startswith("confirm,winner,winner,found,35.0000,")
    assert rows[1].split(",")[13:16] == ["", "", ""]


def interval(value: float, width: float = 1.0) -> Interval:
    return Interval(value, value - width, value + width)


def point(name: str, split: str, difference: float, gap: float | None, **more: str) -> Point:
    return Point(
        name, more.get("role", "winner"), more.get("label", "cma 1.2"), "k", split,  # type: ignore[arg-type]
        interval(38.0), interval(85.0), interval(difference),
        None if gap is None else interval(gap), "within",
    )  # fmt: skip


def said(*, difference: float, gap: float | None, openings: int = 1, label: str = "cma") -> str:
    points = [
        point("winner", split, difference, gap, label=label)
        for split in ("search", "constraint", "confirm")
    ]
    points.append(point("simple rule: ramp", "confirm", -0.1, 0.2, role="rule", label="ramp"))
    return " ".join(sentences(points, objective=64, keep=1, tolerance=0.5, openings=openings))


def test_the_sentences_follow_the_intervals() -> None:
    kept = said(difference=0.7, gap=3.0)
    assert "is above the merge of equal Pass@1: +3.00 [+2.00, +4.00]" in kept
    assert "surely keeps its constraint" in kept
    assert "100% of the gain survives" in kept
    assert "best simple rule there, ramp" in kept
    vague = said(difference=-0.2, gap=0.4)
    assert "not told apart from the merge" in vague
    assert "It keeps its constraint" in vague
    missed = said(difference=-0.8, gap=-3.0)
    assert "is below the merge" in missed
    assert "misses its constraint there: 0.80 points lost" in missed
    assert "cannot be told" in missed
    assert "lies outside" in said(difference=0.0, gap=None)
    assert "opened 2 times" in said(difference=0.0, gap=1.0, openings=2)
    assert "null result" in said(difference=0.0, gap=0.0, label="instruct")
