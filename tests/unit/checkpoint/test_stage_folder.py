"""The stage folder itself: made or refused with a reason, locked for real or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from timberkit.checkpoint import stage_folder
from timberkit.checkpoint.stage import Stage, find_stages
from timberkit.errors import ResourceError, UsageError


def begin(output: Path) -> Stage:
    return Stage.open(output, digest="d", description={}, overwrite=False)


def stage_of(output: Path) -> Path:
    return stage_folder.StageFolder.of(output).path


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EACCES, UsageError),
        (errno.EROFS, UsageError),
        (errno.ENAMETOOLONG, UsageError),
        (errno.ENOSPC, ResourceError),
        (errno.EDQUOT, ResourceError),
    ],
)
@pytest.mark.parametrize("call", ["mkdir", "pwrite", "replace"])
def test_stage_that_cannot_be_created_says_why(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    error: type[Exception],
    call: str,
) -> None:
    monkeypatch.setattr(os, call, failing(number))
    with pytest.raises(error, match=os.strerror(number)):
        begin(tmp_path / "out")


def test_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(tmp_path / "out").close()
    monkeypatch.setattr(stage_folder.fcntl, "flock", failing(errno.ENOLCK))
    with pytest.raises(ResourceError, match="no locks"):
        begin(tmp_path / "out")
    assert find_stages(tmp_path)[0].alive


def test_lock_of_a_removed_file_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(tmp_path / "out").close()
    lock = stage_of(tmp_path / "out") / "lock"
    flock, removals = stage_folder.fcntl.flock, iter([lock])

    def removed_meanwhile(descriptor: int, operation: int) -> None:
        for path in removals:
            path.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(stage_folder.fcntl, "flock", removed_meanwhile)
    with begin(tmp_path / "out"):
        assert lock.exists()
