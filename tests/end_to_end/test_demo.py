"""The demo: a short study of the embedded pair with every model verified."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from timberkit.study.demo import DemoOutcome, run_demo, show_demo


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> DemoOutcome:
    return run_demo(tmp_path_factory.mktemp("demo"), scale=0.1)


def shown(outcome: DemoOutcome) -> str:
    text = io.StringIO()
    show_demo(Console(file=text, width=1000, markup=False, highlight=False), outcome)
    return text.getvalue()


def test_every_model_is_verified_and_the_page_is_there(outcome: DemoOutcome) -> None:
    assert outcome.verified, outcome.failed_checks
    assert outcome.checks > 6 * 30  # six checks of each model
    assert outcome.page is not None
    assert Path(outcome.page).stat().st_size < 8_000_000
    assert outcome.figure is not None
    assert Path(outcome.figure).exists()


def test_what_is_shown_is_what_was_found(outcome: DemoOutcome) -> None:
    text = shown(outcome)
    for sentence in (*outcome.findings.words, outcome.findings.paper_says, *outcome.analysis):
        assert sentence in text
    (curve,) = [
        each
        for each in outcome.findings.curves
        if (each.model, each.task) == ("merge_mu0.8", "sapling:held-out")
    ]
    (row,) = [line for line in text.splitlines() if line.strip().startswith("Merge 0.8")]
    at = {point.k: point.score.value for point in curve.points}
    assert row.split()[2:] == [f"{100 * at[k]:.1f}" for k in (1, 4, 16, 64, 256)]


def test_a_failed_check_is_told(outcome: DemoOutcome) -> None:
    from dataclasses import replace

    broken = replace(outcome, verified=False, failed_checks=("timber-l: hashes: changed",))
    assert "FAIL  timber-l: hashes: changed" in shown(broken)
    assert "not all passed" in shown(broken)
