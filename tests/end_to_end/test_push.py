"""``timberkit push`` as a process against a Hub on this machine: killed, resumed, refused."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import TOKEN, FakeHub, fake_hub

CHECK_FAILED, USAGE, BAD_INPUT, INTERRUPTED = 1, 2, 3, 4
REPO = "org/refined"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as served:
        yield served


@pytest.fixture
def start(commands: Any, hub: FakeHub) -> Iterator[Start]:
    """Start ``timberkit push`` with the address of the fake Hub, without hf_xet."""
    more = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    environment = {**commands.environment, **more, "HF_HUB_OFFLINE": "0"}
    started = []

    def run(*args: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "timberkit", "push", *map(str, args)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code and what was printed, in which the token never stands."""
    stdout, stderr = process.communicate(timeout=120)
    assert TOKEN not in stdout + stderr
    return process.returncode, stdout, stderr


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def published(folder: Path) -> dict[str, bytes]:
    """What a push makes of it: the same files, but for the places of local sources."""
    found = contents(folder)
    fields = json.loads(found["timberkit.json"])
    for source in (fields["recipe"]["base"], fields["recipe"]["instruct"]):
        source["location"] = f"./{Path(source['location']).name}"
    found["timberkit.json"] = json.dumps(fields, sort_keys=True, indent=2).encode() + b"\n"
    return found


@pytest.fixture(scope="module")
def output(
    commands: Any, grove: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An output of three shards."""
    place: Path = tmp_path_factory.mktemp("push") / "out"
    done = commands.run("refine", *grove, "-o", place, "--method", "merge", "--mu", "0.8")
    assert done.exit_code == 0, done.stderr
    return place


def test_killed_upload_is_continued_by_the_same_command(
    start: Start, hub: FakeHub, output: Path
) -> None:
    shards = sorted(output.glob("*.safetensors"))
    hub.held = hashlib.sha256(shards[1].read_bytes()).hexdigest()
    killed = start(output, REPO)
    wait_for(lambda: hub.holding.is_set() and len(hub.objects) == 2)
    killed.kill()
    killed.communicate()
    assert hub.repositories[REPO].files() == {}
    assert hub.repositories[REPO].private
    held, hub.held, hub.requests = hub.held, None, []
    code, stdout, stderr = finish(start(output, REPO))
    assert code == 0, stderr
    assert hub.sent("PUT", "/lfs/") == [f"/lfs/{held}"]
    assert hub.repositories[REPO].files() == published(output)
    assert f"files uploaded: {hub.url}/{REPO}/commit/" in stdout
    assert "org/refined, branch main, private" in stdout


def test_interrupt_exits_4(
    commands: Any, checkpoints: Any, start: Start, hub: FakeHub, tmp_path: Path
) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    done = commands.run("refine", *pair, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    hub.held = "/lfs/"
    stopped = start(tmp_path / "out", REPO)
    wait_for(hub.holding.is_set)
    stopped.send_signal(signal.SIGINT)
    code, _, stderr = finish(stopped)
    assert code == INTERRUPTED
    # The progress bar of huggingface_hub may write once more.
    assert "error: stopped; the same command starts again\n" in stderr
    assert "Traceback" not in stderr


def test_dry_run_lists_everything_and_contacts_nobody(
    start: Start, hub: FakeHub, output: Path
) -> None:
    code, stdout, stderr = finish(start(output, REPO, "--dry-run", "--json", "--public"))
    assert (code, stderr) == (0, "")
    told = json.loads(stdout)
    assert (told["repo"], told["branch"], told["private"]) == (REPO, "main", False)
    assert {file["name"]: file["size_bytes"] for file in told["files"]} == {
        name: len(data) for name, data in published(output).items()
    }
    assert told["card"]["tags"] == ["timberkit", "merge"]
    assert told["card"]["library_name"] == "transformers"
    assert any(note.startswith("no licence") for note in told["notes"])
    assert told["result"] is None
    assert hub.requests == []


def test_json_after_an_upload_and_nothing_on_stderr_but_the_python_warnings(
    start: Start, hub: FakeHub, output: Path
) -> None:
    code, stdout, stderr = finish(start(output, REPO, "--json", "--branch", "v2"))
    assert code == 0, stderr
    assert json.loads(stdout)["result"]["created"]
    assert hub.repositories[REPO].files("v2") == published(output)
    assert hub.repositories[REPO].files("main") == {}


def test_refusals_exit_with_the_documented_codes(
    start: Start, hub: FakeHub, output: Path, tmp_path: Path
) -> None:
    hub.make(REPO, notes=b"mine")
    empty = tmp_path / "empty"
    empty.mkdir()
    for args, expected, words in (
        ((output, REPO), USAGE, "files that are not of this output: 'notes'"),
        ((output, "name"), USAGE, "expected org/name"),
        ((empty, REPO), BAD_INPUT, "no timberkit.json"),
    ):
        code, _, stderr = finish(start(*args, "--quiet"))
        assert code == expected
        assert stderr.startswith("error: ")
        assert words in stderr
    (output / "extra.txt").write_text("mine")
    try:
        code, _, stderr = finish(start(output, REPO, "--dry-run"))
    finally:
        (output / "extra.txt").unlink()
    assert code == CHECK_FAILED
    assert "'extra.txt'" in stderr
