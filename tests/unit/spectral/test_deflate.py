"""Leading directions taken out of a delta: found, removed, put back in their places, or left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from timberkit.errors import SpectrumError
from timberkit.spectral import decompose as decompose_module
from timberkit.spectral.decompose import decompose
from timberkit.spectral.deflate import MOST, SMALLEST_SIDE, Leading, leading_directions

UNIT = 2.0**-24
SHAPES = [(200, 100), (100, 200), (128, 128)]


def delta_of(
    shape: tuple[int, int], leading: list[float], seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """A delta with these values above a bulk in [0.2, 1], and its exact singular values."""
    rng = np.random.default_rng([seed, *shape])
    r = min(shape)
    values = np.concatenate([leading, np.sort(rng.uniform(0.2, 1.0, r - len(leading)))[::-1]])
    left, right = (np.linalg.qr(rng.standard_normal((side, r)))[0] for side in shape)
    delta = ((left * values) @ right.T).astype(np.float32)
    return delta, np.linalg.svd(delta.astype(np.float64), compute_uv=False)


def without(found: Leading, delta: NDArray[np.float32]) -> NDArray[np.float64]:
    """The delta without its leading directions, taken out block by block."""
    tall = delta.shape[0] >= delta.shape[1]
    long_side = torch.from_numpy(delta if tall else np.ascontiguousarray(delta.T))
    parts = [slice(start, start + 64) for start in range(0, long_side.shape[0], 64)]
    blocks = [found.without(long_side[part].clone(), part) for part in parts]
    rest = torch.cat(blocks).double().numpy()
    return rest if tall else rest.T


def required(leading: Leading | None) -> Leading:
    assert leading is not None
    return leading


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spikes", [[30.0], [60.0, 50.0], [100.0] * 3])
def test_directions_that_stand_out_are_found_and_removed(
    shape: tuple[int, int], spikes: list[float]
) -> None:
    delta, true = delta_of(shape, spikes)
    before = delta.copy()
    found = required(leading_directions(delta, UNIT))
    count = found.count
    assert count == len(spikes)
    np.testing.assert_allclose(found.singular_values, true[:count], rtol=1e-5)
    basis = found.vectors.astype(np.float64)
    np.testing.assert_allclose(basis.T @ basis, np.eye(count), atol=1e-6)
    left = np.linalg.svd(without(found, delta), compute_uv=False)
    assert np.array_equal(delta, before)
    np.testing.assert_allclose(left[: true.size - count], true[count:], atol=1e-6 * true[0])
    assert left[true.size - count :].max() < 1e-5 * true[0]
    assert found.next_level <= true[count] ** 2 * (1 + 1e-5)
    assert found.coupling <= 0.5 * UNIT * found.next_level


def test_noise_alone_has_nothing_to_take_out() -> None:
    rng = np.random.default_rng(0)
    for shape in ((300, 300), (600, 150), (150, 600)):
        noise = rng.standard_normal(shape).astype(np.float32)
        assert leading_directions(noise, UNIT) is None


def test_small_and_double_precision_deltas_are_left_alone() -> None:
    delta, _ = delta_of((200, SMALLEST_SIDE - 1), [300.0])
    assert leading_directions(delta, UNIT) is None
    delta, _ = delta_of((200, SMALLEST_SIDE), [300.0])
    assert leading_directions(delta, UNIT) is not None
    assert leading_directions(delta.astype(np.float64), UNIT) is None


@pytest.mark.parametrize("shape", SHAPES)
def test_only_a_prefix_that_single_precision_can_separate_is_taken_out(
    shape: tuple[int, int],
) -> None:
    delta, true = delta_of(shape, [1e4, 1e3, 20.0])
    found = leading_directions(delta, UNIT)
    assert found is None or found.coupling <= 0.5 * UNIT * found.next_level
    values = decompose(delta, "float32").spectrum
    assert (np.abs(values.singular_values - true) <= values.errors).all()


def test_never_more_than_so_many_are_taken_out() -> None:
    delta, _ = delta_of((200, 100), list(np.linspace(300.0, 60.0, 30)))
    found = leading_directions(delta, UNIT)
    assert found is None or found.count <= MOST


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spikes", [[30.0], [60.0, 50.0], [100.0] * 3])
def test_a_deflated_decomposition_has_values_within_its_errors_and_far_smaller_ones(
    shape: tuple[int, int], spikes: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    delta, true = delta_of(shape, spikes)
    found = decompose(delta, "float32")
    assert required(found.leading).count == len(spikes)
    values, errors = found.spectrum.singular_values, found.spectrum.errors
    assert (np.diff(values) <= 0).all()
    assert (np.abs(values - true) <= errors).all()
    monkeypatch.setattr(decompose_module, "leading_directions", lambda *_: None)
    plain = decompose(delta, "float32")
    assert plain.leading is None
    assert errors[-1] < 0.1 * plain.spectrum.errors[-1]
    assert found.coupling() < 0.1 * plain.coupling()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_deflated_decomposition_tells_the_directions_behind_apart(shape: tuple[int, int]) -> None:
    rng, r = np.random.default_rng(1), min(shape)
    values = np.concatenate([[300.0, 100.0], np.linspace(2.0, 1.0, r - 2)])
    left, right = (np.linalg.qr(rng.standard_normal((side, r)))[0] for side in shape)
    delta = ((left * values) @ right.T).astype(np.float32)
    short = left if shape[0] < shape[1] else right
    found = decompose(delta, "float32")
    assert required(found.leading).count == 2
    for start, stop in ((0, r // 2), (2, r // 2), (r // 2, r)):
        vectors = found.vectors(start, stop).astype(np.float64)
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(stop - start), atol=1e-5)
        expected = short[:, start:stop]
        outside = expected - vectors @ (vectors.T @ expected)
        assert np.abs(outside).max() < 2e-3
    exact = delta.astype(np.float64)
    kept = short[:, 2:]
    rest = exact @ kept @ kept.T if shape[0] >= shape[1] else kept @ (kept.T @ exact)
    np.testing.assert_allclose(without(required(found.leading), delta), rest, atol=1e-4)


@pytest.mark.parametrize("breakage", ["level too low", "too short", "another direction"])
def test_directions_taken_out_that_do_not_lead_are_refused(
    breakage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delta, _ = delta_of((200, 100), [30.0])

    def wrong(matrix: NDArray[Any], unit_roundoff: float) -> Leading:
        found = required(leading_directions(matrix, unit_roundoff))
        if breakage == "level too low":
            return replace(found, next_level=found.next_level / 100)
        if breakage == "too short":
            return replace(found, vectors=found.vectors / 2, images=found.images * 2)
        turned = np.roll(found.vectors, 1, axis=0)
        return replace(found, vectors=turned, images=(matrix @ turned).astype(np.float32))

    monkeypatch.setattr(decompose_module, "leading_directions", wrong)
    with pytest.raises(SpectrumError, match="not the leading ones"):
        decompose(delta, "float32")


def test_the_same_delta_gives_the_same_directions() -> None:
    delta, _ = delta_of((200, 100), [30.0, 20.0])
    first, second = (required(leading_directions(delta, UNIT)) for _ in range(2))
    assert np.array_equal(first.vectors, second.vectors)
    assert np.array_equal(first.singular_values, second.singular_values)
