"""The ladder of routes: taken when it must be, recorded, and never skipped when a solver fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from timberkit.config import AnyVariant, Merge, Timber, TimberL, TruncateEnergy, TruncateRank
from timberkit.dtypes import Matrix
from timberkit.errors import SpectrumError
from timberkit.records import MatrixRecord
from timberkit.spectral import decompose as decompose_module
from timberkit.spectral import ladder
from timberkit.spectral.agreement import agreement
from timberkit.spectral.decompose import Decomposition, Route, decompose, gram_matrix
from timberkit.spectral.deflate import Leading
from timberkit.spectral.delta import Delta, PairDelta
from timberkit.spectral.filters import Spectrum
from timberkit.spectral.oracle import consult
from timberkit.spectral.rank import effective_rank
from timberkit.spectral.refine import StoredMatrix, refine_matrix, spectrum
from timberkit.spectral.values import spectrum_of

Change = Callable[[Decomposition], None]


@pytest.fixture(autouse=True)
def _single_precision_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small matrices begin with the first route too."""
    monkeypatch.setattr(ladder, "SINGLE_PRECISION_SIDE", 1)


@pytest.fixture
def tamper(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Route]]:
    """Change or fail the decompositions of chosen routes; lists the routes that were tried."""

    def install(change: Change, *routes: Route) -> list[Route]:
        tried: list[Route] = []

        def wrapped(delta: Delta | Matrix, route: Route, *, device: str = "cpu") -> Decomposition:
            tried.append(route)
            found = decompose(delta, route, device=device)
            if route in routes:
                change(found)
            return found

        monkeypatch.setattr(ladder, "decompose", wrapped)
        return tried

    return install


def refuse(found: Decomposition) -> None:
    raise SpectrumError("did not converge")


def refuse_vectors(found: Decomposition) -> None:
    def vectors(start: int, stop: int) -> NDArray[np.float64]:
        raise SpectrumError("not orthonormal")

    found.vectors = vectors  # type: ignore[method-assign]


def doubtful(spectrum: Spectrum) -> Spectrum:
    values = spectrum.singular_values
    return Spectrum(values, np.full_like(values, 0.1 * values[0]))


def doubt(found: Decomposition) -> None:
    found.spectrum = doubtful(found.spectrum)


def confuse(found: Decomposition) -> None:
    coupling = float(found.levels()[0])
    found.coupling = lambda: coupling  # type: ignore[method-assign]


TWO: list[AnyVariant] = [Timber(lam=0.3), TimberL()]


def assert_both_agree(base: torch.Tensor, instruct: torch.Tensor) -> MatrixRecord:
    result = refine_matrix(base, instruct, TWO)
    for variant, weight in zip(TWO, result.weights, strict=True):
        assert agreement(weight, base, instruct, variant).holds
    return result.record


@pytest.mark.parametrize("change", [refuse, refuse_vectors, confuse])
@pytest.mark.parametrize(
    ("broken", "expected"),
    [(("float32",), "float64"), (("float32", "float64"), "svd"), ((), "float32")],
)
def test_a_route_that_is_not_good_enough_hands_over_to_the_next(
    pairs: Any,
    tamper: Callable[..., list[Route]],
    change: Change,
    broken: tuple[Route, ...],
    expected: str,
) -> None:
    base, instruct = pairs.noise(80, 50, seed=1)
    tried = tamper(change, *broken)
    assert assert_both_agree(base, instruct).route == expected
    assert tried == [*broken, expected]


@pytest.mark.parametrize("shape", [(80, 50), (50, 80), (60, 60)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_threshold_in_doubt_alone_is_settled_by_precise_values_and_single_precision_vectors(
    pairs: Any, tamper: Callable[..., list[Route]], shape: tuple[int, int], dtype: torch.dtype
) -> None:
    base, instruct = pairs.noise(*shape, seed=1, dtype=dtype)
    tried = tamper(doubt, "float32")
    record = assert_both_agree(base, instruct)
    assert record.route == "mixed"
    assert tried == ["float32"]
    values = spectrum(base, instruct)
    assert record.effective_rank == effective_rank(values)
    assert record.effective_rank_error is not None
    assert record.effective_rank_error < 1e-6
    assert record.unique is True


def test_precise_values_are_computed_only_where_a_threshold_is_in_doubt(
    pairs: Any, tamper: Callable[..., list[Route]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Delta] = []

    def watched(delta: Delta) -> Spectrum:
        asked.append(delta)
        return spectrum_of(delta)

    monkeypatch.setattr(ladder, "spectrum_of", watched)
    base, instruct = pairs.noise(80, 50, seed=1)
    assert refine_matrix(base, instruct, TWO).record.route == "float32"
    tamper(confuse, "float32")  # no threshold, but the directions
    assert refine_matrix(base, instruct, TWO).record.route == "float64"
    assert not asked
    tamper(doubt, "float32")
    assert refine_matrix(base, instruct, TWO).record.route == "mixed"
    assert len(asked) == 1


def test_a_threshold_still_in_doubt_with_precise_values_goes_down_to_the_last_route(
    pairs: Any, tamper: Callable[..., list[Route]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "spectrum_of", lambda delta: doubtful(spectrum_of(delta)))
    tried = tamper(doubt, "float32", "float64")
    base, instruct = pairs.noise(80, 50, seed=1)
    assert assert_both_agree(base, instruct).route == "svd"
    assert tried == ["float32", "float64", "svd"]


def test_precise_values_that_cannot_be_had_hand_over_to_the_next_route(
    pairs: Any, tamper: Callable[..., list[Route]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(delta: Delta) -> Spectrum:
        raise SpectrumError("did not converge")

    monkeypatch.setattr(ladder, "spectrum_of", give_up)
    tried = tamper(doubt, "float32")
    base, instruct = pairs.noise(80, 50, seed=1)
    assert assert_both_agree(base, instruct).route == "float64"
    assert tried == ["float32", "float64"]


def test_vectors_that_fail_behind_a_settled_threshold_hand_over_to_the_next_route(
    pairs: Any, tamper: Callable[..., list[Route]]
) -> None:
    def both(found: Decomposition) -> None:
        doubt(found)
        refuse_vectors(found)

    tried = tamper(both, "float32")
    base, instruct = pairs.noise(80, 50, seed=1)
    assert assert_both_agree(base, instruct).route == "float64"
    assert tried == ["float32", "float64"]


def test_a_threshold_that_precise_values_move_takes_the_vectors_behind_the_moved_one(
    pairs: Any, tamper: Callable[..., list[Route]]
) -> None:
    def shift(found: Decomposition) -> None:
        # Values so wrong that the effective rank is another one, and said to be so.
        values = found.spectrum.singular_values
        found.spectrum = Spectrum(np.square(values) / values[0], np.full_like(values, values[0]))

    base, instruct = pairs.noise(80, 50, seed=1)
    expected = refine_matrix(base, instruct, TWO).record.cut
    tamper(shift, "float32")
    record = assert_both_agree(base, instruct)
    assert record.cut == expected
    assert {change.kept for change in record.changes} == {expected}


def test_a_failure_of_the_last_route_is_raised(
    pairs: Any, tamper: Callable[..., list[Route]]
) -> None:
    tamper(refuse, "float32", "float64", "svd")
    base, instruct = pairs.noise(20, 10, seed=1)
    with pytest.raises(SpectrumError, match="did not converge"):
        refine_matrix(base, instruct, [TimberL()])


def test_no_vectors_are_computed_by_a_route_that_is_given_up(
    pairs: Any, tamper: Callable[..., list[Route]]
) -> None:
    asked: list[tuple[int, int]] = []

    def watch(found: Decomposition) -> None:
        confuse(found)
        found.vectors = lambda start, stop: asked.append((start, stop))  # type: ignore[method-assign]

    tamper(watch, "float32")
    base, instruct = pairs.noise(40, 30, seed=1)
    assert refine_matrix(base, instruct, [TimberL()]).record.route == "float64"
    assert not asked


def test_only_the_vectors_outside_the_widest_band_are_computed(
    pairs: Any, tamper: Callable[..., list[Route]]
) -> None:
    asked: list[tuple[int, int]] = []

    def watch(found: Decomposition) -> None:
        vectors = found.vectors

        def counted(start: int, stop: int) -> Matrix:
            asked.append((start, stop))
            return vectors(start, stop)

        found.vectors = counted  # type: ignore[method-assign]

    tamper(watch, "float32")
    base, instruct = pairs.noise(80, 50, seed=1)
    cut = refine_matrix(base, instruct, [Timber(lam=0.3), TimberL()]).record.cut
    assert cut is not None
    assert cut > 25
    assert asked == [(cut, 50)]


def test_wide_dtypes_never_take_the_single_route(
    pairs: Any, tamper: Callable[..., list[Route]]
) -> None:
    tried = tamper(refuse)
    for dtype, out_dtype in (
        (torch.float32, torch.float32),
        (torch.float64, torch.bfloat16),
        (torch.bfloat16, torch.float32),
    ):
        base, instruct = pairs.noise(30, 20, seed=2, dtype=dtype)
        assert refine_matrix(base, instruct, [TimberL()], dtype=out_dtype).record.route == "float64"
    assert set(tried) == {"float64"}


def test_interpolation_decomposes_nothing(pairs: Any, tamper: Callable[..., list[Route]]) -> None:
    tried = tamper(refuse, "float32", "float64", "svd")
    base, instruct = pairs.noise(30, 20, seed=2)
    refine_matrix(base, instruct, [Merge(mu=0.5)])
    refine_matrix(base, base, [TimberL()])
    assert not tried


@pytest.mark.parametrize("shape", [(240, 200), (200, 240)])
def test_spikes_far_above_the_bulk_leave_the_single_route_unless_they_are_taken_out(
    pairs: Any, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[bool] = []

    def watched(delta: Any, dtype: Any, leading: Leading | None = None) -> Any:
        again[-1] |= leading is not None
        return gram_matrix(delta, dtype, leading)

    def routes() -> list[str]:
        taken = []
        for spikes in ([], [0.15], [0.5], [1.0, 0.6], [10.0]):
            again.append(False)
            values = [*spikes, *np.linspace(0.05, 0.01, 200 - len(spikes))]
            base, instruct = pairs.planted(*shape, values, seed=3)
            result = refine_matrix(base, instruct, [TimberL()])
            taken.append(result.record.route)
            assert agreement(result.weights[0], base, instruct, TimberL()).holds
        return taken

    monkeypatch.setattr(decompose_module, "gram_matrix", watched)
    # The last one leads a head narrower than the tail: it cannot be taken out of what is projected.
    assert routes() == ["float32", "float32", "float32", "float32", "float64"]
    assert again == [False, False, True, True, True]
    monkeypatch.setattr(decompose_module, "leading_directions", lambda *_: None)
    assert routes() == ["float32", "float32", "float64", "float64", "float64"]


@pytest.mark.parametrize("size", [2.0**-100, 2.0**-50, 2.0**50, 2.0**100])
def test_the_unit_of_the_weights_changes_no_route_and_no_rounded_element(
    pairs: Any, size: float
) -> None:
    # Beyond single precision's means where nothing is taken out of so small a matrix.
    for spikes, route in ((0.0, "float32"), (20.0, "float64")):
        base, instruct = pairs.noise(80, 50, seed=1, spikes=spikes)
        plain = refine_matrix(base, instruct, TWO)
        scaled = refine_matrix(base * size, instruct * size, TWO)
        assert plain.record.route == scaled.record.route == route
        for first, second in zip(plain.weights, scaled.weights, strict=True):
            share = float((first * size == second).double().mean())
            assert share >= 0.999


def test_projections_are_in_double_precision_where_vectors_of_the_single_one_would_leak(
    pairs: Any, tamper: Callable[..., list[Route]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trust(found: Decomposition) -> None:
        found.coupling = lambda: 0.0  # type: ignore[method-assign]

    def working(largest: float) -> tuple[str, Any]:
        # A leading direction of one element: it is large beside what the others round at.
        weights = pairs.noise(240, 200, seed=1)
        weights[1][0, 0] = largest
        base, instruct = (StoredMatrix.of_tensor(weight) for weight in weights)
        delta, variants = PairDelta(base, instruct), [TruncateRank(ratio=0.8)]
        asked = ladder.asked_for(variants, instruct, "bfloat16", delta.scale, "cpu")
        solved = ladder.solve(delta, asked)
        assert (solved.leading is not None) == (found_beforehand and largest > 1.0)
        return solved.route, solved.working

    tamper(trust, "float32")
    found_beforehand = True
    assert working(0.02) == ("float32", np.float32)
    assert working(64.0) == ("float32", np.float32)
    found_beforehand = False
    monkeypatch.setattr(decompose_module, "leading_directions", lambda *_: None)
    assert working(0.02) == ("float32", np.float32)
    assert working(64.0) == ("float32", np.float64)


def test_small_matrices_begin_in_double_precision(
    pairs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    base, instruct = pairs.noise(80, 50, seed=1)
    assert refine_matrix(base, instruct, [TimberL()]).record.route == "float64"


def test_a_cut_through_a_tie_is_solved_by_the_last_route_and_said_to_be_open(pairs: Any) -> None:
    # Two directions share the energy at the threshold: only one of them is kept.
    values = np.array([4.0, 1.0, 1.0, 0.5, 0.1])
    variant = TruncateEnergy(energy=0.9)
    base, instruct = pairs.planted(12, 5, values, seed=4, dtype=torch.float64)
    result = refine_matrix(base, instruct, [variant])
    assert (result.record.route, result.record.unique) == ("svd", False)
    assert result.record.changes[0].kept == 2
    found = agreement(result.weights[0], base, instruct, variant)
    assert found.holds
    assert not found.elementwise
    clear = refine_matrix(base, instruct, [TruncateEnergy(energy=0.97)])
    assert clear.record.unique is True


def test_ladder_ends_at_the_k_of_the_oracle_when_the_threshold_is_met_exactly(pairs: Any) -> None:
    base, instruct = pairs.planted(30, 12, np.ones(6), seed=5, dtype=torch.float64)
    result = refine_matrix(base, instruct, [TimberL()])
    gains = consult(base, instruct, TimberL()).gains
    assert gains is not None
    assert result.record.cut == int(gains.sum()) == 6
