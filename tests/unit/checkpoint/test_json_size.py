"""Files of brackets are refused before they take many times their size, and honest ones are not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from timberkit.checkpoint.json_size import FEW_MARKS, refuse_expanding
from timberkit.checkpoint.manifest import read_manifest
from timberkit.errors import CheckpointError

READ = """
import resource, sys
from pathlib import Path
from timberkit.checkpoint.manifest import read_manifest
from timberkit.engine.analysis_files import read_analysis
from timberkit.errors import CheckpointError
before = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = before + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    read_manifest(Path(sys.argv[1]))
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize("piece", [b"[],", b"{},", b'"",', b"1,", b"[[[],[]]],"])
def test_a_manifest_of_brackets_takes_no_more_than_its_size(tmp_path: Path, piece: bytes) -> None:
    content = b'{"schema_version": 1, "a": [' + piece * (30_000_000 // len(piece)) + b"1]}"
    (tmp_path / "timberkit.json").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path), str(4 * len(content))],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "brackets and commas" in done.stdout, done.stderr
    assert len(done.stdout) < 1000


def test_what_writers_make_passes_whatever_its_size() -> None:
    record = {"name": "model.layers.0.q_proj.weight", "shape": [1, 2, 3], "cut": None}
    for indent in (None, 2):
        raw = json.dumps([record] * FEW_MARKS, indent=indent).encode()
        refuse_expanding(raw, "x.json")
    refuse_expanding(b"[" + b"1," * (FEW_MARKS - 2) + b"1]", "x.json")


def test_the_manifest_of_a_small_output_may_be_written_in_any_way(tmp_path: Path) -> None:
    fields = {"schema_version": 1, "a": [[]] * 1000}
    (tmp_path / "timberkit.json").write_text(json.dumps(fields, separators=(",", ":")))
    assert read_manifest(tmp_path) == fields
    (tmp_path / "timberkit.json").write_text("[]" * 3)
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        read_manifest(tmp_path)
