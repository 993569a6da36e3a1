"""The ladder of routes: taken when it must be, recorded, and never skipped when a solver fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from timberkit.config import Merge, Timber, TimberL, TruncateEnergy
from timberkit.errors import SpectrumError
from timberkit.spectral import decompose as decompose_module
from timberkit.spectral import ladder
from timberkit.spectral.agreement import agreement
from timberkit.spectral.decompose import Decomposition, Matrix, Route, decompose
from timberkit.spectral.filters import Spectrum
from timberkit.spectral.oracle import consult
from timberkit.spectral.refine import refine_matrix

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

        def wrapped(delta: Matrix, route: Route, *, device: str = "cpu") -> Decomposition:
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


def doubt(found: Decomposition) -> None:
    values = found.spectrum.singular_values
    found.spectrum = Spectrum(values, np.full_like(values, 0.1 * values[0]))


def confuse(found: Decomposition) -> None:
    coupling = float(found.levels()[0])
    found.coupling = lambda: coupling  # type: ignore[method-assign]


@pytest.mark.parametrize("change", [refuse, refuse_vectors, doubt, confuse])
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
    result = refine_matrix(base, instruct, [Timber(lam=0.3), TimberL()])
    assert result.record.route == expected
    assert tried == [*broken, expected]
    for variant, weight in zip((Timber(lam=0.3), TimberL()), result.weights, strict=True):
        assert agreement(weight, base, instruct, variant).holds


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
        doubt(found)
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


def test_spikes_far_above_the_bulk_leave_the_single_route_unless_they_are_taken_out(
    pairs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def routes() -> list[str]:
        taken = []
        for spikes in ([], [0.5], [10.0]):
            values = [*spikes, *np.linspace(0.05, 0.01, 120 - len(spikes))]
            base, instruct = pairs.planted(200, 120, values, seed=3)
            result = refine_matrix(base, instruct, [TimberL()])
            taken.append(result.record.route)
            assert agreement(result.weights[0], base, instruct, TimberL()).holds
        return taken

    assert routes() == ["float32", "float32", "float64"]
    monkeypatch.setattr(decompose_module, "leading_directions", lambda *_: None)
    assert routes() == ["float32", "float64", "float64"]


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
