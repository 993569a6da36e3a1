"""What edits did: contrasts with Instruct, the trade-off plane, and edits beside their controls.

All of it is paired over problems, and intervals are over problems; where success probabilities are
known there is no other noise. Nothing here knows where a table of scores came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from timberkit.findings import (
    Contrast,
    ControlledEffect,
    DifferenceAt,
    Plane,
    PlanePoint,
)
from timberkit.metrics import (
    Crossing,
    Interval,
    crossing_point,
    in_words,
    paired_difference,
    paired_differences,
)
from timberkit.metrics.frontier import frontier_gap
from timberkit.study.pairs import thinned
from timberkit.study.reproduce.catalogue import BASE, INSTRUCT, Entry
from timberkit.study.reproduce.scores import Scores, Table, aligned

LARGEST_CROSSING = 256
"""Up to which k a crossing of exact curves is sought: as far as they are shown."""
FEWEST_ON_FRONTIER = 4
"""Base, Instruct and two merges: less is no frontier of merges."""
CROSSING_KS = 160
"""So many k, evenly apart on a logarithmic scale, are looked at for it."""
FEWEST_DRAWS = 3
"""Of noise, for a word on whether an edit goes beyond it."""
NEGLIGIBLE = 0.005
"""Half a point: differences that are surely smaller are called negligible."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """How intervals are drawn: confidence, resamples and seed of the bootstrap."""

    confidence: float = 0.95
    resamples: int = 2_000
    seed: int = 0

    def as_options(self) -> dict[str, float | int]:
        """As ``metrics`` takes them."""
        return {"confidence": self.confidence, "resamples": self.resamples, "seed": self.seed}


def contrast(
    names: tuple[str, str],
    scores: tuple[Scores, Scores],
    task: str,
    ks: Sequence[int],
    drawing: Drawing,
) -> Contrast:
    """The first model minus the second at every k, and from which k one passes the other.

    Of two models that are all alike one passes the other somewhere by chance. So a crossing is told
    where its interval ends, and where Base is concerned always.
    """
    first, second = aligned(scores)
    rows = paired_differences(first.table(ks), second.table(ks), ks, **drawing.as_options())  # type: ignore[arg-type]
    points = tuple(
        DifferenceAt(row.k, row.difference, row.simultaneous, row.corrected_p_value, row.verdict)
        for row in rows
    )
    if len(ks) < 2:
        return Contrast(*names, task, points)
    behind, found = _crossing(first, second, drawing)
    if found.high is None and BASE not in names:
        return Contrast(*names, task, points)
    ordered = names if behind == 0 else (names[1], names[0])
    return Contrast(*names, task, points, *ordered, found)


def _crossing(first: Scores, second: Scores, drawing: Drawing) -> tuple[int, Crossing]:
    """Which of the two is behind at k = 1, and from which k it leads."""
    limits = [each.largest_k for each in (first, second) if each.largest_k is not None]
    ks = thinned(min(limits, default=LARGEST_CROSSING), CROSSING_KS)
    tables = [each.table(ks) for each in (first, second)]
    behind = 0 if tables[0][:, 0].mean() <= tables[1][:, 0].mean() else 1
    found = crossing_point(tables[behind], tables[1 - behind], ks, **drawing.as_options())  # type: ignore[arg-type]
    return behind, found


def plane(
    entries: Sequence[Entry],
    scores: Mapping[str, Scores],
    curves: Mapping[str, Mapping[int, Interval]],
    task: str,
    ks: tuple[int, int],
    drawing: Drawing,
) -> Plane:
    """Every model at the small and the large k, and how far it lies above the merges' frontier.

    ``curves``: Pass@k by model and k, with its intervals. Gaps are told where every merge of the
    study has been asked: a line through some of them lies below that of all. Where scores are
    sampled, the frontier is the best of noisy merges, so a model of equal worth seems to lie below
    it; that one does is told of exact scores alone.
    """
    asked = [entry for entry in entries if entry.key in scores]
    tables = _tables([scores[entry.key] for entry in asked], ks)
    by_key = {entry.key: table for entry, table in zip(asked, tables, strict=True)}
    frontier = [key for key in _frontier(asked) if key in by_key]
    whole = len(frontier) >= FEWEST_ON_FRONTIER and len(frontier) == len(_frontier(entries))
    line = np.stack([by_key[key] for key in frontier]) if whole else None
    exact = all(scores[key].p is not None for key in frontier)
    points = []
    for entry in asked:
        table = by_key[entry.key]
        low, high = (curves[entry.key][k] for k in ks)
        gap = None
        if line is not None and entry.key not in frontier:
            gap = frontier_gap(table, line, **drawing.as_options()).interval  # type: ignore[arg-type]
        verdict = None if gap is None else in_words(gap)
        if verdict == "worse" and not exact:
            verdict = None
        points.append(PlanePoint(entry.key, low, high, gap, verdict))
    return Plane(task, *ks, tuple(frontier), tuple(points))


def straightness(scores: Sequence[Scores], ks: tuple[int, int]) -> float | None:
    """How far a frontier's true curve may lie above its straight pieces, a share.

    ``scores``: exact, in the order of the frontier. None for fewer than three, and where the first
    score does not rise along it: then nothing is known of what lies between. A concave curve lies,
    on each piece, below its neighbours' pieces drawn on: with a bend ``a`` at one end of a piece of
    length h and ``b`` at the other (differences of slopes) that is up to ``h a b / (a + b)`` above
    it, on the last piece, which has one neighbour, up to ``h a``. The largest over the pieces but
    the first, which is there to be a neighbour.
    """
    means = np.array([table.mean(axis=0) for table in _tables(scores, ks)])
    lengths = np.diff(means[:, 0])
    if len(means) < 3 or bool((lengths < 1e-9).any()):
        return None
    slopes = np.diff(means[:, 1]) / lengths
    bends = np.maximum(-np.diff(slopes), 0.0)
    sums = bends[:-1] + bends[1:]
    inner = lengths[1:-1] * bends[:-1] * bends[1:] / np.where(sums > 0, sums, 1.0)
    return float(max([bends[-1] * lengths[-1], *inner]))


def _frontier(entries: Sequence[Entry]) -> list[str]:
    """Base, merges and Instruct, in the order of their gain."""
    gains = {BASE: 0.0, INSTRUCT: 1.0}
    for entry in entries:
        if entry.model.group == "merge" and entry.model.parameter is not None:
            gains[entry.key] = entry.model.parameter
    return sorted(gains, key=gains.__getitem__)


def _tables(scores: Sequence[Scores], ks: Sequence[int]) -> list[Table]:
    return [each.table(ks) for each in aligned(scores)]


def controlled(
    edit: Entry,
    entries: Sequence[Entry],
    scores: Mapping[str, Scores],
    task: str,
    k: int,
    drawing: Drawing,
) -> ControlledEffect | None:
    """An edit beside its matched merge and its noise; None where it has no control.

    The noise of an edit is the mean over its seeds, problem by problem. Beyond it lies what another
    draw of the noise would hardly reach: to the variance over problems comes that between seeds,
    ``s^2 (1 + 1 / m)`` of m draws, and the interval is Student's with m - 1 degrees of freedom.
    With fewer than ``FEWEST_DRAWS`` nothing is said.
    """
    own = [entry for entry in entries if entry.model.of == edit.key and entry.key in scores]
    merges = [entry.key for entry in own if entry.model.group == "matched-merge"]
    noise = [entry.key for entry in own if entry.model.group == "noise"]
    if not own or edit.key not in scores or INSTRUCT not in scores:
        return None
    keys = [INSTRUCT, edit.key, *merges, *noise]
    tables = dict(zip(keys, _tables([scores[key] for key in keys], [k]), strict=True))
    at = {key: table[:, 0] for key, table in tables.items()}
    mean_noise = np.mean([at[key] for key in noise], axis=0) if noise else None

    def against(first: Table, second: Table) -> Interval:
        return paired_difference(first, second, **drawing.as_options())  # type: ignore[arg-type]

    effect = against(at[edit.key], at[INSTRUCT])
    merge = merges[0] if merges else None
    beyond_merge = None if merge is None else against(at[edit.key], at[merge])
    beyond_noise = (
        None
        if mean_noise is None or len(noise) < FEWEST_DRAWS
        else _beyond_draws(at[edit.key], np.stack([at[key] for key in noise]), drawing)
    )
    return ControlledEffect(
        task,
        k,
        edit.key,
        effect,
        merge,
        None if merge is None else against(at[merge], at[INSTRUCT]),
        beyond_merge,
        tuple(noise),
        tuple(against(at[key], at[INSTRUCT]) for key in noise),
        None if mean_noise is None else against(mean_noise, at[INSTRUCT]),
        beyond_noise,
        says(edit.model.label, k, effect, beyond_merge, beyond_noise),
    )


def _beyond_draws(edit: Table, draws: Table, drawing: Drawing) -> Interval:
    """Edit minus noise, (problems,) and (draws, problems), as wide as another draw may differ."""
    m, problems = draws.shape
    difference = edit - draws.mean(axis=0)
    over_problems = float(difference.var(ddof=1)) / problems if problems > 1 else 0.0
    between = float(draws.mean(axis=1).var(ddof=1))
    quantile = float(student_t.ppf((1 + drawing.confidence) / 2, m - 1))
    reach = quantile * float(np.sqrt(over_problems + between * (1 + 1 / m)))
    value = float(difference.mean())
    return Interval(value, value - reach, value + reach)


def shares_effect(effect: Interval, beyond: Interval | None) -> bool:
    """Whether a control does as much as the edit: it cannot be told from it, or does more."""
    return beyond is not None and (beyond.contains_zero or beyond.value * effect.value < 0)


def says(
    name: str,
    k: int,
    effect: Interval,
    beyond_merge: Interval | None,
    beyond_noise: Interval | None,
) -> str:
    """Whether an effect is the edit's own, in a sentence.

    >>> none = Interval(0.001, -0.002, 0.003)
    >>> says("Timber 0.2", 64, none, None, none)
    'Timber 0.2 has no effect at Pass@64 that can be told from none (+0.10 points).'
    """
    shown = f"{100 * effect.value:+.2f} points"
    if effect.contains_zero:
        return f"{name} has no effect at Pass@{k} that can be told from none ({shown})."
    small = max(abs(effect.low), abs(effect.high)) < NEGLIGIBLE
    size = "a negligible effect" if small else "an effect"
    controls = {"the merge that moves the weights as far": beyond_merge,
                "noise of the same size": beyond_noise}  # fmt: skip
    told = {words: found for words, found in controls.items() if found is not None}
    same = [words for words, found in told.items() if found.contains_zero]
    more = [
        words
        for words, found in told.items()
        if not found.contains_zero and found.value * effect.value < 0
    ]
    other = [
        f"{words} ({100 * found.value:+.2f})"
        for words, found in told.items()
        if not found.contains_zero and found.value * effect.value > 0
    ]
    sentence = f"{name} has {size} at Pass@{k} ({shown})"
    if more:
        return f"{sentence}, but {' and '.join(more)} has more of it."
    if same:
        return f"{sentence}, but {' and '.join(same)} cannot be told from it."
    return f"{sentence}, beyond {' and beyond '.join(other)}." if other else f"{sentence}."
