"""Filters over random spectra: certain thresholds survive every change within the errors."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from timberkit.config import AnyVariant, Timber, TimberL, TruncateEnergy, TruncateRank
from timberkit.spectral.filters import Spectrum, gains
from timberkit.spectral.rank import effective_rank

MANY = settings(max_examples=100, deadline=None, derandomize=True)

spectra = st.lists(
    st.one_of(st.floats(0.1, 1.0), st.floats(-9.0, 0.0).map(lambda x: 10.0**x), st.just(0.0)),
    min_size=2,
    max_size=12,
).map(lambda values: np.sort([1.0, *values])[::-1])
exponents = st.floats(-12.0, -3.0)


def head(variant: AnyVariant, values: NDArray[np.float64]) -> int:
    return int((gains(variant, Spectrum.exact(values)).values == 1.0).sum())


def with_errors(values: NDArray[np.float64], error: float) -> Spectrum:
    """Errors of the singular values when each of their squares is off by at most ``error``."""
    squares = np.square(values)
    above = np.sqrt(squares + error) - values
    below = values - np.sqrt(np.maximum(squares - error, 0.0))
    return Spectrum(values, np.maximum(above, below))


def moved(values: NDArray[np.float64], error: float, signs: NDArray[np.float64]) -> NDArray:
    """A spectrum within these errors, sorted again: sorting moves no square by more than them."""
    return np.sort(np.sqrt(np.maximum(np.square(values) + error * signs, 0.0)))[::-1]


def worst_signs(values: NDArray[np.float64], random: list[float]) -> list[NDArray[np.float64]]:
    """Random, all one way, steepest for the effective rank, and steepest for the energy."""
    shares = np.maximum(values, 1e-12) / values.sum()
    slope = np.sign(-(np.log(shares) + np.log(effective_rank(values))))
    pushes = [np.resize(random, values.size), np.ones(values.size), slope]
    for cut in range(1, values.size):
        pushes.append(np.where(np.arange(values.size) < cut, 1.0, -1.0))
    return [sign * push for push in pushes for sign in (1.0, -1.0)]


@MANY
@given(
    values=spectra,
    exponent=exponents,
    random=st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=24),
    threshold=st.floats(-1e-4, 1e-4),
    data=st.data(),
)
def test_what_is_certain_is_the_same_for_every_spectrum_within_the_errors(
    values: NDArray[np.float64],
    exponent: float,
    random: list[float],
    threshold: float,
    data: st.DataObject,
) -> None:
    error = 10.0**exponent
    reached = np.cumsum(np.square(values)) / np.square(values).sum()
    # A threshold next to one that the spectrum really meets, where doubt is to be expected.
    met = reached[data.draw(st.integers(0, values.size - 1))]
    energy = TruncateEnergy(energy=float(np.clip(met + threshold, 1e-3, 1.0)))
    for variant in (TimberL(), energy):
        found = gains(variant, with_errors(values, error))
        others = {
            head(variant, moved(values, error, signs)) for signs in worst_signs(values, random)
        }
        if found.certain:
            assert others == {head(variant, values)}


@MANY
@given(values=spectra, offset=st.sampled_from([-1e-7, 1e-7]), kept=st.integers(2, 12))
def test_an_effective_rank_beside_an_integer_is_doubted_as_soon_as_the_errors_reach_it(
    values: NDArray[np.float64], offset: float, kept: int
) -> None:
    # All equal, and a last value by which the effective rank passes the integer ``kept``.
    tail = 1e-8 if offset > 0 else 0.0
    first = 1.0 if offset > 0 else 1.0 - 1e-3
    plateau = np.array([1.0] * (kept - 1) + [first, tail])
    assert not gains(TimberL(), with_errors(plateau, 1e-3)).certain
    assert gains(TimberL(), Spectrum.exact(plateau)).certain


@MANY
@given(values=spectra, lam=st.floats(0.0, 1.0), ratio=st.floats(1e-3, 1.0))
def test_gains_are_one_on_a_head_that_is_never_empty_and_constant_after(
    values: NDArray[np.float64], lam: float, ratio: float
) -> None:
    for variant, tail in ((Timber(lam=lam), lam), (TruncateRank(ratio=ratio), 0.0)):
        found = gains(variant, Spectrum.exact(values)).values
        kept = int((found == 1.0).sum())
        assert kept >= 1
        assert set(found[kept:].tolist()) <= {tail}


@MANY
@given(values=spectra, first=st.floats(1e-6, 1.0), second=st.floats(1e-6, 1.0))
def test_asking_for_more_energy_never_keeps_less(
    values: NDArray[np.float64], first: float, second: float
) -> None:
    low, high = sorted([first, second])
    fewer, more = (head(TruncateEnergy(energy=energy), values) for energy in (low, high))
    assert fewer <= more
    share = np.square(values[:fewer]).sum() / np.square(values).sum()
    assert share >= low - 1e-11
