"""Parts of a model over random depths: fractions share the layers out, each exactly once."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from timberkit.methods import Ramp, Timber, Within, parse_variant
from timberkit.parts import Position, layer_at
from timberkit.placing import KEEP, at, holds

MANY = settings(max_examples=100, deadline=None, derandomize=True)
cuts = st.lists(st.floats(0.01, 0.99), max_size=5).map(lambda inner: sorted({0.0, 1.0, *inner}))


def stack(layers: int) -> list[Position]:
    return [Position(f"layers.{i}.q.weight", "attention", i, layers) for i in range(layers)]


def parts_of(edges: list[float], layers: int) -> list[list[int]]:
    """Layers of each fraction between two neighbouring edges."""
    parts = [Within(start=start, stop=stop, of=Timber()) for start, stop in pairwise(edges)]
    return [[p.layer or 0 for p in stack(layers) if holds(part, p)] for part in parts]


@MANY
@given(edges=cuts, layers=st.integers(1, 130))
def test_fractions_that_follow_each_other_share_the_layers_out(
    edges: list[float], layers: int
) -> None:
    parts = parts_of(edges, layers)
    assert [layer for part in parts for layer in part] == list(range(layers))


@MANY
@given(count=st.integers(1, 12), each=st.integers(1, 30), digits=st.sampled_from([3, 4, 16]))
def test_equal_parts_of_a_depth_that_they_divide_have_equally_many_layers(
    count: int, each: int, digits: int
) -> None:
    edges = [round(i / count, digits) for i in range(count + 1)]
    assert [len(part) for part in parts_of(edges, count * each)] == [each] * count


@MANY
@given(fraction=st.floats(0.0, 1.0), layers=st.integers(1, 500))
def test_a_layer_is_at_most_a_thousandth_of_the_depth_before_its_fraction(
    fraction: float, layers: int
) -> None:
    first = layer_at(fraction, layers)
    assert 0 <= first <= layers
    assert first / layers >= fraction - 1.001e-3
    assert first == 0 or (first - 1) / layers < fraction


@MANY
@given(first=st.floats(-10, 10), last=st.floats(-10, 10), layers=st.integers(2, 130))
def test_a_ramp_never_leaves_its_ends_and_never_turns_back(
    first: float, last: float, layers: int
) -> None:
    ramp = Ramp(first=first, last=last)
    gains = [at(ramp, position).gains[0] for position in stack(layers)]  # type: ignore[union-attr]
    assert (gains[0], gains[-1]) == (ramp.first, ramp.last)
    assert gains == sorted(gains, reverse=first > last)
    assert at(parse_variant("noise:of=ramp:first=1,last=1"), stack(layers)[0]).of == KEEP  # type: ignore[union-attr]
