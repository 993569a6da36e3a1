"""What a killed evaluation leaves half written is gone when its folder is held again."""

from __future__ import annotations

from pathlib import Path

from timberkit.evaluation import run_files


def test_drafts_of_ours_and_of_the_log_library_are_removed(tmp_path: Path) -> None:
    logs = tmp_path / "logs" / "instruct"
    logs.mkdir(parents=True)
    # The second: inspect_ai's own temporary name for the first.
    drafts = [logs / ".aime24.eval.part", logs / "..aime24.eval.part.x1.tmp", tmp_path / "a.draft"]
    kept = logs / "aime24.eval"
    for path in (*drafts, kept):
        path.write_bytes(b"half")
    run_files._remove_drafts(tmp_path)
    assert not any(path.exists() for path in drafts)
    assert kept.exists()
