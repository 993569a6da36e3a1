"""The engine with a model in this process: what is asked, kept, refused and summed up."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stub_models import StubModel, some_right, stub_opened

from timberkit.errors import (
    InterruptedRunError,
    OutputExistsError,
    ResourceError,
    StageConflictError,
    UsageError,
)
from timberkit.evaluation import asking, store
from timberkit.evaluation.run import EvaluationOptions, EvaluationResult, evaluate
from timberkit.evaluation_recipe import build_evaluation_recipe
from timberkit.rollouts import Rollout, read_rollouts

pytest.importorskip("inspect_ai")

Run = Callable[..., EvaluationResult]
RESULTS = ("rollouts.parquet", "summary.json")
FIELDS = {"models": ["m=sapling:base"], "tasks": ["sapling"], "limit": 3, "rollouts": 4}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Any:
    model = StubModel(None)
    with stub_opened(monkeypatch, model):
        yield model


def run(folder: Path, *, options: EvaluationOptions | None = None, **fields: Any) -> Any:
    recipe = build_evaluation_recipe({**FIELDS, **fields})
    options = options or EvaluationOptions(grade_workers=1)
    return evaluate(recipe, folder, options=options)


def rows(folder: Path) -> list[Rollout]:
    return list(read_rollouts(folder / "rollouts.parquet"))


def test_every_rollout_is_asked_once_with_a_seed_of_its_own_and_kept(
    tmp_path: Path, stub: StubModel
) -> None:
    result = run(tmp_path / "run")
    assert (result.new, result.resumed) == (12, False)
    assert len(stub.asked) == 12
    assert set(stub.asked.values()) == {1}
    assert len({seed for _, seed in stub.asked}) == 12
    found = rows(tmp_path / "run")
    assert [row.rollout for row in found] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert all(row.correct != row.text.startswith("wrong") for row in found)
    assert all((row.problem, row.seed) in stub.asked for row in found)
    (unit,) = result.summary["units"]
    assert (unit["problems"], unit["rollouts"]) == (3, 12)
    assert unit["mean"]["value"] == pytest.approx(sum(row.correct for row in found) / 12)
    assert list(unit["pass_at_k"]) == ["1", "2", "4"]
    assert list((tmp_path / "run" / "journal" / "m").iterdir()) == []


def test_more_rollouts_and_problems_ask_only_what_is_new(tmp_path: Path, stub: StubModel) -> None:
    run(tmp_path / "run", rollouts=2, limit=2)
    before = {(row.problem, row.rollout): row for row in rows(tmp_path / "run")}
    result = run(tmp_path / "run", rollouts=4, limit=3)
    assert (result.new, result.resumed) == (8, True)
    assert set(stub.asked.values()) == {1}
    after = {(row.problem, row.rollout): row for row in rows(tmp_path / "run")}
    assert len(after) == 12
    assert all(after[key] == row for key, row in before.items())


def test_finished_run_asks_nothing_and_opens_no_model(
    tmp_path: Path, stub: StubModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path / "run")
    written = (tmp_path / "run" / "rollouts.parquet").stat().st_mtime_ns
    with stub_opened(monkeypatch):  # none to be found
        again = run(tmp_path / "run")
    assert (again.new, again.summary) == (0, first.summary)
    assert (tmp_path / "run" / "rollouts.parquet").stat().st_mtime_ns == written


def test_results_are_made_again_where_a_kill_left_older_ones(
    tmp_path: Path, stub: StubModel
) -> None:
    run(tmp_path / "run", rollouts=1)
    old = {name: (tmp_path / "run" / name).read_bytes() for name in RESULTS}
    result = run(tmp_path / "run", rollouts=3)
    for name, content in old.items():
        (tmp_path / "run" / name).write_bytes(content)
    again = run(tmp_path / "run", rollouts=3)
    assert (again.new, again.summary) == (0, result.summary)
    assert len(rows(tmp_path / "run")) == 9


def test_fewer_rollouts_keep_those_that_are_there_and_say_so(
    tmp_path: Path, stub: StubModel
) -> None:
    run(tmp_path / "run", rollouts=4)
    result = run(tmp_path / "run", rollouts=2)
    assert result.new == 0
    assert result.summary["units"][0]["rollouts"] == 12
    assert any("more than the 6 asked for" in notice for notice in result.notices)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed: 0 before, 1 now"),
        ({"max_tokens": 5}, r"sampling\.max_tokens: 8192 before, 5 now"),
        ({"prompt": "raw"}, 'prompt: "chat" before, "raw" now'),
        ({"temperatures": [0.5]}, r"sampling\.temperature: 1\.0 before, 0\.5 now"),
    ],
)
def test_other_settings_are_refused_by_name_and_nothing_is_asked(
    tmp_path: Path, stub: StubModel, change: dict[str, Any], named: str
) -> None:
    run(tmp_path / "run")
    before = sum(stub.asked.values())
    with pytest.raises(StageConflictError, match=named):
        run(tmp_path / "run", **change, rollouts=9)
    assert sum(stub.asked.values()) == before
    assert len(rows(tmp_path / "run")) == 12


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path, stub: StubModel) -> None:
    run(tmp_path / "run")
    stub.fingerprint = {"weights": "others"}
    with pytest.raises(StageConflictError, match=r'model\.weights: "stub" before, "others" now'):
        run(tmp_path / "run", rollouts=5)


def test_other_data_for_another_model_is_refused(tmp_path: Path, stub: StubModel) -> None:
    run(tmp_path / "run")
    (tmp_path / "own.jsonl").write_text('{"numbers": [1, 2, 3], "target": 6}\n')
    tasks = [{"name": "sapling", "data": str(tmp_path / "own.jsonl")}]
    with pytest.raises(StageConflictError, match="from other data"):
        run(tmp_path / "run", models=["other=sapling:base"], tasks=tasks)


def test_models_tasks_and_temperatures_are_added_to_a_run(tmp_path: Path, stub: StubModel) -> None:
    run(tmp_path / "run", rollouts=1)
    result = run(
        tmp_path / "run",
        models=["m=sapling:base", "n=sapling:instruct"],
        tasks=["sapling", "sapling:held-out-4"],
        rollouts=1,
    )
    assert result.new == 9
    assert [(unit["model"], unit["setting"]) for unit in result.summary["units"]] == [
        ("m", "held-out"),
        ("m", "held-out-4"),
        ("n", "held-out"),
        ("n", "held-out-4"),
    ]
    swept = run(tmp_path / "run", rollouts=1, temperatures=[0.6, 1.0])
    assert [unit["model"] for unit in swept.summary["units"]][-2:] == ["m@T=0.6", "m@T=1.0"]
    assert {row.temperature for row in rows(tmp_path / "run") if "@" in row.model} == {0.6, 1.0}
    names = sorted(path.name for path in (tmp_path / "run" / "logs" / "m").iterdir())
    assert "sapling_held-out_T0.6_0001.eval" in names


def test_raw_models_get_plain_text_and_its_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    class Watching(StubModel):
        def inspect_model(self, sampling: Any, *, raw: bool) -> Any:
            asked.append((str(sampling.stops), raw))
            return super().inspect_model(sampling, raw=raw)

    with stub_opened(monkeypatch, Watching(None)):
        run(
            tmp_path / "run",
            models=["b=sapling:base", "i=sapling:instruct"],
            raw_models=["b"],
            rollouts=1,
        )
    assert asked == [("('\\n',)", True), ("()", False)]


def test_requests_that_fail_are_wrong_reported_and_sent_again_by_the_next_run(
    tmp_path: Path, stub: StubModel
) -> None:
    broken = {"now": True}

    def answer(prompt: str, seed: int) -> str:
        if broken["now"] and seed % 4 == 0:
            raise RuntimeError("boom")
        return some_right(prompt, seed)

    stub.answer = answer
    result = run(
        tmp_path / "run",
        rollouts=8,
        options=EvaluationOptions(grade_workers=1, most_failures=1.0),
    )
    failed = [row for row in rows(tmp_path / "run") if row.error]
    assert failed
    assert {(row.error, row.correct) for row in failed} == {("RuntimeError: boom", False)}
    assert result.summary["units"][0]["failed"] == pytest.approx(len(failed) / 24)
    assert any("count as wrong" in notice for notice in result.notices)
    broken["now"] = False
    again = run(tmp_path / "run", rollouts=8)
    assert again.new == len(failed)
    assert again.summary["units"][0]["failed"] == 0
    assert [row for row in rows(tmp_path / "run") if row.error] == []


@pytest.mark.parametrize("rollouts", [1, 40])
def test_run_in_which_everything_fails_stops_soon_and_says_why(
    tmp_path: Path, stub: StubModel, rollouts: int
) -> None:
    def answer(prompt: str, seed: int) -> str:
        raise ConnectionError("nobody is there")

    stub.answer = answer
    with pytest.raises(InterruptedRunError, match=r"nobody is there; what was answered is kept"):
        run(tmp_path / "run", rollouts=rollouts)
    assert sum(stub.asked.values()) <= asking.FIRST_FAILURES + stub.connections


def test_too_large_a_share_of_failures_stops_the_run_and_keeps_the_answers(
    tmp_path: Path, stub: StubModel
) -> None:
    def answer(prompt: str, seed: int) -> str:
        if seed % 3 == 0:
            raise RuntimeError("now and then")
        return some_right(prompt, seed)

    stub.answer = answer
    with pytest.raises(InterruptedRunError, match="--max-failures"):
        run(tmp_path / "run", rollouts=40)
    assert sum(stub.asked.values()) < 120
    stub.answer = some_right
    answered = sum(seed % 3 != 0 for _, seed in stub.asked)
    assert run(tmp_path / "run", rollouts=40).new == 120 - answered


def test_answers_cut_inside_their_reasoning_are_wrong_and_counted_as_cut(
    tmp_path: Path, stub: StubModel
) -> None:
    stub.opened, stub.stop_reason = True, "max_tokens"
    stub.answer = lambda prompt, seed: "so far 6 + 3"
    result = run(tmp_path / "run", rollouts=1)
    assert result.summary["units"][0]["truncated"] == 1.0
    for row in rows(tmp_path / "run"):
        assert (row.reasoning, row.response, row.answer) == ("so far 6 + 3", "", None)
        assert row.reason == "truncated inside its reasoning"
        assert row.stop == "length"


def test_hostile_texts_are_kept_as_they_are(tmp_path: Path, stub: StubModel) -> None:
    text = "\x1b]0;owned\x07\x00\u2028\u202e<script>attachment://x \U0001f600 " + "a" * 100_000
    stub.answer = lambda prompt, seed: text
    run(tmp_path / "run", rollouts=1)
    assert {row.text for row in rows(tmp_path / "run")} == {text}


def test_full_disk_of_the_journal_stops_the_run_and_nothing_counts_twice(
    tmp_path: Path, stub: StubModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"left": 5}
    whole = os.pwrite

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if threading.current_thread() is not threading.main_thread():
            calls["left"] -= 1
            if calls["left"] < 0:
                raise OSError(28, "No space left on device")
        return whole(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(InterruptedRunError, match="No space left"):
        run(tmp_path / "run", rollouts=40)
    monkeypatch.setattr(os, "pwrite", whole)
    result = run(tmp_path / "run", rollouts=40)
    assert result.summary["units"][0]["rollouts"] == 120
    assert len(rows(tmp_path / "run")) == 120


def test_many_rollouts_fill_several_logs_while_others_are_asked(
    tmp_path: Path, stub: StubModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_TOGETHER", 10)
    run(tmp_path / "run", rollouts=20)
    assert len(list((tmp_path / "run" / "logs" / "m").iterdir())) >= 3
    assert [(row.rollout, row.problem) for row in rows(tmp_path / "run")] == [
        (rollout, problem)
        for rollout in range(1, 21)
        for problem in [row.problem for row in rows(tmp_path / "run")][:3]
    ]


def test_second_run_on_a_folder_that_is_in_use_is_refused(tmp_path: Path, stub: StubModel) -> None:
    refused: list[str] = []

    def answer(prompt: str, seed: int) -> str:
        if not refused:
            try:
                run(tmp_path / "run")
            except StageConflictError as error:
                refused.append(str(error))
        return some_right(prompt, seed)

    stub.answer = answer
    run(tmp_path / "run")
    assert f"process {os.getpid()} is evaluating into this folder" in refused[0]


@pytest.mark.parametrize("content", ["notes.txt", "timberkit.json"])
def test_folder_of_something_else_is_refused_and_left_alone(
    tmp_path: Path, stub: StubModel, content: str
) -> None:
    (tmp_path / content).write_text('{"schema_version": 1, "kind": "refinement"}')
    with pytest.raises(OutputExistsError, match="another folder"):
        run(tmp_path)
    assert os.listdir(tmp_path) == [content]


def test_forged_manifest_cannot_name_files_elsewhere(tmp_path: Path, stub: StubModel) -> None:
    run(tmp_path / "run", rollouts=1)
    path = tmp_path / "run" / "timberkit.json"
    manifest = json.loads(path.read_text())
    manifest["units"][0]["folder"] = "../../elsewhere"
    path.write_text(json.dumps(manifest))
    with pytest.raises(Exception, match="folder is"):
        run(tmp_path / "run", rollouts=2)


def test_environment_and_env_files_of_inspect_change_nothing(
    tmp_path: Path, stub: StubModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("INSPECT_LOG_DIR=/nowhere\nOPENAI_API_KEY=x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home" / "data"))
    monkeypatch.setenv("INSPECT_DISABLE_MODEL_API", "1")
    monkeypatch.setenv("INSPECT_EVAL_MODEL", "none/none")
    run(tmp_path / "run", rollouts=1)
    assert os.environ["INSPECT_EVAL_MODEL"] == "none/none"
    assert sorted(os.listdir(tmp_path)) == [".env", "run"]


def test_progress_counts_to_the_end_and_knows_the_time_left(
    tmp_path: Path, stub: StubModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timberkit.evaluation import progress

    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0.0)
    seen: list[progress.EvaluationProgress] = []
    recipe = build_evaluation_recipe(FIELDS)
    options = EvaluationOptions(grade_workers=1)
    evaluate(recipe, tmp_path / "run", options=options, on_progress=seen.append)
    assert [each.lacking for each in seen][-1] == 12
    counts = [each.answered for each in seen]
    assert counts == sorted(counts)
    assert counts[-1] == 12
    assert seen[-1].units[0].tally.rollouts == 12
    assert any(each.seconds_left for each in seen)


def test_notebook_with_an_event_loop_may_evaluate(tmp_path: Path, stub: StubModel) -> None:
    async def cell() -> Any:
        return run(tmp_path / "run", rollouts=1)

    assert asyncio.run(cell()).new == 3


def test_grader_that_cannot_start_is_said_before_anything_is_asked(
    tmp_path: Path, stub: StubModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timberkit.evaluation import grading
    from timberkit.evaluation import run as run_module

    monkeypatch.setattr(run_module, "Graders", grading.Graders)

    def no_start(self: Any) -> None:
        raise ResourceError("no memory for graders")

    monkeypatch.setattr(grading._Worker, "wait_until_ready", no_start)
    with pytest.raises(ResourceError, match="no memory for graders"):
        run(tmp_path / "run")
    assert not stub.asked


def test_problems_may_be_named_and_unknown_ones_are_refused(
    tmp_path: Path, stub: StubModel
) -> None:
    run(tmp_path / "run", rollouts=1)
    key = rows(tmp_path / "run")[1].problem
    named = {"limit": None, "problems": [key], "rollouts": 2}
    assert run(tmp_path / "run", **named).new == 1
    with pytest.raises(UsageError, match="none of the tasks has 'no such'"):
        run(tmp_path / "run", limit=None, problems=["no such"])


def test_requests_run_at_the_same_time_up_to_the_connections(
    tmp_path: Path, stub: StubModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = {"now": 0, "most": 0}

    class Slow(StubModel):
        def inspect_model(self, sampling: Any, *, raw: bool) -> Any:
            model = super().inspect_model(sampling, raw=raw)
            quick = model.api.generate

            async def slow(*args: Any, **kwargs: Any) -> Any:
                under_way["now"] += 1
                under_way["most"] = max(under_way.values())
                await asyncio.sleep(0.02)
                under_way["now"] -= 1
                return await quick(*args, **kwargs)

            model.api.generate = slow
            return model

    slow = Slow(None, connections=5)
    with stub_opened(monkeypatch, slow):
        started = time.monotonic()
        run(tmp_path / "run", rollouts=20)
        assert time.monotonic() - started < 20
    assert under_way["most"] == 5
