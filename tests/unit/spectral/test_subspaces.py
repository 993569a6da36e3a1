"""Leading directions against a full SVD, and overlaps whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from timberkit.spectral.subspaces import overlaps, singular_directions

SHAPES = [(90, 40), (40, 90), (60, 60), (1, 30), (30, 1), (1, 1)]


def planted(
    shape: tuple[int, int], values: NDArray[np.float64], seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng([seed, *shape])
    left, right = (np.linalg.qr(rng.standard_normal((side, values.size)))[0] for side in shape)
    return (left * values) @ right.T, left, right


def projector_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(np.abs(first @ first.T - second @ second.T).max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_directions_span_what_a_full_svd_spans(shape: tuple[int, int], dtype: type) -> None:
    matrix = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    for count in {1, min(shape) // 2 or 1, min(shape)}:
        found = singular_directions(matrix, count)
        np.testing.assert_allclose(found.singular_values, values, rtol=1e-10, atol=1e-8)
        assert found.count == count
        assert projector_distance(found.left, left[:, :count]) < 1e-9
        assert projector_distance(found.right, right[:count].T) < 1e-9


@pytest.mark.parametrize("shape", [(200, 80), (80, 200)])
def test_small_directions_stay_orthonormal(shape: tuple[int, int]) -> None:
    values = np.logspace(0, -5.9, 60)
    matrix, left, right = planted(shape, values)
    found = singular_directions(matrix, 60)
    assert found.count == 60
    for vectors, expected in ((found.left, left), (found.right, right)):
        defect = np.abs(vectors.T @ vectors - np.eye(60)).max()
        assert defect < 1e-9
        assert projector_distance(vectors[:, :30], expected[:, :30]) < 1e-7


@pytest.mark.parametrize("rank", [0, 1, 7])
def test_no_more_directions_than_the_rank(rank: int) -> None:
    matrix, _, _ = planted((50, 30), np.linspace(2, 1, rank))
    found = singular_directions(matrix, 20)
    assert found.count == rank
    assert (found.left.shape, found.right.shape) == ((50, rank), (30, rank))


def test_a_subspace_with_itself_and_with_its_complement() -> None:
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 40)))[0]
    same = overlaps(basis, basis, [1, 8, 20])
    assert [row.overlap for row in same] == pytest.approx([1.0] * 3)
    assert [row.smallest_cosine for row in same] == pytest.approx([1.0] * 3)
    assert [row.chance for row in same] == [1 / 40, 8 / 40, 20 / 40]
    other = overlaps(basis[:, :20], basis[:, 20:], [20])[0]
    assert other.overlap == pytest.approx(0.0, abs=1e-25)
    assert other.smallest_cosine == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("angle", [0.1, 0.7, 1.5])
def test_principal_angles_are_those_planted(angle: float) -> None:
    basis = np.linalg.qr(np.random.default_rng(2).standard_normal((30, 10)))[0]
    first = basis[:, :2]
    turned = math.cos(angle) * basis[:, :1] + math.sin(angle) * basis[:, 5:6]
    second = np.hstack([turned, basis[:, 1:2]])
    row = overlaps(first, second, [2])[0]
    assert row.smallest_cosine == pytest.approx(math.cos(angle))
    assert row.overlap == pytest.approx((math.cos(angle) ** 2 + 1) / 2)


def test_chance_is_the_mean_overlap_of_random_subspaces() -> None:
    rng = np.random.default_rng(3)
    bases = [np.linalg.qr(rng.standard_normal((60, 12)))[0] for _ in range(60)]
    rows = [overlaps(a, b, [12])[0] for a, b in zip(bases[::2], bases[1::2], strict=True)]
    assert np.mean([row.overlap for row in rows]) == pytest.approx(rows[0].chance, rel=0.1)


def test_dimensions_that_one_side_does_not_have_are_left_out() -> None:
    basis = np.eye(20)
    found = overlaps(basis[:, :10], basis[:, :8], [1, 8, 9, 64, 0])
    assert [row.dimension for row in found] == [1, 8]
    assert overlaps(basis[:, :0], basis, [1]) == ()
    assert overlaps(basis, basis, []) == ()
