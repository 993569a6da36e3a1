"""Figures of a study for paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from made_findings import hostile_findings, made_findings

from timberkit.findings import Findings
from timberkit.report.study_figures import study_figures


def one_task(findings: Findings) -> Findings:
    return replace(findings, tasks=findings.tasks[:1])


def test_the_plane_and_pass_at_k_are_drawn_with_equal_bytes(tmp_path: Path) -> None:
    findings = one_task(made_findings())
    (tmp_path / "again").mkdir()
    written = study_figures(findings, tmp_path)
    assert [path.name for path in written] == [
        "plane-1.svg", "plane-1.png", "pass-at-k-1.svg", "pass-at-k-1.png"
    ]  # fmt: skip
    for path in study_figures(findings, tmp_path / "again"):
        if path.suffix == ".svg":
            assert path.read_bytes() == (tmp_path / path.name).read_bytes()
    plane = written[0].read_text(encoding="utf-8")
    for words in ("AIME’24", "Near Instruct", "Plain merge", "Control: noise", "Pass@64"):
        assert words in plane


def test_hostile_names_are_text_and_warn_of_nothing(tmp_path: Path) -> None:
    for path in study_figures(one_task(hostile_findings()), tmp_path):
        if path.suffix == ".svg":
            assert "<script" not in path.read_text(encoding="utf-8")


def test_a_task_without_a_plane_has_pass_at_k_alone(tmp_path: Path) -> None:
    findings = replace(one_task(made_findings()), planes=())
    assert {path.stem for path in study_figures(findings, tmp_path)} == {"pass-at-k-1"}
