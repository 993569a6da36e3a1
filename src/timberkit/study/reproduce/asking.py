"""Scores of the models: exact probabilities where they are known, else rollouts.

Both can be killed between any two answers and go on: exact probabilities are noted in the ledger
model by model, rollouts by the evaluation itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from timberkit.config import Source
from timberkit.errors import TimberkitError
from timberkit.evaluation.grading import Graders
from timberkit.evaluation.progress import ProgressCallback
from timberkit.evaluation.readers import read_any
from timberkit.evaluation.run import EvaluationOptions, EvaluationResult, evaluate
from timberkit.evaluation.run_files import read_run
from timberkit.evaluation.tasks import make_task
from timberkit.evaluation_recipe import EvaluationRecipe
from timberkit.sapling import PreparedProblems, load_model, load_problems
from timberkit.sapling.models import torch_threads
from timberkit.sapling.puzzle import Problem
from timberkit.study.reproduce.catalogue import BASE, INSTRUCT, Entry
from timberkit.study.reproduce.folder import StudyFolder
from timberkit.study.reproduce.making import place_of
from timberkit.study.reproduce.protocol import Benchmark
from timberkit.study.reproduce.scores import Scores
from timberkit.study.rollout_counts import Collected, TaskCounts, collect
from timberkit.study_recipe import StudyRecipe

Told = Callable[[int, int], None]
Problems = Mapping[str, Any]
"""``limit``, or ``problems`` with their keys: fields of ``EvaluationRecipe``."""
_DRAWN = ("temperature", "top_p", "top_k", "min_p", "max_tokens")


@dataclass(frozen=True, slots=True)
class Question:
    """One model on one benchmark."""

    entry: Entry
    benchmark: Benchmark

    @property
    def key(self) -> tuple[str, str]:
        """As scores are kept by: model and task."""
        return self.entry.key, self.benchmark.key


def questions(entries: Sequence[Entry], benchmarks: Sequence[Benchmark]) -> list[Question]:
    """Every model with every benchmark that is put to it."""
    return [
        Question(entry, benchmark)
        for benchmark in benchmarks
        for entry in entries
        if benchmark.is_put_to(entry)
    ]


def ask_exactly(
    folder: StudyFolder, recipe: StudyRecipe, asked: Sequence[Question], *, threads: int, told: Told
) -> None:
    """Compute success probabilities that the ledger does not have.

    ``threads``: models at once, each with one torch thread. About a second a model and hundred
    puzzles of four numbers, or three hundred of three.
    """
    left = [question for question in asked if question.key not in folder.exact]
    done = len(asked) - len(left)
    told(done, len(asked))
    if not left:
        return
    puzzles = {
        each.key: PreparedProblems(sapling_problems(each))
        for each in {question.benchmark.key: question.benchmark for question in left}.values()
    }
    loading = Lock()
    with torch_threads(1), ThreadPoolExecutor(threads) as pool:
        waiting: dict[Future[NDArray[np.float64]], Question] = {
            pool.submit(
                _chances, place_of(folder, recipe, each.entry), each.entry.model.temperature,
                puzzles[each.benchmark.key], loading,
            ): each
            for each in left
        }  # fmt: skip
        try:
            for future in as_completed(waiting):
                folder.note_exact(*waiting[future].key, future.result())
                done += 1
                told(done, len(asked))
        finally:
            pool.shutdown(cancel_futures=True)


def sapling_problems(benchmark: Benchmark) -> list[Problem]:
    """The puzzles of a benchmark of the embedded pair."""
    return load_problems(str(benchmark.choice.setting), n=benchmark.limit)


def _chances(
    place: Path | Source, temperature: float | None, puzzles: PreparedProblems, loading: Lock
) -> NDArray[np.float64]:
    # transformers changes global state while it loads: two at once gave models full of NaN.
    folder = Path(place.location).expanduser() if isinstance(place, Source) else place
    with loading:
        model = load_model(folder)
    return puzzles.success(model, temperature=temperature or 1.0)


def unready_benchmarks(
    benchmarks: Sequence[Benchmark], recipe: StudyRecipe
) -> dict[str, TimberkitError]:
    """Benchmarks that cannot be read or judged on this machine, by key, and why.

    Reads their files, fetching them where they have to be, and looks whether their graders would
    start. Some seconds.
    """
    found: dict[str, TimberkitError] = {}
    for bench in benchmarks:
        if bench.task.how == "exact":
            continue
        options = {"unsandboxed": True} if _is_unsandboxed(bench, recipe) else {}
        task = make_task(bench.choice.name, bench.choice.setting, **options)
        try:
            task.load(bench.choice.data, shots=bench.choice.shots)
            with Graders(task.name, task.setting, options=tuple(options)):
                pass
        except TimberkitError as error:
            found[bench.key] = error
    return found


def _is_unsandboxed(bench: Benchmark, recipe: StudyRecipe) -> bool:
    return recipe.unsandboxed and bench.choice.name == "humaneval"


def ask_rollouts(
    folder: StudyFolder,
    recipe: StudyRecipe,
    asked: Sequence[Question],
    *,
    options: EvaluationOptions,
    on_progress: ProgressCallback | None,
) -> list[EvaluationResult]:
    """Have one model answer benchmarks, all of one mode, as often as each wants.

    ``asked``: questions of one model. Benchmarks with as many rollouts go together, so that a model
    is opened, or a server started, as seldom as may be. Requests that failed for good are sent
    again when this is called again.
    """
    left = [each for each in asked if folder.asked.get(each.key) != 0]
    results = []
    for together, problems in _groups(left):
        made = evaluation_recipe(folder, recipe, together, problems)
        run = run_folder(folder, together[0])
        run.parent.mkdir(parents=True, exist_ok=True)
        result = evaluate(made, run, options=options, on_progress=on_progress)
        results.append(result)
        for question in together:
            folder.note_asked(*question.key, failed=_failed(result, question))
    return results


def _failed(result: EvaluationResult, question: Question) -> int:
    """How many requests of a question failed for good."""
    choice, setting = question.benchmark.choice, question.benchmark.setting
    return sum(
        round(unit["failed"] * unit["rollouts"])
        for unit in result.summary["units"]
        if (unit["task"], unit["setting"]) == (choice.name, setting)
    )


def _groups(asked: Sequence[Question]) -> Iterator[tuple[list[Question], Problems]]:
    """Questions that one evaluation asks, and how it says which problems: a limit, or their keys.

    Benchmarks of which different numbers of problems are asked can share an evaluation by the keys
    of their problems, where no key of one stands for an unwanted problem of another.
    """
    by_rollouts: dict[int, list[Question]] = {}
    for question in asked:
        by_rollouts.setdefault(question.benchmark.task.rollouts or 1, []).append(question)
    for together in by_rollouts.values():
        limits = {question.benchmark.limit for question in together}
        keys = None if len(limits) == 1 else _shared_keys(together)
        if keys is not None:
            yield together, {"problems": keys}
            continue
        for limit in dict.fromkeys(question.benchmark.limit for question in together):
            yield [q for q in together if q.benchmark.limit == limit], {"limit": limit}


def _shared_keys(together: Sequence[Question]) -> tuple[str, ...] | None:
    """Keys of all problems wanted; None where they would ask a benchmark for others too."""
    every: list[list[str]] = []
    wanted: list[set[str]] = []
    for question in together:
        choice = question.benchmark.choice
        task = make_task(choice.name, choice.setting)
        loaded = task.load(choice.data, shots=choice.shots)
        every.append([problem.key for problem in loaded.problems])
        wanted.append(set(every[-1][: question.benchmark.limit]))
    union = set().union(*wanted)
    if any(union & set(keys) != mine for keys, mine in zip(every, wanted, strict=True)):
        return None
    return tuple(key for keys in every for key in keys if key in union)


def evaluation_recipe(
    folder: StudyFolder, recipe: StudyRecipe, together: Sequence[Question], problems: Problems
) -> EvaluationRecipe:
    """The evaluation that one model's questions of one mode and number of rollouts are."""
    entry, first = together[0].entry, together[0].benchmark
    name = run_name(together[0])
    temperature = entry.model.temperature
    return EvaluationRecipe(
        models=(f"{name}={place_of(folder, recipe, entry)}",),
        tasks=tuple(question.benchmark.choice for question in together),
        rollouts=first.task.rollouts or 1,
        **problems,
        seed=recipe.seed,
        # A Base has no chat; the embedded one has seen some, and is asked as Instruct is.
        raw_models=(name,) if entry.key == BASE and first.choice.name != "sapling" else (),
        thinking=first.thinking if entry.key != BASE else None,
        temperatures=() if temperature is None else (temperature,),
        unsandboxed=recipe.unsandboxed,
    )


def model_name(key: str) -> str:
    """The name of a model in evaluations, which take no ``+``.

    >>> model_name("within_ffn+expert")
    'within_ffn-expert'
    """
    return key.replace("+", "-")


@dataclass(frozen=True, slots=True)
class Answers:
    """Scores by model and task, and what a reader should know of how they came about."""

    scores: dict[tuple[str, str], Scores]
    notices: tuple[str, ...]


def read_scores(folder: StudyFolder, asked: Sequence[Question]) -> Answers:
    """Scores of all questions that are answered to the end.

    Half-asked ones are left out: the answers that lack there are the slow ones, and the longest.
    Memory: the rollouts of one model in one mode, about 300 bytes each.
    """
    found: dict[tuple[str, str], Scores] = {}
    notices: list[str] = []
    by_run: dict[Path, list[Question]] = {}
    for question in asked:
        if question.key in folder.exact:
            puzzles = sapling_problems(question.benchmark)
            keys = tuple(puzzle.key for puzzle in puzzles)
            found[question.key] = Scores(keys, folder.exact[question.key])
        elif question.key in folder.asked:
            by_run.setdefault(run_folder(folder, question), []).append(question)
    cut_off: dict[str, dict[str, float]] = {}
    for run, own in by_run.items():
        collected = collect([(None, read_any(run))])
        notices += collected.notices
        for question in own:
            counts = _counts_of(collected, question)
            if counts is None:
                continue
            found[question.key] = Scores.counted(counts)
            notices += _failures(question, counts)
            if counts.truncated is not None:
                share = sum(map(sum, counts.truncated)) / int(counts.n.sum())
                label = question.benchmark.task.label
                cut_off.setdefault(label, {})[question.entry.model.label] = share
    notices += _about_lengths(cut_off)
    return Answers(found, tuple(dict.fromkeys([*notices, *sampling_notices(by_run)])))


def _failures(question: Question, counts: TaskCounts) -> list[str]:
    failed = sum(map(sum, counts.failed))
    if not failed:
        return []
    return [
        f"{question.entry.model.label} on {question.benchmark.task.label}: {failed} of"
        f" {int(counts.n.sum())} requests failed and count as wrong; the same command sends them"
        " again"
    ]


def _about_lengths(cut_off: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Where answers were cut off at the limit of tokens, from one in a hundred of some model."""
    for task, shares in cut_off.items():
        worst = max(shares, key=shares.__getitem__)
        if shares[worst] >= 0.01:
            yield (
                f"{task}: answers cut off at the limit of tokens count as wrong:"
                f" {100 * min(shares.values()):.1f} to {100 * shares[worst]:.1f} % of a model's,"
                f" most of {worst}"
            )


def sampling_notices(by_run: Mapping[Path, Sequence[Question]]) -> list[str]:
    """Where Base's answers are drawn in another way than Instruct's."""
    drawn: dict[str, dict[str, Mapping[str, Any]]] = {}
    for run, own in by_run.items():
        key = own[0].entry.key
        if key not in (BASE, INSTRUCT):
            continue
        for unit in read_run(run).units.values():
            drawn.setdefault(f"{unit.task}, {own[0].benchmark.folder}", {})[key] = unit.settings
    said = []
    for task, models in drawn.items():
        if len(models) < 2:
            continue
        base, instruct = (
            {name: models[key]["sampling"].get(name) for name in _DRAWN} for key in (BASE, INSTRUCT)
        )
        differing = [name for name in _DRAWN if base[name] != instruct[name]]
        if differing:
            shown = ", ".join(f"{name} {base[name]} for {instruct[name]}" for name in differing)
            said.append(f"{task}: Base is asked in plain text, and drawn with {shown}")
    return said


def _counts_of(collected: Collected, question: Question) -> TaskCounts | None:
    """What ``collect`` counted: it names a task by its setting where there are several."""
    bench, model = question.benchmark, run_name(question)
    for task in (f"{bench.choice.name}:{bench.setting}", bench.choice.name):
        counts = collected.counts.get((model, task))
        if counts is not None:
            return counts
    return None


def run_name(question: Question) -> str:
    """The name of a model in its evaluation run, where the mode is part of it.

    So that one model in two modes is two models when both runs are read together.
    """
    return f"{model_name(question.entry.key)}.{question.benchmark.folder}"


def run_folder(folder: StudyFolder, question: Question) -> Path:
    """The evaluation run that holds the rollouts: one for each model and mode."""
    return folder.rollouts(question.benchmark.folder) / model_name(question.entry.key)
