"""A pair below the home folder, which a pinned recipe names from ``~`` on."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import numpy as np
import pytest

from timberkit.config import Source
from timberkit.sapling import PreparedProblems, base_folder, load_problems
from timberkit.study.reproduce.asking import _chances


def test_exact_chances_are_read_of_a_model_named_from_the_home_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = base_folder()
    monkeypatch.setenv("HOME", str(folder.parent))
    puzzles = PreparedProblems(load_problems()[:2])
    named = _chances(Source(location=f"~/{folder.name}"), 1.0, puzzles, Lock())
    assert np.array_equal(named, _chances(Path(folder), 1.0, puzzles, Lock()))
