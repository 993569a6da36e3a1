"""Weights of candidates from a few directions, against the full SVD; and the files of factors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from architecture_zoo import save_pair
from numpy.typing import NDArray
from safetensors.torch import load_file

from timberkit.checkpoint.reader import TORCH_NAMES
from timberkit.checkpoint.writer import create_shard
from timberkit.config import build_recipe
from timberkit.dtypes import narrow, widen
from timberkit.engine.plan import RefinementPlan, plan_refinement
from timberkit.engine.sources import open_pair
from timberkit.errors import SpectrumError
from timberkit.sapling import base_folder, instruct_folder
from timberkit.spectral.refine import StoredMatrix
from timberkit.study.search import factors as module
from timberkit.study.search.candidates import Candidate, Space
from timberkit.study.search.factors import Factor, Factors
from timberkit.study.search.sampled import write_weights


def stored(values: NDArray[np.float64]) -> StoredMatrix:
    return StoredMatrix(narrow(values, "bfloat16"), "bfloat16")


def numbers(matrix: StoredMatrix) -> NDArray[np.float64]:
    return np.asarray(widen(matrix.raw, matrix.dtype, np.float64))


@pytest.mark.parametrize("shape", [(20, 12), (12, 20), (16, 16), (1, 7), (300, 280)])
@pytest.mark.parametrize("edges", [(), (4,), (1, 3, 8), (400,)])
def test_a_weight_is_that_of_the_full_svd(shape: tuple[int, int], edges: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    base = stored(rng.normal(size=shape))
    instruct = stored(numbers(base) + 0.05 * rng.normal(size=shape))
    gains = tuple(rng.uniform(-1, 2, len(edges) + 1))
    found = Factor.of(base, instruct, edges[-1] if edges else 0).weight(
        base, instruct, edges, gains
    )
    left, values, right = np.linalg.svd(numbers(instruct) - numbers(base), full_matrices=False)
    wanted = np.empty_like(values)
    for start, stop, gain in zip((0, *edges), (*edges, len(values)), gains, strict=True):
        wanted[start:stop] = gain
    expected = numbers(base) + (left * (wanted * values)) @ right
    tolerance = 1e-5 if min(shape) >= module.SMALL else 1e-12
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize(("gain", "which"), [(1.0, "instruct"), (0.0, "base")])
def test_gains_of_one_and_zero_are_the_sources_themselves(gain: float, which: str) -> None:
    rng = np.random.default_rng(2)
    pair = {"base": stored(rng.normal(size=(9, 6))), "instruct": stored(rng.normal(size=(9, 6)))}
    found = Factor.of(pair["base"], pair["instruct"], 4).weight(
        pair["base"], pair["instruct"], (4,), (gain, gain)
    )
    np.testing.assert_array_equal(found, numbers(pair[which]))


def test_a_delta_of_zeros_has_no_directions() -> None:
    same = stored(np.ones((5, 4)))
    found = Factor.of(same, same, 2).weight(same, same, (2,), (3.0, -1.0))
    np.testing.assert_allclose(found, 1.0)


@pytest.fixture(scope="module")
def plan() -> RefinementPlan:
    fields = {"base": str(base_folder()), "instruct": str(instruct_folder())}
    pair = open_pair(build_recipe(fields | {"variants": ["merge:mu=1"], "layers": "1"}))
    return plan_refinement(pair.base, pair.instruct, pair.recipe)


def test_factors_are_made_once_and_read_again(
    plan: RefinementPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Space.of(plan.refined, edges=(4,), by="matrix")
    candidate = space.candidate("", np.linspace(0, 1.5, space.size))
    first = Factors(tmp_path / "factors", plan.refine_tasks, 4)
    told: list[tuple[int, int]] = []
    first.make(lambda done, total: told.append((done, total)))
    assert told[-1] == (7, 7)
    weights = {task.name: raw for task, raw in first.weights(candidate)}
    broken = sorted((tmp_path / "factors").iterdir())[0]
    broken.write_bytes(b"torn")
    made: list[int] = []
    plain = Factor.of
    monkeypatch.setattr(module.Factor, "of", lambda *given: (made.append(1), plain(*given))[1])
    again = Factors(tmp_path / "factors", plan.refine_tasks, 4)
    again.make()
    assert len(made) == 1  # the torn one
    again.hold()
    assert len(weights) == 7
    for task, raw in again.weights(candidate):
        np.testing.assert_array_equal(raw, weights[task.name])
    other = Factors(tmp_path / "factors", plan.refine_tasks, 5)
    other.make()
    assert len(made) == 1 + 7  # of another number of directions


def test_weights_are_rounded_to_the_dtype_of_the_output(
    plan: RefinementPlan, tmp_path: Path
) -> None:
    space = Space.of(plan.refined, edges=(), by="module")
    found = Factors(tmp_path, plan.refine_tasks, 0)
    found.make()
    for task, raw in found.weights(space.constant("", 0.37)):
        assert TORCH_NAMES[task.target.dtype] == "bfloat16"
        assert raw.dtype == np.uint16
        assert raw.shape == (task.rows, task.columns)


@pytest.mark.parametrize("architecture", ["gpt-neox", "gpt2", "llama4", "qwen3-moe"])
@pytest.mark.parametrize(("gain", "which"), [(1.0, "instruct"), (0.0, "base")])
def test_parts_of_fused_weights_are_read_and_written_where_they_lie(
    tmp_path: Path, architecture: str, gain: float, which: str
) -> None:
    folders = {name: tmp_path / name for name in ("base", "instruct", "out")}
    save_pair(architecture, (folders["base"], folders["instruct"]))
    fields = {name: str(folders[name]) for name in ("base", "instruct")}
    pair = open_pair(build_recipe(fields | {"variants": ["merge:mu=1"]}))
    plan = plan_refinement(pair.base, pair.instruct, pair.recipe)
    found = Factors(tmp_path, plan.refine_tasks, 0)
    found.make()
    for shard in plan.layout.shards:
        create_shard(folders["out"] / shard.name, shard)
    space = Space.of(plan.refined, edges=(), by="module")
    write_weights(found, space.constant("", gain), folders["out"])
    expected = load_file(folders[which] / "model.safetensors")
    written = load_file(folders["out"] / "model.safetensors")
    for tensor in plan.refined:
        assert torch.equal(written[tensor.name], expected[tensor.name]), tensor.name


def test_gains_that_overflow_are_an_error_that_names_the_tensor(
    plan: RefinementPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Factors(tmp_path, plan.refine_tasks, 0)
    found.make()
    huge = Candidate("huge", (), {task.name: (1.0,) for task in plan.refine_tasks})
    monkeypatch.setattr(Factor, "weight", lambda self, base, *_: np.full(base.shape, 1e39))
    with pytest.raises(SpectrumError, match=r"huge.*overflow bfloat16"):
        list(found.weights(huge))
    assert torch.finfo(torch.bfloat16).max < 1e39
