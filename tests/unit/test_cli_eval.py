"""Flags of ``timberkit eval``: what they mean together with a file, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from timberkit import cli, cli_eval
from timberkit.errors import TimberkitError
from timberkit.evaluation_recipe import EvaluationRecipe


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command as far as its recipe."""
    seen: list[EvaluationRecipe] = []

    def show(found: EvaluationRecipe, *_: Any, **__: Any) -> None:
        seen.append(found)

    monkeypatch.setattr(cli_eval, "_show_plan", show)

    def of(*arguments: object) -> EvaluationRecipe:
        done = CliRunner().invoke(
            cli.app, ["eval", *map(str, arguments), "--dry-run"], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        return seen.pop()

    return of


def test_flags_become_fields(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("a, b\nc\n\n")
    found = recipe(
        *("m=a/b", "c/d", "--task", "aime24", "--task", "math500:paper", "-n", 8, "--raw", "m"),
        *("--data", "math500=x.jsonl", "--temperature", "0.6,1", "--template-arg", "think=false"),
        *("--template-arg", "name=x", "--problems", f"@{tmp_path / 'keys.txt'}", "--no-thinking"),
    )
    assert found.models == ("m=a/b", "c/d")
    assert [(task.name, task.data) for task in found.tasks] == [
        ("aime24", None),
        ("math500", "x.jsonl"),
    ]
    assert (found.rollouts, found.raw_models, found.thinking) == (8, ("m",), False)
    assert found.temperatures == (0.6, 1.0)
    assert found.template_args == {"think": False, "name": "x"}
    assert found.problems == ("a, b", "c")


def test_flags_override_a_file_and_data_joins_its_tasks(recipe: Any, tmp_path: Path) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_text("models: [a/b]\ntasks: [aime24, {name: ifeval}]\nrollouts: 4\nseed: 7\n")
    found = recipe("--config", config, "-n", 16, "--data", "ifeval=own.jsonl")
    assert (found.rollouts, found.seed, found.models) == (16, 7, ("a/b",))
    assert found.tasks[1].data == "own.jsonl"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--task", "aime24"), "no models given"),
        (("a/b",), "no tasks given"),
        (("a/b", "--task", "aime24", "--data", "ifeval=x"), "--data ifeval=…: no task"),
        (("a/b", "--task", "aime24", "--data", "aime24"), "write --data NAME=VALUE"),
        (("a/b", "--task", "aime24", "--temperature", "hot"), "write numbers"),
        (("a/b", "--task", "aime24", "--problems", "@/no/such"), "cannot be read"),
        (("a/b", "--task", "aime24", "--limit", "0"), "limit"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(TimberkitError) as refused:
        CliRunner().invoke(cli.app, ["eval", *arguments], catch_exceptions=False)
    assert said in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--serve", "other"), "expected vllm"),
        (("--serve-args", "--x"), "without --serve"),
        (("--serve", "vllm", "--serve-args", "'"), "cannot be read"),
    ],
)
def test_options_of_a_server_are_checked(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    command = ["eval", "a/b", "--task", "sapling", "-o", str(tmp_path / "run"), *arguments]
    with pytest.raises(TimberkitError) as refused:
        CliRunner().invoke(cli.app, command, catch_exceptions=False)
    assert said in str(refused.value)


def test_output_has_to_be_named() -> None:
    with pytest.raises(TimberkitError, match="add: -o FOLDER"):
        CliRunner().invoke(cli.app, ["eval", "a/b", "--task", "sapling"], catch_exceptions=False)


def test_help_comes_without_the_engine() -> None:
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom timberkit import cli\n"
        "assert CliRunner().invoke(cli.app, ['eval', '--help']).exit_code == 0\n"
        "print([name for name in ('inspect_ai', 'torch', 'openai') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
