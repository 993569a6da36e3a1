"""Windows is refused before anything that it lacks is imported."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

import timberkit.__main__ as entry


def test_windows_is_refused_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "timberkit.cli", None)  # importing it would fail
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 2
    assert "expected Linux; run it under WSL 2" in capsys.readouterr().err


def test_the_command_that_is_installed_is_the_one_that_looks() -> None:
    content = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    scripts = tomllib.loads(content)["project"]["scripts"]
    assert scripts == {"timberkit": "timberkit.__main__:main"}
