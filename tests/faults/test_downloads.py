"""A download from the Hub that breaks: said in words, and gone on with by the same command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from download_hub import DownloadHub, serve

from timberkit.sapling import base_folder, instruct_folder


def refine(hub: DownloadHub, folder: Path) -> subprocess.CompletedProcess[str]:
    """``timberkit refine`` of the Hub's model, with a cache in the folder."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        **{"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hub"), "HF_HUB_DISABLE_XET": "1"},
        **{"HF_HUB_DOWNLOAD_TIMEOUT": "5", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    }
    return subprocess.run(
        [
            *(sys.executable, "-m", "timberkit", "refine", str(base_folder()), "org/model"),
            *("-o", str(folder / "out"), "--quiet"),
        ],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_download_that_breaks_is_gone_on_with(tmp_path: Path) -> None:
    with serve(instruct_folder()) as hub:
        hub.breaks["model.safetensors"] = 1_000
        broken = refine(hub, tmp_path)
        assert broken.returncode == 3, broken.stderr
        assert "Traceback" not in broken.stderr
        # After what the library says of its own attempts.
        assert broken.stderr.splitlines()[-1].startswith("error: org/model: ")
        assert not (tmp_path / "out").exists()
        small = hub.sent["tokenizer.json"]
        hub.breaks.clear()
        again = refine(hub, tmp_path)
        assert again.returncode == 0, again.stderr
        # What had come whole is not fetched again.
        assert hub.sent["tokenizer.json"] == small
    whole = tmp_path / "whole"
    done = subprocess.run(
        [sys.executable, "-m", "timberkit", "refine", str(base_folder()), str(instruct_folder()),
         "-o", str(whole), "--quiet"],
        check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        whole / "model.safetensors"
    ).read_bytes()


def test_a_connection_that_ends_once_costs_nothing(tmp_path: Path) -> None:
    with serve(instruct_folder()) as hub:
        hub.breaks["model.safetensors"] = 1
        done = refine(hub, tmp_path)
        assert done.returncode == 0, done.stderr
