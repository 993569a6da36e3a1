"""The rollouts of a study as cases: problems to read, side by side for two models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from timberkit.evaluation.asked import read_asked
from timberkit.findings import Findings
from timberkit.report.case_page import case_section
from timberkit.report.case_section import CaseSection
from timberkit.report.cases import CaseCollection, ProblemText, collect_cases, with_texts
from timberkit.rollouts import ROLLOUTS_NAME, Rollout, read_rollouts
from timberkit.study.reproduce.asking import Question, run_folder, run_name
from timberkit.study.reproduce.folder import StudyFolder

LARGEST_CASE_BYTES = 1_200_000
"""Of cases on the page itself; longer texts lie beside it."""


def cases_of(
    folder: StudyFolder, asked: Sequence[Question], findings: Findings, page: Path
) -> CaseSection | None:
    """The section of cases, and what lies beside the page for it.

    Of the questions that are answered to the end, as scores are; None where Instruct has answered
    none, for then there is nothing to set the others beside.
    """
    own = [each for each in asked if each.key in folder.asked]
    if not any(each.entry.key == findings.reference for each in own):
        return None
    reader = _Renamed(folder, own)
    collection = collect_cases(reader, reference=findings.model(findings.reference).label)
    collection = with_texts(collection, _texts(folder, own, collection))
    return case_section(collection, beside=page, budget_bytes=LARGEST_CASE_BYTES)


def _texts(
    folder: StudyFolder, asked: Sequence[Question], collection: CaseCollection
) -> dict[tuple[str, str], ProblemText]:
    """What the problems that are shown said, from the logs: their files may be gone by now."""
    texts: dict[tuple[str, str], ProblemText] = {}
    for question in asked:
        label, choice = question.benchmark.task.label, question.benchmark.choice
        shown = [case.problem for case in collection.cases if case.task == label]
        wanted = [(choice.name, problem) for problem in shown if (label, problem) not in texts]
        if wanted:
            found = read_asked(run_folder(folder, question), wanted)
            texts |= {
                (label, problem): ProblemText(one.prompt, one.target)
                for (_, problem), one in found.items()
            }
    return texts


class _Renamed:
    """Rollouts of all runs under the labels of the study, read anew at every call."""

    def __init__(self, folder: StudyFolder, asked: Sequence[Question]) -> None:
        self._runs: dict[Path, dict[tuple[str, str], tuple[str, str]]] = {}
        for question in asked:
            bench = question.benchmark
            names = self._runs.setdefault(run_folder(folder, question), {})
            names[f"{bench.choice.name}:{bench.setting}", run_name(question)] = (
                bench.task.label,
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
