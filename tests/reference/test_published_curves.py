"""The page of the authors' curves says what its script computes, and no more than it may."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from timberkit.study.published import published

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "examples" / "published_curves.py"


@pytest.fixture(scope="module")
def script() -> dict[str, object]:
    return runpy.run_path(str(SCRIPT))


def test_two_numbers_reproduce_the_shape_of_every_published_curve(
    script: dict[str, object],
) -> None:
    for curves in published()["pass_at_k_qwen3_0_6b_thinking"].values():
        ks = [int(k) for k in curves["k"]]
        for name, model in script["fits"](curves).items():  # type: ignore[operator]
            distance = np.abs(100 * model.pass_at_k(ks) - np.array(curves[name])).max()
            assert distance < 2.5, name


def test_the_page_holds_the_tables_of_the_script_and_whose_numbers_they_are(
    script: dict[str, object],
) -> None:
    page = (ROOT / "docs" / "published_curves.md").read_text(encoding="utf-8")
    assert script["tables"]() in page  # type: ignore[operator]
    assert "The points below are the **authors'**" in page
    assert "Nothing on this page was measured by timberkit." in page
