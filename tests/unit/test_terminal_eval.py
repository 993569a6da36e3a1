"""What the command shows: counts as they are, and no stranger's control characters."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from timberkit import terminal_eval
from timberkit.evaluation.needs import EvaluationNeeds, UnitNeeds
from timberkit.evaluation.progress import EvaluationProgress, UnitProgress
from timberkit.evaluation.run import EvaluationResult
from timberkit.evaluation.store import Tally


def shown(show: Any, *values: Any, width: int = 100) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, markup=False, highlight=False, soft_wrap=True)
    show(console, *values)
    return stream.getvalue()


def progress(**fields: Any) -> EvaluationProgress:
    unit = UnitProgress("m", "sapling:held-out", 40, Tally(20, 5, 2, 1, 400))
    values = {
        "doing": "m",
        "units": (unit,),
        "answered": 10,
        "lacking": 30,
        "output_tokens": 200,
        "seconds": 4.0,
    }
    return EvaluationProgress(**{**values, **fields})


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


UNIT: dict[str, Any] = {
    "model": "m\x1b[31m",
    "task": "sapling",
    "setting": "held-out",
    "problems": 10,
    "rollouts": 80,
    "rollouts_per_problem": [8, 8],
    "mean": interval(0.25),
    "pass_at_k": {"1": interval(0.25), "8": interval(0.5)},
    "truncated": 0.0,
    "no_answer": 0.0,
    "failed": 0.125,
    "output_tokens_per_rollout": 1234.5,
}


def test_results_show_means_and_only_rates_that_occur() -> None:
    result = EvaluationResult(Path("run"), {"units": [UNIT]}, 80, True, 61.0, ("a\x07b",))
    text = shown(terminal_eval.show_evaluation, result)
    assert "25.0%" in text
    assert "15.0-35.0" in text
    assert "50.0% @8" in text
    assert "12.5%" in text
    assert "cut off" not in text
    assert "80 new rollouts in 1 min 01 s, continued from an earlier run" in text
    assert "Note: a\\u0007b" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [40, 60, 200])
def test_results_fit_narrow_and_wide_terminals(width: int) -> None:
    result = EvaluationResult(Path("run"), {"units": [UNIT]}, 80, False, 61.0)
    text = shown(terminal_eval.show_evaluation, result, width=width)
    table = text.split("Mean over problems")[0]
    assert max(len(line) for line in table.splitlines()) <= width


def test_lines_without_a_terminal_are_few_and_tell_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(terminal_eval, "messages", lambda: Console(file=stream, width=200))
    with terminal_eval.progress_table(shown=True) as show:
        assert show is not None
        for answered in range(1001):
            show(progress(answered=answered, lacking=1000, doing="m\x1b[2J"))
    lines = stream.getvalue().splitlines()
    assert len(lines) == terminal_eval.LINES + 1
    assert lines[10].startswith(
        "m\\u001b[2J, 500/1000 rollouts, 50 tokens/s, 25.0% right, 1 failed"
    )
    assert lines[10].endswith("left")


def test_live_table_has_a_row_for_each_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=True)
    monkeypatch.setattr(terminal_eval, "messages", lambda: console)
    with terminal_eval.progress_table(shown=True) as show:
        assert show is not None
        show(progress())
    assert "20/40" in stream.getvalue()
    assert "sapling:held-out" in stream.getvalue()


def test_nothing_is_shown_where_nothing_is_wanted() -> None:
    with terminal_eval.progress_table(shown=False) as show:
        assert show is None


def test_plan_shows_requests_origins_and_what_is_missing() -> None:
    sampling = (("temperature", "0.6", "preset qwen3 thinking"),)
    needs = EvaluationNeeds(
        units=(
            UnitNeeds("m", "aime24:released", 30, 120, 0, 120, "chat", sampling, None, 4_669_440),
            UnitNeeds("n", "aime24:released", 30, 120, 60, 60, "raw", sampling, 61_000, 9),
        ),
        not_ready=(("humaneval:released", "humaneval: no bubblewrap"),),
        notices=("a notice",),
    )
    text = shown(terminal_eval.show_evaluation_plan, needs)
    for said in ("up to 4.7M", "about 61.0k", "preset qwen3 thinking", "180 requests in all"):
        assert said in text
    assert "Not ready: humaneval: no bubblewrap" in text
    assert "Note: a notice" in text
