"""What a finished search found, asked elsewhere: does it carry over, is a simple rule as good?

    timberkit search sapling:base sapling:instruct -o RUN
    python benchmarks/second_pair.py --output SECOND
    python benchmarks/search.py RUN --second SECOND

The winner, its gains averaged by module, layer, band or matrix, and the best simple rules of the
search, the merges beside them, on: the confirm split;
the same at temperature 0.7; 500 held-out puzzles with four numbers; the second pair, of the same
Base and another seed of post-training, on puzzles that neither has been rewarded for. Points above
the merges of the *same* setting at equal Pass@1, with 95 % intervals over problems. Prints Markdown
and then one JSON line. The confirm split has been opened by the search; nothing is chosen here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from timberkit.sapling import Problem, load_problems, problem_pool
from timberkit.study.search.candidates import Candidate
from timberkit.study.search.evaluators import FULL, scores
from timberkit.study.search.exact import ExactEvaluator, sapling_splits
from timberkit.study.search.factors import Factors
from timberkit.study.search.findings import Named, Point, points_of
from timberkit.study.search.run import OpenSearch
from timberkit.study.search.settings import SearchSettings, build_settings

FOUR_NUMBERS = 500


def four_numbers() -> list[Problem]:
    """The 100 that ship, and 400 more from the held-out side."""
    shipped = load_problems("held-out-4")
    known = {problem.key for problem in shipped}
    rng = random.Random(6)
    others = [each for each in problem_pool(4, held_out=True) if each.key not in known]
    drawn = rng.sample(others, FOUR_NUMBERS - len(shipped))
    return [*shipped, *(Problem(tuple(rng.sample(p.numbers, 4)), p.target) for p in drawn)]


def found_models(run: Path) -> list[Named]:
    """The winner and the best of every simple rule, from the journal of a search."""
    points = json.loads((run / "results.json").read_text())["points"]
    wanted = {point["candidate"]: point for point in points if point["role"] in ("winner", "rule")}
    found = {}
    for line in (run / "journal.jsonl").read_text().splitlines():
        entry = json.loads(line)["entry"]
        key = entry.get("candidate")
        if entry["kind"] == "evaluation" and key in wanted and key not in found:
            gains = {name: tuple(levels) for name, levels in entry["gains"].items()}
            candidate = Candidate(wanted[key]["label"], tuple(entry["edges"]), gains)
            found[key] = Named(wanted[key]["name"], wanted[key]["role"], candidate)
    return list(found.values())


def simplified(settings: SearchSettings, winner: Candidate) -> list[Named]:
    """The winner with its gains averaged: by module, by layer, by band, and over everything."""
    found = []
    for by in ("module", "layer"):
        space = OpenSearch.of(settings.model_copy(update={"by": by})).space
        candidate = space.candidate(f"mean by {by} and band", space.vector(winner))
        found.append(Named("winner, simplified", "rule", candidate))
    gains = np.array(list(winner.gains.values()))
    bands = tuple(np.round(gains.mean(axis=0), 4).tolist())
    by_band = Candidate("mean by band", winner.edges, dict.fromkeys(winner.gains, bands))
    by_matrix = Candidate(
        "mean of each matrix",
        winner.edges,
        {
            name: (round(float(np.mean(levels)), 4),) * len(levels)
            for name, levels in winner.gains.items()
        },
    )
    found += [Named("winner, simplified", "rule", each) for each in (by_band, by_matrix)]
    return found


def slope_agreement(run: Path, settings: SearchSettings, size: int) -> str:
    """How alike the effects of all numbers are on disjoint problems, from the sweep of a search.

    The correlation, over the numbers, of what moving each does to the mean of one part of the
    problems and of another; the mean over 200 random pairs of parts.
    """
    found: dict[int, Any] = {}
    for line in (run / "journal.jsonl").read_text().splitlines():
        entry = json.loads(line)["entry"]
        if (entry["kind"], entry.get("split"), entry.get("share")) != ("evaluation", "search", 1.0):
            continue
        label = entry["label"].split()
        place = int(label[1]) if label[0] == "model" else size + 1
        if {gain for levels in entry["gains"].values() for gain in levels} == {settings.start}:
            place = 0  # judged as a merge already
        if place <= size:
            found[place] = scores(entry["outcome"], settings.ks)
    moved = np.array([found[place] - found[0] for place in range(1, size + 1)])
    rng = np.random.default_rng(0)
    rows = ["| problems in each part | " + " | ".join(f"Pass@{k}" for k in settings.ks) + " |",
            "|---|---|---|"]  # fmt: skip
    for part in (75, 150, 300, 765):
        agreements = []
        for _ in range(200):
            order = rng.permutation(moved.shape[1])
            first, second = order[:part], order[part : 2 * part]
            means = moved[:, first].mean(axis=1), moved[:, second].mean(axis=1)
            agreements.append([np.corrcoef(means[0][:, k], means[1][:, k])[0, 1] for k in range(2)])
        low, high = np.mean(agreements, axis=0)
        rows.append(f"| {part} | {low:.2f} | {high:.2f} |")
    return "\n".join(rows)


def gains_table(winner: Candidate) -> str:
    """The winner's gains, matrix by matrix."""
    edges = (0, *winner.edges)
    bands = [f"{start + 1} to {stop}" for start, stop in itertools.pairwise(edges)]
    rows = [
        f"| matrix | {' | '.join([*bands, f'after {edges[-1]}'])} |",
        "|---" * (len(edges) + 1) + "|",
    ]
    for name, levels in winner.gains.items():
        short = name.removeprefix("model.layers.").removesuffix(".weight")
        rows.append(f"| {short} | {' | '.join(f'{gain:+.2f}' for gain in levels)} |")
    return "\n".join(rows)


def ask(
    settings: SearchSettings,
    models: Sequence[Named],
    problems: Sequence[Problem],
    *,
    temperature: float = 1.0,
) -> list[Point]:
    """Points of Instruct, the merges and the models of one pair on some problems."""
    opened = OpenSearch.of(settings)
    line = [Named("instruct", "instruct", opened.space.constant("instruct", 1.0))]
    line += [
        Named(f"merge {mu:g}", "merge", opened.space.constant(f"merge {mu:g}", mu))
        for mu in settings.merges
        if mu != 1.0
    ]
    everything = [*line, *models]
    with TemporaryDirectory() as scratch:
        directions = settings.edges[-1] if settings.edges else 0
        factors = Factors(Path(scratch), opened.plan.refine_tasks, directions)
        factors.make()
        evaluator = ExactEvaluator(
            opened.pair.instruct.folder, factors, {"confirm": problems}, temperature=temperature
        )
        found = [
            scores(evaluator.outcome(model.candidate, "confirm", FULL), settings.ks)
            for model in everything
        ]
    return points_of(everything, found, "confirm")


def table(points: Sequence[Point], settings: SearchSettings) -> str:
    """A Markdown table of one setting."""
    low, high = settings.ks
    rows = [
        f"| | Pass@{low} | to Instruct | Pass@{high} | above the merges |",
        "|---|---|---|---|---|",
    ]
    for point in points:
        edges = ("merge 0.9", "merge 0.8", "merge 0.7", "merge 0.6")
        if point.role == "merge" and point.name not in edges:
            continue
        name = point.name if point.role in ("instruct", "merge") else f"{point.name}: {point.label}"
        rows.append(
            f"| {name} | {point.low.value:.1f} | {_shown(point.difference)} |"
            f" {point.high.value:.1f} | {_shown(point.gap)} |"
        )
    return "\n".join(rows)


def _shown(interval: Any) -> str:
    if interval is None:
        return ""
    return f"{interval.value:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


def main() -> None:
    """Parse flags, ask, print."""
    parser = argparse.ArgumentParser(description="Ask a search's winner elsewhere.")
    parser.add_argument("run", type=Path, help="folder of timberkit search")
    parser.add_argument("--second", type=Path, help="folder of benchmarks/second_pair.py")
    flags = parser.parse_args()
    settings = build_settings(json.loads((flags.run / "timberkit.json").read_text())["settings"])
    models = found_models(flags.run)
    splits = sapling_splits()
    winner = next(model.candidate for model in models if model.role == "winner")
    print(f"The winner's gains, by singular directions of each delta\n\n{gains_table(winner)}")
    models += simplified(settings, winner)
    if settings.uses_model:
        print("\nEffects of the numbers on disjoint problems: their correlation\n")
        print(slope_agreement(flags.run, settings, OpenSearch.of(settings).space.size))
    settings_of: dict[str, tuple[SearchSettings, list[Problem], float]] = {
        "confirm split, temperature 1": (settings, splits["confirm"], 1.0),
        "confirm split, temperature 0.7": (settings, splits["confirm"], 0.7),
        f"{FOUR_NUMBERS} puzzles with four numbers": (settings, four_numbers(), 1.0),
    }
    if flags.second is not None:
        second = settings.model_copy(update={"instruct": str(flags.second)})
        held_out = [*splits["constraint"], *splits["confirm"]]
        settings_of["second pair, 686 held-out puzzles"] = (second, held_out, 1.0)
    found: dict[str, Any] = {}
    for name, (of, problems, temperature) in settings_of.items():
        points = ask(of, models, problems, temperature=temperature)
        print(f"\n{name}\n\n{table(points, of)}", flush=True)
        found[name] = [asdict(point) for point in points]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
