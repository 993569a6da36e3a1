"""``timberkit reproduce``: what it plans without a network, and what it refuses."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from timberkit import cli
from timberkit.engine.estimate import Calibration
from timberkit.errors import RecipeError, UsageError
from timberkit.pairs import PAIRS, find_pair, pair_facts
from timberkit.study.reproduce import outlook


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection can be opened, and nothing is measured."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    made = Calibration("made", (256, 4096), (1e10, 2e10))
    monkeypatch.setattr(outlook, "calibrate", lambda: made)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["reproduce", *map(str, arguments)], catch_exceptions=False)


def planned(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--dry-run", "--json")
    assert done.exit_code == 0
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", [pair.name for pair in PAIRS])
def test_a_dry_run_plans_every_pair_from_what_is_known_of_it(name: str) -> None:
    found, facts = planned("--pair", name), pair_facts(find_pair(name))
    steps = {step["step"]: step for step in found["steps"]}
    assert found["matrices"] == facts.matrices
    assert {"analysis", "models"} < set(steps)
    written = sum(
        len(keys) for group, keys in found["models"].items()
        if group not in ("base", "instruct", "temperature")
    )  # fmt: skip
    assert steps["models"]["disk_bytes"] >= written * facts.size_bytes
    assert steps["models"]["disk_bytes"] <= written * facts.size_bytes * 1.01


def test_requests_are_models_times_problems_times_rollouts() -> None:
    found = planned("--pair", "qwen3-0.6b", "--controls", "none")
    steps = {step["step"]: step for step in found["steps"]}
    assert steps["math:released"]["requests"] == 23 * 5000 * 3  # the paper's 22 and Instruct
    assert steps["aime24:released+thinking"]["requests"] == 26 * 30 * 320  # Base, two temperatures
    assert steps["aime24:released+thinking"]["tokens"] == 26 * 30 * 320 * 8_000


def test_keeping_none_needs_the_disk_of_one_model_and_a_pass_for_each() -> None:
    every = {s["step"]: s for s in planned("--pair", "llama-3.2-1b")["steps"]}["models"]
    single = planned("--pair", "llama-3.2-1b", "--keep", "none")
    one = {s["step"]: s for s in single["steps"]}["models"]
    assert every["disk_bytes"] > 20 * one["disk_bytes"]
    assert one["seconds"] > 20 * every["seconds"]


def test_hours_follow_from_the_speed_that_is_given() -> None:
    slow = planned("--pair", "qwen3-0.6b", "--tokens-per-second", 1000)
    quick = planned("--pair", "qwen3-0.6b", "--tokens-per-second", 4000)
    hours = [{s["step"]: s["seconds"] for s in p["steps"]}["math:released"] for p in (slow, quick)]
    assert hours[0] == pytest.approx(4 * hours[1])
    assert any("as given" in said for said in slow["assumed"])
    assert any("an assumption" in said for said in planned("--pair", "qwen3-0.6b")["assumed"])


def test_a_dry_run_for_people_has_steps_sums_and_assumptions() -> None:
    shown = run("--pair", "qwen3-0.6b", "--dry-run").stdout
    for word in ("models in one pass", "aime24:released+thinking", "Disk at the worst moment",
                 "no measurement", "timber_lam0.2"):  # fmt: skip
        assert word in shown


def test_a_choice_of_models_always_has_base_and_instruct() -> None:
    found = planned("--pair", "qwen3-0.6b", "--model", "timber_lam*")
    assert found["models"] == {
        "base": ["base"],
        "instruct": ["instruct"],
        "timber": ["timber_lam0.2", "timber_lam0.5", "timber_lam0.8"],
    }


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("--pair", "qwen9"), UsageError, "qwen3-0.6b"),
        (("--pair", "sapling", "BASE"), UsageError, "--pair"),
        ((), UsageError, "BASE and INSTRUCT"),
        (("--pair", "sapling"), UsageError, "no output"),
        (("--pair", "sapling", "--keep", "some"), UsageError, "all, best, none"),
        (("--pair", "sapling", "-o", "S", "--only", "everything"), UsageError, "analysis"),
        (("--pair", "sapling", "--dry-run", "--model", "tinder*"), UsageError, "timber-l"),
        (("--pair", "sapling", "-o", "S", "--scale", "2"), RecipeError, "scale"),
        (("--pair", "sapling", "-o", "S", "--controls", "most"), RecipeError, "controls"),
        (("--pair", "sapling", "-o", "S", "--variant", "timber:lam=7"), RecipeError, "lam"),
        (("--pair", "sapling", "-o", "S", "--temperature", "warm"), UsageError, "numbers"),
    ],
)
def test_wrong_options_are_refused_with_what_was_expected(
    arguments: tuple[str, ...],
    error: type[Exception],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        run(*arguments)
    assert not list(tmp_path.iterdir())
