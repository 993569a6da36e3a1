"""What an analysis says in a few numbers and plain sentences: the top of the page.

Every number is one of ``summary.json`` (``metrics.summary``), none is computed here: means over the
matrices, and what rounding leaves of the correction in all of them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from timberkit.measurements import Analysis
from timberkit.report.text import percent

CLOSE = 0.01
"""Ratios of effective rank nearer to each other than this are called the same."""
ABOVE_ROUNDING = 3.0
"""A correction is called clearly larger than rounding from this multiple on."""

NUMBERS: Mapping[str, tuple[str, str]] = {
    "base_ratio": ("Effective rank of Base, over full rank", "ratio"),
    "instruct_ratio": ("Effective rank of Instruct, over full rank", "ratio"),
    "delta_ratio": ("Effective rank of the delta, over full rank", "ratio"),
    "null_ratio": ("Effective rank of random noise, over full rank", "ratio"),
    "relative_delta": ("Size of the delta, over Base", "share"),
    "delta_tail_energy": ("Energy in the tail that Timber weakens", "share"),
    "null_tail_energy": ("Energy in the tail of random noise", "share"),
    "delta_tail_sum": ("Sum of singular values in the tail", "share"),
    "spikes": ("Directions above the random bulk", "count"),
    "energy_outside": ("Energy in those directions", "share"),
    "rounding.correction_over_weight": ("Size of Timber’s correction, over the weight", "share"),
    "rounding.error_over_correction": ("Rounding error, over the correction", "share"),
}
"""Key in the summary's ``model`` to words and kind of every number at the top, in order."""


@dataclass(frozen=True, slots=True)
class Headline:
    """One analysis in short.

    Attributes:
        numbers: key of ``NUMBERS`` to (mean, median), None where it was not measured.
        verdicts: (title, sentences) each.
        extent: how many matrices and layers, in words.
    """

    numbers: dict[str, tuple[float, float] | None]
    verdicts: tuple[tuple[str, str], ...]
    extent: str

    def mean(self, key: str) -> float:
        """The mean of a number that every analysis has."""
        found = self.numbers[key]
        return 0.0 if found is None else found[0]


def headline(analysis: Analysis) -> Headline:
    """The numbers of an analysis and what they mean, judged by fixed thresholds. O(matrices)."""
    model: Any = analysis.summary["model"]
    numbers = {key: _spread(model, key) for key in NUMBERS}
    layers = {weight.layer for weight in analysis.weights if weight.layer is not None}
    extent = _counted(len(analysis.weights), "matrix", "matrices")
    if layers:
        extent += f" in {_counted(len(layers), 'layer', 'layers')}"
    found = Headline(numbers, (), extent)
    verdicts = (
        _pair_verdict(found),
        _delta_verdict(found),
        _tail_verdict(found, model),
        _rounding_verdict(model["rounding"]),
    )
    return Headline(numbers, verdicts, extent)


def shown(value: float | None, kind: str) -> str:
    """A number in the words of its kind: ``ratio`` 0.856, ``share`` 1.23 %, ``count`` 12.4."""
    if value is None:
        return "–"
    if kind == "ratio":
        return f"{value:.3f}"
    return percent(value) if kind == "share" else f"{value:,.1f}".removesuffix(".0")


def side_by_side(headlines: Sequence[Headline]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Words, then (mean, median) of each analysis as text; what none has measured is left out."""
    rows = []
    for key, (words, kind) in NUMBERS.items():
        found = [one.numbers[key] for one in headlines]
        if any(found):
            texts = [(shown(x[0], kind), shown(x[1], kind)) if x else ("–", "–") for x in found]
            rows.append((words, texts))
    return rows


def _spread(model: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    found: Any = model
    for word in key.split("."):
        found = None if found is None else found[word]
    return None if found is None else (found["mean"], found["median"])


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _pair_verdict(found: Headline) -> tuple[str, str]:
    base, instruct = found.mean("base_ratio"), found.mean("instruct_ratio")
    moved = "hardly moved" if abs(instruct - base) < CLOSE else "moved"
    return (
        f"Post-training {moved} the effective rank",
        f"On average it is {base:.3f} of full rank in Base and {instruct:.3f} in Instruct. "
        f"Random noise of the same shapes would have {found.mean('null_ratio'):.3f}.",
    )


def _delta_verdict(found: Headline) -> tuple[str, str]:
    delta, null, spikes = (found.mean(key) for key in ("delta_ratio", "null_ratio", "spikes"))
    if abs(delta - null) < CLOSE:
        title = "By effective rank, the delta looks like random noise"
    elif delta < null:
        title = "The delta is more concentrated than random noise"
    else:
        title = "The delta is spread more evenly than random noise"
    beyond = (
        f"A delta has {shown(spikes, 'count')} directions above its random bulk on average; they "
        f"hold {percent(found.mean('energy_outside'))} of its energy."
        if spikes
        else "No direction stands above the random bulk."
    )
    return title, f"Its effective rank is {delta:.3f} of full rank, noise has {null:.3f}. {beyond}"


def _tail_verdict(found: Headline, model: Mapping[str, Any]) -> tuple[str, str]:
    return (
        f"Timber’s tail holds {percent(found.mean('delta_tail_energy'))} of the delta’s energy",
        f"It is spread over {percent(1 - model['cut_share']['mean'])} of the directions. The tail "
        "of random noise, cut by the same rule, would hold "
        f"{percent(found.mean('null_tail_energy'))}.",
    )


def _rounding_verdict(rounding: Mapping[str, Any] | None) -> tuple[str, str]:
    if rounding is None:
        return "Rounding was not measured", "timberkit analyze --measure rounding measures it."
    if not rounding["corrected"]:
        return "Timber changes nothing here", "No delta has a tail to weaken."
    times = rounding["correction_over_rounding"]
    if times is None:
        return "Timber’s correction is stored without rounding", "Every digit of it is kept."
    if times >= ABOVE_ROUNDING:
        title = "Timber’s correction stands clear of rounding"
    elif times > 1:
        title = "Timber’s correction is of the order of rounding"
    else:
        title = "Timber’s correction drowns in rounding"
    below = rounding["below_rounding"]
    where = _counted(below, "matrix", "matrices") if below else "no matrix"
    return (
        title,
        f"Over the whole model it is {times:.1f} times the error of storing it (lambda 0.2); "
        f"{percent(rounding['changed_share'])} of the elements change at all. Rounding is the "
        f"larger in {where}.",
    )
