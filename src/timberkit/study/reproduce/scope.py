"""What belongs to a study: its models and benchmarks, and the names that results have for it.

Pure but for the names of ready-made pairs: nothing is opened or fetched.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping, Sequence

from timberkit.config import Source
from timberkit.errors import UsageError
from timberkit.findings import StudyPair
from timberkit.pairs import Pair, find_pair, pair_of
from timberkit.study.reproduce.asking import Question
from timberkit.study.reproduce.catalogue import BASE, INSTRUCT, Entry, catalogue
from timberkit.study.reproduce.protocol import Benchmark, protocol, temperatures
from timberkit.study.reproduce.scores import Scores
from timberkit.study_recipe import StudyRecipe

NEVER_LEFT_OUT = (BASE, INSTRUCT)


def study_models(recipe: StudyRecipe) -> tuple[Entry, ...]:
    """Every model of a study."""
    return catalogue(recipe, temperatures(recipe))


def study_benchmarks(recipe: StudyRecipe) -> tuple[Benchmark, ...]:
    """Every benchmark of a study, in the modes that its pair has. Raises as ``protocol``."""
    return protocol(recipe, known_pair(recipe))


def known_pair(recipe: StudyRecipe) -> Pair | None:
    """The ready-made pair that a study is of, named or recognised; None for any other."""
    if recipe.pair is not None:
        return find_pair(recipe.pair)
    return pair_of(recipe.base.location, recipe.instruct.location)


def chosen_models(entries: Sequence[Entry], globs: Sequence[str]) -> list[Entry]:
    """Those whose key fits a glob, and Base and Instruct; all where there is no glob.

    Raises UsageError for a glob that fits none.
    """
    for glob in globs:
        if not any(fnmatch.fnmatchcase(entry.key, glob) for entry in entries):
            shown = ", ".join(entry.key for entry in entries if entry.model.role != "control")
            raise UsageError(f"--model {glob!r}: fits no model; there are {shown}, and controls")
    return [
        entry
        for entry in entries
        if not globs
        or entry.key in NEVER_LEFT_OUT
        or any(fnmatch.fnmatchcase(entry.key, glob) for glob in globs)
    ]


def best_of(
    entries: Sequence[Entry],
    benchmarks: Sequence[Benchmark],
    scores: Mapping[tuple[str, str], Scores],
) -> Entry | None:
    """The edit with the best Mean@k, averaged over benchmarks; controls do not count.

    Over those that the paper averages; over all that were asked where none of these was.
    """
    asked = [each for each in benchmarks if any(task == each.key for _, task in scores)]
    tasks = [each.key for each in asked if each.averaged] or [each.key for each in asked]
    means = {
        entry.key: sum(scores[entry.key, task].table([1]).mean() for task in tasks)
        for entry in entries
        if entry.model.role == "variant"
        and tasks
        and all((entry.key, task) in scores for task in tasks)
    }
    best = max(means, key=means.__getitem__, default=None)
    return next((entry for entry in entries if entry.key == best), None)


def shown_source(source: Source) -> str:
    """A source as results name it: a hub id with its revision, or the last part of a folder."""
    folder = os.path.expanduser(source.location)
    return os.path.basename(os.path.abspath(folder)) if os.path.isdir(folder) else str(source)


def study_pair(recipe: StudyRecipe) -> StudyPair:
    """The pair as results name it: no path of this machine."""
    base, instruct = shown_source(recipe.base), shown_source(recipe.instruct)
    found = known_pair(recipe)
    if found is None:
        return StudyPair(instruct, base, instruct, None)
    return StudyPair(found.name, base, instruct, found.paper_model)


def shown_settings(recipe: StudyRecipe) -> dict[str, object]:
    """The recipe as results show it; files and folders of this machine by their names alone."""
    fields = recipe.model_dump(mode="json")
    fields["base"], fields["instruct"] = shown_source(recipe.base), shown_source(recipe.instruct)
    fields["tasks"] = [
        f"{task.name}:{task.setting}" if task.setting else task.name for task in recipe.tasks
    ]
    fields["temperatures"] = list(temperatures(recipe))
    return fields


def unfinished(asked: Sequence[Question], scores: Mapping[tuple[str, str], Scores]) -> list[str]:
    missing = [question.key for question in asked if question.key not in scores]
    if not missing:
        return []
    models = dict.fromkeys(model for model, _ in missing)
    shown = ", ".join(list(models)[:5]) + (" …" if len(models) > 5 else "")
    return [
        f"{len(missing)} of {len(asked)} evaluations are not there yet ({shown}): what is shown is"
        " of the others"
    ]
