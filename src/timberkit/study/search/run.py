"""A search from end to end: grid, CMA-ES, dial, and the confirm split at the very end.

    result = search(build_settings({"base": "sapling:base", "instruct": "sapling:instruct"}), run)
    result.findings.point("winner", "confirm").gap

1. Merges are judged on the search and the constraint split: the frontier to beat.
2. A grid over simple rules (``candidates.rules``), by successive halving.
3. A sequential search from a merge, by a model of every problem (``model``) or by CMA-ES
   (``sequential``); its centres and the best of the grid are the finalists.
4. Finalists are led back towards Instruct, step by step, until the constraint split says that they
   surely keep the other score: the winner raises the first one most there. So with simple rules.
5. The confirm split is opened, once, for the winner and what it is compared with.

The same settings find the same; a run that was killed is continued by calling it again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from timberkit.checkpoint.run_folder import write_json, write_text
from timberkit.config import RefineRecipe, build_recipe
from timberkit.engine.plan import RefinementPlan, plan_refinement
from timberkit.engine.sources import OpenPair, open_pair
from timberkit.errors import InterruptedRunError, MissingExtraError, UsageError
from timberkit.evaluation.models import SAPLING
from timberkit.evaluation.run import EvaluationOptions
from timberkit.report.tradeoff_figure import Mark, tradeoff_figures
from timberkit.sapling.vocabulary import VOCABULARY
from timberkit.study.search import folder
from timberkit.study.search.book import Book, ProgressCallback
from timberkit.study.search.candidates import Candidate, Space, Vector, rules
from timberkit.study.search.evaluators import FULL, Effort, Evaluator, Split
from timberkit.study.search.exact import ExactEvaluator, sapling_splits
from timberkit.study.search.factors import Factors
from timberkit.study.search.findings import Findings, Named, Point, as_csv, points_of
from timberkit.study.search.halving import halve, halving_cost
from timberkit.study.search.model import Goal, Trust, model_cost, search_by_model
from timberkit.study.search.objective import Objective
from timberkit.study.search.sampled import SampledEvaluator
from timberkit.study.search.sequential import Sequence as CmaSequence
from timberkit.study.search.sequential import centres, population_of, search_by_cma
from timberkit.study.search.settings import SearchSettings
from timberkit.study.search.words import sentences

KEEP = 0.2
"""Share of the grid that is looked at with full effort."""
DIAL = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Shares of the way from Instruct to a finalist that are tried on the constraint split."""
FINALISTS = 3


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A finished search."""

    output: Path
    findings: Findings
    resumed: bool
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenSearch:
    """The pair of a search, opened and planned, and what can be varied in it."""

    settings: SearchSettings
    pair: OpenPair
    plan: RefinementPlan
    space: Space

    @classmethod
    def of(cls, settings: SearchSettings) -> OpenSearch:
        """Open both models and group their tensors; raises as ``timberkit plan`` does."""
        fields = {
            "base": _location(settings.base),
            "instruct": _location(settings.instruct),
            "selection": settings.selection.model_dump(),
            "variants": ["merge:mu=1"],
        }
        pair = open_pair(build_recipe(fields))
        plan = plan_refinement(pair.base, pair.instruct, pair.recipe)
        order = list(pair.instruct.tensors)
        tensors = sorted(plan.refined, key=lambda tensor: order.index(tensor.name))
        space = Space.of(tensors, edges=settings.edges, by=settings.by)
        if settings.evaluation is None and not _is_sapling(pair):
            raise UsageError(
                f"{settings.instruct}: is no model on the Sapling vocabulary, whose chances are"
                " known exactly; name a benchmark to ask it: --task aime24"
            )
        return cls(settings, pair, plan, space)

    @property
    def cma(self) -> CmaSequence:
        """How CMA-ES is run."""
        settings = self.settings
        return CmaSequence(
            evaluations=settings.evaluations,
            population=settings.population or population_of(self.space.size),
            sigma=settings.sigma,
            low=settings.low,
            high=settings.high,
            seed=settings.seed,
        )

    def grid(self) -> dict[str, list[Candidate]]:
        """Simple rules and their candidates."""
        return rules(self.space, self.settings.levels, self.settings.merges)

    def expected(self) -> int:
        """About how many evaluations the whole search makes."""
        rungs = self.rungs
        grid = sum(halving_cost(len(found), rungs, KEEP) for found in self.grid().values())
        used = sum(1 for found in self.grid().values() if found)
        dials = (FINALISTS + used) * len(DIAL) // 2
        references = 3 * len(self.settings.merges) + round(1 / self.settings.share)
        return grid + self.sequential_cost + dials + references + 3 + 2 * used

    @property
    def sequential_cost(self) -> int:
        """Evaluations that the sequential search makes, at most."""
        settings = self.settings
        if settings.uses_model:
            return model_cost(self.space.size, settings.rounds)
        return settings.evaluations // self.cma.population * self.cma.population

    @property
    def rungs(self) -> tuple[Effort, Effort]:
        """Efforts of the grid."""
        return Effort(self.settings.share), FULL

    def recipe(self, candidate: Candidate) -> dict[str, Any]:
        """What ``timberkit refine --config`` makes the candidate from, as YAML fields."""
        pinned: RefineRecipe = self.pair.recipe
        return {
            "base": pinned.base.model_dump(mode="json", exclude_none=True),
            "instruct": pinned.instruct.model_dump(mode="json", exclude_none=True),
            "selection": pinned.selection.model_dump(
                mode="json", exclude_none=True, exclude_defaults=True
            ),
            "variants": [candidate.variant()],
        }


def _location(text: str) -> str:
    return str(SAPLING[text]()) if text in SAPLING else text


def _is_sapling(pair: OpenPair) -> bool:
    config = pair.instruct.config
    return (config.get("model_type"), config.get("vocab_size")) == ("llama", len(VOCABULARY))


def search(
    settings: SearchSettings,
    output: str | Path,
    *,
    options: EvaluationOptions | None = None,
    open_again: bool = False,
    on_progress: ProgressCallback | None = None,
) -> SearchResult:
    """Find the edit that raises one Pass@k most while another is held; see the module.

    Args:
        settings: what decides what is found. output: a folder that does not exist, is empty, or
            is a search of the same settings, which is continued.
        options: how rollouts are carried out; changes no answer.
        open_again: whether the confirm split may be opened for another final edit than before.

    Raises:
        As ``refine`` and ``evaluate`` before anything is asked; CheckpointError where the models
        have changed since an earlier run; MissingExtraError without optuna
        and cmaes; StageConflictError for other settings or a run that is alive; UsageError for a
        second opening; InterruptedRunError where it was stopped: what was judged is kept.

    Cost: ``OpenSearch.expected`` evaluations; on the shipped pair 0.25 s of processor time for
    300 problems each.
    """
    started = time.perf_counter()
    opened = OpenSearch.of(settings)
    path = Path(output)
    sources = opened.pair.fingerprint()
    with folder.hold_search(path, settings.model_dump(mode="json"), sources) as before:
        if before is not None:
            opened.pair.check_unchanged(before)
        factors = Factors(
            path / "factors", opened.plan.refine_tasks, settings.edges[-1] if settings.edges else 0
        )
        factors.make()
        evaluator = _evaluator(opened, factors, path, options)
        book = Book(
            path / folder.JOURNAL_NAME,
            evaluator,
            settings.ks,
            total=opened.expected(),
            on_progress=on_progress,
        )
        try:
            found = _Search(opened, evaluator, book).run(open_again=open_again)
            findings = _findings(opened, evaluator, book, found, started)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"{path}: stopped; {book.known} evaluations are kept; the same command continues"
            ) from None
        finally:
            book.close()
            evaluator.close()
        notices = _write(path, opened, findings, found[0].candidate)
    return SearchResult(path, findings, before is not None, tuple(notices))


def _evaluator(
    opened: OpenSearch, factors: Factors, path: Path, options: EvaluationOptions | None
) -> Evaluator:
    settings = opened.settings
    if settings.evaluation is None:
        return ExactEvaluator(
            opened.pair.instruct.folder,
            factors,
            sapling_splits(limit=settings.limit),
            temperature=settings.temperature,
        )
    return SampledEvaluator(
        opened.pair, opened.plan, factors, settings.evaluation, path,
        shares=settings.shares, seed=settings.seed, options=options,
    )  # fmt: skip


class _Search:
    """The five steps; ``run`` gives the winner, the best of each rule, Instruct and the merges."""

    def __init__(self, opened: OpenSearch, evaluator: Evaluator, book: Book) -> None:
        self._opened, self._book = opened, book
        settings = opened.settings
        self._objective = Objective(
            settings.margin, settings.penalty, settings.tolerance, settings.confidence
        )
        self._instruct = opened.space.constant("instruct", 1.0)
        self._merges = [
            opened.space.constant(f"merge {mu:g}", mu) for mu in settings.merges if mu != 1.0
        ]

    def run(self, *, open_again: bool) -> list[Named]:
        """Search, and open the confirm split for what was found."""
        book = self._book
        book.begin("judging the merges")
        references = [self._instruct, *self._merges]
        for split in ("search", "constraint"):
            for candidate in references:
                book.scores(candidate, split)
        grid = self._grid()
        best = max((found[0] for found in grid.values()), key=lambda pair: pair[1])[0]
        finalists = self._finalists(best)
        book.begin("leading the finalists back to Instruct")
        winner = self._dialled(finalists)
        simple = {
            rule: self._dialled([found[0][0]]) for rule, found in grid.items() if rule != "merge"
        }
        found = [
            Named("winner", "winner", winner or self._instruct),
            *(
                Named(f"simple rule: {rule}", "rule", candidate)
                for rule, candidate in simple.items()
                if candidate is not None
            ),
        ]
        named = [
            Named("instruct", "instruct", self._instruct),
            *(Named(merge.label, "merge", merge) for merge in self._merges),
        ]
        book.begin("confirming")
        self._book.open_confirm([each.candidate for each in (*found, *named)], again=open_again)
        return [*found, *named]

    def _value(self, candidate: Candidate, effort: Effort) -> float:
        return self._objective.value(
            self._book.scores(candidate, "search", effort),
            self._book.scores(self._instruct, "search", effort),
        )

    def _grid(self) -> dict[str, list[tuple[Candidate, float]]]:
        """Candidates of each rule that reached full effort, best first."""
        self._book.begin("grid of simple rules")
        return {
            rule: halve(candidates, self._value, rungs=self._opened.rungs, keep=KEEP)
            for rule, candidates in self._opened.grid().items()
            if candidates
        }

    def _finalists(self, best: Candidate) -> list[Candidate]:
        """The best of the grid and the centres of the sequential search, by full effort."""
        space = self._opened.space
        start = np.full(space.size, self._opened.settings.start)
        found = self._by_model(start) if self._opened.settings.uses_model else self._by_cma(start)
        self._book.begin("finalists")
        made = [space.candidate(label, vector) for label, vector in found]
        ranked = halve([best, *made], self._value, rungs=(FULL,), keep=1.0)
        return [candidate for candidate, _ in ranked[:FINALISTS]]

    def _by_cma(self, start: Vector) -> list[tuple[str, Vector]]:
        self._book.begin("CMA-ES")
        share = self._opened.settings.share

        def judge(candidate: Candidate, generation: int) -> float:
            return self._value(candidate, Effort(share, generation))

        return centres(search_by_cma(self._opened.space, start, self._opened.cma, judge))

    def _by_model(self, start: Vector) -> list[tuple[str, Vector]]:
        self._book.begin("model of every problem")
        settings = self._opened.settings
        held = 100 * float(self._book.scores(self._instruct, "search")[:, 0].mean())
        return search_by_model(
            self._opened.space,
            start,
            Trust(settings.rounds, settings.low, settings.high),
            lambda candidate: self._book.chances(candidate, "search"),
            Goal(self._objective, settings.ks, held),
        )

    def _dialled(self, finalists: Sequence[Candidate]) -> Candidate | None:
        """Each finalist only so far back as it must; the best of them there, if any keeps."""
        book = self._book
        instruct = book.scores(self._instruct, "constraint")
        kept: list[tuple[float, Candidate]] = []
        for finalist in finalists:
            for share in DIAL:
                label = finalist.label if share == 1.0 else f"{share:g} of {finalist.label}"
                candidate = finalist.towards_instruct(share, label)
                found = book.scores(candidate, "constraint")
                if self._objective.keeps(found, instruct):
                    kept.append((float(found[:, 1].mean()), candidate))
                    break
        return max(kept, key=lambda pair: pair[0])[1] if kept else None


def _findings(
    opened: OpenSearch, evaluator: Evaluator, book: Book, found: Sequence[Named], started: float
) -> Findings:
    """Points of all models on all splits, and the sentences."""
    order: dict[str, int] = {"instruct": 0, "merge": 1, "winner": 2, "rule": 3}
    models = sorted(found, key=lambda model: order[model.role])
    points: list[Point] = []
    splits: tuple[Split, ...] = ("search", "constraint", "confirm")
    for split in splits:
        scores = [book.scores(model.candidate, split) for model in models]
        points.extend(points_of(models, scores, split))
    settings = opened.settings
    said = sentences(
        points, objective=settings.objective, keep=settings.keep, tolerance=settings.tolerance,
        openings=len(book.openings),
    )  # fmt: skip
    sizes: Mapping[str, int] = {str(split): size for split, size in evaluator.sizes().items()}
    return Findings(
        objective=settings.objective, keep=settings.keep, tolerance=settings.tolerance,
        splits=sizes, points=tuple(points), winner=found[0].candidate.variant(),
        openings=tuple(book.openings), said=tuple(said), evaluations=book.asked,
        seconds=time.perf_counter() - started,
    )  # fmt: skip


def _write(path: Path, opened: OpenSearch, findings: Findings, winner: Candidate) -> list[str]:
    """The files of the results; notices of what could not be made."""
    write_text(path / folder.WINNER_NAME, yaml.safe_dump(opened.recipe(winner), sort_keys=False))
    write_text(path / folder.TABLE_NAME, as_csv(findings.points))
    write_json(path / folder.RESULTS_NAME, findings.as_json())
    try:
        tradeoff_figures(
            {
                split: [
                    Mark(point.name, point.role, point.low.value, point.high.value, point.gap)
                    for point in findings.of_split(split)
                ]
                for split in ("search", "confirm")
            },
            path / folder.PICTURE_STEM,
            low=f"Pass@{findings.keep}",
            high=f"Pass@{findings.objective}",
        )
    except MissingExtraError as error:
        return [f"no picture: {error}"]
    return []
