"""Which directions are projected: all that have to be, no others, gradual ones as one block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from timberkit.spectral.blocks import is_stepped, long_run_ends, partition


def stepped(*runs: tuple[int, float]) -> NDArray[np.float64]:
    return np.concatenate([np.full(width, gain) for width, gain in runs])


def spans(*gains: NDArray[np.float64]) -> list[tuple[int, int]]:
    return [(block.start, block.stop) for block in partition(gains).blocks]


def test_the_widest_run_needs_no_vectors() -> None:
    assert spans(stepped((30, 1.0), (10, 0.2))) == [(30, 40)]
    assert spans(stepped((10, 1.0), (30, 0.2))) == [(0, 10)]
    assert partition([stepped((10, 1.0), (30, 0.2))]).reference == (0.2,)


def test_runs_with_the_same_gains_need_none_either() -> None:
    # A band in the middle: both sides together are the widest, though neither is.
    band = stepped((12, 1.0), (16, 0.0), (12, 1.0))
    assert spans(band) == [(12, 28)]
    assert partition([band]).reference == (1.0,)
    assert spans(band, stepped((12, 1.0), (28, 0.5))) == [(0, 12), (28, 40)]


def test_methods_with_one_cut_share_one_block() -> None:
    gains = [stepped((30, 1.0), (10, lam)) for lam in (0.0, 0.2, 0.8)]
    found = partition(gains)
    assert spans(*gains) == [(30, 40)]
    assert [found.blocks[0].level(place) for place in range(3)] == [0.0, 0.2, 0.8]


def test_gradual_gains_are_one_block_and_not_one_for_each_direction() -> None:
    gradual = np.linspace(1.0, 0.2, 100)
    found = partition([gradual])
    assert spans(gradual) == [(0, 100)]
    assert found.reference == (1.0,)
    assert found.blocks[0].level(0) is None
    shrunk = np.concatenate([np.linspace(0.9, 0.1, 9), np.zeros(91)])
    assert spans(shrunk) == [(0, 9)]
    assert partition([shrunk]).reference == (0.0,)


def test_a_step_beside_gradual_gains_is_cut_and_keeps_its_own_reference() -> None:
    step, gradual = stepped((70, 1.0), (30, 0.2)), np.linspace(1.0, 0.2, 100)
    found = partition([step, gradual])
    assert spans(step, gradual) == [(0, 70), (70, 100)]
    assert found.reference == (1.0, 1.0)
    assert partition([stepped((30, 1.0), (70, 0.2)), gradual]).reference == (0.2, 1.0)


def test_a_single_direction_at_an_end_is_cut_off() -> None:
    assert spans(stepped((1, 0.5), (99, 1.0))) == [(0, 1)]
    assert spans(stepped((99, 1.0), (1, 0.5))) == [(99, 100)]
    assert spans(np.array([1.0, 0.5])) == [(1, 2)]


def test_gains_are_stepped_or_gradual() -> None:
    assert is_stepped(stepped((70, 1.0), (30, 0.2)))
    assert is_stepped(np.array([1.0, 0.5]))
    assert is_stepped(np.ones(5))
    assert not is_stepped(np.linspace(0, 1, 50))
    assert not is_stepped(np.concatenate([[0.9, 0.8], np.zeros(60)]))
    assert long_run_ends(np.linspace(0, 1, 50)).size == 0


def test_no_methods_need_no_blocks() -> None:
    assert partition([]).blocks == ()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_blocks_and_reference_give_every_gain_back(data: st.DataObject) -> None:
    r = data.draw(st.integers(1, 70))
    methods = [
        np.resize(np.array(row), r) if data.draw(st.booleans()) else np.sort(np.resize(row, r))
        for row in data.draw(
            st.lists(
                st.lists(st.sampled_from([0.0, 0.2, 1.0, -3.0]), min_size=1, max_size=70),
                min_size=1,
                max_size=3,
            )
        )
    ]
    found = partition(methods)
    edges = [0, *(edge for block in found.blocks for edge in (block.start, block.stop))]
    assert edges == sorted(edges)
    for place, gains in enumerate(methods):
        rebuilt = np.full(r, found.reference[place])
        for block in found.blocks:
            rebuilt[block.start : block.stop] = block.gains[place]
        np.testing.assert_array_equal(rebuilt, gains)


@pytest.mark.parametrize("r", [1, 2, 3, 16, 17, 33])
def test_constant_gains_need_no_vectors(r: int) -> None:
    assert spans(np.full(r, 0.3)) == []
