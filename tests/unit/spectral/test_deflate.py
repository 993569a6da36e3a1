"""Leading directions of a Gram matrix: found, lowered to just above the rest, or left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from timberkit.errors import SpectrumError
from timberkit.spectral import decompose as decompose_module
from timberkit.spectral.decompose import decompose, gram_matrix
from timberkit.spectral.deflate import MOST, RAISED, SMALLEST_SIDE, Leading, leading_directions

pytestmark = pytest.mark.usefixtures("one_thread")

UNIT = 2.0**-24
SHAPES = [(260, 200), (200, 260), (200, 200)]
SPIKES = [[4.0], [30.0], [60.0, 50.0], [100.0] * 3]


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


def gram_of(delta: NDArray[np.float32]) -> NDArray[np.float32]:
    return gram_matrix(delta, np.float32)


def symmetric(lower: NDArray[Any]) -> NDArray[np.float64]:
    """The whole matrix in float64, from its lower triangle alone."""
    below = np.tril(lower).astype(np.float64)
    return below + np.tril(below, -1).T


def required(leading: Leading | None) -> Leading:
    assert leading is not None
    return leading


def found_in(delta: NDArray[np.float32]) -> Leading:
    return required(leading_directions(gram_of(delta), UNIT))


@pytest.fixture
def grams(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of every Gram matrix that is built: whether leading directions were left out of it."""
    built: list[bool] = []

    def watched(delta: Any, dtype: Any, leading: Leading | None = None) -> Any:
        built.append(leading is not None)
        return gram_matrix(delta, dtype, leading)

    monkeypatch.setattr(decompose_module, "gram_matrix", watched)
    return built


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spikes", SPIKES)
def test_directions_that_stand_out_are_found(shape: tuple[int, int], spikes: list[float]) -> None:
    delta, true = delta_of(shape, spikes)
    gram = gram_of(delta)
    before = gram.copy()
    found = required(leading_directions(gram, UNIT))
    count = found.count
    assert count == len(spikes)
    assert np.array_equal(gram, before)
    np.testing.assert_allclose(found.singular_values, true[:count], rtol=1e-5)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(count), atol=1e-12)
    image = symmetric(before) @ found.vectors
    np.testing.assert_allclose(image, found.vectors * found.levels, atol=1e-5 * found.levels[0])
    assert 0.9 * true[count] ** 2 < found.next_level <= true[count] ** 2 * (1 + 1e-5)
    assert found.coupling <= 0.5 * UNIT * found.next_level


@pytest.mark.parametrize("spikes", SPIKES)
def test_moved_directions_stand_just_above_the_rest_which_stays(spikes: list[float]) -> None:
    delta, true = delta_of((260, 200), spikes)
    gram = gram_of(delta)
    found = required(leading_directions(gram, UNIT))
    count, scale = found.count, float(found.levels[0])
    moved = found.move(gram, found.levels)
    assert moved.dtype == np.float32
    assert moved.flags.f_contiguous
    values, vectors = np.linalg.eigh(symmetric(moved))
    np.testing.assert_allclose(values[::-1][count:], true[count:] ** 2, atol=2e-7 * scale)
    np.testing.assert_allclose(values[::-1][:count], RAISED * found.next_level, atol=2e-7 * scale)
    inside = found.vectors.T @ vectors[:, ::-1][:, :count]
    np.testing.assert_allclose(inside @ inside.T, np.eye(count), atol=1e-3)


def test_directions_of_level_zero_are_raised_and_those_in_place_are_not_moved() -> None:
    delta, _ = delta_of((260, 200), [60.0, 50.0])
    found = found_in(delta)
    nothing = np.zeros((200, 200), dtype=np.float32, order="F")
    raised = symmetric(found.move(nothing, np.zeros(2)))
    expected = found.raised * found.vectors @ found.vectors.T
    np.testing.assert_allclose(raised, expected, atol=1e-6 * found.raised)
    gram = gram_of(delta)
    still = found.move(gram.copy(order="F"), np.full(2, found.raised))
    assert np.array_equal(still, gram)
    one = symmetric(found.move(gram.copy(order="F"), np.array([found.levels[0], found.raised])))
    lowered = symmetric(gram) - (found.levels[0] - found.raised) * np.outer(
        found.vectors[:, 0], found.vectors[:, 0]
    )
    np.testing.assert_allclose(one, lowered, atol=1e-6 * found.levels[0])


def test_only_the_lower_triangle_is_read_and_written() -> None:
    delta, _ = delta_of((200, 260), [30.0])
    gram = gram_of(delta)
    expected = found_in(delta)
    upper = np.triu_indices(200, 1)
    gram[upper] = np.nan
    found = required(leading_directions(gram, UNIT))
    assert np.array_equal(found.vectors, expected.vectors)
    moved = found.move(gram, found.levels)
    assert np.isnan(moved[upper]).all()
    assert np.isfinite(np.tril(moved)).all()


def test_noise_alone_has_nothing_to_take_out() -> None:
    rng = np.random.default_rng(0)
    for shape in ((300, 300), (600, 200), (200, 600)):
        noise = rng.standard_normal(shape).astype(np.float32)
        assert leading_directions(gram_of(noise), UNIT) is None


def test_small_matrices_are_left_alone() -> None:
    delta, _ = delta_of((250, SMALLEST_SIDE - 1), [300.0])
    assert leading_directions(gram_of(delta), UNIT) is None
    delta, _ = delta_of((250, SMALLEST_SIDE), [300.0])
    assert leading_directions(gram_of(delta), UNIT) is not None


def test_double_precision_takes_nothing_out() -> None:
    delta, _ = delta_of((260, 200), [30.0])
    assert decompose(delta, "float64").leading is None
    assert decompose(delta, "svd").leading is None
    assert decompose(delta, "float32").leading is not None


@pytest.mark.parametrize("shape", SHAPES)
def test_only_a_prefix_that_single_precision_can_separate_is_taken_out(
    shape: tuple[int, int],
) -> None:
    delta, true = delta_of(shape, [1e4, 1e3, 20.0])
    found = leading_directions(gram_of(delta), UNIT)
    assert found is None or found.count < 3
    assert found is None or found.coupling <= 0.5 * UNIT * found.next_level
    values = decompose(delta, "float32").spectrum
    assert (np.abs(values.singular_values - true) <= values.errors).all()


@pytest.mark.parametrize("count", [20, 30, 40, 60])
def test_never_more_than_so_many_are_taken_out_and_the_values_stay_within_their_errors(
    count: int,
) -> None:
    delta, true = delta_of((260, 200), list(np.linspace(300.0, 60.0, count)))
    found = leading_directions(gram_of(delta), UNIT)
    assert found is None or found.count <= min(count, MOST)
    assert found is not None or count > MOST
    values = decompose(delta, "float32").spectrum
    assert (np.abs(values.singular_values - true) <= values.errors).all()


@pytest.mark.parametrize("tall", [True, False])
@pytest.mark.parametrize("few", [1, 5, 40])
def test_deltas_in_few_columns_have_values_within_their_errors(few: int, tall: bool) -> None:
    # The Krylov space is exhausted after as many directions.
    delta = np.zeros((260, 200), dtype=np.float32)
    delta[:, :few] = np.random.default_rng(few).standard_normal((260, few))
    delta[:, 0] *= 30.0
    delta = delta if tall else np.ascontiguousarray(delta.T)
    found = leading_directions(gram_of(delta), UNIT)
    assert found is None or np.allclose(found.vectors.T @ found.vectors, np.eye(found.count))
    values = decompose(delta, "float32").spectrum
    true = np.linalg.svd(delta.astype(np.float64), compute_uv=False)
    assert (np.abs(values.singular_values - true) <= values.errors).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spikes", SPIKES[1:])
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
@pytest.mark.parametrize(("spikes", "again"), [([4.0], False), ([30.0], True), ([100.0] * 3, True)])
def test_the_gram_matrix_is_built_again_only_where_its_own_errors_would_show(
    shape: tuple[int, int], spikes: list[float], again: bool, grams: list[bool]
) -> None:
    delta, true = delta_of(shape, spikes)
    found = decompose(delta, "float32")
    assert required(found.leading).count == len(spikes)
    assert grams == [False, True] if again else [False]
    values = found.spectrum
    assert (np.abs(values.singular_values - true) <= values.errors).all()


def test_a_delta_without_leading_directions_has_one_gram_matrix(grams: list[bool]) -> None:
    delta, _ = delta_of((260, 200), [])
    assert decompose(delta, "float32").leading is None
    assert grams == [False]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spikes", [[4.0, 3.5], [300.0, 100.0]])
def test_a_deflated_decomposition_tells_the_directions_behind_apart(
    shape: tuple[int, int], spikes: list[float]
) -> None:
    rng, r = np.random.default_rng(1), min(shape)
    values = np.concatenate([spikes, np.linspace(1.2, 0.4, r - 2)])
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


@pytest.mark.parametrize("shape", SHAPES)
def test_a_gram_matrix_without_leading_directions_is_that_of_the_rest(
    shape: tuple[int, int],
) -> None:
    delta, _ = delta_of(shape, [60.0, 50.0])
    leading = found_in(delta)
    keep = np.eye(200) - leading.vectors @ leading.vectors.T
    exact = delta.astype(np.float64)
    rest = exact @ keep if shape[0] >= shape[1] else keep @ exact
    expected = rest.T @ rest if shape[0] >= shape[1] else rest @ rest.T
    found = symmetric(gram_matrix(delta, np.float32, leading))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_directions_taken_out_that_do_not_lead_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    delta, _ = delta_of((260, 200), [30.0])

    def too_low(gram: NDArray[np.float32], unit_roundoff: float) -> Leading:
        found = required(leading_directions(gram, unit_roundoff))
        return replace(found, next_level=found.next_level / 100)

    monkeypatch.setattr(decompose_module, "leading_directions", too_low)
    with pytest.raises(SpectrumError, match="not the leading ones"):
        decompose(delta, "float32")


def test_the_same_delta_gives_the_same_directions() -> None:
    delta, _ = delta_of((260, 200), [30.0, 20.0])
    first, second = found_in(delta), found_in(delta)
    assert np.array_equal(first.vectors, second.vectors)
    assert np.array_equal(first.singular_values, second.singular_values)
