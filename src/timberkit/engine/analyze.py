"""Analyse from end to end: plan, stage, measure every weight, write, publish.

    result = analyze_recipe(recipe, Path("OUT"), prepare_hidden=…)
    result.analysis.summary["model"]

As in ``run``, everything lies in a stage beside the output until one rename at the end; the journal
keeps each measurement, and the same call continues after a kill. What the engine must not know
comes as two functions: how hidden states are measured (transformers), and what is drawn of an
analysis (figures, page).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from timberkit.checkpoint.manifest import hash_file, list_output_files, write_manifest
from timberkit.checkpoint.source import public_name
from timberkit.checkpoint.stage import Stage, refuse_overlap
from timberkit.config import AnalyzeRecipe
from timberkit.engine import analysis_job
from timberkit.engine.analysis_files import (
    ANALYSIS_KIND,
    hidden_states_from_json,
    read_analysis,
    weight_from_json,
    weight_to_json,
    write_analysis,
)
from timberkit.engine.analysis_plan import (
    AnalysisPlan,
    analysis_cost,
    default_analysis_workers,
    plan_analysis,
)
from timberkit.engine.cluster import Cluster
from timberkit.engine.execute import Executor, executor_for
from timberkit.engine.finish import TOOL_VERSION, libraries, source_facts
from timberkit.engine.job import JobContext, Outcome
from timberkit.engine.progress import Meter, Progress, ProgressCallback
from timberkit.engine.shared_folders import SharedFolders, shards_of
from timberkit.engine.sources import ANY, Opening, OpenPair, open_pair
from timberkit.engine.staging import run_in_stage, work_through
from timberkit.measurements import Analysis, HiddenStateMeasurement, WeightMeasurement
from timberkit.metrics.summary import summarise


class HiddenStateStudy(Protocol):
    """Texts that are ready to be read by both models."""

    @property
    def facts(self) -> dict[str, object]:
        """What identifies the texts, as flat JSON values; part of the recipe's digest."""
        ...

    def measure(self, on_text: Callable[[int, int], None]) -> tuple[HiddenStateMeasurement, ...]:
        """Read all texts; ``on_text(done, total)`` is called after each."""
        ...


SOURCES = ("base", "instruct")
PrepareHidden = Callable[[OpenPair, AnalyzeRecipe], HiddenStateStudy]
Draw = Callable[[Analysis, Path], None]


@dataclass(frozen=True, slots=True)
class AnalysisResult:
    """What a finished analysis found, and where it lies."""

    output: Path
    plan: AnalysisPlan
    analysis: Analysis
    resumed: bool
    seconds: float

    @property
    def conversions(self) -> dict[str, str]:
        """As of ``OpenPair``: which sources were converted, and from what."""
        kinds = {which: self.analysis.facts.get(f"{which}_converted_from") for which in SOURCES}
        return {which: str(kind) for which, kind in kinds.items() if kind is not None}


def analyze_recipe(
    recipe: AnalyzeRecipe,
    output: Path,
    *,
    prepare_hidden: PrepareHidden,
    draw: Draw | None = None,
    workers: int | None = 1,
    overwrite: bool = False,
    opening: Opening = ANY,
    on_progress: ProgressCallback | None = None,
    cluster: Cluster | None = None,
) -> AnalysisResult:
    """Measure every selected weight of a pair and write the analysis.

    Args:
        recipe: what to measure.
        output: the folder to write; gets ``spectra.parquet``, ``summary.json``, ``timberkit.json``
            and what ``draw`` adds.
        prepare_hidden: called before anything is staged where the recipe asks for hidden states.
        draw: called with the analysis and the folder before it is published.
        workers: processes that share the work; as many as pay off when None. No number depends on
            it but the times.
        overwrite: replace an output of timberkit that is there, in one step, at the end.
        opening: how sources are opened that are not plain safetensors.
        on_progress: called after every weight and every text, in this process.
        cluster: whose machines measure the weights, in place of ``workers``.

    Returns:
        An ``AnalysisResult``.

    Raises:
        UsageError: something in the way of the output.
        InputError: sources that are missing, broken, quantised, or no pair.
        InterruptedRunError: stopped before the end; the same call continues.

    Cost: see ``measure_matrix`` for each weight; memory of one weight for each worker, and 32 bytes
    for each singular value kept, in this process.
    """
    started = time.perf_counter()
    pair = open_pair(recipe.refinement(), replace(opening, on_progress=on_progress))
    pinned = _pinned(recipe, pair)
    planned = plan_analysis(pair, pinned)
    refuse_overlap(output, pair.folders)
    study = prepare_hidden(pair, pinned) if pinned.hidden_states else None
    texts = {} if study is None else study.facts
    digest = hashlib.sha256(f"{pinned.digest()} {TOOL_VERSION} {texts}".encode()).hexdigest()
    count = workers if workers is not None else default_analysis_workers(planned)
    finished: list[Analysis] = []

    def work(stage: Stage) -> None:
        # Named by the module itself: torch is imported here before a thread count is set.
        context = JobContext(preload=(analysis_job.__name__,))
        folders = SharedFolders(shards_of((pair.instruct, *pair.weights.values())))
        sides = planned.refinement.sides
        with executor_for(context, count, cluster, folders, sides=sides) as executor:
            run = _Run(stage, pair, planned, study)
            analysis = run.measure(executor, on_progress)
            used = executor.workers
        write_analysis(stage.tree, analysis)
        if draw is not None:
            draw(analysis, stage.tree)
        _write_manifest(stage.tree, pair, pinned, used, time.perf_counter() - started)
        stage.publish()
        finished.append(analysis)

    resumed = run_in_stage(
        output,
        digest=digest,
        description={"recipe": pinned.model_dump(mode="json")},
        overwrite=overwrite,
        work=work,
    )
    # A run that was killed while it published has nothing left to compute.
    analysis = finished[0] if finished else read_analysis(output)
    return AnalysisResult(output, planned, analysis, resumed, time.perf_counter() - started)


class _Run:
    """One analysis in its stage."""

    def __init__(
        self, stage: Stage, pair: OpenPair, planned: AnalysisPlan, study: HiddenStateStudy | None
    ) -> None:
        self._stage = stage
        self._pair = pair
        self._plan = planned
        self._study = study
        self._weights: dict[str, WeightMeasurement] = {}
        self._hidden: tuple[HiddenStateMeasurement, ...] | None = None
        self._fingerprint: dict[str, Any] | None = None

    def measure(self, executor: Executor, on_progress: ProgressCallback | None) -> Analysis:
        """Measure what the journal does not hold yet, and put all of it together."""
        self._read_journal()
        if self._fingerprint is None:
            self._fingerprint = self._pair.fingerprint()
            self._stage.record([{"prepared": self._fingerprint}])
        # First, because what fails here fails soon.
        if self._study is not None and self._hidden is None:
            self._hidden = self._study.measure(_text_progress(on_progress))
            self._stage.record([{"hidden_states": [asdict(layer) for layer in self._hidden]}])
        tasks = self._plan.tasks
        left = [task for task in tasks if task.key not in self._weights]
        done = self._weights.keys()
        meter = Meter("analyze", tasks, done, on_progress, cost=analysis_cost)
        work_through(executor, left, meter, self._commit)
        self._pair.check_unchanged(self._fingerprint)
        return self._analysis()

    def _read_journal(self) -> None:
        for entry in self._stage.completed():
            if "prepared" in entry:
                self._pair.check_unchanged(entry["prepared"])
                self._fingerprint = entry["prepared"]
            elif "hidden_states" in entry:
                self._hidden = hidden_states_from_json(entry["hidden_states"])
            else:
                self._weights[entry["key"]] = weight_from_json(entry["measurement"])

    def _commit(self, pending: Sequence[Outcome]) -> None:
        measured = [
            (outcome.key, outcome.measurement)
            for outcome in pending
            if outcome.measurement is not None
        ]
        self._stage.record(
            {"key": key, "measurement": weight_to_json(weight)} for key, weight in measured
        )
        self._weights |= measured

    def _analysis(self) -> Analysis:
        weights = sorted(self._weights.values(), key=_place)
        hidden = self._hidden or ()
        facts = _facts(self._pair, self._plan)
        if self._study is not None:
            facts |= self._study.facts
        base, instruct = facts["base"], facts["instruct"]
        return Analysis(
            title=f"{instruct} from {base}",
            facts=facts,
            summary=summarise(weights, hidden),
            weights=tuple(weights),
            hidden_states=hidden,
        )


def _place(weight: WeightMeasurement) -> tuple[object, ...]:
    """Order of rows: by layer as a number (outside any layer last), then by name."""
    layer, index = weight.layer, -1 if weight.index is None else weight.index
    return (layer is None, layer or 0, weight.name, index, weight.part or "")


def _text_progress(on_progress: ProgressCallback | None) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(Progress("hidden states", done, 0, done, total, 0, total))

    return tell


def _pinned(recipe: AnalyzeRecipe, pair: OpenPair) -> AnalyzeRecipe:
    """The recipe as a manifest keeps it: revisions found, no account named by a path."""
    sources = {"base": pair.recipe.base, "instruct": pair.recipe.instruct}
    if recipe.prompts is None:
        return recipe.model_copy(update=sources)
    home = os.path.expanduser("~").rstrip(os.sep) + os.sep
    prompts = os.path.abspath(os.path.expanduser(recipe.prompts))
    if prompts.startswith(home):
        prompts = os.path.join("~", prompts[len(home) :])
    return recipe.model_copy(update={**sources, "prompts": prompts})


def _facts(pair: OpenPair, planned: AnalysisPlan) -> dict[str, object]:
    recipe, selection = planned.recipe, planned.recipe.selection
    model_type = pair.instruct.config.get("model_type")
    stored = {place.dtype for task in planned.tasks for place in (task.base, task.instruct)}
    return {
        "base": public_name(pair.base_source),
        "base_revision": pair.base_source.revision,
        "instruct": public_name(pair.instruct_source),
        "instruct_revision": pair.instruct_source.revision,
        **{f"{which}_converted_from": kind for which, kind in pair.conversions.items()},
        "model_type": model_type if isinstance(model_type, str) else None,
        "stored_as": sorted(stored),
        "measure": ["spectra", *recipe.measure],
        "keep_values": recipe.keep_values,
        "families": list(selection.families),
        "layers": selection.layers,
        "include": list(selection.include),
        "exclude": list(selection.exclude),
        "fused": selection.fused,
        "timberkit": TOOL_VERSION,
        **libraries(),
    }


def _write_manifest(
    folder: Path, pair: OpenPair, recipe: AnalyzeRecipe, workers: int, seconds: float
) -> None:
    write_manifest(
        folder,
        {
            "kind": ANALYSIS_KIND,
            "tool": {"name": "timberkit", "version": TOOL_VERSION},
            "recipe": recipe.model_dump(mode="json"),
            "sources": {
                "base": source_facts(pair, "base"),
                "instruct": source_facts(pair, "instruct"),
            },
            "files": {name: hash_file(folder / name) for name in list_output_files(folder)},
            "run": {"seconds": round(seconds, 3), "workers": workers, **libraries()},
        },
    )
