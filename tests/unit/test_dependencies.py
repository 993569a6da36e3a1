"""What timberkit builds on: licences that allow it, and an audit that says when it was none."""

from __future__ import annotations

from typing import Any

import pytest
from scripts import load_script

licences = load_script("scripts/licences.py")
audit = load_script("scripts/audit.py")


def test_no_strong_copyleft_and_no_unknown_licence_among_what_is_used() -> None:
    found = licences.licences()
    assert {"torch", "numpy", "safetensors"} <= {each.name for each in found if each.direct}
    assert [f"{each.name}: {each.text}: {each.problem}" for each in found if each.problem] == []


def test_the_page_of_licences_has_everything_that_is_named() -> None:
    page = licences.PAGE.read_text()
    missing = [
        requirement.name
        for requirement in licences.direct_requirements()
        if f"| **{requirement.name.lower().replace('_', '-')}** |" not in page
    ]
    assert missing == [], "run scripts/licences.py --write"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("MIT", ""),
        ("LGPL-2.1-or-later", ""),
        ("GNU Lesser General Public License v3 (LGPLv3)", ""),
        ("Apache-2.0 AND MIT", ""),
        ("GPL-3.0-only", "strong copyleft"),
        ("GNU General Public License v3 (GPLv3)", "strong copyleft"),
        ("AGPL-3.0", "strong copyleft"),
        ("SSPL-1.0", "strong copyleft"),
        ("unknown", "unknown licence"),
        ("Proprietary", "unknown licence"),
    ],
)
def test_a_licence_is_judged_by_its_words(text: str, problem: str) -> None:
    assert licences.Licence("package", text, True).problem == problem


def answers(monkeypatch: pytest.MonkeyPatch, *replies: list[dict[str, Any]] | None) -> list[Any]:
    """Let the advisory service answer so, one time after another; returns what it was asked."""
    waiting, seen = list(replies), []

    def asked(requirements: list[str]) -> Any:
        seen.append(requirements)
        return waiting.pop(0)

    monkeypatch.setattr(audit, "asked", asked)
    return seen


def test_an_audit_that_nobody_answers_is_no_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = [{"name": "pyyaml", "skip_reason": "not found"}]
    for reply in (skipped, None, []):
        seen = answers(monkeypatch, reply)
        code, told = audit.audit(audit.pins())
        assert code == audit.UNANSWERED
        assert "not audited" in told[0]
        assert len(seen) == 1, "asked for more than one package"
        assert len(seen[0]) == 1


def test_vulnerabilities_are_told_with_what_fixes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = {"id": "PYSEC-1", "fix_versions": ["2.0"]}
    clean = {"name": "pyyaml", "version": "6.0", "vulns": []}
    found = [
        clean,
        {"name": "x", "version": "1.0", "vulns": [bad]},
        {"name": "y", "skip_reason": "z"},
    ]
    answers(monkeypatch, [clean], found)
    code, told = audit.audit(["pyyaml==6.0", "x==1.0", "y==1.0"])
    assert code == audit.VULNERABLE
    assert told == [
        "x 1.0: PYSEC-1, fixed in 2.0",
        "2 of 3 packages audited",
        "passed over: y",
    ]
    answers(monkeypatch, [clean], [clean])
    assert audit.audit(["pyyaml==6.0"]) == (audit.CLEAN, ["1 of 1 packages audited"])


def test_every_pin_is_a_name_with_a_version() -> None:
    pins = audit.pins()
    assert len(pins) > 50
    assert any(pin.lower().startswith(f"{audit.PROBE}==") for pin in pins)
