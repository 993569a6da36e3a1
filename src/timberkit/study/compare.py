"""Models compared on the same problems: what may be said, and how surely.

    comparison = compare(collect(sources), CompareOptions(reference="instruct"))
    comparison.pairs[0].pass_at_k[0].verdict        # "not distinguishable"

Each model on each task gets its scores (``task_scores``) with intervals over problems. Each model
is then set against one reference on the problems that both have: paired differences, for Pass@k
with p-values and intervals that hold over all k looked at; from which k one passes the other; and
what the run could have seen. Words come from the simultaneous intervals alone. Corrections are over
the k of one pair on one task, not over models or tasks.

Pure: from counts to values, nothing read or written; equal counts and seed, equal values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from timberkit.errors import UsageError
from timberkit.metrics import Interval, in_words, mean_interval
from timberkit.metrics.macro import macro_mean
from timberkit.study.comparison import Average, CompareOptions, Comparison, ModelScores, Pair
from timberkit.study.pairs import compare_pair, drawing_for, match
from timberkit.study.rollout_counts import Collected, TaskCounts
from timberkit.study.task_scores import MAY_LACK, Scores, TaskPlan, plan_task, task_scores


def compare(collected: Collected, options: CompareOptions | None = None) -> Comparison:
    """Score every model on every task, and set the models against one reference.

    Raises UsageError for a reference that is not there, and where a model shares no task, or on
    some task no problem, with it.

    Cost: some seconds for ten models on 198 problems with 256 rollouts; see ``metrics``.
    """
    options = options or CompareOptions()
    reference = choose_reference(collected.models, options.reference)
    plans = {
        task: plan_task(
            [collected.counts[key] for key in collected.counts if key[1] == task], options.ks
        )
        for task in collected.tasks
    }
    scores = {key: task_scores(counts, plans[key[1]]) for key, counts in collected.counts.items()}
    order = [
        (model, task)
        for task in collected.tasks
        for model in collected.models
        if (model, task) in collected.counts
    ]
    pairs = []
    for model, task in order:
        other = (reference, task)
        if model != reference and other in collected.counts:
            matched = match(collected.counts[model, task], collected.counts[other])
            both = scores[model, task], scores[other]
            pairs.append(compare_pair(matched, both, plans[task], options))
    _check_all_paired(collected, reference, pairs)
    shared = tuple(
        task
        for task in collected.tasks
        if all((model, task) in collected.counts for model in collected.models)
    )
    return Comparison(
        options,
        reference,
        collected.models,
        collected.tasks,
        plans,
        tuple(_model_scores(collected.counts[key], scores[key], options) for key in order),
        tuple(pairs),
        shared if len(shared) > 1 else (),
        _averages(collected, scores, shared, reference, options) if len(shared) > 1 else (),
        collected.sources,
        (*collected.notices, *_notices(collected, plans, pairs, shared)),
    )


def choose_reference(models: Sequence[str], wanted: str | None) -> str:
    """The model that the others are set against; UsageError for one that is not there.

    >>> choose_reference(["base", "Instruct"], None)
    'Instruct'
    """
    if wanted is not None:
        if wanted not in models:
            raise UsageError(
                f"--reference {wanted!r:.80}: is none of the models, expected of"
                f" {', '.join(models)[:500]}"
            )
        return wanted
    named = [model for model in models if model.casefold() == "instruct"]
    holding = [model for model in models if "instruct" in model.casefold()]
    return named[0] if named else holding[0] if len(holding) == 1 else models[0]


def _model_scores(
    counts: TaskCounts, scores: Mapping[str, Scores], options: CompareOptions
) -> ModelScores:
    drawing = drawing_for(len(counts.problems), options)
    intervals: dict[str, Interval | None] = {}
    for name, values in scores.items():
        known = values[~np.isnan(values)] if name in MAY_LACK else values
        lacks = bool(np.isnan(known).any())
        intervals[name] = None if lacks else mean_interval(known, **drawing)
    return ModelScores(
        counts.model,
        counts.task,
        len(counts.problems),
        int(counts.n.sum()),
        counts.fewest,
        counts.most,
        intervals,
    )


def _averages(
    collected: Collected,
    scores: Mapping[tuple[str, str], Mapping[str, Scores]],
    tasks: Sequence[str],
    reference: str,
    options: CompareOptions,
) -> tuple[Average, ...]:
    drawing = drawing_for(
        max(len(collected.counts[reference, task].problems) for task in tasks), options
    )
    found = []
    for model in collected.models:
        mean = macro_mean([scores[model, task]["mean"] for task in tasks], **drawing)
        difference = None
        if model != reference:
            parts = []
            for task in tasks:
                matched = match(collected.counts[model, task], collected.counts[reference, task])
                first = scores[model, task]["mean"][matched.rows[0]]
                parts.append(first - scores[reference, task]["mean"][matched.rows[1]])
            difference = macro_mean(parts, **drawing)
        verdict = None if difference is None else in_words(difference)
        found.append(Average(model, mean, difference, verdict))
    return tuple(found)


def _check_all_paired(collected: Collected, reference: str, pairs: Sequence[Pair]) -> None:
    paired = {pair.model for pair in pairs}
    for model in collected.models:
        if model not in paired and model != reference:
            own = ", ".join(task for name, task in collected.counts if name == model)
            others = ", ".join(task for name, task in collected.counts if name == reference)
            raise UsageError(
                f"{model[:80]!r} and the reference {reference[:80]!r} have no task in common"
                f" ({own[:200]}; {others[:200]}); name another --reference, or rename nothing but"
                " models: tasks are the same where task and setting are"
            )


def _notices(
    collected: Collected,
    plans: Mapping[str, TaskPlan],
    pairs: Sequence[Pair],
    shared: Sequence[str],
) -> list[str]:
    """What a reader of the numbers should know of the counts behind them."""
    said = []
    for (model, task), counts in collected.counts.items():
        where = f"{model} on {task}"
        if counts.fewest < counts.most:
            said.append(
                f"{where}: problems have {counts.fewest} to {counts.most} rollouts; Pass@k is given"
                f" up to k = {counts.fewest}"
            )
        failed = sum(map(sum, counts.failed))
        if failed:
            said.append(f"{where}: {failed} requests failed for good; they count as wrong")
        beyond = [k for k in plans[task].ks if k > counts.most]
        if beyond:
            said.append(f"{where}: {counts.most} rollouts; no Pass@k for k = {_listed(beyond)}")
    for task, plan in plans.items():
        if not plan.equal and plan.common > 1:
            said.append(
                f"{task}: numbers of rollouts differ; cover@ and entropy depend on them, votes are"
                f" over subsets of {plan.voters}"
            )
    for pair in pairs:
        if pair.left_out:
            said.append(
                f"{pair.model} and {pair.reference} on {pair.task}: {pair.problems} problems in"
                f" common; {pair.left_out} that only one of them has are left out"
            )
    missing = [task for task in collected.tasks if task not in shared]
    if len(shared) > 1 and missing:
        said.append(
            f"averages are over {', '.join(shared)}; not every model has {', '.join(missing)}"
        )
    return said


def _listed(ks: Sequence[int]) -> str:
    return ", ".join(map(str, ks))
