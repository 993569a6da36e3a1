"""The docs: they build strictly, and every command that they show works as it stands.

Every shell block of README.md and ``docs/`` is read. A command of timberkit must parse with every
flag and value; another program must be in ``OTHERS``, with a file that is there. Then the commands
of a page are run, in order, in a folder in which BASE, INSTRUCT, org/model and the like are the
embedded pair (``made``); what that folder cannot give is in ``NEEDS``, with what is missing.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from scripts import load_script
from tests.support.adapters import adapter_for

from timberkit.cli import app
from timberkit.sapling import base_folder, instruct_folder

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Commands

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = {"inspect", "make", "pip", "python"}  # inspect: inspect_ai's viewer, of the extra eval
BLOCK = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

NEEDS = {
    r"--serve vllm": "a GPU and vLLM",
    r"^push (?!.*--dry-run)": "the Hub; tests/end_to_end/test_push.py has one",
    r"^refine --pair qwen3": "the Hub",
    r"^reproduce .*--scale|^reproduce BASE|^reproduce org/model-base org/model -o": "days of a GPU",
    r"^reproduce --pair sapling -o": "minutes; tests/end_to_end/test_reproduce.py runs it",
    r"^reproduce .*--dry-run": "a server, or benchmarks that are not here",
    r"^search org|^search BASE": "a model that answers benchmarks",
    r"^search sapling:base": "minutes; tests/end_to_end/test_search.py runs it",
    r"^refine --config RUN/winner": "a search that was run",
    r"^eval .*(aime24|math500|gpqa)": "benchmarks that are not here",
    r"logs/a\.eval|lm_eval_output|rollouts\.jsonl": "logs of other programs; their readers' tests",
    r"--dequantise": "a quantised model; tests/end_to_end/test_quantised.py has some",
    r"--executor ray": "a cluster; tests/end_to_end/test_cluster.py starts some",
    r"--limit 100 --rollouts 64": "two minutes; the quick start does the same, smaller",
}
"""Commands that are not run here: a pattern on the words after ``timberkit``, what is missing."""
FAILING = {r"^diff ": {0, 1}}
"""Exit codes that are right besides 0."""

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


def missing(words: list[str]) -> str:
    """What a command needs that is not here; empty where it can be run."""
    text = " ".join(words)
    return next((reason for pattern, reason in NEEDS.items() if re.search(pattern, text)), "")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the names that the docs use stand for the embedded pair."""
    folder = tmp_path_factory.mktemp("docs")
    names = {
        base_folder(): ("BASE", "org/model-base", "A"),
        instruct_folder(): ("INSTRUCT", "org/model", "B"),
    }
    for source, copies in names.items():
        for name in copies:
            shutil.copytree(source, folder / name)
    adapter_for(base_folder(), folder / "ADAPTER")
    return folder


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "index.md"], ids=lambda page: page.name
)
def test_every_command_shown_works(
    page: Path, made: Path, commands_run: Commands, tmp_path: Path
) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    shown = [words[1:] for words in commands(page) if words[0] == "timberkit"]
    prepare(page, shown, tmp_path, commands_run)
    for words in shown:
        if missing(words):
            continue
        for flag in ("-o", "--output"):
            if flag in words:
                clear(tmp_path / words[words.index(flag) + 1])
        done = commands_run.run(*words, cwd=tmp_path)
        text = " ".join(words)
        allowed = next((codes for start, codes in FAILING.items() if re.search(start, text)), {0})
        assert done.exit_code in allowed, (page.name, words, done.stderr)


def clear(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def prepare(page: Path, shown: list[list[str]], folder: Path, run: Commands) -> None:
    """What the reader of a page has already: recipes that it prints, an output, runs to compare."""
    text = page.read_text(encoding="utf-8")
    used = {word for words in shown if not missing(words) for word in words}
    if "recipe.yaml" in used:
        recipe = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0]
        # Folders have no revisions, and the embedded pair three layers.
        recipe = recipe.replace("@main", "").replace("4-20", "0-2")
        (folder / "recipe.yaml").write_text(recipe)
    if {"refined", "OUT", "OUT/timberkit.json"} & used:
        for name in ("refined", "OUT"):
            flags = ("--method", "merge", "--mu", 0.5)
            done = run.run("refine", "BASE", "INSTRUCT", "-o", name, *flags, cwd=folder)
            assert done.exit_code == 0, done.stderr
    for name in {"RUN", "OTHER", "run"} & used:
        sides = ("base=sapling:base", "instruct=sapling:instruct")
        done = run.run(
            "eval", *sides, "--task", "sapling", "--limit", 4, "-n", 8, "-o", name, cwd=folder
        )
        assert done.exit_code == 0, done.stderr


@pytest.fixture
def commands_run(commands_of_a_session: Commands) -> Commands:
    """Under a name that no function here has."""
    return commands_of_a_session


def test_what_is_not_run_is_shown_somewhere() -> None:
    shown = [" ".join(words[1:]) for page in PAGES for words in commands(page)]
    for pattern in NEEDS:
        assert any(re.search(pattern, text) for text in shown), pattern


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
