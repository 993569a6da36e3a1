"""One analysis from end to end in this process: what is noted, drawn, resumed and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from timberkit.checkpoint.manifest import hash_file
from timberkit.checkpoint.stage_folder import StageFolder
from timberkit.config import AnalyzeRecipe, build_analyze_recipe
from timberkit.engine.analysis_files import read_analysis
from timberkit.engine.analyze import AnalysisResult, analyze_recipe
from timberkit.engine.progress import Progress
from timberkit.engine.sources import OpenPair
from timberkit.errors import InputError, InterruptedRunError, StageConflictError
from timberkit.measurements import Analysis, HiddenStateMeasurement, WeightMeasurement
from timberkit.sapling import base_folder, instruct_folder

HIDDEN = (HiddenStateMeasurement(0, 3.0, 2.0, 1.0, 9),)


class Study:
    """Hidden states that are known beforehand; counts how often they are asked for."""

    def __init__(self, sha256: str = "one") -> None:
        self.facts: dict[str, object] = {"texts_sha256": sha256}
        self.asked = 0

    def measure(self, on_text: Callable[[int, int], None]) -> tuple[HiddenStateMeasurement, ...]:
        self.asked += 1
        on_text(1, 1)
        return HIDDEN


def recipe(**fields: Any) -> AnalyzeRecipe:
    pair = {"base": str(base_folder()), "instruct": str(instruct_folder())}
    return build_analyze_recipe({**pair, **fields})


def run(
    output: Path, study: Study | None = None, /, fields: dict[str, Any] | None = None, **more: Any
) -> AnalysisResult:
    asked = {"hidden_states": study is not None, **(fields or {})}

    def prepare(pair: OpenPair, recipe: AnalyzeRecipe) -> Study:
        assert study is not None
        return study

    return analyze_recipe(recipe(**asked), output, prepare_hidden=prepare, **more)


def timeless(analysis: Analysis) -> Analysis:
    def plain(weight: WeightMeasurement) -> WeightMeasurement:
        return replace(weight, seconds=0.0)

    return replace(analysis, weights=tuple(map(plain, analysis.weights)))


def interrupt_after(count: int) -> Callable[[Progress], None]:
    def on_progress(state: Progress) -> None:
        if state.phase == "analyze" and state.tasks_done >= count:
            raise KeyboardInterrupt

    return on_progress


def test_the_files_hold_what_is_returned(tmp_path: Path) -> None:
    result = run(tmp_path / "out", Study())
    assert read_analysis(tmp_path / "out") == result.analysis
    assert result.analysis.hidden_states == HIDDEN
    assert not result.resumed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    manifest = json.loads((tmp_path / "out" / "timberkit.json").read_text())
    assert manifest["kind"] == "analysis"
    assert manifest["files"] == {
        name: hash_file(tmp_path / "out" / name) for name in ("spectra.parquet", "summary.json")
    }
    assert manifest["recipe"]["hidden_states"] is True


def test_facts_are_flat_and_name_no_folder(tmp_path: Path) -> None:
    facts = run(tmp_path / "out").analysis.facts
    assert (facts["base"], facts["instruct"]) == ("base", "instruct")
    assert (facts["model_type"], facts["stored_as"]) == ("llama", ["BF16"])
    assert {"timberkit", "torch", "numpy", "scipy", "python"} <= facts.keys()
    assert str(base_folder()) not in json.dumps(facts)


def test_rows_stand_by_layer_then_name(tmp_path: Path) -> None:
    weights = run(
        tmp_path / "out", fields={"families": ["all-linear", "embedding"]}
    ).analysis.weights
    order = [(weight.layer is None, weight.layer or 0, weight.name) for weight in weights]
    assert order == sorted(order)
    assert weights[-1].name == "model.embed_tokens.weight"
    assert weights[-1].module == "embed_tokens"


def test_what_is_drawn_belongs_to_the_output(tmp_path: Path) -> None:
    seen: list[Analysis] = []

    def draw(analysis: Analysis, folder: Path) -> None:
        assert not (tmp_path / "out").exists()
        assert read_analysis(folder) == analysis
        seen.append(analysis)
        (folder / "figures").mkdir(exist_ok=True)
        (folder / "figures" / "one.svg").write_text("<svg/>")

    result = run(tmp_path / "out", draw=draw)
    assert seen == [result.analysis]
    manifest = json.loads((tmp_path / "out" / "timberkit.json").read_text())
    assert "figures/one.svg" in manifest["files"]


def test_what_fails_at_the_end_keeps_the_measurements(tmp_path: Path) -> None:
    def fail(analysis: Analysis, folder: Path) -> None:
        raise InputError("no pencil")

    with pytest.raises(InputError, match="no pencil"):
        run(tmp_path / "out", draw=fail)
    assert not (tmp_path / "out").exists()
    seen: list[int] = []
    result = run(tmp_path / "out", on_progress=lambda state: seen.append(state.tasks_done))
    assert result.resumed
    assert seen == [21]


@pytest.mark.parametrize("done", [1, 7, 20])
def test_an_interrupted_analysis_goes_on_to_the_same_end(tmp_path: Path, done: int) -> None:
    expected = run(tmp_path / "whole", Study()).analysis
    study = Study()
    with pytest.raises(InterruptedRunError, match="the same command continues"):
        run(tmp_path / "out", study, on_progress=interrupt_after(done))
    assert study.asked == 1
    result = run(tmp_path / "out", study)
    assert result.resumed
    assert study.asked == 1, "the hidden states were in the journal"
    assert timeless(result.analysis) == timeless(expected)
    for name in ("whole", "out"):
        assert (tmp_path / name / "summary.json").read_bytes()
    assert (tmp_path / "whole" / "summary.json").read_bytes() == (
        tmp_path / "out" / "summary.json"
    ).read_bytes()


@pytest.mark.parametrize(
    ("study", "fields"),
    [
        (Study("two"), {}),
        (None, {}),
        (Study(), {"layers": "1"}),
        (Study(), {"measure": ["rounding"]}),
    ],
)
def test_another_recipe_does_not_continue_it(
    tmp_path: Path, study: Study | None, fields: dict[str, Any]
) -> None:
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "out", Study(), on_progress=interrupt_after(3))
    with pytest.raises(StageConflictError, match="another recipe"):
        run(tmp_path / "out", study, fields=fields)


def test_texts_that_cannot_be_read_leave_nothing_behind(tmp_path: Path) -> None:
    def refuse(pair: OpenPair, recipe: AnalyzeRecipe) -> Study:
        raise InputError("no texts")

    with pytest.raises(InputError, match="no texts"):
        analyze_recipe(recipe(hidden_states=True), tmp_path / "out", prepare_hidden=refuse)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_killed_while_it_published_is_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: StageFolder) -> None:
        raise PermissionError(1, "not now")

    with monkeypatch.context() as patch:
        patch.setattr(StageFolder, "remove", refuse)
        with pytest.raises(InterruptedRunError, match="is complete"):
            run(tmp_path / "out")
    result = run(tmp_path / "out")
    assert result.resumed
    assert len(result.analysis.weights) == 21
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_progress_counts_texts_then_weights(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    run(
        tmp_path / "out",
        Study(),
        on_progress=lambda state: seen.append((state.phase, state.tasks_done, state.tasks_total)),
    )
    assert seen[0] == ("hidden states", 1, 1)
    assert seen[1:] == [("analyze", i, 21) for i in range(22)]


def test_a_home_folder_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    study = Study()
    for given in (f"{tmp_path}/texts.txt", "~/texts.txt"):
        run(tmp_path / "out", study, fields={"prompts": given}, overwrite=True)
        manifest = json.loads((tmp_path / "out" / "timberkit.json").read_text())
        assert manifest["recipe"]["prompts"] == "~/texts.txt"
