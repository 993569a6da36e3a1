"""A study from end to end: analyse, write the models, ask them, conclude, report.

    result = reproduce(build_study_recipe({...}), Path("study"))
    result.findings.words

Every step can be killed and the same call goes on: steps that are done stand in the ledger, and a
step under way continues what it had begun (``refine``, ``analyze`` and ``evaluate`` by themselves,
exact probabilities model by model). Equal recipes give equal findings but for what things cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from timberkit.config import AnalyzeRecipe
from timberkit.engine.fork_server import usable_cores
from timberkit.engine.progress import Progress
from timberkit.engine.sources import open_pair
from timberkit.errors import InterruptedRunError, UsageError
from timberkit.evaluation.progress import EvaluationProgress
from timberkit.evaluation.run import EvaluationOptions
from timberkit.findings import Cost, Findings
from timberkit.study.analysis import run_analysis
from timberkit.study.reproduce.asking import (
    Question,
    ask_exactly,
    ask_rollouts,
    questions,
    read_scores,
    unready_benchmarks,
)
from timberkit.study.reproduce.cases import cases_of
from timberkit.study.reproduce.catalogue import Entry
from timberkit.study.reproduce.conclude import conclude
from timberkit.study.reproduce.costs import summed
from timberkit.study.reproduce.effects import Drawing
from timberkit.study.reproduce.files import read_analysis_of, write_report_folder
from timberkit.study.reproduce.folder import StudyFolder, hold_study
from timberkit.study.reproduce.making import (
    is_there,
    missing_models,
    passes_bytes,
    refinement,
    remove_model,
    write_models,
    written_entries,
)
from timberkit.study.reproduce.meter import folder_bytes, measured
from timberkit.study.reproduce.outlook import check_disk
from timberkit.study.reproduce.protocol import Benchmark, is_sapling
from timberkit.study.reproduce.scope import (
    best_of,
    chosen_models,
    shown_settings,
    study_benchmarks,
    study_models,
    study_pair,
    unfinished,
)
from timberkit.study_recipe import Keep, StudyRecipe

Step = Literal["analysis", "models", "scores", "report"]
STEPS: tuple[Step, ...] = get_args(Step)


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """How a study is carried out; nothing here changes a number.

    Attributes:
        keep: weights that stay: ``all`` (one pass writes them), ``best`` or ``none`` (one by one,
            each deleted before the next is written).
        only: steps to do now; all where empty.
        models: globs; only models whose key fits are worked on, and Base and Instruct.
        workers: of refinements and analyses; as many as pay off where None.
        evaluation: how rollouts are asked.
    """

    keep: Keep = "all"
    only: tuple[Step, ...] = ()
    models: tuple[str, ...] = ()
    workers: int | None = None
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)

    def does(self, step: Step) -> bool:
        """Whether a step is done now."""
        return not self.only or step in self.only


@dataclass(frozen=True, slots=True)
class StudyProgress:
    """How far a study is: ``done`` of ``total`` units of the step at hand, in words what it is."""

    step: str
    doing: str
    done: float
    total: float


Told = Callable[[StudyProgress], None]


@dataclass(frozen=True, slots=True)
class StudyResult:
    """A study as far as it is. ``findings`` and ``page`` are None where no report was asked."""

    output: Path
    findings: Findings | None
    page: Path | None
    resumed: bool
    seconds: float


def reproduce(
    recipe: StudyRecipe,
    output: Path,
    *,
    options: StudyOptions | None = None,
    on_progress: Told | None = None,
) -> StudyResult:
    """Do a study, or what is left of it.

    Args:
        recipe: the pair, the edits, the benchmarks.
        output: folder of the study; one of the same recipe is continued.
        options: how it is carried out.
        on_progress: called often, in this process.

    Returns:
        A ``StudyResult``.

    Raises:
        UsageError: something in the way, or options that fit nothing.
        InputError: sources that cannot be used; too little disk, before anything is written.
        InterruptedRunError: stopped; the same call continues.

    Cost: that of ``analyze``, ``refine`` and ``evaluate``; see ``outlook`` beforehand.
    """
    started = time.perf_counter()
    chosen = options or StudyOptions()
    entries = chosen_models(study_models(recipe), chosen.models)
    benchmarks = study_benchmarks(recipe)
    with hold_study(output, recipe) as folder:
        resumed = not folder.journal.is_empty
        run = _Run(folder, recipe, chosen, entries, benchmarks, on_progress or (lambda _: None))
        try:
            findings, page = run.all()
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"{output}: stopped; the same command continues from here"
            ) from None
    return StudyResult(output, findings, page, resumed, time.perf_counter() - started)


class _Run:
    """One study under way."""

    def __init__(
        self,
        folder: StudyFolder,
        recipe: StudyRecipe,
        options: StudyOptions,
        entries: Sequence[Entry],
        benchmarks: Sequence[Benchmark],
        told: Told,
    ) -> None:
        self._folder = folder
        self._given = recipe
        self._recipe = recipe  # pinned once the models are open
        self._options = options
        self._told = told
        self._entries = entries
        self._benchmarks = benchmarks
        self._opened = False
        self._notices: list[str] = []

    def all(self) -> tuple[Findings | None, Path | None]:
        """Every step that is asked for and not done."""
        keep_all = self._options.keep == "all"
        writes_all = keep_all and self._options.does("models")
        if self._options.does("scores"):
            self._leave_out_unready()
        if writes_all:
            self._check_disk(missing_models(self._folder, self._entries))
        if self._options.does("analysis"):
            self._analyse()
        if writes_all:
            self._write(missing_models(self._folder, self._entries))
        if self._options.does("scores") and keep_all:
            self._ask(self._entries)
        elif self._options.does("scores"):
            self._one_by_one()
        return self._report() if self._options.does("report") else (None, None)

    def _open(self) -> None:
        """Find both models, pinned, before the first step that needs them; the same ones always.

        Raises CheckpointError where their files are others than when the study began.
        """
        if self._opened:
            return
        known = self._folder.revisions
        sources = {"base": self._recipe.base, "instruct": self._recipe.instruct}
        fixed = {
            name: source.model_copy(update={"revision": known[name]})
            for name, source in sources.items()
            if known.get(name) is not None
        }
        self._recipe = self._recipe.model_copy(update=fixed)
        pair = open_pair(refinement(self._recipe, written_entries(study_models(self._recipe))))
        pinned = {"base": pair.recipe.base, "instruct": pair.recipe.instruct}
        if self._folder.sources is None:
            revisions = {name: source.revision for name, source in pinned.items()}
            self._folder.note_sources(pair.fingerprint(), revisions)
        else:
            pair.check_unchanged(self._folder.sources)
        self._recipe = self._recipe.model_copy(update=pinned)
        self._opened = True

    def _leave_out_unready(self) -> None:
        """Go on without benchmarks that cannot be read or judged here, and say so."""
        asked = self._questions(self._entries)
        left = {each.benchmark.key for each in asked if not self._is_asked([each])}
        unready = unready_benchmarks(
            [each for each in self._benchmarks if each.key in left], self._recipe
        )
        if unready and len(unready) == len(self._benchmarks):
            raise next(iter(unready.values()))
        self._benchmarks = [each for each in self._benchmarks if each.key not in unready]
        self._notices += [
            f"{key}: left out, for it cannot be asked here: {reason}"
            for key, reason in unready.items()
        ]

    def _analyse(self) -> None:
        if "analysis" in self._folder.costs:
            return
        self._open()
        recipe = AnalyzeRecipe(
            base=self._recipe.base,
            instruct=self._recipe.instruct,
            selection=self._recipe.selection,
            measure=("rounding", "subspaces"),
            hidden_states=is_sapling(self._recipe),
        )
        target = self._folder.analysis
        with measured() as meter:
            run_analysis(
                recipe, target, workers=self._options.workers,
                overwrite=target.exists(), on_progress=self._passed_on("analysis"),
            )  # fmt: skip
        self._folder.finish(
            Cost("analysis", "every weight measured", meter.seconds, folder_bytes(target),
                 meter.peak_bytes)
        )  # fmt: skip

    def _check_disk(self, entries: Sequence[Entry]) -> None:
        if entries:
            self._open()
            held = passes_bytes(self._folder)
            check_disk(self._folder.path, self._recipe, entries, held_bytes=held)

    def _write(self, entries: Sequence[Entry]) -> None:
        """Write models in one pass over the weights."""
        if not entries:
            return
        self._open()
        what = f"{len(entries)} models in one pass" if len(entries) > 1 else entries[0].key
        with measured() as meter:
            write_models(
                self._folder, self._recipe, entries,
                workers=self._options.workers, on_progress=self._passed_on("models"),
            )  # fmt: skip
        size = sum(folder_bytes(self._folder.models / entry.key) for entry in entries)
        step = "models" if len(entries) > 1 else f"models {entries[0].key}"
        self._folder.finish(Cost(step, what, meter.seconds, size, meter.peak_bytes))

    def _one_by_one(self) -> None:
        """Write a model, ask it, delete it before the next; at the end the best is there again."""
        self._ask([entry for entry in self._entries if entry.variant is None])
        wanted = written_entries(self._entries)
        left = [entry for entry in wanted if not self._is_asked(self._questions([entry]))]
        self._check_disk(left[:1])
        for entry in left:
            for other in wanted:
                if other is not entry:
                    remove_model(self._folder, other.key)
            if not is_there(self._folder, entry.key):
                self._write([entry])
            self._ask([entry])
        best = self._best(wanted) if self._options.keep == "best" else None
        for entry in wanted:
            if entry is not best:
                remove_model(self._folder, entry.key)
        if best is not None and not is_there(self._folder, best.key):
            self._write([best])

    def _best(self, entries: Sequence[Entry]) -> Entry | None:
        found = read_scores(self._folder, self._questions(entries))
        return best_of(entries, self._benchmarks, found.scores)

    def _questions(self, entries: Sequence[Entry]) -> list[Question]:
        return questions(entries, self._benchmarks)

    def _is_asked(self, asked: Sequence[Question]) -> bool:
        """Whether nothing is lacking; requests that failed for good are to be sent again."""
        return all(
            each.key in self._folder.exact or self._folder.asked.get(each.key) == 0
            for each in asked
        )

    def _ask(self, entries: Sequence[Entry]) -> None:
        asked = self._questions(entries)
        if not self._is_asked(asked):
            self._open()
        exact = [each for each in asked if each.benchmark.task.how == "exact"]
        if any(each.key not in self._folder.exact for each in exact):
            self._ask_exactly(exact)
        sampled = [each for each in asked if each.benchmark.task.how == "sampled"]
        for entry in entries:
            for mode in dict.fromkeys(each.benchmark.folder for each in sampled):
                own = [
                    each
                    for each in sampled
                    if each.entry is entry and each.benchmark.folder == mode
                ]
                if own and not self._is_asked(own):
                    self._ask_rollouts(own)

    def _ask_exactly(self, asked: Sequence[Question]) -> None:
        def told(done: int, total: int) -> None:
            self._told(StudyProgress("scores", "exact probabilities", done, total))

        names = dict.fromkeys(each.entry.key for each in asked)
        step = "exact" if len(names) > 1 else f"exact {asked[0].entry.key}"
        with measured() as meter:
            ask_exactly(self._folder, self._recipe, asked, threads=usable_cores(), told=told)
        what = f"{len(asked)} exact evaluations of {len(names)} models"
        self._folder.finish(Cost(step, what, meter.seconds, 0, meter.peak_bytes))

    def _ask_rollouts(self, asked: Sequence[Question]) -> None:
        entry, mode = asked[0].entry, asked[0].benchmark.folder

        def passed_on(state: EvaluationProgress) -> None:
            doing = f"{entry.key}, {mode}: {state.doing}"
            self._told(StudyProgress("rollouts", doing, state.answered, max(state.lacking, 1)))

        with measured() as meter:
            results = ask_rollouts(
                self._folder, self._recipe, asked,
                options=self._options.evaluation, on_progress=passed_on,
            )  # fmt: skip
        tokens = sum(
            unit["output_tokens"] for result in results[-1:] for unit in result.summary["units"]
        )
        self._folder.finish(
            Cost(
                f"rollouts {entry.key} {mode}", f"{entry.key}, {mode}", meter.seconds,
                sum(folder_bytes(result.output) for result in results[-1:]), meter.peak_bytes,
                sum(result.new for result in results), tokens,
            )
        )  # fmt: skip

    def _passed_on(self, step: str) -> Callable[[Progress], None]:
        def told(state: Progress) -> None:
            total = max(state.cost_total, 1e-9)
            self._told(StudyProgress(step, state.phase, state.cost_done, total))

        return told

    def _report(self) -> tuple[Findings, Path | None]:
        self._told(StudyProgress("report", "comparing", 0, 1))
        every = study_models(self._given)
        asked = questions(every, study_benchmarks(self._given))
        started = time.perf_counter()
        found = read_scores(self._folder, asked)
        if not found.scores:
            raise UsageError(
                f"{self._folder.path}: no model has answered anything yet, so there is nothing to"
                " report; run the steps before it"
            )
        kept = [entry.key for entry in every if is_there(self._folder, entry.key)]
        findings = conclude(
            study_pair(self._given),
            every,
            study_benchmarks(self._given),
            found.scores,
            settings=shown_settings(self._given),
            facts=self._folder.facts,
            kept=kept,
            costs=summed(self._folder.costs.values()),
            notices=[*unfinished(asked, found.scores), *self._notices, *found.notices],
            drawing=Drawing(confidence=self._recipe.confidence, seed=self._recipe.seed),
        )
        self._told(StudyProgress("report", "writing the page", 0.5, 1))
        page = write_report_folder(
            findings,
            self._folder.path / "report",
            analysis=read_analysis_of(self._folder.analysis),
            make_cases=lambda page: cases_of(self._folder, asked, findings, page),
        )
        self._told(StudyProgress("report", f"{time.perf_counter() - started:.0f} s", 1, 1))
        return findings, page
