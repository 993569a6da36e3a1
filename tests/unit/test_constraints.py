"""The pinned versions can be had anywhere: each package once, and no build of one machine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "constraints.txt"


def test_each_package_is_pinned_once_and_to_a_public_version() -> None:
    lines = [line for line in FILE.read_text().splitlines() if line and not line.startswith("#")]
    names = Counter(line.partition("==")[0].lower() for line in lines)
    assert [name for name, count in names.items() if count > 1] == []
    # A local version such as 2.13.0+cpu is in no index but that of its builder.
    assert [line for line in lines if "==" not in line or "+" in line] == []
