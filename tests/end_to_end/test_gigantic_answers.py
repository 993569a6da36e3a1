"""A model that answers without end: stored whole, shown in part, within bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stub_models import StubServer

from timberkit.rollouts import Rollout, read_rollouts, write_rollouts

pytest.importorskip("inspect_ai")

PIECE = "</script><script>window.harmed=1</script>\x1b[31m\u202e{{7*7}} $x$ "
MOST_PAGE_BYTES = 8 << 20
MEGABYTE = 1 << 20


def peak_of(folder: Path, environment: dict[str, str], *args: object) -> tuple[int, str, int]:
    """Exit code, both streams, and the most memory of one process of a command, in MB."""
    code = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'timberkit', *sys.argv[1:]])\n"
        "_, status, used = os.wait4(child.pid, 0)\n"
        "print('PEAK', used.ru_maxrss // 1024, flush=True)\n"
        "sys.exit(os.waitstatus_to_exitcode(status))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
        timeout=200,
    )  # fmt: skip
    said, _, peak = done.stdout.rpartition("PEAK ")
    return done.returncode, said + done.stderr, int(peak)


def test_an_answer_of_100_mb_is_kept_and_shown_in_part(commands: Any, tmp_path: Path) -> None:
    answer = PIECE * (100 * MEGABYTE // len(PIECE))
    rows = [
        Rollout(model, "task", "", "p", 1, right, "4", text=answer)
        for model, right in (("base", False), ("instruct", True))
    ]
    write_rollouts(tmp_path / "r.parquet", rows)
    assert [len(row.text) for row in read_rollouts(tmp_path / "r.parquet")] == [len(answer)] * 2
    code, said, peak = peak_of(
        tmp_path, commands.environment, "compare", "r.parquet", "--cases", "cases.html"
    )
    assert code == 0, said
    assert "\x1b" not in said
    pages = [tmp_path / "cases.html", *tmp_path.glob("cases-cases/*"), *tmp_path.glob("*cases/*")]
    assert sum(page.stat().st_size for page in set(pages)) < MOST_PAGE_BYTES
    assert "<script>window.harmed" not in (tmp_path / "cases.html").read_text()
    assert peak < 3000


def test_a_server_that_answers_without_end_is_an_answer_like_others(
    commands: Any, tmp_path: Path
) -> None:
    answer = PIECE * (8 * MEGABYTE // len(PIECE))
    server = StubServer(lambda _prompt, _seed: answer)
    try:
        code, said, peak = peak_of(
            tmp_path, commands.environment,
            *("eval", f"m={server.url}", "--task", "sapling", "--limit", 1, "-n", 1, "-o", "run"),
        )  # fmt: skip
    finally:
        server.close()
    assert code == 0, said
    assert len(said) < 20_000
    (row,) = read_rollouts(tmp_path / "run" / "rollouts.parquet")
    assert len(row.text) == len(answer)
    assert not row.correct
    assert row.answer is None or len(row.answer) <= len(answer)
    assert peak < 3000
