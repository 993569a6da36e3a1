"""``timberkit search`` from the command line: a tiny budget, killed and continued, by rollouts."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

from timberkit.config import build_recipe, read_recipe_fields
from timberkit.engine.run import refine_recipe
from timberkit.errors import StageConflictError
from timberkit.evaluation.run import EvaluationOptions
from timberkit.rollouts import read_rollouts
from timberkit.study.search.candidates import Candidate
from timberkit.study.search.factors import Factors
from timberkit.study.search.run import OpenSearch, search
from timberkit.study.search.settings import build_settings

pytest.importorskip("optuna")
pytest.importorskip("cmaes")

TINY = {
    "limit": 10, "evaluations": 12, "population": 6, "share": 0.5, "edges": [4], "by": "module",
    "levels": [0.8, 1.0], "merges": [1.0, 0.8], "tolerance": 20.0, "how": "cma",
}  # fmt: skip


def command(run: Path, *more: object) -> tuple[object, ...]:
    """The command line of ``TINY``."""
    flags: list[object] = []
    for name, value in TINY.items():
        shown = (
            ("+" if name == "edges" else ",").join(map(str, value))
            if isinstance(value, list)
            else value
        )
        flags += [f"--{name}", shown]
    return ("search", "sapling:base", "sapling:instruct", *flags, "-o", run, *more)


def results(run: Path) -> dict[str, Any]:
    """What a search found, without what depends on the day."""
    found: dict[str, Any] = json.loads((run / "results.json").read_text())
    for opening in found["openings"]:
        del opening["at"]
    del found["seconds"], found["evaluations"]
    return found


def journal(run: Path) -> list[dict[str, Any]]:
    lines = (run / "journal.jsonl").read_text().splitlines()
    return [json.loads(line)["entry"] for line in lines]


def journal_lines(run: Path) -> int:
    path = run / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("search") / "run"
    settings = build_settings({"base": "sapling:base", "instruct": "sapling:instruct"} | TINY)
    assert not search(settings, run).resumed
    return run


def test_a_search_writes_what_it_found(undisturbed: Path) -> None:
    found = results(undisturbed)
    assert found["splits"] == {"search": 10, "constraint": 10, "confirm": 10}
    winner = next(
        point for point in found["points"]
        if point["name"] == "winner" and point["split"] == "confirm"
    )  # fmt: skip
    assert winner["low"]["low"] <= winner["low"]["value"] <= winner["low"]["high"]
    recipe = yaml.safe_load((undisturbed / "winner.yaml").read_text())
    assert recipe["variants"] == [found["winner"]]
    assert set(recipe["variants"][0]) == {"method", "edges", "gains"}
    assert len(recipe["variants"][0]["gains"]) == 21
    rows = list(csv.DictReader((undisturbed / "frontier.csv").read_text().splitlines()))
    assert len(rows) == len(found["points"])
    assert {row["role"] for row in rows} == {"instruct", "merge", "winner", "rule"}
    assert (undisturbed / "tradeoff.svg").read_text().startswith("<?xml")
    assert len(found["openings"]) == 1
    # Nothing is judged there but what the opening named.
    entries = journal(undisturbed)
    kinds = [entry["kind"] for entry in entries]
    opened = kinds.index("opening")
    confirmed = [
        place for place, entry in enumerate(entries)
        if entry["kind"] == "evaluation" and entry["split"] == "confirm"
    ]  # fmt: skip
    assert min(confirmed) > opened
    assert {entries[place]["candidate"] for place in confirmed} == set(
        entries[opened]["candidates"]
    )


def test_a_killed_search_goes_on_and_finds_the_same(
    commands: Any, tmp_path: Path, undisturbed: Path
) -> None:
    run, lines = tmp_path / "run", 25  # in the middle of CMA-ES
    running = commands.start(*command(run, "--quiet"))
    running.wait_until(lambda: journal_lines(run) >= lines)
    running.send(signal.SIGKILL)
    running.wait(seconds=10)
    kept, whole = journal_lines(run), journal_lines(undisturbed)
    assert lines <= kept < whole
    assert any("cma" in entry.get("label", "") for entry in journal(run))
    done = commands.run(*command(run))
    assert done.exit_code == 0, done.stderr
    assert "10 problems never searched on" in done.stdout
    # The opening of the confirm split is a line, too.
    assert f"continued from an earlier run, {whole - kept - 1} evaluations" in done.stdout
    assert "CMA-ES" in done.stderr
    assert results(run) == results(undisturbed)
    assert (run / "winner.yaml").read_bytes() == (undisturbed / "winner.yaml").read_bytes()


def test_a_search_by_the_model_goes_on_from_half_of_its_journal(tmp_path: Path) -> None:
    """The default for exact chances; what is lacking is judged again and comes out the same."""
    fields = {"base": "sapling:base", "instruct": "sapling:instruct"} | TINY
    settings = build_settings(fields | {"how": "model", "rounds": 2, "levels": [1.0]})
    whole = search(settings, tmp_path / "whole").findings
    lines = (tmp_path / "whole" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    kept = lines[: len(lines) // 2]
    (tmp_path / "half").mkdir()
    shutil.copy(tmp_path / "whole" / "timberkit.json", tmp_path / "half")
    (tmp_path / "half" / "journal.jsonl").write_bytes(b"".join(kept))
    half = search(settings, tmp_path / "half").findings
    assert half.evaluations == whole.evaluations - len(kept)
    assert half.points == whole.points
    assert any("model" in entry.get("label", "") for entry in journal(tmp_path / "half"))


def test_a_finished_search_asks_nothing_again_and_refuses_other_settings(
    undisturbed: Path,
) -> None:
    settings = build_settings({"base": "sapling:base", "instruct": "sapling:instruct"} | TINY)
    before = journal_lines(undisturbed)
    again = search(settings, undisturbed)
    assert again.resumed
    assert again.findings.evaluations == 0
    assert journal_lines(undisturbed) == before
    other = settings.model_copy(update={"margin": 3.0})
    with pytest.raises(StageConflictError, match=r"margin: 1\.0 before, 3\.0 now"):
        search(other, undisturbed)


def test_the_plan_says_how_long_it_takes_and_writes_nothing(commands: Any, tmp_path: Path) -> None:
    done = commands.run(*command(tmp_path / "run", "--dry-run", "--json"))
    assert done.exit_code == 0, done.stderr
    plan = done.json
    assert plan["numbers"] == 14
    assert plan["problems"] == {"search": 10, "constraint": 10, "confirm": 10}
    assert plan["seconds"] > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--objective", "mean"), "write pass@K"),
        (("--edges", "4+x"), "--edges 4+x"),
        (("-n", 8), "given without --task"),
        (("--merges", "0.9,0.8"), "fall from 1"),
        (("--task", "sapling", "-n", 8), "expected at least 64"),
    ],
)
def test_a_wrong_call_is_told_before_anything_is_done(
    commands: Any, tmp_path: Path, more: tuple[object, ...], told: str
) -> None:
    done = commands.run(*command(tmp_path / "run", *more))
    assert done.exit_code == 2
    assert told in done.stderr
    assert not (tmp_path / "run").exists()


def test_by_rollouts_candidates_are_written_asked_and_asked_for_more(tmp_path: Path) -> None:
    """A model in this process answers; halving asks survivors only what is new."""
    pytest.importorskip("inspect_ai")
    fields = {
        "base": "sapling:base", "instruct": "sapling:instruct", "objective": 4, "edges": [4],
        "by": "layer", "evaluations": 4, "population": 4, "share": 0.5, "levels": [1.0],
        "merges": [1.0, 0.6], "tolerance": 100.0,
        "evaluation": {"models": ["m"], "tasks": ["sapling"], "rollouts": 4, "limit": 8},
    }  # fmt: skip
    settings, options = build_settings(fields), EvaluationOptions(grade_workers=1)
    result = search(settings, tmp_path / "run", options=options)
    assert result.findings.splits == {"search": 4, "constraint": 2, "confirm": 2}
    assert not (tmp_path / "run" / "candidate").exists()
    merge = [
        entry for entry in journal(tmp_path / "run")
        if entry["kind"] == "evaluation" and entry["label"] == "merge 0.6"
        and entry["split"] == "search"
    ]  # fmt: skip
    assert {tuple(entry["outcome"]["n"]) for entry in merge} == {(2,) * 4, (4,) * 4}
    few, all_of_them = sorted(merge, key=lambda entry: entry["share"])
    assert all(
        first <= second
        for first, second in zip(few["outcome"]["c"], all_of_them["outcome"]["c"], strict=True)
    )
    run = tmp_path / "run" / "rollouts" / f"{merge[0]['candidate']}-search"
    asked = [(row.problem, row.rollout) for row in read_rollouts(run / "rollouts.parquet")]
    assert len(asked) == len(set(asked)) == 16
    again = search(settings, tmp_path / "run", options=options)
    assert again.findings.evaluations == 0
    assert again.findings.points == result.findings.points


def test_refining_with_the_winner_gives_the_weights_that_were_judged(
    undisturbed: Path, tmp_path: Path
) -> None:
    """The winner of a search is as good as Instruct at times: a candidate far from it, too."""
    settings = build_settings({"base": "sapling:base", "instruct": "sapling:instruct"} | TINY)
    opened = OpenSearch.of(settings)
    factors = Factors(undisturbed / "factors", opened.plan.refine_tasks, 4)
    fields = read_recipe_fields(undisturbed / "winner.yaml")
    far = opened.space.candidate("far", np.linspace(-1, 2.5, opened.space.size))
    for place, candidate in enumerate((_winner(fields), far)):
        recipe = build_recipe(fields | {"variants": [candidate.variant()]})
        refine_recipe(recipe, tmp_path / str(place))
        with safe_open(tmp_path / str(place) / "model.safetensors", framework="pt") as file:
            for task, raw in factors.weights(candidate):
                written = file.get_tensor(task.name)
                judged = torch.from_numpy(raw.view(np.int16).copy()).view(torch.bfloat16)
                differing = (written != judged).double().mean().item()
                assert differing < 1e-3, task.name
                torch.testing.assert_close(written, judged, rtol=2**-7, atol=0)


def _winner(fields: dict[str, Any]) -> Candidate:
    variant = fields["variants"][0]
    gains = {name: tuple(levels) for name, levels in variant["gains"].items()}
    return Candidate("winner", tuple(variant["edges"]), gains)
