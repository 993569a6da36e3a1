"""``timberkit pairs`` and ``--pair``: what they show, fill in and refuse, without a network."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from timberkit import cli, cli_analyze, cli_refine
from timberkit.engine import estimate
from timberkit.engine.estimate import Calibration
from timberkit.errors import UsageError
from timberkit.pairs import PAIRS, find_pair

PAIR = find_pair("qwen3-0.6b")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection can be opened, and nothing is measured."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    made = Calibration("made", (256, 4096), (1e10, 2e10))
    monkeypatch.setattr(estimate, "calibrate", lambda: made)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [*map(str, arguments)], catch_exceptions=False)


def test_every_pair_has_a_line_with_its_ids_whole() -> None:
    done = run("pairs")
    assert done.exit_code == 0
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    for pair in PAIRS:
        sources = (pair.base, pair.instruct) if pair.on_hub else ("shipped", "shipped")
        assert lines[pair.name][1:3] == [*sources]
    assert lines["qwen3-30b-a3b"][3:] == ["30.5", "B", "61.1", "GB", "yes", "18,624"]
    assert lines["llama-3.2-1b"][3:] == ["1.2", "B", "2.5", "GB", "no", "112"]


def test_the_list_as_json_has_exact_numbers() -> None:
    found = {each["name"]: each for each in json.loads(run("pairs", "--json").stdout)}
    assert [*found] == [pair.name for pair in PAIRS]
    assert found["qwen3-0.6b"]["parameters"] == 596_049_920
    assert found["qwen3-0.6b"]["instruct"] == "Qwen/Qwen3-0.6B"


def test_a_plan_by_name_needs_no_network_and_says_where_shapes_come_from() -> None:
    done = run("plan", "--pair", "Qwen3-0.6B")
    assert done.exit_code == 0
    shown = " ".join(done.stdout.split())
    for words in (
        "attention │ 112 │ 112",
        "ffn │ 84 │ 84",
        "1.2 GB of disk",
        "of memory",
        "; about",
    ):
        assert words in shown
    assert "From shape tables, no file of the models was read" in shown


def test_a_plan_by_name_as_json() -> None:
    done = run("plan", "--pair", "qwen3-0.6b", "--layers", "0-3", "--dtype", "float32", "--json")
    found = json.loads(done.stdout)
    assert found["recipe"]["base"] == {"location": PAIR.base, "revision": None}
    assert len(found["refined"]) == 4 * 7
    assert 0 < found["estimate"]["disk_bytes"] - 4 * 596_049_920 < 100_000
    assert found["estimate"]["seconds"] > 0
    assert "shape tables" in found["shapes_from"]


def test_a_plan_of_the_embedded_pair_is_that_of_its_folders() -> None:
    pair = find_pair("sapling")
    by_name = json.loads(run("plan", "--pair", "sapling", "--json").stdout)
    by_folder = json.loads(run("plan", pair.base, pair.instruct, "--json").stdout)
    for part in ("estimate", "refined", "copied", "base_only"):
        assert by_name[part] == by_folder[part]
    assert by_folder["shapes_from"] is None
    assert by_name["shapes_from"] == "From the headers of the shipped files."


@pytest.mark.parametrize(("module", "command"), [(cli_refine, "refine"), (cli_analyze, "analyze")])
def test_other_commands_take_the_ids_as_if_they_were_given(
    module: Any, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(module, "_show_plan", lambda recipe, *_, **__: seen.append(recipe))
    config = tmp_path / "recipe.yaml"
    config.write_text("base: other/base\ninstruct: other/instruct\nlayers: 0-3\n")
    run(command, "--pair", "qwen3-0.6b", "--dry-run")
    run(command, PAIR.base, PAIR.instruct, "--dry-run")
    run(command, "--pair", "qwen3-0.6b", "--config", config, "--dry-run")
    assert seen[0] == seen[1]
    assert (seen[2].base, seen[2].instruct) == (seen[1].base, seen[1].instruct)
    assert seen[2].selection.layers == "0-3"


@pytest.mark.parametrize("command", ["plan", "refine", "analyze"])
@pytest.mark.parametrize("models", [("a",), ("a", "b")], ids=str)
def test_a_pair_beside_models_is_refused(command: str, models: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"--pair sapling and BASE \(a\)") as caught:
        run(command, *models, "--pair", "sapling")
    assert "expected one of the two" in str(caught.value)
    assert ("INSTRUCT (b)" in str(caught.value)) == (len(models) == 2)


def test_an_unknown_pair_is_refused_with_the_names() -> None:
    with pytest.raises(UsageError, match=r"'qwen3-4b': not known, expected one of llama-3\.2-1b"):
        run("plan", "--pair", "qwen3-4b")


def test_neither_models_nor_pair_tells_of_both() -> None:
    with pytest.raises(UsageError, match=r"BASE and INSTRUCT not given.*choose a --pair"):
        run("plan")
