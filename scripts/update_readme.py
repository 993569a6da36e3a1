"""Rewrite the parts of README.md that the program itself says: the demo's output and the tree.

    python scripts/update_readme.py          # the tree only, from the first line of each file
    python scripts/update_readme.py --demo   # also run the demo: its output and its pictures

Sections stand between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``. A test compares the tree.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINE = 130


def tree() -> str:
    """Every source file with the first line of its docstring."""
    lines = []
    source = ROOT / "src"
    for path in sorted(source.rglob("*.py"), key=_folders_last):
        relative = path.relative_to(source)
        depth = len(relative.parts) - 1
        text = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()
        name = relative.name if relative.name != "__init__.py" else f"{path.parent.name}/"
        depth -= relative.name == "__init__.py"
        label = f"{'  ' * depth}{name}"
        said = text[0].replace("``", "") if text else ""
        lines.append(f"{label:<26} {said}"[:LINE].rstrip())
    return "\n".join(lines)


def _folders_last(path: Path) -> list[tuple[int, str]]:
    """Files of a folder before its sub-folders, its own ``__init__`` first."""
    parts = path.relative_to(ROOT / "src").parts
    keys = [(1, part) for part in parts[:-1]]
    return [*keys, (0, "" if parts[-1] == "__init__.py" else parts[-1])]


def demo() -> str:
    """What ``timberkit demo`` prints; its pictures are put into docs/images."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "timberkit", "demo", "--output", "demo"]
        shown = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        images, study = ROOT / "docs" / "images", Path(folder, "demo", "study")
        images.mkdir(parents=True, exist_ok=True)
        for drawn, name in (("pass-at-k-1", "demo_pass_at_k"), ("plane-1", "demo_plane")):
            shutil.copyfile(study / "report" / "figures" / f"{drawn}.svg", images / f"{name}.svg")
        photograph(study / "report" / "report.html", "study_page.png")
        photograph(study / "analysis" / "report.html", "analysis_page.png")
    return "\n".join(line.rstrip() for line in shown.stdout.strip().splitlines())


def photograph(page: Path, name: str) -> None:
    """The upper part of a page, as Debian's Chromium shows it; nothing where there is none."""
    chromium = shutil.which("chromium")
    if chromium is None:
        print("chromium is not installed: the picture of the page is left as it is")
        return
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        options += [f"--user-data-dir={profile}", "--window-size=1180,1640"]
        options += ["--virtual-time-budget=20000", "--hide-scrollbars"]
        target = ROOT / "docs" / "images" / name
        command = [chromium, *options, f"--screenshot={target}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)


def replaced(text: str, name: str, content: str) -> str:
    """The text with another content in a section."""
    pattern = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"
    return re.sub(
        pattern, lambda match: f"{match[1]}```\n{content}\n```\n{match[2]}", text, flags=re.DOTALL
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", action="store_true", help="run the demo too")
    given = parser.parse_args()
    readme = ROOT / "README.md"
    text = replaced(readme.read_text(encoding="utf-8"), "tree", tree())
    if given.demo:
        text = replaced(text, "demo", demo())
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
