"""The rollouts of a study as cases: problems to read, side by side for two models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from timberkit.errors import TimberkitError
from timberkit.evaluation.task import joined
from timberkit.evaluation.tasks import make_task
from timberkit.findings import Findings
from timberkit.report.case_page import case_section
from timberkit.report.case_section import CaseSection
from timberkit.report.cases import ProblemText, collect_cases
from timberkit.rollouts import ROLLOUTS_NAME, Rollout, read_rollouts
from timberkit.study.reproduce.asking import Question, run_folder, run_name, runs_of
from timberkit.study.reproduce.folder import StudyFolder

LARGEST_CASE_BYTES = 1_200_000
"""Of cases on the page itself; longer texts lie beside it."""
_TARGETS = ("target", "answer", "solution", "canonical_solution")
"""Fields of a problem that say what is right, whichever it has."""


def cases_of(
    folder: StudyFolder, asked: Sequence[Question], findings: Findings, page: Path
) -> CaseSection | None:
    """The section of cases, and what lies beside the page for it; None without rollouts."""
    runs = runs_of(folder, asked)
    if not runs:
        return None
    reader = _Renamed(folder, [each for each in asked if run_folder(folder, each) in runs])
    collection = collect_cases(
        reader, problem_texts(asked), reference=findings.model(findings.reference).label
    )
    return case_section(collection, beside=page, budget_bytes=LARGEST_CASE_BYTES)


class _Renamed:
    """Rollouts of all runs under the labels of the study, read anew at every call."""

    def __init__(self, folder: StudyFolder, asked: Sequence[Question]) -> None:
        self._runs: dict[Path, dict[tuple[str, str], tuple[str, str]]] = {}
        for question in asked:
            choice = question.benchmark.choice
            setting = make_task(choice.name, choice.setting).setting
            names = self._runs.setdefault(run_folder(folder, question), {})
            names[f"{choice.name}:{setting}", run_name(question)] = (
                question.benchmark.task.label,
                question.entry.model.label,
            )

    def __call__(self, *, texts: bool) -> Iterator[Rollout]:
        """All rollouts that belong to the study."""
        for run, names in self._runs.items():
            for rollout in read_rollouts(run / ROLLOUTS_NAME, texts=texts):
                # Swept temperatures stand behind the name: model@T=1.2.
                model = rollout.model.partition("@T=")[0]
                found = names.get((f"{rollout.task}:{rollout.setting}", model))
                if found is not None:
                    yield replace(rollout, task=found[0], model=found[1])


def problem_texts(asked: Sequence[Question]) -> dict[tuple[str, str], ProblemText]:
    """What was asked, by label of the task and key of the problem.

    A benchmark whose file cannot be read now has no texts: its answers are shown without.
    """
    texts: dict[tuple[str, str], ProblemText] = {}
    benchmarks = {each.benchmark.key: each.benchmark for each in asked}
    for bench in benchmarks.values():
        if bench.task.how == "exact":
            continue
        task = make_task(bench.choice.name, bench.choice.setting)
        try:
            loaded = task.load(bench.choice.data, shots=bench.choice.shots)
        except TimberkitError:
            continue
        for problem in loaded.problems:
            prompt = joined(task.messages(problem, ())[-1:])
            texts[bench.task.label, problem.key] = ProblemText(prompt, _target(problem.fields))
    return texts


def _target(fields: Mapping[str, Any]) -> str:
    return next((str(fields[name]) for name in _TARGETS if name in fields), "")
