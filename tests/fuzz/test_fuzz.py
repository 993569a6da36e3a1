"""No file of a stranger makes a parser crash, hang, or take memory beyond a bound.

The corpus is replayed (earlier findings stand in it), then mutated for a moment. For longer:

    TIMBERKIT_FUZZ_SECONDS=60 TIMBERKIT_FUZZ_SEED=1 python -m pytest tests/fuzz    (or: make fuzz)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("TIMBERKIT_FUZZ_SECONDS", "0.2"))
SEED = os.environ.get("TIMBERKIT_FUZZ_SEED", "0")
MOST_BYTES = 256 << 20
"""That a parser's inputs, of 50 KB at most, may add to the memory of the process."""


@pytest.mark.timeout(600 + 40 * SECONDS)
def test_mutated_files_end_in_errors_of_ours_within_bounds(tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    findings = Path(os.environ.get("TIMBERKIT_FUZZ_FINDINGS", tmp_path))
    environment = {**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(HERE.parent / "support"), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    environment.pop("PYTHONWARNINGS", None)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "fuzz", "--findings", findings),
            *("--seconds", str(SECONDS), "--seed", SEED),
        ],
        capture_output=True, text=True, check=False, env=environment, cwd=tmp_path,
    )  # fmt: skip
    results = [json.loads(line) for line in done.stdout.splitlines()]
    failures = [f"{each['target']}:\n{each['failure']}" for each in results if each["failure"]]
    assert not failures, "\n".join(failures)
    assert done.returncode == 0, done.stderr
    assert {each["target"] for each in results} == {
        path.name for path in (HERE / "corpus").iterdir()
    }
    for each in results:
        files = len(list((HERE / "corpus" / each["target"]).iterdir()))
        assert each["tried"] > files, f"{each['target']}: nothing was mutated"
        assert each["grown_bytes"] < MOST_BYTES, each
