"""What a run asks of the disk before it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from timberkit.checkpoint.stage_folder import StageFolder
from timberkit.engine import run
from timberkit.errors import InterruptedRunError, ResourceError
from timberkit.sapling import base_folder, instruct_folder


def test_a_full_disk_is_refused_before_anything_is_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "free_bytes", lambda _: 0)
    with pytest.raises(ResourceError, match=r"0\.0 GB free, expected"):
        run.refine(base_folder(), instruct_folder(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_keep_a_published_output_from_being_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: StageFolder) -> None:
        raise PermissionError(1, "not now")

    with monkeypatch.context() as patch:
        patch.setattr(StageFolder, "remove", refuse)
        with pytest.raises(InterruptedRunError, match="is complete"):
            run.refine(base_folder(), instruct_folder(), tmp_path / "out")
    monkeypatch.setattr(run, "free_bytes", lambda _: 0)
    assert run.refine(base_folder(), instruct_folder(), tmp_path / "out").resumed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
