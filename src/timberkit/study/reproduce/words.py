"""What a study found, in plain sentences: nothing is said that an interval does not allow.

The first benchmark with many rollouts (or known chances) is spoken of; others have their tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from timberkit.findings import (
    Contrast,
    ControlledEffect,
    Curve,
    Plane,
    Selection,
    StudyModel,
    StudyTask,
)
from timberkit.metrics import Interval
from timberkit.study.reproduce.catalogue import BASE
from timberkit.study.reproduce.effects import NEGLIGIBLE, shares_effect


def findings_words(
    models: Sequence[StudyModel],
    tasks: Sequence[StudyTask],
    contrasts: Sequence[Contrast],
    planes: Sequence[Plane],
    controls: Sequence[ControlledEffect],
    selections: Sequence[Selection],
    curves: Sequence[Curve],
) -> tuple[str, ...]:
    """The findings, the most important first."""
    named = {model.key: model for model in models}
    labels = {task.key: task.label for task in tasks}
    said: list[str] = []
    first = planes[0].task if planes else tasks[0].key if tasks else ""
    own = {each.model: each for each in contrasts if each.task == first}
    said += _unsolved(curves, tasks)
    if own and not planes:
        said += _timber(named, own, labels[first])
    for found in planes[:1]:
        where = labels[found.task]
        if not _differs(own.values()):
            said.append(
                f"On {where} every model scored as Instruct did on every problem: this says nothing"
                " of how they differ; ask harder or easier problems, or more of them."
            )
            continue
        said += _crossing(own.get(BASE), where)
        said += _timber(named, own, where)
        said += _merges(named, found, own)
        said += _frontier(named, found)
        said += _controls([each for each in controls if each.task == found.task and each.k > 1])
    said += [_selected(each, named, labels) for each in selections]
    return tuple(said)


def _unsolved(curves: Sequence[Curve], tasks: Sequence[StudyTask]) -> Iterator[str]:
    """Benchmarks on which every model is always wrong, or always right."""
    for task in tasks:
        values = {curve.mean.value for curve in curves if curve.task == task.key}
        if values == {0.0}:
            yield (
                f"No model solved any of the {task.problems} problems of {task.label}: it cannot"
                " tell them apart. A wrong chat template, answer format or benchmark? Read the"
                " answers."
            )
        elif values == {1.0}:
            yield f"Every model solved all of {task.label}: it is too easy to tell them apart."


def _differs(contrasts: Iterable[Contrast]) -> bool:
    """Whether any model's score differs from Instruct's on any problem."""
    return any(
        point.difference.low != 0 or point.difference.high != 0
        for each in contrasts
        for point in each.points
    )


def _crossing(contrast: Contrast | None, where: str) -> Iterator[str]:
    if contrast is None or contrast.crossing is None:
        return
    crossing, first = contrast.crossing, contrast.points[0]
    if first.verdict == "better":
        yield f"On {where} Base is ahead of Instruct already at k = 1."
    elif first.verdict == "not distinguishable":
        yield f"On {where} Base and Instruct cannot be told apart at k = 1."
    elif crossing.k is None:
        yield f"On {where} Instruct stays ahead of Base up to k = {crossing.up_to}."
    elif crossing.high is None:
        yield (
            f"On {where} Base passes Instruct from k = {crossing.k}, but the interval also holds"
            f" that it does not up to k = {crossing.up_to}."
        )
    else:
        yield (
            f"Post-training bought Pass@1 with exploration: on {where} Base passes Instruct from"
            f" k = {crossing.k} (interval {crossing.low} to {crossing.high})."
        )


def _timber(
    named: Mapping[str, StudyModel], own: Mapping[str, Contrast], where: str
) -> Iterator[str]:
    timber = [each for key, each in own.items() if named[key].group == "timber"]
    points = [(each, point) for each in timber for point in each.points]
    if not points:
        return
    if not _differs(timber):
        yield (
            f"Timber scored as Instruct did on every problem of {where}: that rules no difference"
            " out, for intervals see only what some problem shows."
        )
        return
    largest = max(abs(point.difference.value) for _, point in points)
    told = [(each, point) for each, point in points if point.verdict != "not distinguishable"]
    widest = max(max(abs(p.simultaneous.low), abs(p.simultaneous.high)) for _, p in points)
    if widest < NEGLIGIBLE:
        yield (
            f"On this pair Timber is a null result: on {where} no setting moves any Pass@k by more"
            f" than {100 * largest:.2f} points, and intervals rule out {100 * NEGLIGIBLE:g}."
        )
    elif not told:
        yield (
            f"Timber cannot be told from Instruct on {where} at any k; its largest difference is"
            f" {100 * largest:.1f} points, and this run could have missed up to"
            f" {100 * widest:.1f}."
        )
    else:
        best = max(told, key=lambda pair: abs(pair[1].difference.value))
        yield (
            f"Timber moves Pass@k on {where}: {named[best[0].model].label} at k = {best[1].k} by"
            f" {points_shown(best[1].difference)}, {best[1].verdict}."
        )


def _merges(
    named: Mapping[str, StudyModel], plane: Plane, own: Mapping[str, Contrast]
) -> Iterator[str]:
    merges = [each for key, each in own.items() if named[key].group == "merge"]
    if not merges:
        return
    best = max(merges, key=lambda each: _at(each, plane.high_k).value)
    high, low = _at(best, plane.high_k), _at(best, plane.low_k)
    trades = high.low > 0 > low.high
    yield (
        f"{'Plain merging trades' if trades else 'Plain merging'}: of"
        f" {_counted(len(merges), 'merge', 'merges')} {named[best.model].label} is highest at"
        f" Pass@{plane.high_k}, which it moves by {points_shown(high)}, and Pass@{plane.low_k} by"
        f" {points_shown(low)}."
    )


def _at(contrast: Contrast, k: int) -> Interval:
    return next(point.difference for point in contrast.points if point.k == k)


def _frontier(named: Mapping[str, StudyModel], plane: Plane) -> Iterator[str]:
    """Edits and temperatures above the frontier of merges, at equal Pass@1."""
    told = [
        point
        for point in plane.points
        if point.gap is not None and named[point.model].role in ("variant", "temperature")
    ]
    if not told:
        return
    gaps = {point.model: point.gap.value for point in told if point.gap is not None}
    above = sorted(
        (p for p in told if p.verdict == "better" and gaps[p.model] > NEGLIGIBLE),
        key=lambda p: -gaps[p.model],
    )
    beneath = sum(p.verdict == "worse" and gaps[p.model] < -NEGLIGIBLE for p in told)
    margin = f"more than {100 * NEGLIGIBLE:g} points"
    under = f"; {_counted(beneath, 'lies', 'lie')} {margin} below it" if beneath else ""
    what = f"{margin} above the frontier of plain merges at equal Pass@{plane.low_k}"
    if not above:
        yield (
            f"Of {_counted(len(told), 'edit or temperature', 'edits and temperatures')} none lies"
            f" {what}{under}."
        )
        return
    best = above[0]
    assert best.gap is not None
    verb = "lies" if len(above) == 1 else "lie"
    yield (
        f"{len(above)} of {len(told)} edits and temperatures {verb} {what}{under};"
        f" the farthest is {named[best.model].label} at Pass@{plane.high_k}:"
        f" {points_shown(best.gap)}. By chance alone one in forty would."
    )


def _counted(count: int, one: str, several: str) -> str:
    """A number with its noun.

    >>> _counted(1, "edit", "edits"), _counted(2, "edit", "edits")
    ('1 edit', '2 edits')
    """
    return f"{count} {one if count == 1 else several}"


def _controls(controls: Sequence[ControlledEffect]) -> Iterator[str]:
    told = [
        each
        for each in controls
        if not each.effect.contains_zero and abs(each.effect.value) > NEGLIGIBLE
    ]
    if not controls:
        return
    shared = [
        each
        for each in told
        if any(shares_effect(each.effect, b) for b in (each.beyond_merge, each.beyond_noise))
    ]
    yield (
        f"Effects of more than {100 * NEGLIGIBLE:g} points at Pass@{controls[0].k}: {len(told)} of"
        f" {_counted(len(controls), 'edit', 'edits')} with controls"
        + (
            f"; {len(shared)} of these shared by a merge or by noise of the same size."
            if told
            else "."
        )
    )


def _selected(
    selection: Selection, named: Mapping[str, StudyModel], labels: Mapping[str, str]
) -> str:
    return (
        f"Choosing lambda on {labels[selection.task]}, as the paper did, takes"
        f" {named[selection.chosen].label} with {100 * selection.score:.2f} % there; what random"
        f" halves choose has {100 * selection.held_out:.2f} % on the other halves, a difference of"
        f" {100 * selection.flattery:+.2f} points. Instruct has {100 * selection.instruct:.2f} %."
    )


def points_shown(interval: Interval) -> str:
    """A difference in points with its interval.

    >>> points_shown(Interval(0.031, 0.012, 0.05))
    '+3.1 points [+1.2, +5.0]'
    """
    small = max(abs(interval.low), abs(interval.high)) < 0.01
    digits = 2 if small else 1
    value, low, high = (
        f"{100 * each:+.{digits}f}" for each in (interval.value, interval.low, interval.high)
    )
    return f"{value} points [{low}, {high}]"


def paper_says(published: Mapping[str, Any], paper_model: str | None) -> str:
    """What the paper itself reports, for the reader to hold beside."""
    table = published["mean_at_k_table_2"]
    if paper_model is not None and paper_model in table:
        row = table[paper_model]
        return (
            f"The paper reports for {paper_model}, averaged over its benchmarks: Instruct"
            f" {row['Instruct']:.2f}, Timber-L {row['Timber-L']:.2f}, Timber {row['Timber']:.2f}."
        )
    curves = published["pass_at_k_qwen3_0_6b_thinking"]["AIME24"]
    low, high = curves["k"][0], curves["k"][-1]
    said = "; ".join(
        f"{name} {curves[name][0]:.1f} at Pass@{low} and {curves[name][-1]:.1f} at Pass@{high}"
        for name in ("Instruct", "Timber")
    )
    return (
        f"The paper reports, for Qwen3-0.6B on AIME'24: {said}. This pair is none of the paper's:"
        " it neither confirms nor refutes it."
    )
