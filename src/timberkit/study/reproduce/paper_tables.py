"""The paper's tables and figures with ours in the same layout, and the published numbers beside.

Published numbers are percent as printed, ours are shares (``findings.Cell``). Where the pair is
none of the paper's, or a number was not published, ours stands alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from timberkit.findings import Cell, Curve, DifferenceAt, PaperRow, PaperTable
from timberkit.metrics import Interval, in_words, mean_interval, paired_difference
from timberkit.metrics.macro import macro_mean
from timberkit.study.reproduce.catalogue import BASE, INSTRUCT, LAMBDAS, Entry, of_group
from timberkit.study.reproduce.effects import Drawing
from timberkit.study.reproduce.protocol import EXACT_KS, Benchmark
from timberkit.study.reproduce.scores import Scores, aligned, shown_ks

_ARXIV = "arXiv 2509.23595"
_SWEEP = ("timber-l", *(f"timber_lam{lam}" for lam in LAMBDAS))
_SWEEP_NAMES = ("0.0", *map(str, LAMBDAS))


@dataclass(frozen=True, slots=True)
class Measured:
    """What the tables are made of.

    ``scores``: by model and task. ``told``: what is said elsewhere of a model, task and k: one
    difference has one interval and one word, wherever it stands. ``paper_model``: name of the pair
    in the paper, None for another. ``timber``: key of the model that stands for Timber, its lambda
    being chosen.
    """

    entries: Sequence[Entry]
    benchmarks: Sequence[Benchmark]
    scores: Mapping[tuple[str, str], Scores]
    published: Mapping[str, Any]
    paper_model: str | None
    timber: str
    drawing: Drawing
    told: Mapping[tuple[str, str, int], DifferenceAt] = field(default_factory=dict)

    def cell(self, model: str, task: str, k: int, published: float | None = None) -> Cell:
        """Pass@k of a model on a task (Mean@k at k = 1), and its difference to Instruct."""
        found = self.scores.get((model, task))
        if found is None or (found.largest_k is not None and k > found.largest_k):
            return Cell(published)
        ours = mean_interval(found.table([k])[:, 0], **self.drawing.as_options())  # type: ignore[arg-type]
        instruct = self.scores.get((INSTRUCT, task))
        if model == INSTRUCT or instruct is None:
            return Cell(published, ours)
        if instruct.largest_k is not None and k > instruct.largest_k:
            return Cell(published, ours)
        if (model, task, k) in self.told:
            point = self.told[model, task, k]
            return Cell(published, ours, point.difference, point.verdict)
        first, second = aligned([found, instruct])
        difference = paired_difference(
            first.table([k])[:, 0], second.table([k])[:, 0], **self.drawing.as_options()  # type: ignore[arg-type]
        )  # fmt: skip
        return Cell(published, ours, difference)  # no word: it would be of this k alone

    @property
    def averaged(self) -> list[Benchmark]:
        """The benchmarks that Mean@k is averaged over, those that Instruct has answered."""
        return [
            each for each in self.benchmarks
            if each.averaged and (INSTRUCT, each.key) in self.scores
        ]  # fmt: skip

    def average(self, model: str, published: float | None = None) -> Cell:
        """Mean@k averaged over benchmarks, each counting the same."""
        tasks = [each.key for each in self.averaged]
        if not tasks or any((model, task) not in self.scores for task in tasks):
            return Cell(published)
        pairs = [aligned([self.scores[model, task], self.scores[INSTRUCT, task]]) for task in tasks]
        own = [pair[0].table([1])[:, 0] for pair in pairs]
        options = self.drawing.as_options()
        ours = macro_mean(own, **options)  # type: ignore[arg-type]
        if model == INSTRUCT:
            return Cell(published, ours)
        others = [pair[1].table([1])[:, 0] for pair in pairs]
        difference = macro_mean(
            [np.subtract(a, b) for a, b in zip(own, others, strict=True)], **options  # type: ignore[arg-type]
        )  # fmt: skip
        return Cell(published, ours, difference, in_words(difference))

    def of_paper(self, table: str) -> Mapping[str, Any]:
        """The published numbers of this pair in a table by model; nothing for another pair."""
        return self.published.get(table, {}).get(self.paper_model, {}) if self.paper_model else {}

    @property
    def over(self) -> str:
        """Over which benchmarks ours is averaged, in words."""
        labels = [each.task.label for each in self.averaged]
        if not labels:
            return "No benchmark that the average is over has been asked."
        said = f"Ours is the mean over {', '.join(labels)}, each counting the same"
        parts = [each.task.label for each in self.averaged if not each.task.whole]
        if parts:
            said += f" ({', '.join(parts)}: only a part of the problems)"
        return f"{said}. The paper averages over 5 or 6 benchmarks and does not say which."


def paper_tables(measured: Measured) -> tuple[PaperTable, ...]:
    """Tables 2, 3 and 5, figures 4, 5 and 6; those of which nothing was measured are left out."""
    made = [
        _table_2(measured),
        _table_3(measured),
        _figure_4(measured),
        _table_5(measured),
        *_figures_5(measured),
        _figure_6(measured),
    ]
    return tuple(table for table in made if table is not None and _has_ours(table))


def averages(measured: Measured) -> tuple[Curve, ...]:
    """Mean@k over the averaged benchmarks, for every model but controls that has all of them."""
    found = []
    for entry in measured.entries:
        if entry.model.role == "control":
            continue
        ours = measured.average(entry.key).ours
        if ours is not None:
            found.append(Curve(entry.key, "average", ours, ()))
    return tuple(found)


def _has_ours(table: PaperTable) -> bool:
    return any(cell.ours is not None for row in table.rows for cell in row.cells)


def _table_2(measured: Measured) -> PaperTable:
    published = measured.of_paper("mean_at_k_table_2")
    rows = []
    for name, key in (
        ("Instruct", INSTRUCT),
        ("Timber-L", "timber-l"),
        ("Timber", measured.timber),
    ):
        cells = [measured.cell(key, each.key, 1) for each in measured.averaged]
        rows.append(PaperRow(name, (*cells, measured.average(key, published.get(name)))))
    return PaperTable(
        "table-2",
        "Mean@k without thinking",
        f"{_ARXIV}, table 2",
        measured.over,
        (*(each.task.label for each in measured.averaged), "Average"),
        tuple(rows),
    )


def _table_3(measured: Measured) -> PaperTable | None:
    """Truncation: energy kept, and the average."""
    table = measured.published["truncation_table_3"]
    known = measured.paper_model is not None and table["model"] == measured.paper_model
    rows = [_truncation_row(measured, "Timber", measured.timber, table["Timber"] if known else {})]
    for group, name, measure in (
        ("truncate-rank", "Truncate-R", "rank_ratio"),
        ("truncate-energy", "Truncate-E", "energy"),
    ):
        for entry in of_group(measured.entries, group):  # type: ignore[arg-type]
            at = entry.model.parameter or 0.0
            scale = 1.0 if measure == "rank_ratio" else 100.0
            fitting = [each for each in table[name] if abs(each[measure] - scale * at) < 1e-9]
            label = f"{name} {scale * at:g}" + (" %" if scale > 1 else "")
            rows.append(
                _truncation_row(measured, label, entry.key, fitting[0] if known and fitting else {})
            )
    if len(rows) == 1:
        return None
    return PaperTable(
        "table-3",
        "Truncating the delta",
        f"{_ARXIV}, table 3",
        f"Energy: mean over matrices of the share of the delta's squares that is kept; Timber's row"
        f" has that of its head, as Timber-L keeps. {measured.over}",
        ("Energy kept", "Average"),
        tuple(rows),
    )


def _truncation_row(
    measured: Measured, label: str, key: str, published: Mapping[str, float]
) -> PaperRow:
    source = "timber-l" if key.startswith("timber") else key
    energy = next((e.model.energy for e in measured.entries if e.key == source), None)
    exact = None if energy is None else Interval(energy, energy, energy)
    return PaperRow(
        label,
        (Cell(published.get("energy"), exact), measured.average(key, published.get("average"))),
    )


def _figure_4(measured: Measured) -> PaperTable | None:
    """Lambda on AIME'24 and HumanEval, in thinking mode where there is one."""
    published = measured.of_paper("thinking_lambda_figure_4")
    rows = []
    for bench in measured.benchmarks:
        if bench.task.benchmark not in ("AIME24", "HumanEval"):
            continue
        values = published.get(bench.task.benchmark, {})
        cells = tuple(
            measured.cell(key, bench.key, 1, values.get(name))
            for key, name in zip(_SWEEP, _SWEEP_NAMES, strict=True)
        )
        instruct = measured.cell(INSTRUCT, bench.key, 1, values.get("instruct"))
        rows.append(PaperRow(bench.task.label, (instruct, *cells)))
    if not rows:
        return None
    return PaperTable(
        "figure-4", "Lambda with thinking", f"{_ARXIV}, figure 4",
        "Mean@k; the paper's is over 3 rollouts of each problem.",
        ("Instruct", *(f"lambda {name}" for name in _SWEEP_NAMES)), tuple(rows),
    )  # fmt: skip


def _table_5(measured: Measured) -> PaperTable:
    published = measured.of_paper("lambda_sweep_table_5")
    keys = (INSTRUCT, *_SWEEP)
    names = ("instruct", *_SWEEP_NAMES)
    cells = tuple(
        measured.average(key, published.get(name)) for key, name in zip(keys, names, strict=True)
    )
    columns = ("Instruct", *(f"lambda {name}" for name in _SWEEP_NAMES))
    return PaperTable(
        "table-5", "Lambda without thinking", f"{_ARXIV}, table 5", measured.over, columns,
        (PaperRow("Average", cells),),
    )  # fmt: skip


def _figures_5(measured: Measured) -> list[PaperTable]:
    """Pass@k of Instruct, Timber-L and Timber; Base beside them, which the paper has not."""
    known = measured.paper_model == "Qwen3-0.6B"
    made = []
    for bench in measured.benchmarks:
        asked = [s for (_, task), s in measured.scores.items() if task == bench.key]
        if bench.use != "pass" or not asked:
            continue
        curves = measured.published["pass_at_k_qwen3_0_6b_thinking"].get(bench.task.benchmark)
        values = curves if known and curves and bench.task.thinking else {}
        ks = values.get("k") or list(shown_ks(asked, EXACT_KS))
        rows = [
            PaperRow(
                name,
                tuple(
                    measured.cell(key, bench.key, k, None if not values else line[place])
                    for place, k in enumerate(ks)
                ),
            )
            for name, key in (
                ("Base", BASE), ("Instruct", INSTRUCT),
                ("Timber-L", "timber-l"), ("Timber", measured.timber),
            )
            for line in (values.get(name) or [None] * len(ks),)
        ]  # fmt: skip
        made.append(
            PaperTable(
                f"figure-5-{bench.key.replace(':', '-').replace('+', '-')}",
                f"Pass@k on {bench.task.label}",
                f"{_ARXIV}, figure 5, and the authors' public responses",
                _rollouts(bench),
                tuple(f"k = {k}" for k in ks),
                tuple(rows),
                tuple(map(float, ks)),
                "k, attempts at a problem",
            )
        )
    return made


def _rollouts(bench: Benchmark) -> str:
    task = bench.task
    if task.how == "exact":
        return f"Ours is exact: success probabilities of {task.problems} problems."
    return f"Ours: {task.problems} problems, {task.rollouts} rollouts each."


def _figure_6(measured: Measured) -> PaperTable | None:
    merges = sorted(
        of_group(measured.entries, "merge"), key=lambda entry: -(entry.model.parameter or 0.0)
    )
    if not merges:
        return None
    gains = [entry.model.parameter or 0.0 for entry in merges]
    claim = measured.published["merge_figure_6"]["claim"]
    return PaperTable(
        "figure-6",
        "Plain merging",
        f"{_ARXIV}, figure 6",
        f"The paper publishes no numbers here; it says: {claim} (Llama-3.2-1B). {measured.over}",
        ("mu 1 (Instruct)", *(f"mu {gain:g}" for gain in gains)),
        (
            PaperRow(
                "Average",
                (measured.average(INSTRUCT), *(measured.average(entry.key) for entry in merges)),
            ),
        ),
        (1.0, *gains),
        "mu, share of Instruct",
    )
