"""Limits of the machine: memory, a disk that is too small, one that cannot be written, clocks."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from timberkit.sapling import base_folder, instruct_folder

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Checkpoints

PAIR = (str(base_folder()), str(instruct_folder()))


def run(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "timberkit", *map(str, words)]
    return subprocess.run(
        [*options.pop("inside", ()), *command],
        capture_output=True, text=True, timeout=120, check=False, **options,
    )  # fmt: skip


def test_a_run_that_gets_no_memory_says_so_and_is_continued(
    checkpoints: type[Checkpoints], tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    names = [f"model.layers.{n}.mlp.up_proj.weight" for n in range(2)]
    sizes = [(200, 100), (3000, 3000)]
    weights = {
        name: torch.randn(size, generator=generator)
        for name, size in zip(names, sizes, strict=True)
    }
    near = {name: weight + 0.01 * weight.roll(1, 0) for name, weight in weights.items()}
    pair = (
        checkpoints.write(tmp_path / "base", [weights]),
        checkpoints.write(tmp_path / "instruct", [near]),
    )
    out = tmp_path / "out"

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))

    # Single worker of a program: the fork server of a command needs address space of its own.
    words = ("refine", *pair, "-o", out, "--workers", "1", "--quiet")
    stopped = run(*words, preexec_fn=little)
    assert stopped.returncode == 4, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert "the same command continues" in stopped.stderr
    assert not out.exists()
    again = run(*words)
    assert again.returncode == 0, again.stderr


def within(*flags: str) -> list[str]:
    """A mount namespace of its own, with all else as it is."""
    return ["bwrap", "--dev-bind", "/", "/", *flags]


def can_mount() -> bool:
    if shutil.which("bwrap") is None:
        return False
    return subprocess.run([*within(), "true"], capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(
    not can_mount(), reason="bubblewrap is not installed or permitted"
)


@needs_mounts
def test_a_disk_that_is_too_small_is_known_before_anything_is_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = run("refine", *PAIR, "-o", disk / "out",
               inside=within("--size", "1500000", "--tmpfs", str(disk)))  # fmt: skip
    assert done.returncode == 3
    assert "GB free, expected" in done.stderr
    assert not any(disk.iterdir())


@needs_mounts
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = run(
        "refine", *PAIR, "-o", disk / "out", inside=within("--ro-bind", str(disk), str(disk))
    )
    assert done.returncode in (2, 3)
    assert done.stderr.startswith("error: ")
    assert str(disk) in done.stderr
    assert "ead-only" in done.stderr


def test_no_clock_is_trusted(tmp_path: Path) -> None:
    """A stage from the future, or from long ago, is continued as any other."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run("refine", *PAIR, "-o", whole, "--quiet").returncode == 0
    stopped = (
        "import os, signal\n"
        "from timberkit.checkpoint import stage\n"
        "record = stage.Stage.record\n"
        "def record_and_die(self, entries):\n"
        "    record(self, entries)\n"
        "    if any('key' in entry for entry in entries):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "stage.Stage.record = record_and_die\n"
        "import timberkit\n"
        f"timberkit.refine({PAIR[0]!r}, {PAIR[1]!r}, {str(out)!r})\n"
    )
    killed = subprocess.run([sys.executable, "-c", stopped], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    for path in tmp_path.glob(".out.timberkit-stage/**/*"):
        moment = 4_000_000_000 if path.suffix == ".jsonl" else 0
        os.utime(path, (moment, moment))
    again = run("refine", *PAIR, "-o", out, "--json")
    assert again.returncode == 0, again.stderr
    assert '"resumed": true' in again.stdout
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
