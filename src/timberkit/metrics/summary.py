"""From measured weights to what is said of a model: means, medians, verdicts.

Sums are rounded once, so equal weights give an equal summary, in any order and on every machine.
``summarise`` gives what ``summary.json`` holds beside title and facts:

======================  ========================================================================
``model``               aggregate of all weights
``families, modules``   the same for each family and module, in alphabetical order
``verdicts``            the model in plain sentences
``matrices``            a verdict on each weight; only where rounding was measured
``hidden_states``       as measured
======================  ========================================================================

In an aggregate a value is ``{"mean": …, "median": …}`` over weights, or None where none has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from statistics import fmean, median
from typing import Any

from timberkit.measurements import (
    LEADING_COUNTS,
    TRUNCATE_ENERGIES,
    TRUNCATE_RANK_RATIOS,
    HiddenStateMeasurement,
    OverlapMeasurement,
    RoundingMeasurement,
    WeightMeasurement,
)

AT_CUT = "K"
"""Stands for the dimension K of each weight among ``LEADING_COUNTS``."""
SIDES = ("left", "right", "delta_left", "delta_right")
_MODELS = ("base", "instruct", "delta", "null")


def summarise(
    weights: Sequence[WeightMeasurement], hidden_states: Sequence[HiddenStateMeasurement] = ()
) -> dict[str, Any]:
    """All aggregates and verdicts as JSON values; see the module header.

    ``weights``: at least one (ValueError). O(number of weights).
    """
    if not weights:
        raise ValueError("found no weights, expected at least one")
    return {
        "model": aggregate(weights),
        "families": _by(weights, lambda weight: weight.family),
        "modules": _by(weights, lambda weight: weight.module),
        "verdicts": verdicts(weights, hidden_states),
        "matrices": [
            {
                **{"name": weight.name, "index": weight.index, "part": weight.part},
                "verdict": verdict(weight.rounding),
            }
            for weight in weights
            if weight.rounding is not None
        ],
        "hidden_states": [asdict(layer) for layer in hidden_states],
    }


def aggregate(weights: Sequence[WeightMeasurement]) -> dict[str, Any]:
    """Means and medians over some weights.

    ``rounding.correction_over_rounding`` is pooled, ``sqrt(sum correction^2 / sum error^2)``, as if
    all weights were one; ``rounding.changed_share`` likewise is the share of all elements.
    """
    sides = [min(weight.rows, weight.columns) for weight in weights]
    return {
        "matrices": len(weights),
        "parameters": sum(weight.rows * weight.columns for weight in weights),
        "base_ratio": _spread(weight.base.ratio for weight in weights),
        "instruct_ratio": _spread(weight.instruct.ratio for weight in weights),
        "delta_ratio": _spread(weight.delta.ratio for weight in weights),
        "null_ratio": _spread(weight.null.ratio for weight in weights),
        "base_stable_rank": _spread(weight.base.stable_rank for weight in weights),
        "instruct_stable_rank": _spread(weight.instruct.stable_rank for weight in weights),
        "delta_stable_rank": _spread(weight.delta.stable_rank for weight in weights),
        "relative_delta": _spread(weight.relative_delta for weight in weights),
        "cut_share": _spread(w.cut.cut / r for w, r in zip(weights, sides, strict=True)),
        "delta_tail_energy": _spread(1.0 - weight.cut.head_energy for weight in weights),
        "null_tail_energy": _spread(weight.null.tail_energy for weight in weights),
        "delta_tail_sum": _spread(weight.cut.tail_sum for weight in weights),
        "truncate_rank": _truncations(
            TRUNCATE_RANK_RATIOS, [w.cut.truncate_rank for w in weights], sides
        ),
        "truncate_energy": _truncations(
            TRUNCATE_ENERGIES, [w.cut.truncate_energy for w in weights], sides
        ),
        "spikes": _spread(weight.bulk.spikes for weight in weights),
        "energy_outside": _spread(weight.bulk.energy_outside for weight in weights),
        "rounding": _rounding(weights),
        "subspaces": _subspaces(weights),
    }


def verdict(rounding: RoundingMeasurement) -> str:
    """What rounding leaves of the correction of one weight, in plain words."""
    if not rounding.correction_over_weight:
        return "Timber changes nothing here"
    return _times_rounding(rounding.error_over_correction)


def verdicts(
    weights: Sequence[WeightMeasurement], hidden_states: Sequence[HiddenStateMeasurement] = ()
) -> list[str]:
    """The model in plain sentences: effective rank beside the null, rounding, subspaces."""
    total = aggregate(weights)
    shown = {name: f"{total[f'{name}_ratio']['mean']:.3f}" for name in _MODELS}
    lines = [
        f"Effective rank over r, mean of {_count(len(weights), 'matrix', 'matrices')}: base"
        f" {shown['base']}, instruct {shown['instruct']}, delta {shown['delta']}; independent noise"
        f" of these shapes {shown['null']}.",
        f"Timber's tail holds {total['delta_tail_energy']['mean']:.2%} of the delta's energy;"
        f" of noise's {total['null_tail_energy']['mean']:.2%}.",
    ]
    rounding = total["rounding"]
    if rounding is not None:
        pooled = rounding["correction_over_rounding"]
        said = _times_rounding(None if pooled is None else 1 / pooled)
        if rounding["corrected"] == 0:
            said = "Timber changes nothing"
        lines.append(
            f"Over the model {said}; {rounding['changed_share']:.0%} of the elements change;"
            f" rounding is the larger in {rounding['below_rounding']} of"
            f" {_count(rounding['matrices'], 'matrix', 'matrices')}."
        )
    if total["subspaces"] is not None:
        lines += _subspace_sentences(total["subspaces"])
    if hidden_states:
        last = hidden_states[-1]
        lines.append(
            f"Effective rank of the hidden states after the last layer: base {last.base:.2f},"
            f" instruct {last.instruct:.2f} ({last.tokens} tokens)."
        )
    return lines


def _times_rounding(error_over_correction: float | None) -> str:
    if not error_over_correction:
        return "the correction is stored without any rounding"
    times = 1 / error_over_correction
    shown = f"{times:.2f}" if times < 1 else f"{times:.1f}" if times < 10 else f"{times:.0f}"
    lost = ", which hides it" if times < 1 else ""
    return f"the correction is {shown} times rounding{lost}"


def _subspace_sentences(subspaces: dict[str, Any]) -> list[str]:
    lines = []
    for side, said in (
        ("left", "Base's and Instruct's leading K left directions"),
        ("delta_left", "The delta's head and Base's leading K left directions"),
    ):
        at_cut = [row for row in subspaces[side] if row["dimension"] == AT_CUT]
        lines += [
            f"{said} overlap by {row['overlap']['mean']:.3f}; chance would give"
            f" {row['chance']['mean']:.3f}."
            for row in at_cut
        ]
    return lines


def _by(
    weights: Sequence[WeightMeasurement], key: Callable[[WeightMeasurement], str]
) -> dict[str, Any]:
    groups: dict[str, list[WeightMeasurement]] = {}
    for weight in weights:
        groups.setdefault(key(weight), []).append(weight)
    return {name: aggregate(groups[name]) for name in sorted(groups)}


def _spread(values: Iterable[float | None]) -> dict[str, float] | None:
    # fmean sums exactly before it rounds, so that the order of the weights cannot matter.
    found = [value for value in values if value is not None]
    return {"mean": fmean(found), "median": float(median(found))} if found else None


def _truncations(
    thresholds: Sequence[float], kept: Sequence[Sequence[int]], sides: Sequence[int]
) -> list[dict[str, Any]]:
    return [
        {
            "threshold": threshold,
            "kept_share": _spread(row[i] / r for row, r in zip(kept, sides, strict=True)),
        }
        for i, threshold in enumerate(thresholds)
    ]


def _rounding(weights: Sequence[WeightMeasurement]) -> dict[str, Any] | None:
    measured = [(w, w.rounding) for w in weights if w.rounding is not None]
    if not measured:
        return None
    found = [rounding for _, rounding in measured]
    corrections = [(r.correction_over_weight * w.instruct.norm) for w, r in measured]
    errors = [
        (rounding.error_over_correction or 0.0) * correction
        for rounding, correction in zip(found, corrections, strict=True)
    ]
    pooled = math.fsum(error * error for error in errors)
    elements = [weight.rows * weight.columns for weight, _ in measured]
    changed = math.fsum(r.changed * n for r, n in zip(found, elements, strict=True))
    return {
        "matrices": len(measured),
        "corrected": sum(correction > 0 for correction in corrections),
        "below_rounding": sum((r.error_over_correction or 0.0) > 1 for r in found),
        "correction_over_rounding": math.sqrt(math.fsum(c * c for c in corrections) / pooled)
        if pooled > 0
        else None,
        "changed_share": changed / sum(elements),
        "base_noise": _spread(r.base_noise for r in found),
        "instruct_noise": _spread(r.instruct_noise for r in found),
        "delta_noise": _spread(r.delta_noise for r in found),
        "correction_over_delta": _spread(r.correction_over_delta for r in found),
        "correction_over_weight": _spread(r.correction_over_weight for r in found),
        "error_over_correction": _spread(r.error_over_correction for r in found),
        "changed": _spread(r.changed for r in found),
    }


def _subspaces(weights: Sequence[WeightMeasurement]) -> dict[str, Any] | None:
    measured = [(w, w.subspaces) for w in weights if w.subspaces is not None]
    if not measured:
        return None
    return {
        side: [
            row
            for dimension in (*LEADING_COUNTS, AT_CUT)
            for row in _overlaps(
                dimension, [(w.cut.cut, getattr(found, side)) for w, found in measured]
            )
        ]
        for side in SIDES
    }


def _overlaps(
    dimension: int | str, rows: Iterable[tuple[int, Sequence[OverlapMeasurement]]]
) -> list[dict[str, Any]]:
    """One row, or none where no weight has this dimension."""
    found = [
        next((row for row in overlaps if row.dimension == wanted), None)
        for cut, overlaps in rows
        for wanted in (cut if dimension == AT_CUT else dimension,)
    ]
    present = [row for row in found if row is not None]
    if not present:
        return []
    return [
        {
            "dimension": dimension,
            "matrices": len(present),
            "overlap": _spread(row.overlap for row in present),
            "smallest_cosine": _spread(row.smallest_cosine for row in present),
            "chance": _spread(row.chance for row in present),
        }
    ]


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
