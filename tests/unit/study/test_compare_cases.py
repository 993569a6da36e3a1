"""The case browser of a comparison: the same counts as its numbers, from one or more tables."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_cases import made_rollouts
from made_rollouts import counted, write_lines
from typer.testing import CliRunner, Result

from timberkit import cli
from timberkit.errors import TimberkitError, UsageError
from timberkit.rollouts import Rollout, write_rollouts


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["compare", *map(str, arguments)], catch_exceptions=False)


def table(path: Path, rollouts: list[Rollout]) -> Path:
    write_rollouts(path, rollouts)
    return path


def listed(page: Path) -> Any:
    text = page.read_text(encoding="utf-8")
    return json.loads(re.findall(r'id="case-data">(.*?)</script>', text)[0])


def test_cases_stand_beside_the_numbers(tmp_path: Path) -> None:
    rollouts = table(tmp_path / "r.parquet", made_rollouts())
    page = tmp_path / "page.html"
    done = run(rollouts, "--model", "timber", "--model", "instruct", "--cases", page)
    assert done.exit_code == 0, done.output
    assert "page.html: problems and answers" in done.output.replace("\n", "")
    found = listed(page)
    assert sorted(found["models"]) == ["instruct", "timber"]
    assert found["models"][found["reference"]] == "instruct"
    assert len(found["cases"]) == 6


def test_names_are_given_anew_and_a_rollout_counts_once(tmp_path: Path) -> None:
    made = made_rollouts({"instruct": (0.5,)})
    failed = [replace(one, correct=False, error="refused") for one in made[:2]]
    other = made_rollouts({"timber": (1.0,)})
    paths = [
        table(tmp_path / f"{name}.parquet", rollouts)
        for name, rollouts in (("a", [*failed, *made[5:]]), ("b", made), ("c", other))
    ]
    page = tmp_path / "page.html"
    done = run(f"old={paths[0]}", f"old={paths[1]}", f"new={paths[2]}", "--cases", page, "--quiet")
    assert done.exit_code == 0, done.output
    found = listed(page)
    assert found["models"] == ["old", "new"]
    assert [counts[:2] for counts in found["cases"][0]["counts"]] == [[10, 5], [10, 10]]


def test_only_the_tasks_that_are_compared_are_shown(tmp_path: Path) -> None:
    rollouts = made_rollouts()
    rollouts += [replace(one, task="other") for one in rollouts]
    path = table(tmp_path / "r.parquet", rollouts)
    page = tmp_path / "page.html"
    assert run(path, "--task", "other", "--cases", page, "--quiet").exit_code == 0
    assert listed(page)["tasks"] == ["other"]


def test_sources_without_texts_are_refused_before_they_are_read(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "r.jsonl", counted("m", 2, [1]))
    with pytest.raises(UsageError, match="--cases shows whole answers"):
        run(lines, "--cases", tmp_path / "page.html")


@pytest.mark.parametrize(
    ("page", "message"), [("there.html", "is there already"), ("no/p.html", "no such folder")]
)
def test_a_page_is_not_replaced_unasked(tmp_path: Path, page: str, message: str) -> None:
    (tmp_path / "there.html").write_text("mine")
    rollouts = table(tmp_path / "r.parquet", made_rollouts())
    with pytest.raises(TimberkitError, match=message):
        run(rollouts, "--cases", tmp_path / page)
    if page == "there.html":
        run(rollouts, "--cases", tmp_path / page, "--overwrite")
        assert listed(tmp_path / page)["cases"]
