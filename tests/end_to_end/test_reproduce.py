"""``timberkit reproduce`` on the embedded pair: whole, killed and continued, model by model."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_tags import Tags

from timberkit.findings import Findings
from timberkit.sapling import base_folder, instruct_folder, load_problems, success_probabilities
from timberkit.study.reproduce.files import read_results
from timberkit.study.reproduce.folder import LEDGER_NAME

PART = ("--pair", "sapling", "--catalogue", "short", "--controls", "timber", "--noise-seeds", "1",
        "--scale", "0.1")  # fmt: skip
USAGE, BAD_INPUT, INTERRUPTED = 2, 3, 4
MODELS = 15 + 2 * 4  # edits, and for four of Timber a merge and noise


@pytest.fixture(scope="module")
def study(commands: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that nothing disturbed."""
    output = tmp_path_factory.mktemp("study") / "study"
    done = commands.run("reproduce", *PART, "-o", output)
    assert done.exit_code == 0, done.stderr
    for words in ("above merges", "Timber", "neither confirms nor refutes", "report.html"):
        assert words in done.stdout
    return output


@pytest.fixture(scope="module")
def found(study: Path) -> Findings:
    return read_results(study)


def but_costs(study: Path) -> Any:
    """What was found; what it took differs from run to run."""
    fields = json.loads((study / "report" / "results.json").read_text())
    return {name: value for name, value in fields.items() if name != "costs"}


def curve(found: Findings, model: str, task: str) -> dict[int, float]:
    (one,) = [each for each in found.curves if (each.model, each.task) == (model, task)]
    return {point.k: point.score.value for point in one.points}


def test_a_study_has_every_model_on_every_benchmark(study: Path, found: Findings) -> None:
    written = [path.name for path in (study / "models").iterdir()]
    assert len(written) == MODELS
    assert found.notices
    assert not any("not there yet" in notice for notice in found.notices)
    keys = {model.key for model in found.models}
    assert keys == {*written, "base", "instruct", "instruct_T1.2", "instruct_T1.5"}
    exact = [task.key for task in found.tasks if task.how == "exact"]
    assert {(c.model, c.task) for c in found.curves} >= {(m, t) for m in keys for t in exact}
    assert all(model.kept for model in found.models)


def test_scores_are_those_of_the_exact_evaluator(found: Findings) -> None:
    for name, folder in (("base", base_folder()), ("instruct", instruct_folder())):
        p = success_probabilities(folder, load_problems("held-out", n=30))
        for k, value in curve(found, name, "sapling:held-out").items():
            assert value == pytest.approx((1 - (1 - p) ** k).mean(), rel=1e-5)
    p = success_probabilities(instruct_folder(), load_problems("held-out", n=30), temperature=1.5)
    assert curve(found, "instruct_T1.5", "sapling:held-out")[1] == pytest.approx(p.mean(), rel=1e-5)


def test_what_is_known_of_this_pair_is_found(found: Findings) -> None:
    """Base passes Instruct, merges trade, Timber does nothing: on 30 problems already."""
    assert any("Base passes Instruct" in said for said in found.words)
    assert any("Timber is a null result" in said for said in found.words)
    instruct, merge = (curve(found, m, "sapling:held-out") for m in ("instruct", "merge_mu0.6"))
    assert merge[64] > instruct[64] + 0.02
    (plane,) = [each for each in found.planes if each.task == "sapling:held-out"]
    assert plane.frontier[0] == "base"
    assert plane.frontier[-1] == "instruct"
    edits = {each.edit for each in found.controls}
    assert edits == {"timber-l", "timber_lam0.2", "timber_lam0.5", "timber_lam0.8"}
    assert all(each.beyond_merge and each.noise_effect for each in found.controls)
    assert not any(each.beyond_noise for each in found.controls)  # one draw says nothing


def test_sampled_rollouts_agree_with_exact_probabilities(found: Findings) -> None:
    (task,) = [each for each in found.tasks if each.how == "sampled"]
    for model, folder in (("base", base_folder()), ("instruct", instruct_folder())):
        p = success_probabilities(folder, load_problems("held-out", n=task.problems))
        assert task.rollouts is not None
        spread = np.sqrt((p * (1 - p)).mean() / (task.problems * task.rollouts))
        assert abs(curve(found, model, task.key)[1] - p.mean()) < 4 * spread


def test_numbers_on_the_page_are_those_of_the_results(study: Path, found: Findings) -> None:
    page = Tags((study / "report" / "report.html").read_text(encoding="utf-8"))
    shown = [
        cell.number
        for name, table in page.tables.items()
        if name.startswith("table-plane-")
        for row in table.rows
        for cell in row
        if cell.value is not None
    ]
    wanted = {p.low.value for each in found.planes for p in each.points}
    wanted |= {p.gap.value for each in found.planes for p in each.points if p.gap is not None}
    assert wanted <= {number for number in shown if number is not None}
    assert all(said in page.text for said in found.words)


def test_tables_and_figures_lie_beside_the_page(study: Path) -> None:
    names = {path.name for path in (study / "report").iterdir()}
    assert {"results.json", "scores.parquet", "scores.csv", "tables", "figures"} <= names
    tables = {path.suffix for path in (study / "report" / "tables").iterdir()}
    assert tables == {".csv", ".md", ".tex"}
    assert (study / "analysis" / "spectra.parquet").exists()


def test_nothing_in_the_report_tells_of_this_machine(study: Path, commands: Any) -> None:
    secrets = (str(base_folder().parent).encode(), str(commands.folder).encode())
    files = [path for path in (study / "report").rglob("*") if path.is_file()]
    files += [study / "timberkit.json", study / LEDGER_NAME]
    for path in files:
        content = path.read_bytes()
        assert not any(secret in content for secret in secrets), path


def kill_when(commands: Any, output: Path, moment: Any) -> None:
    running = commands.start("reproduce", *PART, "-o", output)
    running.wait_until(moment)
    running.send(signal.SIGKILL)
    assert running.wait().exit_code == -signal.SIGKILL


def test_killed_at_three_points_and_continued_it_finds_the_same(
    commands: Any, study: Path, tmp_path: Path, checkpoints: Any
) -> None:
    output = tmp_path / "study"
    ledger = output / LEDGER_NAME

    def noted(words: bytes) -> int:
        return ledger.read_bytes().count(words) if ledger.exists() else 0

    kill_when(commands, output, lambda: (output / ".analysis.timberkit-stage").exists())
    assert noted(b'"step"') == 0
    kill_when(commands, output, lambda: noted(b'"exact"') >= 10)
    kept = noted(b'"exact"')
    assert noted(b'"step":"exact"') == 0
    kill_when(commands, output, lambda: any(output.glob("rollouts/own/*/journal/*/*")))
    assert noted(b'"exact":[') == 2 * (MODELS + 4) > kept  # every one once, none twice
    done = commands.run("reproduce", *PART, "-o", output, "--json")
    assert done.exit_code == 0, done.stderr
    assert done.json["resumed"]
    assert but_costs(output) == but_costs(study)
    for model in ("timber-l", "noise_seed0_of_timber_lam0.5"):
        assert checkpoints.weights(output / "models" / model) == checkpoints.weights(
            study / "models" / model
        )
    again = commands.run("reproduce", *PART, "-o", output, "--only", "report")
    assert again.exit_code == 0
    assert but_costs(output) == but_costs(study)


def test_ctrl_c_says_how_to_go_on(commands: Any, tmp_path: Path) -> None:
    output = tmp_path / "study"
    running = commands.start("reproduce", *PART, "-o", output)
    running.wait_until(lambda: (output / ".analysis.timberkit-stage").exists())
    running.send(signal.SIGINT)
    done = running.wait(20)
    assert done.exit_code == INTERRUPTED
    assert "the same command continues" in done.stderr


def test_models_are_asked_and_deleted_one_by_one_with_the_same_scores(
    commands: Any, found: Findings, tmp_path: Path
) -> None:
    output = tmp_path / "study"
    some = ("--model", "merge_mu0.[68]", "--only", "scores,report")
    done = commands.run("reproduce", *PART, "-o", output, *some, "--keep", "none")
    assert done.exit_code == 0, done.stderr
    assert not list((output / "models").iterdir())
    one_by_one = read_results(output)
    for model in ("merge_mu0.6", "merge_mu0.8"):
        for task in ("sapling:held-out", "sapling:held-out-4"):
            assert curve(one_by_one, model, task) == curve(found, model, task)
    assert not one_by_one.model("merge_mu0.6").kept
    assert any("not there yet" in notice for notice in one_by_one.notices)
    best = commands.run("reproduce", *PART, "-o", output, *some, "--keep", "best")
    assert best.exit_code == 0, best.stderr
    assert [path.name for path in (output / "models").iterdir()] == ["merge_mu0.8"]


def test_models_written_by_parts_stay_there(
    commands: Any, study: Path, tmp_path: Path, checkpoints: Any
) -> None:
    output = tmp_path / "study"
    part = ("reproduce", *PART, "-o", output, "--only", "models")
    assert commands.run(*part, "--model", "timber_lam0.[25]").exit_code == 0
    assert commands.run(*part, "--model", "merge_mu0.8").exit_code == 0
    there = sorted(path.name for path in (output / "models").iterdir())
    assert there == ["merge_mu0.8", "timber_lam0.2", "timber_lam0.5"]
    assert not (output / "passes").exists()
    for model in there:
        assert checkpoints.weights(output / "models" / model) == checkpoints.weights(
            study / "models" / model
        )


def test_a_pass_that_was_killed_does_not_stand_in_the_way_of_another(
    commands: Any, tmp_path: Path
) -> None:
    output = tmp_path / "study"
    running = commands.start("reproduce", *PART, "-o", output, "--only", "models")
    running.wait_until(lambda: any(output.glob("passes/.*.timberkit-stage/journal.jsonl")))
    running.send(signal.SIGKILL)
    running.wait()
    done = commands.run("reproduce", *PART, "-o", output, "--only", "models", "--model", "timber-l")
    assert done.exit_code == 0, done.stderr
    assert [path.name for path in (output / "models").iterdir()] == ["timber-l"]
    assert not (output / "passes").exists()


def test_a_report_that_was_killed_does_not_stand_in_the_way_of_the_next(
    commands: Any, study: Path, tmp_path: Path
) -> None:
    output = tmp_path / "study"
    shutil.copytree(study, output)
    shutil.rmtree(output / "report")
    running = commands.start("reproduce", *PART, "-o", output, "--only", "report")
    running.wait_until(lambda: (output / ".report.timberkit-stage" / "tree").exists())
    running.send(signal.SIGKILL)
    running.wait()
    ledger = (output / LEDGER_NAME).read_bytes().splitlines(keepends=True)
    (output / LEDGER_NAME).write_bytes(
        b"".join(line for line in ledger if b'"exact":["merge_mu0.2"' not in line)
    )
    done = commands.run("reproduce", *PART, "-o", output, "--only", "report")
    assert done.exit_code == 0, done.stderr
    assert any("merge_mu0.2" in notice for notice in read_results(output).notices)


def test_a_report_without_instructs_rollouts_is_a_report_without_cases(
    commands: Any, study: Path, tmp_path: Path
) -> None:
    """As it is when the rollouts are cut short after Base, which is asked first."""
    output = tmp_path / "study"
    shutil.copytree(study, output)
    ledger = (output / LEDGER_NAME).read_bytes().splitlines(keepends=True)
    kept = [line for line in ledger if b'"asked"' not in line or b'["base"' in line]
    assert len(kept) == len(ledger) - 3
    (output / LEDGER_NAME).write_bytes(b"".join(kept))
    done = commands.run("reproduce", *PART, "-o", output, "--only", "report")
    assert done.exit_code == 0, done.stderr
    assert 'id="cases"' in (study / "report" / "report.html").read_text(encoding="utf-8")
    assert 'id="cases"' not in (output / "report" / "report.html").read_text(encoding="utf-8")


def test_a_study_of_other_weights_is_refused(commands: Any, tmp_path: Path) -> None:
    for name, folder in (("base", base_folder()), ("instruct", instruct_folder())):
        shutil.copytree(folder, tmp_path / name)
    own = ("--catalogue", "short", "--controls", "none", "--model", "timber-l", "--only", "models")
    output = tmp_path / "study"
    first = commands.run("reproduce", "base", "instruct", *own, "-o", output, cwd=tmp_path)
    assert first.exit_code == 0, first.stderr
    (tmp_path / "base").rename(tmp_path / "kept")
    shutil.copytree(instruct_folder(), tmp_path / "base")
    (tmp_path / "instruct").rename(tmp_path / "other")
    shutil.copytree(base_folder(), tmp_path / "instruct")
    again = commands.run(
        "reproduce", "base", "instruct", *own, "--model", "merge_mu0.8", "-o", output, cwd=tmp_path
    )
    assert again.exit_code == BAD_INPUT
    assert not (output / "models" / "merge_mu0.8").exists()


def test_benchmarks_that_cannot_be_asked_are_left_out_with_the_reason(
    commands: Any, tmp_path: Path
) -> None:
    for name, folder in (("base", base_folder()), ("instruct", instruct_folder())):
        shutil.copytree(folder, tmp_path / name)
    rows = Path(__file__).parents[1] / "unit" / "evaluation" / "rows"
    done = commands.run(
        "reproduce", tmp_path / "base", tmp_path / "instruct", "--task", "math500",
        "--task", "gpqa-diamond", "--data", f"math500={rows / 'math500.jsonl'}",
        "--scale", "0.1", "--catalogue", "short", "--controls", "none", "--model", "timber-l",
        "--only", "models,scores,report", "-o", tmp_path / "study",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    found = read_results(tmp_path / "study")
    assert any("gpqa-diamond:released: left out" in notice for notice in found.notices)
    assert {curve.task for curve in found.curves} == {"math500:released"}
    assert [task.problems for task in found.tasks] == [3]  # as many as the file has
    assert not any("null result" in said for said in found.words)


def test_a_demo_does_not_replace_a_study(commands: Any, study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "demo" / "study")
    done = commands.run("demo", "-o", tmp_path / "demo")
    assert done.exit_code == USAGE
    assert (tmp_path / "demo" / "study" / "report" / "results.json").exists()


def test_another_recipe_in_the_same_folder_is_refused(commands: Any, study: Path) -> None:
    done = commands.run("reproduce", *PART, "--seed", 1, "-o", study)
    assert done.exit_code == USAGE
    assert "seed" in done.stderr
    assert "another folder" in done.stderr


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timberkit.errors import ResourceError
    from timberkit.study.demo import demo_recipe
    from timberkit.study.reproduce import outlook
    from timberkit.study.reproduce.making import written_entries
    from timberkit.study.reproduce.scope import study_models

    recipe = demo_recipe()
    entries = written_entries(study_models(recipe))
    monkeypatch.setattr(outlook, "free_bytes", lambda _: outlook.SPARE_BYTES + 2_000_000)
    with pytest.raises(ResourceError, match="--keep none"):
        outlook.check_disk(tmp_path, recipe, entries)
    outlook.check_disk(tmp_path, recipe, entries[:1])
    # What a pass that was killed holds already is room for it.
    outlook.check_disk(tmp_path, recipe, entries, held_bytes=1_000_000 * len(entries))
