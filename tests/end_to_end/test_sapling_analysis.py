"""What the analysis says of the pair that is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import timberkit
from timberkit.config import Timber
from timberkit.measurements import Analysis
from timberkit.sapling import base_folder, instruct_folder
from timberkit.spectral.oracle import oracle_refine
from timberkit.spectral.rank import effective_rank


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    output = tmp_path_factory.mktemp("sapling") / "out"
    return timberkit.analyze(
        base_folder(), instruct_folder(), output,
        measure=["rounding", "subspaces"], hidden_states=True,
    ).analysis  # fmt: skip


@pytest.fixture(scope="module")
def tensors(checkpoints: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return checkpoints.read(base_folder()), checkpoints.read(instruct_folder())


def model(analysis: Analysis) -> Any:
    return analysis.summary["model"]


def test_effective_ranks_of_the_shipped_pair(analysis: Analysis) -> None:
    found = model(analysis)
    assert found["matrices"] == 21
    assert found["base_ratio"]["mean"] == pytest.approx(0.711, abs=0.001)
    assert found["instruct_ratio"]["mean"] == pytest.approx(0.711, abs=0.001)
    assert found["delta_ratio"]["mean"] == pytest.approx(0.562, abs=0.001)
    assert found["null_ratio"]["mean"] == pytest.approx(0.891, abs=0.001)
    assert found["delta_tail_energy"]["mean"] == pytest.approx(0.0088, abs=0.0002)
    assert found["null_tail_energy"]["mean"] == pytest.approx(0.0080, abs=0.0002)
    assert 0.04 < found["relative_delta"]["mean"] < 0.09


def test_training_left_no_matrix_a_random_bulk_alone(analysis: Analysis) -> None:
    """The model is small and its training long: every delta has far more structure than noise."""
    assert model(analysis)["energy_outside"]["median"] > 0.9
    for weight in analysis.weights:
        assert weight.delta.ratio < weight.base.ratio < weight.null.ratio
        assert weight.bulk.spikes >= 20


def test_every_effective_rank_is_that_of_a_full_svd(analysis: Analysis, tensors: Any) -> None:
    for weight in analysis.weights:
        base, instruct = (found[weight.name].double().numpy() for found in tensors)
        for spectrum, matrix in (
            (weight.base, base),
            (weight.instruct, instruct),
            (weight.delta, instruct - base),
        ):
            values = np.linalg.svd(matrix, compute_uv=False)
            assert spectrum.effective_rank == pytest.approx(effective_rank(values), rel=1e-8)


def test_every_rounding_share_is_that_of_a_direct_count(analysis: Analysis, tensors: Any) -> None:
    for weight in analysis.weights:
        base, instruct = (found[weight.name] for found in tensors)
        exact = torch.from_numpy(oracle_refine(base, instruct, Timber(lam=0.2)))
        rounded = exact.bfloat16()
        error = torch.linalg.vector_norm(rounded.double() - exact)
        correction = torch.linalg.vector_norm(exact - instruct.double())
        assert weight.rounding is not None
        assert weight.rounding.error_over_correction == pytest.approx(
            float(error / correction), rel=1e-3
        )
        changed = float((rounded != instruct).double().mean())
        assert weight.rounding.changed == pytest.approx(changed, abs=1e-3)


def test_the_correction_is_about_three_times_rounding(analysis: Analysis) -> None:
    found = model(analysis)["rounding"]
    assert found["correction_over_rounding"] == pytest.approx(3.0, abs=0.1)
    assert found["below_rounding"] == 0
    assert found["changed_share"] == pytest.approx(0.65, abs=0.02)
    verdicts = analysis.summary["verdicts"]
    assert isinstance(verdicts, list)
    assert any("the correction is 3.0 times rounding" in line for line in verdicts)


def test_leading_subspaces_hardly_moved_while_the_delta_lies_elsewhere(analysis: Analysis) -> None:
    sides = model(analysis)["subspaces"]
    rows = {side: {row["dimension"]: row for row in sides[side]} for side in sides}
    assert rows["left"]["K"]["overlap"]["mean"] > 0.99
    assert rows["left"][1]["overlap"]["mean"] > 0.95
    head = rows["delta_left"]["K"]
    assert head["chance"]["mean"] < head["overlap"]["mean"] < 0.7


def test_instruct_uses_more_directions_in_its_last_hidden_states(analysis: Analysis) -> None:
    found = analysis.hidden_states
    assert [row.layer for row in found] == [0, 1, 2, 3]
    assert {row.tokens for row in found} == {6600}
    assert all(row.difference < 0 for row in found)
    assert found[-1].base == pytest.approx(12.10, abs=0.05)
    assert found[-1].instruct == pytest.approx(12.89, abs=0.05)


def test_the_function_writes_what_it_returns(tmp_path: Path) -> None:
    result = timberkit.analyze(base_folder(), instruct_folder(), str(tmp_path / "out"), layers="0")
    assert timberkit.read_analysis(tmp_path / "out") == result.analysis
    assert result.analysis.title == "instruct from base"
