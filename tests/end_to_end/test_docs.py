"""The docs: they build strictly, their commands exist, and the quick start does what it says.

Every shell block of README.md and ``docs/`` is read. A command of timberkit must parse with every
flag and value; another program must be in ``OTHERS``, with a file that is there. Those of the quick
start are run, in order, as they stand.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from scripts import load_script

from timberkit.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = {"inspect", "make", "pip", "python"}  # inspect: inspect_ai's viewer, of the extra eval
BLOCK = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").exists(), reason="no sources of the docs")


def commands(page: Path) -> list[list[str]]:
    """The words of every command shown on a page, without comments."""
    found = []
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                found.append(words)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_is_one(page: Path) -> None:
    group = typer.main.get_command(app)
    context = group.make_context("timberkit", [], resilient_parsing=True)
    for program, *words in commands(page):
        if program == "timberkit":
            command = group.get_command(context, words[0])
            assert command is not None, words
            command.make_context(words[0], words[1:], parent=context)
            continue
        assert program in OTHERS, (page.name, program, words)
        if program == "make":
            assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        if program == "python" and words[0] != "-m":
            assert (ROOT / words[0]).is_file(), words


def test_the_quick_start_works_as_it_stands(tmp_path: Path) -> None:
    shown = [words for words in commands(ROOT / "docs" / "index.md") if words[0] == "timberkit"]
    assert [words[1] for words in shown] == ["plan", "refine", "verify", "eval", "compare"]
    for _, *words in shown:
        ended = subprocess.run(
            [sys.executable, "-m", "timberkit", *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, (words, ended.stderr)
    assert {"comparison.json", "tables.md", "pass_at_k.parquet"} <= {
        path.name for path in (tmp_path / "compared").iterdir()
    }


def test_the_page_of_all_commands_is_what_help_says() -> None:
    shown = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    page = load_script("scripts/update_commands.py").page()
    assert page == shown, "python scripts/update_commands.py writes it anew"


def test_the_site_builds_strictly_and_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the extra docs is not installed")
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    loaded = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="?(https?:[^" >]+)')
    for page in (tmp_path / "site").rglob("*.html"):
        assert not loaded.findall(page.read_text(encoding="utf-8")), page.name
