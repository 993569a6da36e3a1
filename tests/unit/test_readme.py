"""The README says what the sources say."""

from __future__ import annotations

from scripts import ROOT, load_script


def test_the_tree_in_the_readme_is_that_of_the_sources() -> None:
    tree = load_script("scripts/update_readme.py").tree()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tree in readme, "run: python scripts/update_readme.py"
