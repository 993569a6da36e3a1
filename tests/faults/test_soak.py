"""A short soak: the rounds that ``benchmarks/soak.py`` runs by the hundred."""

from __future__ import annotations

from scripts import load_script


def test_nothing_is_lost_in_some_rounds_of_killing_and_continuing() -> None:
    result = load_script("benchmarks/soak.py").soak(3, seed=1)
    assert result["verified"] == 3
    assert result["kills"] >= 2
