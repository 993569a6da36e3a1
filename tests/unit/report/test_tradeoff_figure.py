"""The picture of a search: both files, every model in it, equal bytes for equal points."""

from __future__ import annotations

from pathlib import Path

import pytest

from timberkit.metrics import Interval
from timberkit.report.tradeoff_figure import Mark, tradeoff_figures

pytest.importorskip("matplotlib")


def mark(name: str, role: str, low: float, high: float) -> Mark:
    gap = None if role in ("instruct", "merge") else Interval(2.0, 1.0, 4.0)
    return Mark(name, role, low, high, gap)


MARKS = [
    mark("instruct", "instruct", 38, 81), mark("merge 0.8", "merge", 36, 88),
    mark("winner", "winner", 38, 86), mark("simple rule: r\u00e4mp", "rule", 37, 85),
]  # fmt: skip


def test_every_model_is_in_both_panels_and_equal_points_give_equal_bytes(tmp_path: Path) -> None:
    splits = {"search": MARKS, "confirm": MARKS}
    written = tradeoff_figures(splits, tmp_path / "a", low="Pass@1", high="Pass@64")
    assert [path.name for path in written] == ["a.svg", "a.png"]
    text = (tmp_path / "a.svg").read_text()
    for shown in ("winner", "simple rule: r\\xe4mp", "Instruct and its merges", "Pass@64 (%)",
                  "problems never searched on", "problems searched on"):  # fmt: skip
        assert shown in text
    tradeoff_figures(splits, tmp_path / "b", low="Pass@1", high="Pass@64")
    assert (tmp_path / "b.svg").read_bytes() == (tmp_path / "a.svg").read_bytes()
