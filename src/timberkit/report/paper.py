"""The paper's published values beside ours, where an analysis is of one of its pairs.

The mapping is that of ``study/published.json``; it is handed in, since a report looks nothing up.
A part that is missing there is left out here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from timberkit.measurements import TRUNCATE_RANK_RATIOS, Analysis, WeightMeasurement
from timberkit.report.groups import Value, median

Row = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """``model`` in the paper's words; None where the pair is none of the paper's.

    ``rows``: what, published, ours. ``benchmarks``: what the paper reports that is not measured
    here, as (what, published). ``others``: the paper's median ratios, for a pair that is not in it.
    """

    model: str | None
    rows: tuple[Row, ...]
    benchmarks: tuple[tuple[str, str], ...]
    others: tuple[tuple[str, str], ...]


def paper_model(facts: Mapping[str, object], published: Mapping[str, Any]) -> str | None:
    """The paper's name of the analysed pair, or None: by the last words of folders or hub ids.

    >>> pairs = [{"base": "Qwen/Qwen3-8B-Base", "instruct": "Qwen/Qwen3-8B"}]
    >>> paper_model({"base": "Qwen/Qwen3-8B-Base@main", "instruct": "qwen3-8b"}, {"pairs": pairs})
    'Qwen3-8B'
    """
    given = (_last_word(facts.get("base")), _last_word(facts.get("instruct")))
    for pair in published.get("pairs", ()):
        if given == (_last_word(pair["base"]), _last_word(pair["instruct"])):
            return str(pair["instruct"]).rsplit("/", 1)[-1].removesuffix("-Instruct")
    return None


def compare(analysis: Analysis, published: Mapping[str, Any]) -> Comparison:
    """What the paper reports of this pair and what was measured here, row by row."""
    model = paper_model(analysis.facts, published)
    medians = published.get("erank_figures", {}).get("ratio_to_rank_median", {})
    if model is None:
        others = tuple((name, f"{value:.3f}") for name, value in medians.items())
        return Comparison(None, (), (), others)
    rows = []
    if model in medians:
        ours = " / ".join(
            "–" if value is None else f"{value:.3f}"
            for value in (
                median(analysis.weights, lambda w: w.base.ratio),
                median(analysis.weights, lambda w: w.instruct.ratio),
            )
        )
        what = "Median effective rank over full rank (ours: Base / Instruct)"
        rows.append((what, f"{medians[model]:.3f}", ours))
    rows += _example(analysis.weights, published.get("erank_figures", {}).get("example"), model)
    rows += _energies(analysis.weights, published.get("truncation_table_3"), model)
    return Comparison(model, tuple(rows), _benchmarks(published, model), ())


def _last_word(source: object) -> str:
    """``org/Name@revision`` and ``/data/name/`` become ``name``."""
    return str(source or "").split("@", 1)[0].rstrip("/").rsplit("/", 1)[-1].lower()


def _example(
    weights: Sequence[WeightMeasurement], example: Mapping[str, Any] | None, model: str
) -> list[Row]:
    if not example or example["model"] != model:
        return []
    layer, module = example["layer"], example["module"]
    fitting = [w for w in weights if w.layer == layer and w.module.endswith(module)]
    if not fitting:
        return []
    ours = f"{fitting[0].base.effective_rank:.0f} / {fitting[0].instruct.effective_rank:.0f}"
    what = f"Effective rank of {module} in layer {layer} (Base / Instruct)"
    return [(what, f"{example['base']} / {example['instruct']}", ours)]


def _energies(
    weights: Sequence[WeightMeasurement], table: Mapping[str, Any] | None, model: str
) -> list[Row]:
    """Energy of the delta that Timber and Truncate-R keep, in percent (table 3)."""
    if not table or table["model"] != model:
        return []
    ours = median(weights, lambda weight: weight.cut.head_energy)
    rows = [_percent_row("Energy of the delta that Timber keeps", table["Timber"]["energy"], ours)]
    for entry in table.get("Truncate-R", ()):
        ratio = entry["rank_ratio"]
        if ratio in TRUNCATE_RANK_RATIOS:
            ours = median(weights, _kept(TRUNCATE_RANK_RATIOS.index(ratio)))
            what = f"Energy that Truncate-R keeps at {ratio}"
            rows.append(_percent_row(what, entry["energy"], ours))
    return rows


def _kept(place: int) -> Value:
    """Energy that Truncate-R keeps at the threshold of this place; None without the spectrum."""

    def value(weight: WeightMeasurement) -> float | None:
        values = weight.delta.singular_values
        if not values or not weight.delta.norm:
            return None
        leading = np.asarray(values[: weight.cut.truncate_rank[place]])
        return float((leading**2).sum() / weight.delta.norm**2)

    return value


def _percent_row(what: str, published: float, ours: float | None) -> Row:
    return what, f"{published:.2f} %", "–" if ours is None else f"{100 * ours:.2f} %"


def _benchmarks(published: Mapping[str, Any], model: str) -> tuple[tuple[str, str], ...]:
    scores = published.get("mean_at_k_table_2", {}).get(model, {})
    return tuple((name, f"{value:.2f}") for name, value in scores.items() if value is not None)
