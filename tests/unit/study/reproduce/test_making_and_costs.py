"""Facts of written models, and what steps take."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from timberkit.findings import Cost
from timberkit.records import ChangeRecord, MatrixRecord, TensorRecord
from timberkit.study.reproduce.catalogue import catalogue
from timberkit.study.reproduce.costs import summed
from timberkit.study.reproduce.making import model_facts
from timberkit.study.reproduce.meter import folder_bytes, measured, tree_bytes
from timberkit.study_recipe import build_study_recipe


def tensor(instruct_norm: float, delta_norm: float, corrections: dict[str, float]) -> TensorRecord:
    changes = tuple(ChangeRecord(key, None, c, None, 0.5) for key, c in corrections.items())
    matrix = MatrixRecord(4, 4, "float32", delta_norm, instruct_norm, changes)
    return TensorRecord("w", None, "ffn", 0, 0.1, matrix)


def test_correction_is_that_of_all_weights_together_and_energy_what_truncation_keeps() -> None:
    entries = {e.key: e for e in catalogue(build_study_recipe({"base": "a/b", "instruct": "a/c"}))}
    chosen = [entries["timber-l"], entries["merge_mu0.8"]]
    found = model_facts(
        [
            tensor(10.0, 2.0, {"timber-l": 0.06, "merge_mu0.8": 0.04}),
            tensor(20.0, 4.0, {"timber-l": 0.02, "merge_mu0.8": 0.04}),
        ],
        chosen,
    )
    moved = np.hypot(0.06 * 10, 0.02 * 20)
    assert found["timber-l"].correction == pytest.approx(moved / np.hypot(10, 20))
    assert found["timber-l"].energy == pytest.approx(
        np.mean([1 - (0.6 / 2) ** 2, 1 - (0.4 / 4) ** 2])
    )
    assert found["merge_mu0.8"].correction == pytest.approx(0.04)
    assert found["merge_mu0.8"].energy is None


def test_costs_of_one_kind_add_up_and_memory_is_the_largest() -> None:
    parts = [
        Cost("rollouts a plain", "a", 2.0, 10, 300, 5, 50),
        Cost("rollouts b plain", "b", 3.0, 20, 200, 7, 70),
        Cost("analysis", "weights", 1.0, 1, None),
    ]
    rollouts, analysis = summed(parts)
    assert (rollouts.seconds, rollouts.written_bytes, rollouts.peak_bytes) == (5.0, 30, 300)
    assert (rollouts.rollouts, rollouts.output_tokens) == (12, 120)
    assert (analysis.step, analysis.peak_bytes, analysis.rollouts) == ("analysis", None, None)


@pytest.mark.skipif(tree_bytes(1) is None, reason="the system has no /proc")
def test_meter_counts_the_memory_of_children() -> None:
    program = "x = bytearray(150 << 20); x[::4096] = b'1' * len(x[::4096]); input()"
    with measured() as meter:
        child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
        deadline = time.monotonic() + 20
        while (meter.peak_bytes or 0) < 150 << 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        child.communicate(b"\n")
    assert meter.peak_bytes is not None
    assert meter.peak_bytes > 150 << 20
    assert 0 < meter.seconds < 30


def test_bytes_of_a_folder_are_those_of_its_files_and_links_are_not_followed(
    tmp_path: Path,
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(b"1" * 1000)
    big = tmp_path / "big"
    big.write_bytes(b"1" * 100_000)
    (tmp_path / "a" / "link").symlink_to(big)
    assert 1000 <= folder_bytes(tmp_path / "a") < 2000
    assert folder_bytes(tmp_path / "none") == 0
