"""What a run asks of the kernel, by strace: the order of its syncs, and every write that may fail.

A kill alone shows neither: the page cache outlives the process that is killed. Here each write,
sync and rename is seen, and each kind is made to fail at several places of a run, as a full disk, a
used up quota or a broken disk would.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from timberkit.sapling import base_folder, instruct_folder

CALLS = (
    *("pwrite64", "write", "copy_file_range", "ftruncate", "fallocate", "fsync", "fdatasync"),
    *("rename", "renameat2", "mkdir"),
)
STAGE = ".out.timberkit-stage"


def traced(folder: Path, *flags: str, kept: bool = False) -> tuple[int, str, list[str]]:
    """A run on the embedded pair under strace: exit code, stderr, the calls in order."""
    trace = folder / "trace"
    done = subprocess.run(
        [
            *("strace", "-f", "--seccomp-bpf", "-qq", "-y", "-o", str(trace)),
            *("-e", f"trace={','.join(CALLS)}", *flags),
            *(sys.executable, "-m", "timberkit", "refine", str(base_folder())),
            *(str(instruct_folder()), "-o", str(folder / "out"), "--workers", "1", "--quiet"),
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr, trace.read_text().splitlines()


def can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    tried = subprocess.run(
        ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "true"],
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


pytestmark = pytest.mark.skipif(not can_trace(), reason="strace is not installed, or not permitted")


@dataclass(frozen=True)
class Call:
    """One call: what, on which path below the folder of the run, and where a rename leads."""

    name: str
    path: str
    target: str = ""


def calls(lines: list[str], folder: Path) -> Iterator[Call]:
    """Those calls of a trace that succeeded and concern the folder."""
    for line in lines:
        match = re.match(r"\d+ +(\w+)\((.*)\) += (-?\d+)", line)
        if match is None or int(match[3]) < 0:
            continue
        name, arguments = match[1], match[2]
        places = [
            place[len(str(folder)) :].strip("/") or "."
            for place in re.findall(r'[<"](/[^>"]*)[>"]', arguments)
            if place == str(folder) or place.startswith(f"{folder}/")
        ]
        if name == "copy_file_range":
            places = places[-1:]
        if name == "renameat2":
            places = [place for place in places if place != "."]
        if places:
            yield Call(name, places[0], places[1] if name.startswith("rename") else "")


WRITES = {"pwrite64", "write", "copy_file_range", "ftruncate", "fallocate"}
SYNCS = {"fsync", "fdatasync"}


def test_data_is_synced_before_the_journal_and_all_before_the_name(tmp_path: Path) -> None:
    exit_code, stderr, lines = traced(tmp_path)
    assert exit_code == 0, stderr
    found = list(calls(lines, tmp_path))
    tree, journal = f"{STAGE}/tree", f"{STAGE}/journal.jsonl"
    dirty: set[str] = set()
    journalled = 0
    published = False
    for call in found:
        if call.name in WRITES:
            if call.path == journal:
                unsynced = {path for path in dirty if path.startswith(tree)}
                assert not unsynced, f"the journal says what is not on the disk: {unsynced}"
                journalled += 1
            dirty.add(call.path)
        elif call.name in SYNCS:
            dirty.discard(call.path)
        elif call.name in ("rename", "renameat2"):
            assert call.path not in dirty, f"{call.path} is renamed before it is synced"
            dirty.add(str(Path(call.target).parent))
            if (call.path, call.target) == (tree, "out"):
                left = {path for path in dirty if path.startswith(STAGE)} - {f"{STAGE}/lock"}
                assert not left, f"published before it was synced: {left}"
                published = True
    assert journalled >= 2
    assert published
    assert "." not in dirty, "the folder that holds the output is not synced after the rename"
    # Everything that the output holds was written, and synced by its name.
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").iterdir()}
    synced = {call.path for call in found if call.name in SYNCS}
    assert {f"{tree}/{name}" for name in names} <= synced
    assert tree in synced


FAULTS = [
    *(("pwrite64", "ENOSPC", when) for when in (1, 2, 3, 12, 24, 30)),
    ("pwrite64", "EDQUOT", 5),
    ("pwrite64", "EIO", 7),
    ("write", "ENOSPC", 1),
    ("copy_file_range", "EIO", 2),
    ("ftruncate", "ENOSPC", 2),
    ("fallocate", "ENOSPC", 1),
    *(("fsync", "EIO", when) for when in (1, 3, 6, 11)),
    *(("fdatasync", "ENOSPC", when) for when in (2, 8)),
    ("rename", "ENOSPC", 1),
    ("rename", "EIO", 2),
    ("renameat2", "EIO", 1),
]


SERVICES = [
    ("copy_file_range", "EXDEV"),
    ("copy_file_range", "EOPNOTSUPP"),
    ("fallocate", "EOPNOTSUPP"),
    ("renameat2", "EINVAL"),
]
"""What some file systems lack: copies that share blocks, room set aside, renames that refuse."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed")
    exit_code, stderr, _ = traced(folder)
    assert exit_code == 0, stderr
    return (folder / "out" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("call", "error", "when"), FAULTS)
def test_a_call_that_fails_loses_nothing(
    tmp_path: Path, expected: bytes, call: str, error: str, when: int
) -> None:
    exit_code, stderr, lines = traced(tmp_path, "-e", f"inject={call}:error={error}:when={when}")
    assert any("(INJECTED)" in line for line in lines), "no such call was made"
    assert "Traceback" not in stderr, stderr
    out = tmp_path / "out"
    if exit_code == 0:  # what is only a service to the file system may be refused
        assert stderr == ""
    else:
        assert exit_code in (1, 2, 3, 4), stderr
        assert stderr.startswith("error: ")
        assert re.search(r"again|continues|free|write elsewhere|check|give", stderr), stderr
    if out.exists():
        assert (out / "model.safetensors").read_bytes() == expected
        assert (out / "timberkit.json").exists()
    if not out.exists() or exit_code:
        again, said, _ = traced(tmp_path)
        # A run whose output stands already, though its last step failed, is one that is there.
        assert again == 0 or (out.exists() and "exists" in said), said
    assert (out / "model.safetensors").read_bytes() == expected


@pytest.mark.parametrize(("call", "error"), SERVICES)
def test_a_file_system_without_a_service_is_good_enough(
    tmp_path: Path, expected: bytes, call: str, error: str
) -> None:
    exit_code, stderr, lines = traced(tmp_path, "-e", f"inject={call}:error={error}")
    assert any("(INJECTED)" in line for line in lines)
    assert (exit_code, stderr) == (0, "")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected


@pytest.mark.parametrize("when", [2, 5, 20])
def test_a_disk_that_cannot_be_read_is_named(tmp_path: Path, expected: bytes, when: int) -> None:
    calls = ("-e", "trace=preadv2,pread64", "-e", f"inject=preadv2:error=EIO:when={when}")
    exit_code, stderr, lines = traced(tmp_path, *calls)
    assert any("(INJECTED)" in line for line in lines)
    assert exit_code == 3, stderr
    assert stderr.startswith("error: ")
    assert "model.safetensors" in stderr
    assert not (tmp_path / "out").exists()
    again, said, _ = traced(tmp_path)
    assert again == 0, said
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == expected
