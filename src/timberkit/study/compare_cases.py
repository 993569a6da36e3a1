"""The case browser of a comparison: the problems and answers behind its numbers.

    write_compare_cases(comparison, opened, Path("cases.html"))

Only sources whose texts are kept in a table have any: a run folder of ``timberkit eval`` and its
``rollouts.parquet``. They are read again, twice, under the rules of ``rollout_counts``: a rollout
that is there twice counts once, an answer beats a failed request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from timberkit.checkpoint.manifest import MANIFEST_NAME
from timberkit.errors import InterruptedRunError, UsageError
from timberkit.evaluation.asked import read_asked
from timberkit.evaluation.readers import Source
from timberkit.report.case_page import write_cases_page
from timberkit.report.cases import CaseCollection, ProblemText, collect_cases, with_texts
from timberkit.rollouts import Rollout, read_rollouts
from timberkit.study.comparison import Comparison
from timberkit.study.rollout_counts import renamed


def check_cases(
    sources: Sequence[tuple[str | None, Source]], page: Path, *, overwrite: bool = False
) -> None:
    """Refuse, before anything is read, what ``write_compare_cases`` could not do.

    Raises UsageError, naming it, for a source whose texts cannot be read again, for a page that is
    there and is not to be replaced, and for one in a folder that is not there.
    """
    for _, source in sources:
        if source.table is None:
            raise UsageError(
                f"{source.path}: --cases shows whole answers, which are read from a finished run of"
                " timberkit eval or its rollouts.parquet, and this is neither"
            )
    if page.exists() and not overwrite:
        raise UsageError(f"{page}: is there already; name another file, or add --overwrite")
    if not page.parent.is_dir():
        raise UsageError(f"{page.parent}: no such folder; make it first, or write elsewhere")


def write_compare_cases(
    comparison: Comparison, sources: Sequence[tuple[str | None, Source]], path: Path
) -> Path:
    """Write the page of cases of all models and tasks of a comparison; returns ``path``.

    ``sources``: those it was made of, with the names that were given to them. Prompts are there
    where a source is a run folder.

    Raises InputError as the readers do, OutputExistsError where the folder beside the page holds
    something else, InterruptedRunError where nothing can be written.
    Memory: about 300 bytes a rollout, and what ``report.cases`` keeps.
    """
    tables = [(name, source.table) for name, source in sources if source.table is not None]
    collection = collect_cases(
        _Rollouts(tables, comparison),
        reference=comparison.reference,
        models=comparison.models,
        seed=comparison.options.seed,
    )
    try:
        return write_cases_page(with_texts(collection, _asked(collection, sources)), path)
    except OSError as error:
        raise InterruptedRunError(
            f"{path}: cannot be written: {error.strerror}; free some space, or write elsewhere"
        ) from None


_Key = tuple[str, str, str, str, int]
"""Model, task, setting, problem, rollout."""


class _Rollouts:
    """The rollouts of several tables under their new names, each once."""

    def __init__(self, tables: Sequence[tuple[str | None, Path]], comparison: Comparison) -> None:
        self._tables = tables
        self._tasks = set(comparison.tasks)
        self._names = [self._names_of(name, path) for name, path in tables]
        self._rows: dict[_Key, tuple[int, int]] = {}
        answered: set[_Key] = set()
        for place, rollout in self._all(texts=False):
            key = _key(rollout)
            if key not in self._rows or (rollout.error is None and key not in answered):
                self._rows[key] = place
            if rollout.error is None:
                answered.add(key)

    def __call__(self, *, texts: bool) -> Iterator[Rollout]:
        for place, rollout in self._all(texts=texts):
            if self._rows[_key(rollout)] == place:
                yield rollout

    def _all(self, *, texts: bool) -> Iterator[tuple[tuple[int, int], Rollout]]:
        for number, (_, path) in enumerate(self._tables):
            for row, rollout in enumerate(read_rollouts(path, texts=texts)):
                labels = {rollout.task, f"{rollout.task}:{rollout.setting}"}
                if labels & self._tasks:
                    name = self._names[number][rollout.model]
                    yield (number, row), replace(rollout, model=name)

    @staticmethod
    def _names_of(name: str | None, path: Path) -> Mapping[str, str]:
        models = list(dict.fromkeys(one.model for one in read_rollouts(path, texts=False)))
        return {model: renamed(name, model, models) for model in models}


def _key(rollout: Rollout) -> _Key:
    return rollout.model, rollout.task, rollout.setting, rollout.problem, rollout.rollout


def _asked(
    collection: CaseCollection, sources: Sequence[tuple[str | None, Source]]
) -> dict[tuple[str, str], ProblemText]:
    """Prompts from the runs among the sources, the first that has one."""
    missing = dict.fromkeys((case.task, case.problem) for case in collection.cases)
    found: dict[tuple[str, str], ProblemText] = {}
    for _, source in sources:
        if missing and (source.path / MANIFEST_NAME).is_file():
            for place, asked in read_asked(
                source.path, missing, model=collection.reference
            ).items():
                found[place] = ProblemText(asked.prompt, asked.target)
                missing.pop(place, None)
    return found
