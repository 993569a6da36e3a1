"""What ``timberkit analyze`` does, seen from the shell: output, kills, workers, refusals."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import timberkit
from timberkit.measurements import Analysis

USAGE, BAD_INPUT = 2, 3
STAGE = ".out.timberkit-stage"
SCRIPT = "model.layers.0.<script>alert(1)</script>.up_proj.weight"
MARKUP = "model.layers.1.[bold red]mlp[/].down_proj.weight"


def timeless(analysis: Analysis) -> Analysis:
    """Everything but how long each weight took."""
    weights = tuple(replace(weight, seconds=0.0) for weight in analysis.weights)
    return replace(analysis, weights=weights)


def assert_same(first: Path, second: Path) -> None:
    assert timeless(timberkit.read_analysis(first)) == timeless(timberkit.read_analysis(second))
    assert (first / "summary.json").read_bytes() == (second / "summary.json").read_bytes()


@pytest.fixture(scope="module")
def plain(commands: Any, checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The output of a command as a user gives it, and what it printed."""
    output = tmp_path_factory.mktemp("plain") / "out"
    done = commands.fresh(
        *("analyze", checkpoints.base, checkpoints.instruct, "-o", output),
        *("--measure", "rounding,subspaces", "--keep-values", "all"),
    )
    assert done.exit_code == 0, done.stderr
    return output, done


@pytest.fixture(scope="module")
def undisturbed(
    commands: Any, grove: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An analysis of many small matrices that nothing disturbed, by one worker."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    done = commands.run("analyze", *grove, "-o", output, "--workers", 1, "--measure", "rounding")
    assert done.exit_code == 0, done.stderr
    return output


def test_the_output_is_tables_a_summary_and_a_manifest(plain: Any, commands: Any) -> None:
    output, done = plain
    assert {"spectra.parquet", "summary.json", "timberkit.json"} <= set(os.listdir(output))
    assert os.listdir(output.parent) == ["out"]
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    table = pq.read_table(output / "spectra.parquet")
    assert table.num_rows == 21
    assert all(table["base_singular_values"].is_valid().to_pylist())
    verified = commands.run("verify", output)
    assert verified.exit_code == 0
    assert "21 weights" in verified.stdout


def test_figures_and_one_page_come_with_it(plain: Any) -> None:
    output, done = plain
    page = (output / "report.html").read_text(encoding="utf-8")
    assert len(page) < 8_000_000
    assert str(output / "report.html") in done.stdout
    assert {"effective_rank.svg", "effective_rank.png"} <= set(os.listdir(output / "figures"))


def test_several_analyses_stand_on_one_page_and_nothing_is_overwritten_unasked(
    plain: Any, undisturbed: Path, commands: Any, tmp_path: Path
) -> None:
    output, _ = plain
    asked = ("report", output, undisturbed, "-o", tmp_path / "both.html")
    done = commands.run(*asked)
    assert (done.exit_code, done.stderr) == (0, "")
    page = (tmp_path / "both.html").read_bytes()
    refused = commands.run(*asked)
    assert refused.exit_code == USAGE
    assert "is there already" in refused.error
    assert (tmp_path / "both.html").read_bytes() == page
    assert commands.run(*asked, "--overwrite", "--quiet").exit_code == 0
    nowhere = commands.run("report", output, "-o", tmp_path / "absent" / "page.html")
    assert nowhere.exit_code == USAGE
    assert "no such folder" in nowhere.error
    nothing = commands.run("report", tmp_path, "-o", tmp_path / "none.html")
    assert nothing.exit_code == BAD_INPUT
    assert not (tmp_path / "none.html").exists()


def test_the_terminal_says_what_the_summary_says(plain: Any) -> None:
    output, done = plain
    summary = json.loads((output / "summary.json").read_text())
    for line in summary["verdicts"]:
        assert line in done.stdout
    assert any("times rounding" in line for line in summary["verdicts"])
    for module, found in summary["modules"].items():
        row = next(line for line in done.stdout.splitlines() if module in line)
        assert f"{found['delta_ratio']['mean']:.3f}" in row
    assert all("times rounding" in row["verdict"] for row in summary["matrices"])
    assert len(summary["matrices"]) == 21


def test_the_manifest_gives_the_same_analysis_again(
    plain: Any, commands: Any, tmp_path: Path
) -> None:
    output, _ = plain
    again = tmp_path / "again"
    done = commands.run("analyze", "--config", output / "timberkit.json", "-o", again, "--no-page")
    assert done.exit_code == 0, done.stderr
    assert_same(output, again)


def test_json_is_one_object_with_the_summary(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    done = commands.run("analyze", *pair, "-o", tmp_path / "out", "--layers", 0, "--json")
    assert done.stderr == ""
    assert done.json["summary"]["model"]["matrices"] == 7
    assert done.json["summary"]["model"]["rounding"] is None
    assert done.json["resumed"] is False
    quiet = commands.run(
        "analyze", *pair, "-o", tmp_path / "quiet", "--layers", 0, "--quiet", "--no-page"
    )
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")


def test_a_dry_run_writes_nothing(commands: Any, checkpoints: Any, tmp_path: Path) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    shown = commands.run("analyze", *pair, "--dry-run", "--families", "ffn", cwd=tmp_path)
    assert shown.exit_code == 0, shown.stderr
    assert "Measured" in shown.stdout
    assert "family attention not selected (12)" in shown.stdout
    listed = commands.run("analyze", *pair, "--dry-run", "--json", cwd=tmp_path).json
    assert len(listed["measured"]) == 21
    assert listed["estimate"]["seconds"] > 0
    assert os.listdir(tmp_path) == []


def test_two_workers_measure_what_one_does(
    commands: Any, grove: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    done = commands.run(
        "analyze", *grove, "-o", output, "--workers", 2, "--measure", "rounding", "--no-page"
    )
    assert done.exit_code == 0, done.stderr
    assert json.loads((output / "timberkit.json").read_text())["run"]["workers"] == 2
    assert_same(output, undisturbed)


def test_resume_after_kill_gives_the_same_files(
    commands: Any, checkpoints: Any, grove: tuple[Path, Path], undisturbed: Path, tmp_path: Path
) -> None:
    command = (
        "analyze",
        "--no-page",
        *grove,
        "-o",
        tmp_path / "out",
        "--workers",
        1,
        "--measure",
        "rounding",
    )
    noted: list[int] = []
    for _ in range(2):
        before = len(checkpoints.journal(tmp_path / "out"))
        running = commands.start(*command)
        running.wait_until(lambda: len(checkpoints.journal(tmp_path / "out")) > before)  # noqa: B023
        running.send(signal.SIGKILL)
        assert running.wait().exit_code == -signal.SIGKILL
        noted.append(len(checkpoints.journal(tmp_path / "out")))
    assert 0 < noted[0] < noted[1] <= 160
    assert os.listdir(tmp_path) == [STAGE]
    other = commands.run(*command[:-1], "subspaces")
    assert other.exit_code == USAGE
    assert "unfinished run of another recipe" in other.error
    again = commands.run(*command, "--json")
    assert again.json["resumed"] is True
    assert os.listdir(tmp_path) == ["out"]
    assert_same(tmp_path / "out", undisturbed)


def test_ctrl_c_is_resumable(commands: Any, checkpoints: Any, grove: Any, tmp_path: Path) -> None:
    command = (
        "analyze",
        "--no-page",
        *grove,
        "-o",
        tmp_path / "out",
        "--workers",
        1,
        "--measure",
        "rounding",
    )
    running = commands.start(*command)
    running.wait_until(lambda: checkpoints.journal(tmp_path / "out"))
    running.send(signal.SIGINT)
    done = running.wait()
    assert done.exit_code == 4
    assert "the same command continues" in done.error
    assert commands.run("clean", tmp_path).exit_code == 0
    assert os.listdir(tmp_path) == []


def test_an_output_is_only_replaced_on_request(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    command = (
        "analyze",
        "--no-page",
        checkpoints.base,
        checkpoints.instruct,
        "-o",
        tmp_path / "out",
    )
    assert commands.run(*command, "--layers", 0).exit_code == 0
    refused = commands.run(*command)
    assert refused.exit_code == USAGE
    assert "--overwrite" in refused.error
    assert commands.run(*command, "--overwrite").exit_code == 0
    assert len(timberkit.read_analysis(tmp_path / "out").weights) == 21


def test_hidden_states_of_the_embedded_pair_and_of_own_texts(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    (tmp_path / "texts.jsonl").write_text('{"prompt": "nums 6 3 7 make 60 :"}\n"1 + 2 = 3"\n')
    done = commands.run(
        *("analyze", "--no-page", checkpoints.base, checkpoints.instruct, "-o", tmp_path / "out"),
        *("--hidden-states", "--prompts", "texts.jsonl", "--layers", 0),
        cwd=tmp_path,
    )
    assert done.exit_code == 0, done.stderr
    assert "embedding" in done.stdout
    assert "Warning" not in done.stderr
    found = timberkit.read_analysis(tmp_path / "out")
    assert [row.layer for row in found.hidden_states] == [0, 1, 2, 3]
    assert found.facts["texts"] == 2
    again = commands.run(
        "analyze",
        "--no-page",
        "--config",
        tmp_path / "out" / "timberkit.json",
        "-o",
        tmp_path / "again",
    )
    assert again.exit_code == 0, again.stderr
    assert timeless(timberkit.read_analysis(tmp_path / "again")) == timeless(found)


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (("--measure", "teapots"), USAGE, "measure"),
        (("--keep-values", "none"), USAGE, "keep_values"),
        (("--prompts", "texts.txt"), USAGE, "only hidden_states reads them"),
        (("--hidden-states", "--prompts", "nowhere.txt"), BAD_INPUT, "nowhere.txt"),
        (("--layers", "50"), USAGE, "no tensor is left"),
        (("--families", "teapots"), USAGE, "families"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    commands: Any, checkpoints: Any, tmp_path: Path, flags: Any, code: int, told: str
) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    done = commands.run("analyze", *pair, "-o", "out", *flags, cwd=tmp_path)
    assert done.exit_code == code
    assert told in done.error
    assert os.listdir(tmp_path) == []


def test_missing_names_are_asked_for(commands: Any, checkpoints: Any, tmp_path: Path) -> None:
    done = commands.run("analyze", checkpoints.base, "-o", "out", cwd=tmp_path)
    assert done.exit_code == USAGE
    assert "INSTRUCT not given; write: timberkit analyze BASE INSTRUCT," in done.error
    done = commands.run("analyze", checkpoints.base, checkpoints.instruct, cwd=tmp_path)
    assert done.exit_code == USAGE
    assert "-o FOLDER" in done.error


def test_a_damaged_weight_ends_the_run_and_is_named(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    base, instruct = checkpoints.copies(tmp_path / "pair")
    tensors = checkpoints.read(instruct)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(tensors, instruct / "model.safetensors", metadata={"format": "pt"})
    done = commands.run("analyze", "--no-page", base, instruct, "-o", tmp_path / "out")
    assert done.exit_code == BAD_INPUT
    assert "'model.layers.1.mlp.up_proj.weight': instruct: found NaN" in done.error
    assert os.listdir(tmp_path) == ["pair"]


def test_hostile_names_are_text_and_nothing_else(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    base = {
        name: (torch.randn(24, 16, generator=generator) * 0.02).bfloat16()
        for name in (SCRIPT, MARKUP)
    }
    instruct = {
        name: (weight.float() + torch.randn(24, 16, generator=generator) * 0.001).bfloat16()
        for name, weight in base.items()
    }
    pair = [
        checkpoints.write(tmp_path / name, [tensors], model_type="</script>")
        for name, tensors in (("base", base), ("instruct", instruct))
    ]
    done = commands.run(
        "analyze", "--no-page", *pair, "-o", tmp_path / "out", "--measure", "rounding"
    )
    assert done.exit_code == 0, done.stderr
    assert "<script>alert(1)</scri" in done.stdout  # the column folds it
    assert "red]mlp[/].down_proj" in done.stdout
    found = timberkit.read_analysis(tmp_path / "out")
    assert [weight.name for weight in found.weights] == [SCRIPT, MARKUP]
    assert found.facts["model_type"] == "</script>"
