"""Nothing that the commands write or print holds a token or tells where the user's files lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import TOKEN, FakeHub, fake_hub
from stub_models import RefusedError, StubServer, some_right

pytest.importorskip("inspect_ai")

TOKENS = {
    "HF_TOKEN": TOKEN,
    "OPENAI_API_KEY": "sk-canary-of-openai",
    "TIMBERKIT_API_KEY": "sk-canary-of-timberkit",
    "AWS_SECRET_ACCESS_KEY": "canary-of-aws",
}
ACCOUNT = "canary-account"


@pytest.fixture(scope="module")
def home(checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home folder of an account with a name of its own, and a pair in it."""
    place: Path = tmp_path_factory.mktemp("homes") / ACCOUNT
    checkpoints.copies(place / "models")
    return place


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with fake_hub() as served:
        yield served


@pytest.fixture(scope="module")
def said(commands: Any, home: Path, hub: FakeHub) -> dict[str, Any]:
    """Every command run once in that home, by its name."""

    def echoing(prompt: str, seed: int) -> str:
        raise RefusedError(401, f"wrong key {TOKENS['TIMBERKIT_API_KEY']}")

    good, refusing = StubServer(some_right), StubServer(echoing)
    pair = (home / "models" / "base", home / "models" / "instruct")
    one = ("--task", "sapling", "--limit", 1, "-n", 1)
    calls: dict[str, tuple[Any, ...]] = {
        "refine": ("refine", *pair, "-o", "refined", "--method", "merge", "--mu", "0.5"),
        "plan": ("plan", *pair),
        "analyze": ("analyze", *pair, "-o", "analysis", "--layers", "0"),
        "diff": ("diff", *pair, "--json"),
        "verify": ("verify", "refined"),
        "eval": ("eval", f"m={good.url}", *one, "-o", "run"),
        "eval of a folder": ("eval", f"m={pair[1]}", *one, "-o", "local-run"),
        "eval that is refused": (
            *("eval", f"m={refusing.url}", *one, "--retries", 0, "--max-failures", 1),
            *("-o", "refused-run"),
        ),
        "compare": ("compare", "a=run", "b=local-run", "-o", "compared"),
        "report": ("report", "analysis", "-o", "page.html"),
        "reproduce": ("reproduce", *pair, "-o", "study", "--dry-run"),
        "push": ("push", "refined", "org/refined"),
        "an error": ("plan", home / "models" / "missing", pair[1]),
        "a broken file": ("plan", home / "models" / "broken", pair[1]),
        "a recipe": ("plan", "--config", home / "recipe.yaml"),
    }
    (home / "models" / "broken").mkdir()
    (home / "models" / "broken" / "model.safetensors").write_bytes(b"broken file")
    (home / "recipe.yaml").write_text(f"base: {pair[0]}\ninstruct: {pair[1]}\nlamb: 1\n")
    more = {**TOKENS, "HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    online = {"HF_HUB_OFFLINE": "0"}
    try:
        return {
            name: commands.fresh_in(home, {**more, **online}, *call)
            if name == "push"
            else commands.start(*call, cwd=home, more=more).wait()
            for name, call in calls.items()
        }
    finally:
        good.close()
        refusing.close()


def test_the_commands_did_what_they_were_to_do(said: dict[str, Any], home: Path) -> None:
    failing = {"eval that is refused", "an error", "a broken file", "a recipe"}
    for name, done in said.items():
        expected = {"diff": {1}}.get(name, {2, 3, 4} if name in failing else {0})
        assert done.exit_code in expected, (name, done.stderr)
    assert {"refined", "analysis", "run", "local-run", "compared", "page.html"} <= {
        path.name for path in home.iterdir()
    }


def test_no_token_in_anything_written_or_printed(
    said: dict[str, Any], home: Path, hub: FakeHub
) -> None:
    for name, done in said.items():
        for token in TOKENS.values():
            assert token not in done.stdout + done.stderr, name
    for place, text in everything(home):
        for token in TOKENS.values():
            assert token not in text, place
    for place, data in hub.repositories["org/refined"].files().items():
        assert not [token for token in (*TOKENS.values(), ACCOUNT) if token.encode() in data], place


def test_no_home_folder_in_anything_written_or_told(said: dict[str, Any], home: Path) -> None:
    for name, done in said.items():
        assert ACCOUNT not in done.stdout + done.stderr, name
    for place, text in everything(home):
        assert ACCOUNT not in text, place


def everything(home: Path) -> Iterator[tuple[str, str]]:
    """Place and text of every file that the commands wrote, unpacked where it is packed."""
    sources = (home / "models", home / "recipe.yaml")
    for path in sorted(home.rglob("*")):
        if path.is_file() and not any(path.is_relative_to(source) for source in sources):
            yield str(path.relative_to(home)), f"{path.relative_to(home)} {_text(path)}"


def _text(path: Path) -> str:
    if path.suffix == ".eval":
        from inspect_ai.log import read_eval_log

        return str(read_eval_log(path).model_dump_json())
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        return json.dumps([table.to_pylist(), str(table.schema.metadata)], default=str)
    return path.read_bytes().decode(errors="replace")


def test_what_a_stranger_downloads_is_verified_with_the_sources_named(
    said: dict[str, Any], commands: Any, home: Path, hub: FakeHub, tmp_path: Path
) -> None:
    assert said["push"].exit_code == 0, said["push"].stderr
    for name, data in hub.repositories["org/refined"].files().items():
        path = tmp_path / "downloaded" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    shutil.copytree(home / "models", tmp_path / "mine")
    alone = commands.run("verify", "downloaded", cwd=tmp_path)
    assert alone.exit_code == 3
    assert "pass --base and --instruct" in alone.stderr
    named = ("--base", "mine/base", "--instruct", "mine/instruct")
    done = commands.run("verify", "downloaded", *named, cwd=tmp_path)
    assert done.exit_code == 0, done.stdout
