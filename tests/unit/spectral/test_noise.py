"""Noise by name: the same whoever draws it, other for another name, and Gaussian."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from timberkit.spectral import delta as delta_module
from timberkit.spectral import noise as noise_module
from timberkit.spectral.noise import NamedNoise


def drawn(seed: int = 0, name: str = "w", shape: tuple[int, int] = (70, 50)) -> NDArray[np.float64]:
    return np.concatenate([values for _, values in NamedNoise(seed, name, shape).blocks()])


def test_the_same_name_and_seed_give_the_same_noise_and_others_another() -> None:
    first = drawn()
    np.testing.assert_array_equal(first, drawn())
    for other in (drawn(seed=1), drawn(name="v"), drawn(name="w [0]")):
        correlation = np.corrcoef(first.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 0.07


def test_seed_and_name_are_told_apart() -> None:
    assert not np.array_equal(drawn(seed=1, name="1 w"), drawn(seed=11, name="w"))


def test_the_noise_is_that_of_every_version() -> None:
    # Outputs are made again from their manifest: other numbers here break that.
    assert drawn(seed=3, name="model.layers.0.mlp.up_proj.weight", shape=(2, 2)).round(
        6
    ).tolist() == [
        [1.578398, -0.065371],
        [-0.06405, -0.715691],
    ]


def test_blocks_in_which_weights_are_read_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = drawn(shape=(3000, 200))
    monkeypatch.setattr(delta_module, "ROW_BLOCK_ELEMENTS", 7)
    np.testing.assert_array_equal(drawn(shape=(3000, 200)), expected)


def test_every_block_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_module, "NOISE_ELEMENTS", 500)
    blocks = [values for _, values in NamedNoise(0, "w", (40, 50)).blocks()]
    assert [block.shape for block in blocks] == [(10, 50)] * 4
    for block in blocks[1:]:
        assert abs(np.corrcoef(blocks[0].ravel(), block.ravel())[0, 1]) < 0.15


def test_it_is_standard_normal_and_its_norm_is_known() -> None:
    noise = NamedNoise(5, "w", (600, 500))
    values = drawn(5, "w", (600, 500))
    assert stats.kstest(values.ravel(), "norm").pvalue > 0.01
    assert noise.norm() == pytest.approx(float(np.linalg.norm(values)), rel=1e-12)
    # Independent between rows and columns: no direction stands out of the bulk.
    assert np.linalg.norm(values, ord=2) < np.sqrt(600) + np.sqrt(500) + 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 1 << 19)])
def test_any_shape_is_filled_once(shape: tuple[int, int]) -> None:
    covered = [rows for rows, _ in NamedNoise(0, "w", shape).blocks()]
    assert [row for rows in covered for row in range(rows.start, rows.stop)] == [*range(shape[0])]
    assert drawn(shape=shape).shape == shape
