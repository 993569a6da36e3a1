"""Edits in Base's singular subspaces against a full SVD: ties, bases of low rank, blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from timberkit.config import BaseSubspace, parse_variant, parse_variants
from timberkit.errors import SpectrumError
from timberkit.spectral import base_subspace as module
from timberkit.spectral import decompose as decompose_module
from timberkit.spectral import delta as delta_module
from timberkit.spectral.agreement import agreement
from timberkit.spectral.oracle import consult
from timberkit.spectral.refine import refine_matrix

BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64
NAME = "model.layers.0.mlp.up_proj.weight"
SHAPES = [(60, 40), (40, 60), (50, 50)]

pytestmark = pytest.mark.usefixtures("one_thread")


def pair_of(
    shape: tuple[int, int], values: NDArray[np.float64], seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """A base with these singular values, and an instruct that noise has been added to."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((shape[0], values.size)))[0]
    right = np.linalg.qr(rng.standard_normal((shape[1], values.size)))[0]
    base = (left * values) @ right.T
    return torch.from_numpy(base), torch.from_numpy(base + 0.01 * rng.standard_normal(shape))


def plain(base: torch.Tensor, instruct: torch.Tensor, edit: BaseSubspace) -> NDArray[np.float64]:
    """The definition, by projectors."""
    first, second = base.double().numpy(), instruct.double().numpy()
    left, values, right = np.linalg.svd(first, full_matrices=False)
    k = int(np.ceil(edit.share * values.size))
    inside = left[:, :k] @ left[:, :k].T @ (second - first) @ right[:k].T @ right[:k]
    return first + edit.inside * inside + edit.outside * (second - first - inside)


@pytest.mark.parametrize("text", ["inside=0", "inside=1,outside=0", "inside=-2,outside=1.5"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 20), (20, 1), (2, 2), (1, 1)])
def test_fast_route_and_oracle_are_the_definition(
    pairs: Any, shape: tuple[int, int], share: float, text: str
) -> None:
    edit = parse_variant(f"base-subspace:share={share},{text}")
    assert isinstance(edit, BaseSubspace)
    base, instruct = pairs.noise(*shape, seed=3, dtype=F64)
    exact = plain(base, instruct, edit)
    scale = float(torch.linalg.vector_norm(instruct - base))
    assert np.linalg.norm(consult(base, instruct, edit).weight - exact) <= 1e-12 * scale
    result = refine_matrix(base, instruct, [edit])
    assert np.linalg.norm(result.weights[0].numpy() - exact) <= 1e-11 * scale
    change = result.record.changes[0]
    moved = float(np.linalg.norm(exact - instruct.numpy()))
    assert change.correction == pytest.approx(
        moved / float(torch.linalg.vector_norm(instruct)), abs=1e-12
    )
    assert (result.record.route, change.kept) == ("no decomposition", None)


SPECTRA = {
    "gap of 1e-5": lambda r: np.r_[np.full(r // 2, 1.0), np.full(r - r // 2, 1.0 - 1e-5)],
    "gap of 1e-9": lambda r: np.r_[np.full(r // 2, 1.0), np.full(r - r // 2, 1.0 - 1e-9)],
    "all equal": np.ones,
    "tied across the cut": lambda r: np.r_[2.0, np.ones(r - 2), 0.1],
    "low rank, above the cut": lambda r: np.r_[np.linspace(2, 1, r // 4), np.zeros(r - r // 4)],
    "low rank, below the cut": lambda r: np.r_[np.linspace(2, 1, r - 3), np.zeros(3)],
    "steep": lambda r: np.geomspace(1.0, 1e-9, r),
    "zero": np.zeros,
}


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [BF16, F32, F64])
def test_bases_whose_subspaces_are_hardly_or_not_unique_pass_verify(
    shape: tuple[int, int], dtype: torch.dtype, kind: str
) -> None:
    base, instruct = pair_of(shape, SPECTRA[kind](min(shape)))
    base, instruct = base.to(dtype), instruct.to(dtype)
    chosen = parse_variants(
        [
            "base-subspace:share=0.5,inside=0",
            "base-subspace:share=1,inside=0.3,outside=-1",
            "matched-merge:of=base-subspace:share=0.5,inside=0",
            "noise:of=base-subspace:share=0.5,inside=0",
        ]
    )
    result = refine_matrix(base, instruct, chosen, name=NAME)
    for variant, weight in zip(chosen, result.weights, strict=True):
        found = agreement(weight, base, instruct, variant, name=NAME)
        assert found.holds, (variant, found)


def test_another_choice_among_tied_directions_is_allowed_and_more_than_that_is_not() -> None:
    values = np.r_[np.linspace(3.0, 2.0, 8), np.ones(4), np.linspace(0.5, 0.1, 28)]
    base, instruct = pair_of((60, 40), values)
    weight, delta = base.numpy(), (instruct - base).numpy()
    left, _, right = np.linalg.svd(weight, full_matrices=False)

    def without(places: list[int]) -> torch.Tensor:
        """The delta without its part in the subspaces of these directions."""
        u, v = left[:, places], right[places]
        return torch.from_numpy(weight + delta - u @ (u.T @ delta @ v.T) @ v)

    edit = parse_variant("base-subspace:share=0.25,inside=0")
    first, other = without([*range(10)]), without([*range(8), 10, 11])
    assert float(torch.linalg.vector_norm(first - other)) > 0.05
    assert agreement(first, base, instruct, edit).holds
    assert agreement(other, base, instruct, edit).holds
    assert not agreement(base, base, instruct, edit).holds
    unique = parse_variant("base-subspace:share=0.3,inside=0")  # 12: the tied ones are all inside
    assert agreement(without([*range(12)]), base, instruct, unique).holds
    assert not agreement(without([*range(11), 12]), base, instruct, unique).holds


def test_a_gram_matrix_that_cannot_tell_the_directions_apart_gives_way_to_a_full_svd(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    routes: list[str] = []
    decompose = module.decompose

    def noted(weight: Any, route: Any, **options: Any) -> Any:
        routes.append(route)
        return decompose(weight, route, **options)

    monkeypatch.setattr(module, "decompose", noted)
    for gap in (1e-2, 1e-9):
        values = np.r_[np.full(20, 1.0), np.full(20, 1.0 - gap)]
        refine_matrix(*pair_of((60, 40), values), [BaseSubspace(share=0.5, inside=0)])
    assert routes == ["float64", "float64", "svd"]


def test_equal_gains_take_no_decomposition_and_all_ones_copy(
    pairs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, instruct = pairs.noise(30, 20, seed=6)
    monkeypatch.setattr(module, "decompose", None)
    half, copy, control = parse_variants(
        [
            "base-subspace:share=0.1,inside=0.5,outside=0.5",
            "base-subspace:share=0.1",
            "noise:of=base-subspace:share=0.1",
        ]
    )
    result = refine_matrix(base, instruct, [half, copy, control], name=NAME)
    merged = refine_matrix(base, instruct, parse_variants(["merge:mu=0.5"]))
    assert torch.equal(result.weights[0], merged.weights[0])
    assert torch.equal(result.weights[1].view(torch.int16), instruct.view(torch.int16))
    assert torch.equal(result.weights[2].view(torch.int16), instruct.view(torch.int16))


@pytest.mark.parametrize("shape", [(90, 40), (40, 90)])
@pytest.mark.parametrize("dtype", [BF16, F32])
def test_blocks_and_whether_base_is_held_change_no_rounded_element(
    pairs: Any, shape: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, instruct = pairs.noise(*shape, seed=2, dtype=dtype)
    edit = BaseSubspace(share=0.2, inside=0.5, outside=1.25)
    whole = refine_matrix(base, instruct, [edit]).weights[0]
    monkeypatch.setattr(delta_module, "ROW_BLOCK_ELEMENTS", 7 * 40)
    monkeypatch.setattr(decompose_module, "BLOCK_ELEMENTS", 20 * 40)
    monkeypatch.setattr(delta_module, "HELD_ELEMENTS", 1)
    blocks = refine_matrix(base, instruct, [edit]).weights[0]
    assert agreement(blocks, base, instruct, edit).holds
    assert float((blocks == whole).double().mean()) >= 0.999


def test_shares_of_one_pass_share_the_directions(pairs: Any) -> None:
    base, instruct = pairs.noise(70, 50, seed=8)
    chosen = parse_variants(
        [f"base-subspace:share={share},inside=0" for share in (0.5, 0.1, 0.02)] + ["timber"]
    )
    result = refine_matrix(base, instruct, chosen)
    for variant, weight in zip(chosen, result.weights, strict=True):
        assert agreement(weight, base, instruct, variant).holds
    corrections = [change.correction or 0.0 for change in result.record.changes[:3]]
    assert corrections == sorted(corrections, reverse=True)
    assert result.record.changes[3].kept is not None


def test_not_a_number_in_base_is_named(pairs: Any) -> None:
    base, instruct = pairs.noise(6, 4, seed=0)
    base[1, 1] = float("nan")
    with pytest.raises(SpectrumError, match="base: found NaN or Inf"):
        refine_matrix(base, instruct, [BaseSubspace(share=0.5, inside=0)])
