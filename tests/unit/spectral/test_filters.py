"""Gains of every method by hand, thresholds met exactly, and what counts as certain."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from timberkit.config import (
    AnyVariant,
    Band,
    BaseSubspace,
    Leading,
    Linear,
    MatchedMerge,
    Merge,
    Noise,
    RankCut,
    RankOne,
    Steps,
    Timber,
    TimberL,
    TruncateEnergy,
    TruncateRank,
)
from timberkit.spectral.filters import (
    Gains,
    Spectrum,
    constant_gain,
    gains,
    head_and_tail,
    needs_decomposition,
)
from timberkit.spectral.rank import effective_rank

METHODS: list[AnyVariant] = [
    Timber(lam=0.3),
    TimberL(),
    TruncateRank(ratio=0.5),
    TruncateEnergy(energy=0.9),
    Merge(mu=0.7),
]


def exact(*values: float) -> Spectrum:
    return Spectrum.exact(np.array(values))


def blurred(values: list[float], error: float) -> Spectrum:
    return Spectrum(np.array(values), np.full(len(values), error))


def head(variant: AnyVariant, spectrum: Spectrum) -> int:
    return int((gains(variant, spectrum).values == 1.0).sum())


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (Timber(lam=0.25), [1, 1, 1, 0.25, 0.25]),
        (TimberL(), [1, 1, 1, 0, 0]),
        (TruncateRank(ratio=0.4), [1, 1, 0, 0, 0]),
        (TruncateEnergy(energy=0.5), [1, 1, 0, 0, 0]),
        (Merge(mu=0.6), [0.6] * 5),
    ],
)
def test_gains_by_hand(variant: AnyVariant, expected: list[float]) -> None:
    # Three equal values and two zeros: effective rank 3, each value a third of the energy.
    found = gains(variant, exact(2.0, 2.0, 2.0, 0.0, 0.0))
    assert found.values.tolist() == expected
    assert found.certain


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (RankCut(scale=1.0, lam=0.25), [1, 1, 1, 0.25, 0.25]),
        (RankCut(scale=0.5, lam=0.25), [1, 1, 0.25, 0.25, 0.25]),
        (RankCut(scale=1.5, lam=0.25), [1, 1, 1, 1, 1]),
        (RankCut(scale=1e-6, lam=0.0), [1, 0, 0, 0, 0]),
        (RankCut(scale=100.0, lam=0.0), [1, 1, 1, 1, 1]),
        (RankOne(), [1, 0, 0, 0, 0]),
        (Leading(count=2, gain=-3.0), [-3, -3, 1, 1, 1]),
        (Leading(count=10**30, gain=0.5), [0.5] * 5),
        (Leading(share=0.01, gain=2.0), [2, 1, 1, 1, 1]),
        (Leading(share=0.4, gain=2.0), [2, 2, 1, 1, 1]),
        (Leading(share=0.41, gain=2.0), [2, 2, 2, 1, 1]),
        (Band(start=0.2, stop=0.6, gain=0.0), [1, 0, 0, 1, 1]),
        (Band(start=0.21, stop=0.61, gain=0.0), [1, 1, 0, 0, 1]),
        (Band(start=0.0, stop=1.0, gain=9.0), [9.0] * 5),
        (Band(start=0.21, stop=0.22, gain=0.0), [1] * 5),
        (Linear(first=1.0, last=0.0), [1, 0.75, 0.5, 0.25, 0]),
        (Linear(first=-2.0, last=2.0), [-2, -1, 0, 1, 2]),
        (Linear(first=0.3, last=0.3), [0.3] * 5),
    ],
)
def test_gains_of_edits_beyond_the_paper_by_hand(
    variant: AnyVariant, expected: list[float]
) -> None:
    found = gains(variant, exact(2.0, 2.0, 2.0, 0.0, 0.0))
    assert found.values.tolist() == expected
    assert (found.certain, found.error, found.noise) == (True, 0.0, 0.0)


@pytest.mark.parametrize(
    ("start", "stop", "r", "span"),
    [
        (0.07, 0.29, 100, (7, 29)),  # 7.000000000000001 and 28.999999999999996 in floats
        (0.1, 0.55, 100, (10, 55)),
        (1 / 3, 2 / 3, 3, (1, 2)),
    ],
)
def test_the_ends_of_a_band_are_met_despite_floats(
    start: float, stop: float, r: int, span: tuple[int, int]
) -> None:
    found = gains(Band(start=start, stop=stop, gain=0.0), exact(*np.linspace(2, 1, r))).values
    assert np.flatnonzero(found == 0.0).tolist() == [*range(*span)]


def test_bands_that_adjoin_treat_every_direction_once() -> None:
    edges = np.linspace(0.0, 1.0, 8)
    spectrum = exact(*np.linspace(2, 1, 50))
    treated = sum(
        (gains(Band(start=a, stop=b, gain=0.0), spectrum).values == 0.0).astype(int)
        for a, b in itertools.pairwise(edges)
    )
    assert treated.tolist() == [1] * 50


def test_rank_cut_of_scale_one_is_timber_and_is_doubted_like_it() -> None:
    for spectrum in (exact(9.0, 3.0, 1.0, 0.1), blurred([1.0, 1.0, 1.0, 1e-7, 0.0], 1e-6)):
        one, other = gains(RankCut(scale=1, lam=0.3), spectrum), gains(Timber(lam=0.3), spectrum)
        assert one.values.tolist() == other.values.tolist()
        assert one.certain == other.certain
    # A cut at both ends is the same for whatever effective rank.
    assert gains(RankCut(scale=100), blurred([1.0, 1.0, 1.0, 1e-7, 0.0], 1e-6)).certain


@pytest.mark.parametrize(
    ("edges", "levels", "expected"),
    [
        ((2, 4), (0.5, 1.2, 1.0), [0.5, 0.5, 1.2, 1.2, 1.0]),
        ((1,), (-2.0, 0.0), [-2.0, 0.0, 0.0, 0.0, 0.0]),
        ((5,), (0.5, 9.0), [0.5] * 5),
        ((3, 900), (1.0, 0.5, 9.0), [1.0, 1.0, 1.0, 0.5, 0.5]),
        ((), (1.5,), [1.5] * 5),
    ],
)
def test_steps_change_at_their_edges_and_not_beyond_the_last_direction(
    edges: tuple[int, ...], levels: tuple[float, ...], expected: list[float]
) -> None:
    found = gains(Steps(edges=edges, gains=levels), exact(5.0, 4.0, 3.0, 2.0, 1.0))
    assert found.values.tolist() == expected
    assert found.certain


def test_one_gain_for_all_needs_no_decomposition_whatever_the_method_is_called() -> None:
    subspace = BaseSubspace(share=0.1, inside=0.5, outside=0.5)
    assert constant_gain(Steps(gains=(1.5,))) == 1.5
    assert constant_gain(Steps(edges=(4,), gains=(0.5, 0.5))) == 0.5
    assert constant_gain(Steps(edges=(4,), gains=(0.5, 0.6))) is None
    assert constant_gain(subspace) == 0.5
    assert gains(subspace, exact(2.0, 1.0)).values.tolist() == [0.5, 0.5]
    # As far on Base's side of Instruct as these are on the other.
    assert constant_gain(MatchedMerge(of=Steps(gains=(1.5,)))) == 0.5
    assert constant_gain(MatchedMerge(of=Steps(gains=(4.0,)))) == -2.0
    for spectrum in (exact(3.0, 1.0), exact(0.0, 0.0)):
        found = gains(MatchedMerge(of=Steps(gains=(1.5,))), spectrum)
        assert found.values.tolist() == [0.5, 0.5]
    inside = BaseSubspace(share=0.1, inside=0.0)
    for variant in (Steps(gains=(1.0,)), subspace, inside, Noise(of=inside)):
        assert not needs_decomposition(variant)
    assert needs_decomposition(Steps(edges=(4,), gains=(0.5, 0.6)))
    with pytest.raises(ValueError, match="base-subspace"):
        gains(inside, exact(2.0, 1.0))


def test_a_matched_merge_has_the_correction_of_its_edit_and_noise_too() -> None:
    spectrum = exact(5.0, 2.0, 1.0, 0.5)
    for edit in (
        Timber(lam=0.2),
        RankOne(),
        Leading(count=1, gain=-4.0),
        Linear(first=3.0, last=-3.0),
    ):
        removed = (1.0 - gains(edit, spectrum).values) * spectrum.singular_values
        merged = gains(MatchedMerge(of=edit), spectrum)
        assert merged.constant is not None
        moved = (1.0 - merged.constant) * np.linalg.norm(spectrum.singular_values)
        assert moved == pytest.approx(np.linalg.norm(removed))
        noisy = gains(Noise(of=edit), spectrum)
        assert noisy.noise == pytest.approx(np.linalg.norm(removed))
        assert noisy.constant == 1.0
    assert gains(MatchedMerge(of=Merge(mu=0.7)), spectrum).constant == 0.7
    assert gains(MatchedMerge(of=Linear(first=2, last=2)), spectrum).constant == 0.0


def test_a_control_doubts_what_its_edit_doubts_and_bounds_the_rest() -> None:
    values = [1.0, 1.0, 1.0, 1e-7, 0.0]
    for kind in (MatchedMerge, Noise):
        assert not gains(kind(of=TimberL()), blurred(values, 1e-6)).certain
        far = gains(kind(of=TimberL()), blurred([1.0, 1.0, 1.0, 0.2, 0.0], 1e-6))
        assert far.certain
        assert 1e-6 <= far.error < 1e-5


def test_cut_is_the_ceiling_of_the_effective_rank() -> None:
    spectrum = exact(1.0, 0.05, 0.001)
    assert 1.0 < effective_rank(spectrum.singular_values) < 1.5
    assert gains(Timber(lam=0.5), spectrum).values.tolist() == [1.0, 1.0, 0.5]


def test_timber_l_is_timber_at_zero() -> None:
    spectrum = exact(9.0, 3.0, 1.0, 0.1, 0.01)
    assert gains(TimberL(), spectrum).values.tolist() == (
        gains(Timber(lam=0.0), spectrum).values.tolist()
    )


@pytest.mark.parametrize("variant", METHODS, ids=lambda variant: variant.method)
@pytest.mark.parametrize(
    "values", [[1.0], [1.0, 0.0], [5.0, 5.0], list(np.geomspace(100, 1e-9, 30)), [0.0, 0.0]]
)
def test_gains_lie_in_the_unit_interval_and_descend(
    variant: AnyVariant, values: list[float]
) -> None:
    found = gains(variant, exact(*values))
    assert found.values.shape == (len(values),)
    assert ((found.values >= 0) & (found.values <= 1)).all()
    assert (np.diff(found.values) <= 0).all()
    assert found.certain


@pytest.mark.parametrize(
    ("ratio", "r", "kept"),
    [
        (0.9, 10, 9),
        (0.7, 10, 7),
        (0.07, 100, 7),  # 0.07 * 100 is 7.000000000000001 in floats
        (0.29, 100, 29),
        (0.55, 100, 56 - 1),  # 55.00000000000001
        (0.1, 30, 3),
        (1 / 3, 3, 1),
        (0.91, 10, 10),
        (0.901, 1000, 901),
        (0.9011, 1000, 902),
        (1.0, 7, 7),
        (0.01, 5, 1),
    ],
)
def test_truncation_keeps_the_ceiling_of_ratio_times_r(ratio: float, r: int, kept: int) -> None:
    assert head(TruncateRank(ratio=ratio), exact(*np.linspace(2, 1, r))) == kept


@pytest.mark.parametrize("ratio", [1e-9, 1e-10, 1e-15, 5e-324])
def test_a_vanishing_ratio_still_keeps_one_direction(ratio: float) -> None:
    assert head(TruncateRank(ratio=ratio), exact(2.0, 1.0, 0.5, 0.1)) == 1


@pytest.mark.parametrize(
    ("energy", "kept"),
    [
        (1e-15, 1),
        (0.5, 1),  # reached exactly by the first value
        (0.5 + 1e-13, 1),  # within the tolerance
        (0.5 + 1e-11, 2),
        (0.75, 2),
        (0.7500001, 3),
        (0.999, 3),
        (1.0, 3),
    ],
)
def test_energy_is_reached_with_the_fewest_directions(energy: float, kept: int) -> None:
    spectrum = exact(math.sqrt(2.0), 1.0, 1.0)
    assert head(TruncateEnergy(energy=energy), spectrum) == kept


def test_tenths_of_energy_are_met_exactly_despite_floats() -> None:
    spectrum = exact(*np.ones(10))
    for tenths in range(1, 11):
        assert head(TruncateEnergy(energy=tenths / 10), spectrum) == tenths


def test_all_energy_keeps_directions_that_rounding_cannot_see() -> None:
    spectrum = exact(1.0, 1e-9, 1e-12)
    assert head(TruncateEnergy(energy=1.0), spectrum) == 3
    assert head(TruncateEnergy(energy=0.999999), spectrum) == 1


def test_energy_survives_squares_that_overflow() -> None:
    assert head(TruncateEnergy(energy=0.9), exact(1e300, 1e300, 1e-300)) == 2
    assert head(TruncateEnergy(energy=0.9), exact(1e-300, 1e-300, 0.0)) == 2


def test_no_delta_keeps_everything_under_an_energy() -> None:
    assert head(TruncateEnergy(energy=0.5), exact(0.0, 0.0)) == 2


@pytest.mark.parametrize("variant", METHODS, ids=lambda variant: variant.method)
def test_a_spectrum_taken_at_its_word_is_always_certain(variant: AnyVariant) -> None:
    # Effective rank 3 and half of the energy are met exactly: the worst case for a threshold.
    assert gains(variant, exact(1.0, 1.0, 1.0)).certain
    assert gains(variant, exact(3.0, 3.0, 0.0, 0.0)).certain


def test_an_effective_rank_next_to_an_integer_is_uncertain_and_far_from_it_certain() -> None:
    near, far = [1.0, 1.0, 1.0, 1e-7, 0.0], [1.0, 1.0, 1.0, 0.2, 0.0]
    assert 3.0 < effective_rank(near) < 3.0 + 1e-5
    for variant in (Timber(lam=0.5), TimberL()):
        assert not gains(variant, blurred(near, 1e-6)).certain
        assert gains(variant, blurred(near, 1e-12)).certain
        assert gains(variant, blurred(far, 1e-6)).certain


def test_an_effective_rank_just_below_an_integer_is_uncertain_too() -> None:
    below = [1.0, 1.0, 0.9999, 1e-12, 0.0]
    assert 2.99 < effective_rank(below) < 3.0
    assert gains(TimberL(), blurred(below, 1e-14)).certain
    assert not gains(TimberL(), blurred(below, 1e-4)).certain


def test_an_error_without_bound_is_never_certain() -> None:
    spectrum = Spectrum(np.zeros(3), np.full(3, 1e-9))
    assert not gains(TimberL(), spectrum).certain


def test_an_energy_next_to_the_threshold_is_uncertain_on_either_side() -> None:
    values = [math.sqrt(2.0), 1.0, 1.0]
    for energy in (0.5 - 1e-7, 0.5 + 1e-7):
        assert not gains(TruncateEnergy(energy=energy), blurred(values, 1e-6)).certain
        assert gains(TruncateEnergy(energy=energy), blurred(values, 1e-9)).certain
    assert gains(TruncateEnergy(energy=0.6), blurred(values, 1e-3)).certain
    assert not gains(TruncateEnergy(energy=0.6), blurred(values, 0.2)).certain


def test_rules_that_look_at_no_value_are_certain_whatever_the_errors() -> None:
    spectrum = blurred([2.0, 1.0], 0.5)
    for variant in (TruncateRank(ratio=0.5), TruncateEnergy(energy=1.0), Merge(mu=0.5)):
        assert gains(variant, spectrum).certain


def test_constant_gain_is_known_without_a_spectrum_for_merges_only() -> None:
    assert constant_gain(Merge(mu=0.25)) == 0.25
    assert constant_gain(MatchedMerge(of=Merge(mu=0.25))) == 0.25
    assert constant_gain(Noise(of=Merge(mu=0.25))) is None
    assert not needs_decomposition(Noise(of=Merge(mu=0.25)))
    assert needs_decomposition(Noise(of=TimberL()))
    assert [constant_gain(variant) for variant in METHODS[:4]] == [None] * 4


def test_gains_say_whether_they_are_constant() -> None:
    assert Gains(np.full(3, 0.5)).constant == 0.5
    assert Gains(np.array([1.0, 0.5])).constant is None
    assert Gains(np.array([])).constant == 1.0
    assert head_and_tail(4, 4, 0.0).constant == 1.0
    assert head_and_tail(4, 0, 0.25).constant == 0.25
    assert head_and_tail(4, 1, 1.0).constant == 1.0


def test_an_unknown_method_has_no_filter() -> None:
    with pytest.raises(TypeError, match="no filter for str"):
        gains("timber", exact(1.0))  # type: ignore[arg-type]
