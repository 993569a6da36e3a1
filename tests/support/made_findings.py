"""Findings of a study that nobody ran, consistent in themselves, for tests of pages and tables.

    findings = made_findings()

Problems have a difficulty; Base solves many of them sometimes, Instruct fewer but surely; every
edit lies somewhere between. Scores, intervals and differences are computed from the same success
probabilities, so curves cross and merges trace a frontier as those of a study do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from made_analysis import HOSTILE
from numpy.typing import NDArray

from timberkit import findings as f
from timberkit.metrics import Crossing, Interval
from timberkit.metrics.intervals import in_words
from timberkit.study.published import published

KS = (1, 2, 4, 8, 16, 32, 64)
SMALL = "Qwen3-0.6B"
Scores = dict[str, NDArray[np.float64]]


def made_findings(*, seed: int = 0, paper_model: str | None = SMALL) -> f.Findings:
    """About forty models on three tasks; without ``paper_model`` a pair that the paper has not."""
    models = made_models()
    tasks = made_tasks()
    scores = {task.key: _scores(models, task, seed + i) for i, task in enumerate(tasks)}
    curves = tuple(_curve(m.key, t.key, scores[t.key][m.key]) for t in tasks for m in models)
    contrasts = tuple(
        _contrast(m.key, t.key, scores[t.key])
        for t in tasks for m in models if m.key != "instruct"
    )  # fmt: skip
    return f.Findings(
        schema_version=f.SCHEMA_VERSION,
        tool_version="0.1.0",
        pair=f.StudyPair("example/small", "example/small-base", "example/small", paper_model),
        settings={"seed": seed, "rollouts": 64, "temperatures": [0.6, 1.0], "device": "cpu"},
        reference="instruct",
        words=(
            "No edit keeps more of Base’s Pass@64 at equal Pass@1 than a plain merge does.",
            "Timber (λ = 0.2) cannot be told from Instruct at k = 1 on any of three tasks.",
            "Base passes Instruct from k = 16 on AIME24.",
        ),
        paper_says="The paper reports that Timber improves both Pass@1 and Pass@k over Instruct.",
        notices=("GPQA was asked at 64 of 256 rollouts.", "Two of three tasks are samples."),
        models=models,
        tasks=tasks,
        curves=curves,
        contrasts=contrasts,
        planes=tuple(_plane(t.key, models, scores[t.key]) for t in tasks),
        controls=tuple(
            _control(t.key, k, edit, models, scores[t.key])
            for t in tasks for edit in ("timber-0.2", "timber-l", "head-only") for k in (1, 64)
        ),
        selections=(_selection(tasks[0].key, scores[tasks[0].key], seed),),
        paper=made_paper(paper_model),
        average_over=tuple(t.key for t in tasks),
        averages=tuple(
            f.Curve(m.key, "average", _interval(
                np.concatenate([scores[t.key][m.key][:, 0] for t in tasks])), ())
            for m in models
        ),
        costs=made_costs(models, tasks),
    )  # fmt: skip


def made_models() -> tuple[f.StudyModel, ...]:
    """Of every group some."""

    def edit(key: str, label: str, group: f.Group, parameter: float | None, **more: Any) -> Any:
        return f.StudyModel(
            key, label, more.pop("role", "variant"), group, variant=key, parameter=parameter,
            correction=0.004 + 0.0001 * len(key), **more,
        )  # fmt: skip

    return (
        f.StudyModel("base", "Base", "base", "base"),
        f.StudyModel("instruct", "Instruct", "instruct", "instruct"),
        edit("timber-l", "Timber-L", "timber", 0.0, energy=0.982),
        *(edit(f"timber-{x}", f"Timber λ = {x}", "timber", x) for x in (0.2, 0.5, 0.8)),
        *(
            edit(f"rank-{x}", f"Truncate-R {x}", "truncate-rank", x, energy=x)
            for x in (0.95, 0.9, 0.85, 0.8)
        ),
        *(
            edit(f"energy-{x}", f"Truncate-E {x}", "truncate-energy", x, energy=x)
            for x in (0.995, 0.99, 0.98, 0.95)
        ),
        *(
            edit(f"merge-{x}", f"Merge μ = {x}", "merge", x)
            for x in (0.98, 0.95, 0.9, 0.8, 0.6, 0.4)
        ),
        *(
            edit(f"family-{x}", f"Timber-L, {x} only", "family", None)
            for x in ("attention", "ffn")
        ),
        *(edit(f"depth-{i}", f"Timber-L, quarter {i + 1}", "depth", i) for i in range(4)),
        *(edit(f"band-{i}", f"Timber-L, band {i + 1}", "band", i) for i in range(3)),
        edit("head-only", "Shrinkage", "edit", None),
        edit("linear", "Linear gains", "edit", None, kept=False),
        *(
            edit(f"matched-{x}", f"Merge matched to {x}", "matched-merge", None, role="control",
                 of=x)
            for x in ("timber-0.2", "timber-l", "head-only")
        ),
        *(
            edit(f"noise-{x}-{i}", f"Noise matched to {x}, seed {i}", "noise", i, role="control",
                 of=x)
            for x in ("timber-0.2", "timber-l") for i in range(3)
        ),
        *(
            f.StudyModel(f"instruct-t{x}", f"Instruct at T = {x}", "temperature", "temperature",
                         parameter=x, temperature=x)
            for x in (0.8, 1.0, 1.2)
        ),
    )  # fmt: skip


def made_tasks() -> tuple[f.StudyTask, ...]:
    return (
        f.StudyTask("aime24:released+thinking", "AIME’24", "AIME24", True, "sampled", 30, 64, True),
        f.StudyTask("gpqa", "GPQA-Diamond", "GPQA-Diamond", False, "sampled", 198, 64, False),
        f.StudyTask("sapling", "Sapling’s puzzle", None, False, "exact", 400, None, True),
    )


def _position(model: f.StudyModel) -> tuple[float, float]:
    """(way back from Instruct to Base, sharpness lost beside that)."""
    x = model.parameter or 0.0
    match model.group:
        case "base":
            return 1.0, 0.0
        case "instruct":
            return 0.0, 0.0
        case "timber":
            return 0.12 * (1 - x), 0.05 * (1 - x)
        case "truncate-rank" | "truncate-energy":
            return 0.6 * (1 - x), 1.8 * (1 - x)
        case "merge":
            return 1 - x, 0.0
        case "temperature":
            return 0.0, 0.8 * (x - 0.6)
        case "noise":
            return 0.0, 0.03
        case "matched-merge":
            return 0.08, 0.0
        case _:
            return 0.03 + 0.02 * x, 0.02
    raise AssertionError


def _scores(models: Sequence[f.StudyModel], task: f.StudyTask, seed: int) -> Scores:
    """Pass@k of every problem, (problems, ks), by model."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(0, 1.6, task.problems) - (1.2 if task.benchmark == "AIME24" else 0.2)
    own = rng.normal(0, 1.0, task.problems)
    base, instruct = 0.9 * ease - 1.6, 2.1 * ease + 0.5 * own
    found = {}
    for model in models:
        back, lost = _position(model)
        logit = (1 - back) * instruct + back * base + 1.2 * back * (1 - back)
        logit = logit * (1 - 0.4 * lost) - 0.6 * lost
        logit = logit + rng.normal(0, 0.0 if model.role in ("base", "instruct") else 0.12,
                                   task.problems)  # fmt: skip
        p = 1 / (1 + np.exp(-logit))
        found[model.key] = 1 - (1 - p[:, None]) ** np.array(KS)
    return found


def _interval(values: NDArray[np.float64], *, wide: float = 1.96) -> Interval:
    mean, half = float(values.mean()), float(wide * values.std() / np.sqrt(values.size))
    return Interval(mean, mean - half, mean + half)


def _curve(model: str, task: str, values: NDArray[np.float64]) -> f.Curve:
    points = tuple(f.At(k, _interval(values[:, i])) for i, k in enumerate(KS))
    return f.Curve(model, task, points[0].score, points)


def _contrast(model: str, task: str, scores: Scores) -> f.Contrast:
    difference = scores[model] - scores["instruct"]
    points = []
    for i, k in enumerate(KS):
        joint = _interval(difference[:, i], wide=2.6)
        points.append(f.DifferenceAt(k, _interval(difference[:, i]), joint, 0.04, in_words(joint)))
    ahead = [k for i, k in enumerate(KS) if difference[:, i].mean() > 0]
    if difference[:, 0].mean() > 0:
        behind, leader, k = "instruct", model, None
    else:
        behind, leader, k = model, "instruct", ahead[0] if ahead else None
    high = None if k is None or 2 * k > KS[-1] else 2 * k
    crossing = Crossing(k, None if k is None else max(1, k // 2), high,
                        KS[-1], 0.9 if k else 0.1, 1)  # fmt: skip
    return f.Contrast(model, "instruct", task, tuple(points), behind, leader, crossing)


def _plane(task: str, models: Sequence[f.StudyModel], scores: Scores) -> f.Plane:
    merges = sorted((m for m in models if m.group == "merge"), key=lambda m: m.parameter or 0)
    frontier = ("base", *(m.key for m in merges), "instruct")
    xs = np.array([scores[key][:, 0].mean() for key in frontier])
    ys = np.array([scores[key][:, -1].mean() for key in frontier])
    points = []
    for model in models:
        values = scores[model.key]
        low, high = _interval(values[:, 0]), _interval(values[:, -1])
        if model.key in frontier or low.value > xs.max():
            points.append(f.PlanePoint(model.key, low, high))
            continue
        order = np.argsort(xs)
        gap = high.value - float(np.interp(low.value, xs[order], ys[order]))
        half = (high.high - high.low) / 12
        span = Interval(gap, gap - half, gap + half)
        points.append(f.PlanePoint(model.key, low, high, span, in_words(span)))
    return f.Plane(task, KS[0], KS[-1], frontier, tuple(points))


def _control(
    task: str, k: int, edit: str, models: Sequence[f.StudyModel], scores: Scores
) -> f.ControlledEffect:
    place = KS.index(k)
    own = scores[edit][:, place]
    instruct = scores["instruct"][:, place]
    merge = scores[f"matched-{edit}"][:, place]
    seeds = tuple(m.key for m in models if m.group == "noise" and m.of == edit)
    noises = [scores[key][:, place] for key in seeds]
    mean = np.mean(noises, axis=0) if noises else None
    return f.ControlledEffect(
        task, k, edit, _interval(own - instruct), f"matched-{edit}",
        _interval(merge - instruct), _interval(own - merge), seeds,
        tuple(_interval(noise - instruct) for noise in noises),
        None if mean is None else _interval(mean - instruct),
        None if mean is None else _interval(own - mean),
        "The effect is not the method’s own: the matched merge has as much of it.",
    )  # fmt: skip


def _selection(task: str, scores: Scores, seed: int) -> f.Selection:
    candidates = ("timber-l", "timber-0.2", "timber-0.5", "timber-0.8")
    means = [float(scores[key][:, 0].mean()) for key in candidates]
    best = int(np.argmax(means))
    return f.Selection(
        task, candidates, candidates[best], means[best], means[best] - 0.011,
        float(scores["instruct"][:, 0].mean()), 0.011, 1000, (412, 301, 187, 100),
    )  # fmt: skip


def _cells(values: Mapping[str, Any] | None, keys: Sequence[str], seed: int) -> tuple[f.Cell, ...]:
    rng = np.random.default_rng(seed)
    found = []
    for key in keys:
        told = None if values is None else values.get(key)
        middle = rng.uniform(0.4, 0.5) if told is None else told / 100 + rng.normal(0, 0.01)
        span = Interval(middle, middle - 0.02, middle + 0.02)
        change = Interval(middle - 0.44, middle - 0.455, middle - 0.425)
        found.append(f.Cell(told, span, change, in_words(change)))
    return tuple(found)


def made_paper(model: str | None) -> tuple[f.PaperTable, ...]:
    """Every table and figure, with what was published where the paper has this model."""
    told = published()
    methods = ("Instruct", "Timber-L", "Timber")
    lambdas = ("instruct", "0.0", "0.2", "0.5", "0.8")
    mean = told["mean_at_k_table_2"].get(model, {})
    sweep = told["lambda_sweep_table_5"].get(model)
    thinking = told["thinking_lambda_figure_4"].get(model, {})
    curves = told["pass_at_k_qwen3_0_6b_thinking"] if model == SMALL else {}
    over = "Ours: the mean over three tasks; the paper averages over seven benchmarks."
    tables = [
        f.PaperTable("table-2", "Mean over benchmarks", "Table 2 of arXiv 2509.23595", over,
            ("Average",),
            tuple(f.PaperRow(m, _cells({"Average": mean.get(m)}, ("Average",), i))
                  for i, m in enumerate(methods))),
        f.PaperTable("table-3", "Truncation beside Timber", "Table 3 of arXiv 2509.23595", over,
            ("Energy kept", "Average"),
            tuple(f.PaperRow(m, _cells(None, ("Energy kept", "Average"), 9 + i))
                  for i, m in enumerate(("Timber", "Truncate-R 0.95", "Truncate-E 99 %")))),
        f.PaperTable("table-5", "The strength of the tail", "Table 5 of arXiv 2509.23595", over,
            lambdas, (f.PaperRow("Mean", _cells(sweep, lambdas, 3)),)),
        f.PaperTable("figure-4", "Lambda, thinking aloud", "Figure 4 of arXiv 2509.23595",
            "Ours as in the paper.", ("0", "0.2", "0.5", "0.8"),
            tuple(f.PaperRow(task, _cells(thinking.get(task), ("0.0", "0.2", "0.5", "0.8"), 20 + i))
                  for i, task in enumerate(("AIME24", "HumanEval"))),
            (0.0, 0.2, 0.5, 0.8), "λ"),
    ]  # fmt: skip
    for task in ("AIME24", "GPQA-Diamond"):
        ks = curves.get(task, {}).get("k", [1, 4, 16, 64])
        rows = tuple(
            f.PaperRow(m, _cells(dict(zip(map(str, ks), curves[task][m], strict=True))
                                 if curves else None, list(map(str, ks)), 30 + i))
            for i, m in enumerate(methods)
        )  # fmt: skip
        tables.append(f.PaperTable(
            "figure-5", f"Pass@k on {task}", "Figure 5 of arXiv 2509.23595", "Ours: 64 rollouts.",
            tuple(f"k = {k}" for k in ks), rows, tuple(float(k) for k in ks), "k",
        ))  # fmt: skip
    mus = ("1", "0.95", "0.9", "0.8")
    tables.append(f.PaperTable(
        "figure-6", "Plain merging", "Figure 6 of arXiv 2509.23595", "Ours: mean of three tasks.",
        mus, (f.PaperRow("Merge", _cells(None, mus, 50)),), (1.0, 0.95, 0.9, 0.8), "μ",
    ))  # fmt: skip
    return tuple(tables)


def made_costs(models: Sequence[f.StudyModel], tasks: Sequence[f.StudyTask]) -> tuple[f.Cost, ...]:
    """One analysis, one refinement, an evaluation for each task."""
    return (
        f.Cost("analyze", "spectra of the pair", 61.2, 2_400_000, 3_100_000_000),
        f.Cost("refine", f"{len(models) - 5} variants in one pass", 188.0, 41_000_000_000,
               4_200_000_000),
        *(
            f.Cost("evaluate", task.label, 900.0 + 321.5 * i, 55_000_000, 9_800_000_000 - i,
                   task.problems * (task.rollouts or 0) * len(models) or None,
                   81_000_000 if task.rollouts else None)
            for i, task in enumerate(tasks)
        ),
        f.Cost("compare", "intervals and tests", 14.9, 800_000),
    )  # fmt: skip


def hostile_findings() -> f.Findings:
    """Findings whose every text a stranger wrote who means harm; keys still match one another."""
    made = made_findings()
    names: dict[str, str] = {}
    for i, one in enumerate((*made.models, *made.tasks)):
        names[one.key] = f"{HOSTILE[i % len(HOSTILE)]}{i}"
    literal = {
        "role", "group", "how", "verdict", "schema_version", "tool_version", "paper_model",
    }  # fmt: skip

    def changed(value: Any, place: str = "") -> Any:
        if isinstance(value, dict):
            return {key: changed(inner, key) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [changed(inner, place) for inner in value]
        if not isinstance(value, str) or place in literal:
            return value
        return names.get(value) or HOSTILE[len(value) % len(HOSTILE)]

    values = changed(f.findings_to_json(made))
    values["settings"] = {name: name for name in HOSTILE}
    for place, table in enumerate(values["paper"]):
        table["key"] = made.paper[place].key
    found = f.findings_from_json(values)
    return replace(found, pair=replace(found.pair, paper_model=HOSTILE[0]))
