"""All scores of a study -> what it found: one value that page, tables and words show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from timberkit.engine.finish import TOOL_VERSION
from timberkit.findings import (
    SCHEMA_VERSION,
    At,
    Contrast,
    ControlledEffect,
    Cost,
    Curve,
    Findings,
    Plane,
    Selection,
    StudyModel,
    StudyPair,
    StudyTask,
)
from timberkit.metrics import Interval, mean_interval
from timberkit.study.published import published
from timberkit.study.reproduce.catalogue import BASE, INSTRUCT, Entry
from timberkit.study.reproduce.effects import (
    Drawing,
    contrast,
    controlled,
    plane,
    straightness,
)
from timberkit.study.reproduce.folder import ModelFacts
from timberkit.study.reproduce.paper_tables import Measured, averages, paper_tables
from timberkit.study.reproduce.protocol import EXACT_KS, Benchmark, selecting
from timberkit.study.reproduce.scores import Scores, high_k, shown_ks
from timberkit.study.reproduce.selection import choose_lambda
from timberkit.study.reproduce.words import findings_words, paper_says

AllScores = Mapping[tuple[str, str], Scores]
DEFAULT_TIMBER = "timber_lam0.2"


def conclude(
    pair: StudyPair,
    entries: Sequence[Entry],
    benchmarks: Sequence[Benchmark],
    scores: AllScores,
    *,
    settings: Mapping[str, Any],
    facts: Mapping[str, ModelFacts],
    kept: Sequence[str],
    costs: Sequence[Cost],
    notices: Sequence[str],
    drawing: Drawing,
) -> Findings:
    """Put all of it together.

    Args:
        pair, entries, benchmarks: what was studied.
        scores: by model and task; what is missing is left out everywhere.
        settings: of the recipe, as JSON values.
        facts: of models that were written; ``kept``: those whose weights are still there.
        costs, notices: for the reader.
        drawing: of all intervals.

    Returns:
        ``Findings``; equal arguments give equal ones. Cost: some tenths of a second for each edit
        and benchmark, hundredths for each control.
    """
    entries = [_with_facts(entry, facts, kept) for entry in entries]
    asked = [each for each in benchmarks if (INSTRUCT, each.key) in scores]
    by_task = {
        each.key: {model: s for (model, task), s in scores.items() if task == each.key}
        for each in asked
    }
    ks = {
        each.key: (1,)
        if each.use == "mean"
        else shown_ks(list(by_task[each.key].values()), EXACT_KS)
        for each in asked
    }
    selections = _selections(entries, asked, by_task, drawing)
    timber = selections[0].chosen if selections else DEFAULT_TIMBER
    contrasts = _contrasts(entries, asked, by_task, ks, drawing)
    told = {(c.model, c.task, point.k): point for c in contrasts for point in c.points}
    measured = Measured(
        entries, asked, scores, published(), pair.paper_model, timber, drawing, told
    )  # fmt: skip
    curves = tuple(_curves(entries, asked, by_task, ks, drawing))
    planes = _planes(entries, asked, by_task, ks, curves, drawing)
    controls = _controls(entries, planes, by_task, drawing)
    models = tuple(entry.model for entry in entries)
    tasks = tuple(_as_asked(each.task, by_task[each.key][INSTRUCT]) for each in asked)
    return Findings(
        schema_version=SCHEMA_VERSION,
        tool_version=TOOL_VERSION,
        pair=pair,
        settings=dict(settings),
        reference=INSTRUCT,
        words=findings_words(models, tasks, contrasts, planes, controls, selections, curves),
        paper_says=paper_says(published(), pair.paper_model),
        notices=(*notices, *_about_frontiers(planes, by_task, tasks, models)),
        models=models,
        tasks=tasks,
        curves=curves,
        contrasts=contrasts,
        planes=planes,
        controls=controls,
        selections=selections,
        paper=paper_tables(measured),
        average_over=tuple(each.key for each in measured.averaged),
        averages=averages(measured),
        costs=tuple(costs),
    )


def _with_facts(entry: Entry, facts: Mapping[str, ModelFacts], kept: Sequence[str]) -> Entry:
    known = facts.get(entry.key, ModelFacts(None, None))
    model: StudyModel = replace(
        entry.model,
        correction=known.correction,
        energy=known.energy,
        kept=entry.variant is None or entry.key in kept,
    )
    return replace(entry, model=model)


def _as_asked(task: StudyTask, instruct: Scores) -> StudyTask:
    """A task with the problems and rollouts that Instruct has, whatever was planned."""
    problems = len(instruct.problems)
    rollouts = instruct.largest_k
    planned = task.rollouts
    fewer = problems < task.problems or (planned or 0) > (rollouts or 0)
    return replace(task, problems=problems, rollouts=rollouts, whole=task.whole and not fewer)


def _selections(
    entries: Sequence[Entry],
    asked: Sequence[Benchmark],
    by_task: Mapping[str, Mapping[str, Scores]],
    drawing: Drawing,
) -> tuple[Selection, ...]:
    chosen_on = selecting(asked)
    if chosen_on is None:
        return ()
    found = choose_lambda(entries, by_task[chosen_on.key], chosen_on.key, seed=drawing.seed)
    return () if found is None else (found,)


def _contrasts(
    entries: Sequence[Entry],
    asked: Sequence[Benchmark],
    by_task: Mapping[str, Mapping[str, Scores]],
    ks: Mapping[str, Sequence[int]],
    drawing: Drawing,
) -> tuple[Contrast, ...]:
    """Every model but the controls against Instruct, on every benchmark that it has answered."""
    return tuple(
        contrast(
            (entry.key, INSTRUCT),
            (found, by_task[each.key][INSTRUCT]),
            each.key,
            ks[each.key],
            drawing,
        )
        for each in asked
        for entry in entries
        if entry.key != INSTRUCT and entry.model.role != "control"
        for found in (by_task[each.key].get(entry.key),)
        if found is not None
    )


def _planes(
    entries: Sequence[Entry],
    asked: Sequence[Benchmark],
    by_task: Mapping[str, Mapping[str, Scores]],
    ks: Mapping[str, Sequence[int]],
    curves: Sequence[Curve],
    drawing: Drawing,
) -> tuple[Plane, ...]:
    """One for each benchmark that was asked for Pass@k, AIME'24 first, as it is in the paper."""
    known: dict[str, dict[str, dict[int, Interval]]] = {each.key: {} for each in asked}
    for curve in curves:
        known[curve.task][curve.model] = {point.k: point.score for point in curve.points}
    return tuple(
        plane(
            entries,
            by_task[each.key],
            known[each.key],
            each.key,
            (1, high_k(ks[each.key])),
            drawing,
        )
        for each in sorted(asked, key=lambda each: each.choice.name != "aime24")
        if each.use == "pass" and len(ks[each.key]) > 1
    )


def _about_frontiers(
    planes: Sequence[Plane],
    by_task: Mapping[str, Mapping[str, Scores]],
    tasks: Sequence[StudyTask],
    models: Sequence[StudyModel],
) -> list[str]:
    """How coarse each frontier is: what lies above it by less may be the frontier itself."""
    labels = {task.key: task.label for task in tasks}
    named = {model.key: model.label for model in models}
    said = []
    for each in planes:
        merges = [key for key in each.frontier if key != BASE]
        scores = [by_task[each.task][key] for key in merges]
        exact = all(one.p is not None for one in scores)
        found = straightness(scores, (each.low_k, each.high_k)) if exact else None
        if found is not None:
            said.append(
                f"{labels[each.task]}: between neighbours the frontier of merges is straight; from"
                f" {named[merges[1]]} on the curve of all merges lies at most {100 * found:.2f}"
                f" points of Pass@{each.high_k} above it"
            )
    return said


def _controls(
    entries: Sequence[Entry],
    planes: Sequence[Plane],
    by_task: Mapping[str, Mapping[str, Scores]],
    drawing: Drawing,
) -> tuple[ControlledEffect, ...]:
    found = (
        controlled(entry, entries, by_task[each.task], each.task, k, drawing)
        for each in planes
        for k in (each.low_k, each.high_k)
        for entry in entries
        if entry.model.role == "variant"
    )
    return tuple(each for each in found if each is not None)


def _curves(
    entries: Sequence[Entry],
    asked: Sequence[Benchmark],
    by_task: Mapping[str, Mapping[str, Scores]],
    ks: Mapping[str, Sequence[int]],
    drawing: Drawing,
) -> list[Curve]:
    """Of controls only what stands on the plane: there are many, and all look alike."""
    curves = []
    for each in asked:
        all_ks = ks[each.key]
        for entry in entries:
            found = by_task[each.key].get(entry.key)
            if found is None:
                continue
            few = entry.model.role == "control" and len(all_ks) > 1
            chosen = (1, high_k(all_ks)) if few else all_ks
            table = found.table(chosen)
            points = tuple(
                At(k, mean_interval(table[:, i], **drawing.as_options()))  # type: ignore[arg-type]
                for i, k in enumerate(chosen)
            )
            curves.append(Curve(entry.key, each.key, points[0].score, points))
    return curves
