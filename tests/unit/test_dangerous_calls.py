"""What runs a stranger's code, or a shell, stands in the source only with a reason given here.

Read from the syntax tree, so that words in texts and comments do not count. A new finding needs an
entry with its reason here, and an entry that fits nothing any more fails.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "timberkit"
ALLOWED: dict[tuple[str, str], str] = {
    ("evaluation/sandbox_program.py", "compile"): "code from models, inside the sandbox",
    ("evaluation/sandbox_program.py", "exec"): "code from models, inside the sandbox",
    ("__init__.py", "import_module"): "this package's own modules, from a table in the file",
    ("checkpoint/model_card.py", "yaml.load"): "a BaseLoader: strings, lists and mappings only",
    ("checkpoint/pickled.py", "pickle"): "the error that torch.load raises for what it refuses",
    ("recipe_file.py", "yaml.compose"): "a SafeLoader without tags and aliases",
}
MODULES = {
    *("pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"),
    *("code", "codeop", "imp", "xmlrpc", "telnetlib", "ftplib"),
}
CALLS = {"eval", "exec", "compile", "__import__", "import_module", "run_path", "run_module"}
METHODS = {
    *("os.system", "os.popen", "os.execv", "os.spawnl", "commands.getoutput", "tempfile.mktemp"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.compose"),
    *("np.load", "numpy.load", "torch.hub", "torch.jit.load", "torch.package"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "ssl._create_unverified_context"),
}
"""``torch.load`` has a rule of its own below."""


def findings(path: Path) -> Iterator[tuple[str, str, int]]:
    """File, what stands there, and its line."""
    name = path.relative_to(SOURCE).as_posix() if path.is_relative_to(SOURCE) else path.name
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for what in _dangers(node):
            yield name, what, getattr(node, "lineno", 0)


def _dangers(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (each.name for each in node.names if each.name.split(".")[0] in MODULES)
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
        yield str(node.module)
    if not isinstance(node, ast.Call):
        return
    called = ast.unparse(node.func)
    given = {each.arg: ast.unparse(each.value) for each in node.keywords}
    if called in CALLS or called.split(".")[-1] in {"import_module", "run_path", "run_module"}:
        yield called.split(".")[-1]
    if called in METHODS:
        yield called
    if called == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if given.get("trust_remote_code", "False") != "False":
        yield "trust_remote_code"
    if given.get("shell", "False") != "False":
        yield "shell"
    if given.get("verify") == "False":
        yield "verify=False"
    if given.get("allow_pickle") == "True":  # the user's own flag is handed on by name
        yield "allow_pickle"
    if given.get("weights_only") == "False":
        yield "weights_only=False"


def test_nothing_dangerous_stands_in_the_source_without_a_reason() -> None:
    found = [each for path in sorted(SOURCE.rglob("*.py")) for each in findings(path)]
    unexplained = [
        f"{name}:{line}: {what}" for name, what, line in found if (name, what) not in ALLOWED
    ]
    assert unexplained == []
    assert set(ALLOWED) == {(name, what) for name, what, _ in found}
    assert all(ALLOWED.values())


def test_pickled_weights_are_loaded_in_one_module_at_most() -> None:
    loading = [
        path
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert len(set(loading)) <= 1, loading


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads", "pickle"),
        ("eval('1')", "eval"),
        ("importlib.import_module(name)", "import_module"),
        ("torch.load(path)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=False)", "torch.load without weights_only=True"),
        ("AutoModel.from_pretrained(x, trust_remote_code=given)", "trust_remote_code"),
        ("subprocess.run(x, shell=True)", "shell"),
        ("yaml.load(x, Loader=yaml.Loader)", "yaml.load"),
        ("np.load(x, allow_pickle=True)", "allow_pickle"),
        ("os.system('x')", "os.system"),
    ],
)
def test_the_search_finds_what_it_is_for(tmp_path: Path, line: str, what: str) -> None:
    (tmp_path / "bad.py").write_text(f"{line}\n")
    assert what in [found for _, found, _ in findings(tmp_path / "bad.py")]


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)",
        "load(x, trust_remote_code=False)",
        "re.compile('x')",
        "model.eval()",
        "text = 'import pickle; eval(x)'",
    ],
)
def test_the_search_leaves_the_rest_alone(tmp_path: Path, line: str) -> None:
    (tmp_path / "good.py").write_text(f"{line}\n")
    assert list(findings(tmp_path / "good.py")) == []
