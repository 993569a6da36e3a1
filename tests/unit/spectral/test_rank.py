"""Effective rank: the definition to the last digits, its edges, its error bound, the cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, localcontext

import numpy as np
import pytest

from timberkit.errors import SpectrumError
from timberkit.spectral.rank import (
    INTEGER_TOLERANCE,
    ceil_within_tolerance,
    effective_rank,
    effective_rank_cut,
    effective_rank_error,
    energy_share,
)

RNG = np.random.default_rng(5)
SPECTRA: dict[str, Sequence[float]] = {
    "geometric": [2.0**-i for i in range(40)],
    "spike": [300.0, *np.linspace(1.0, 0.01, 60).tolist()],
    "noise": RNG.random(80).tolist(),
    "tiny tail": [1.0, 1e-9, 1e-12, 1e-300],
    "with zeros": [3.0, 0.0, 1.0, 0.0],
    "subnormal": [5e-324, 1e-323, 2.5e-323],
    "huge": [1.5e308, 1.0e308, 1.7e308],
    "wide range": [1e308, 1.0, 1e-308],
}


def exact_effective_rank(values: Sequence[float]) -> float:
    """The definition with 60 decimal digits."""
    with localcontext() as context:
        context.prec, context.Emin, context.Emax = 60, -10_000, 10_000
        positive = [Decimal(float(value)) for value in values if value > 0]
        total = sum(positive, Decimal(0))
        shares = [value / total for value in positive]
        return float((-sum((share * share.ln() for share in shares), Decimal(0))).exp())


@pytest.mark.parametrize("name", SPECTRA)
def test_effective_rank_is_the_definition_to_thirteen_digits(name: str) -> None:
    assert effective_rank(SPECTRA[name]) == pytest.approx(
        exact_effective_rank(SPECTRA[name]), rel=1e-13
    )


def test_no_epsilon_lowers_the_effective_rank_of_a_large_flat_spectrum() -> None:
    assert effective_rank(np.ones(4096)) == pytest.approx(4096, abs=1e-8)
    assert effective_rank_cut(np.ones(4096)) == 4096


@pytest.mark.parametrize("r", [1, 2, 3, 7, 64, 1000])
def test_equal_values_have_effective_rank_r_and_are_all_kept(r: int) -> None:
    for value in (1.0, 0.1, 1e-300, 1e300):
        spectrum = np.full(r, value)
        assert effective_rank(spectrum) == pytest.approx(r, rel=1e-13)
        assert effective_rank(spectrum) <= r
        assert effective_rank_cut(spectrum) == r


def test_rank_one_is_exactly_one_and_cuts_after_one() -> None:
    assert effective_rank([3.7, 0.0, 0.0]) == 1.0
    assert effective_rank_cut([3.7, 0.0, 0.0]) == 1
    assert effective_rank_cut([3.7, 1e-12, 0.0]) == 1


def test_all_zero_is_zero_and_cuts_after_none() -> None:
    assert effective_rank(np.zeros(5)) == 0.0
    assert effective_rank_cut(np.zeros(5)) == 0
    assert effective_rank_error(np.zeros(5), np.zeros(5)) == 0.0
    assert effective_rank_error(np.zeros(5), np.full(5, 1e-9)) == math.inf


def test_integers_are_accepted_and_order_does_not_matter() -> None:
    assert effective_rank([1, 1, 2]) == effective_rank([2.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("values", "index"),
    [([1.0, -1e-30], 1), ([1.0, 2.0, math.nan], 2), ([math.inf], 0), ([-math.inf, -1.0], 0)],
)
def test_error_names_the_first_bad_index(values: list[float], index: int) -> None:
    functions = (
        effective_rank,
        effective_rank_cut,
        lambda found: energy_share(found, 1),
        lambda found: effective_rank_error(found, np.zeros(len(found))),
    )
    for function in functions:
        with pytest.raises(SpectrumError, match=f"singular value {index}: found"):
            function(values)


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], 3.0])
def test_what_is_not_a_list_of_values_is_refused_with_its_shape(values: object) -> None:
    with pytest.raises(SpectrumError, match=r"found shape \(.*expected \(r,\)"):
        effective_rank(values)  # type: ignore[arg-type]


@pytest.mark.parametrize("r", [1, 10, 4096])
def test_an_excess_below_the_tolerance_is_an_integer_and_above_it_is_not(r: int) -> None:
    tolerance = INTEGER_TOLERANCE * r
    assert ceil_within_tolerance(5.0, r) == 5
    assert ceil_within_tolerance(5.0 + 0.9 * tolerance, r) == 5
    assert ceil_within_tolerance(5.0 + 1.1 * tolerance, r) == 6
    assert ceil_within_tolerance(5.0 - 0.9 * tolerance, r) == 5
    assert ceil_within_tolerance(4.0 + 2 * tolerance, r) == 5


def test_cut_is_the_ceiling_and_neither_floor_nor_nearest() -> None:
    low, high = [1.0, 0.05, 0.0], [1.0, 0.6, 0.0]
    assert 1.1 < effective_rank(low) < 1.4
    assert 1.6 < effective_rank(high) < 2.0
    assert effective_rank_cut(low) == effective_rank_cut(high) == 2


def test_error_is_zero_without_errors_and_grows_with_them() -> None:
    values = [4.0, 2.0, 1.0]
    bounds = [effective_rank_error(values, np.full(3, error)) for error in (0.0, 1e-9, 1e-6, 1e-3)]
    assert bounds[0] == 0.0
    assert bounds == sorted(bounds)
    assert bounds[1] < 1e-7


@pytest.mark.parametrize("name", ["geometric", "spike", "noise", "with zeros"])
@pytest.mark.parametrize("size", [1e-12, 1e-8, 1e-4])
def test_error_covers_the_steepest_change_within_the_errors(name: str, size: float) -> None:
    values = np.sort(SPECTRA[name])[::-1]
    errors = np.full(values.size, size * values[0])
    cut = np.arange(values.size) < values.size // 2
    directions = [np.where(cut, sign, -sign) for sign in (1, -1)]
    directions += [np.ones(values.size), -np.ones(values.size)]
    bound = effective_rank_error(values, errors)
    for direction in directions:
        moved = np.maximum(values + direction * errors, 0.0)
        assert abs(effective_rank(moved) - effective_rank(values)) <= bound + 1e-12 * values.size


def test_error_does_not_flatter_a_value_that_may_be_zero() -> None:
    # p ln p is steepest at zero: an error of 1e-9 there moves the rank by twenty times as much.
    change = effective_rank([1.0, 1e-9]) - effective_rank([1.0, 0.0])
    assert change > 1e-8
    assert effective_rank_error([1.0, 0.0], [0.0, 1e-9]) >= change - 1e-15


@pytest.mark.parametrize("scale", [1e-308, 1e307, 1.7e308])
def test_error_bound_holds_at_the_ends_of_the_number_range(scale: float) -> None:
    values = np.array([1.0, 0.5, 0.25]) * scale
    errors = np.full(3, 1e-6) * scale
    expected = effective_rank_error([1.0, 0.5, 0.25], np.full(3, 1e-6))
    assert effective_rank_error(values, errors) == pytest.approx(expected, rel=1e-6)


def test_energy_share_by_hand() -> None:
    values = [3.0, 2.0, 1.0, 1.0, 1.0]
    shares = [energy_share(values, head) for head in range(6)]
    assert shares == pytest.approx([0.0, 9 / 16, 13 / 16, 14 / 16, 15 / 16, 1.0], abs=1e-15)
    assert shares[-1] == 1.0


def test_energy_share_of_nothing_is_everything() -> None:
    assert energy_share([0.0, 0.0], 0) == 1.0


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_energy_share_does_not_depend_on_the_unit(scale: float) -> None:
    assert energy_share([2.0 * scale, scale, scale, scale, scale], 1) == pytest.approx(0.5)
