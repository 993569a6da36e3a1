"""From rollouts of any source to what a comparison counts: one table for each model and task.

    collected = collect([("instruct", read_any(path)), (None, read_any(other))])
    collected.counts["instruct", "aime24"].c

Of a rollout only grade, answer, end and tokens are kept, about 200 bytes. The same rollout from two
sources counts once; two different ones under one number are an error, because then one of the two
models, or one of the two runs, is misnamed. Where a request failed and another source has an answer
to it, the answer counts.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from timberkit.errors import InputError, UsageError
from timberkit.evaluation.readers import Source
from timberkit.rollouts import Rollout

LONGEST_ANSWER = 200
"""Longer answers are kept as their beginning and a digest of the whole."""
LONGEST_NAME = 500


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """One model on one task.

    Attributes:
        problems: their keys, sorted; what follows is in this order.
        n, c: rollouts and right ones, (problems,).
        right, failed, truncated: a tuple a problem, in the order of its rollouts; failed are
            requests without an answer; ``truncated`` is None where no end was recorded.
        answers: likewise; None where no answers were recorded.
        input_tokens, output_tokens: mean a rollout, (problems,), NaN where not recorded.
    """

    model: str
    task: str
    problems: tuple[str, ...]
    n: NDArray[np.int64]
    c: NDArray[np.int64]
    right: tuple[tuple[bool, ...], ...]
    failed: tuple[tuple[bool, ...], ...]
    answers: tuple[tuple[str | None, ...], ...] | None
    truncated: tuple[tuple[bool, ...], ...] | None
    input_tokens: NDArray[np.float64]
    output_tokens: NDArray[np.float64]

    @property
    def fewest(self) -> int:
        """Rollouts of the problem that has the fewest."""
        return int(self.n.min())

    @property
    def most(self) -> int:
        """Rollouts of the problem that has the most."""
        return int(self.n.max())


@dataclass(frozen=True, slots=True)
class Collected:
    """All that was read. ``models`` and ``tasks`` stand in the order they were met in.

    ``counts``: by model and task; a model may lack a task. ``sources``: what each source gave.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    counts: Mapping[tuple[str, str], TaskCounts]
    sources: tuple[Mapping[str, Any], ...]
    notices: tuple[str, ...]


class _Outcome(NamedTuple):
    """What is kept of a rollout; ``source`` is its place among the sources."""

    correct: bool
    answer: str | None
    stop: str
    failed: bool
    input_tokens: int | None
    output_tokens: int | None
    source: int


_Group = tuple[str, str, str]
"""Model, task, setting."""
_Outcomes = dict[str, dict[int, _Outcome]]
"""By problem and rollout."""


@dataclass(slots=True)
class _Shelf:
    """What has been read: outcomes by group, and how often one was met twice, by their sources."""

    paths: Sequence[str]
    groups: dict[_Group, _Outcomes] = field(default_factory=dict)
    answers_recorded: set[_Group] = field(default_factory=set)
    twice: Counter[tuple[int, int]] = field(default_factory=Counter)

    def put(self, group: _Group, problem: str, number: int, new: _Outcome) -> None:
        outcomes = self.groups.setdefault(group, {}).setdefault(problem, {})
        old = outcomes.get(number)
        if old is None or (old.failed and not new.failed):
            outcomes[number] = new
        elif old[:-1] == new[:-1]:
            self.twice[old.source, new.source] += 1
        elif not new.failed:
            both = dict.fromkeys([self.paths[old.source], self.paths[new.source]])
            raise InputError(
                f"{' and '.join(both)}: two different rollouts are model {group[0][:80]!r}, task"
                f" {group[1][:80]!r}, problem {problem[:80]!r}, rollout {number}; give different"
                " models different names (NAME=PATH), or number the rollouts of one model on"
            )

    def take(self, other: _Shelf, rename: Mapping[str, str]) -> None:
        """Everything of another shelf, under other names of models."""
        for (model, task, setting), problems in other.groups.items():
            group = (rename[model], task, setting)
            if (model, task, setting) in other.answers_recorded:
                self.answers_recorded.add(group)
            if group not in self.groups:
                self.groups[group] = problems
                continue
            for problem, outcomes in problems.items():
                for number, outcome in outcomes.items():
                    self.put(group, problem, number, outcome)
        self.twice.update(other.twice)


def collect(
    sources: Sequence[tuple[str | None, Source]],
    *,
    models: Sequence[str] = (),
    tasks: Sequence[str] = (),
) -> Collected:
    """Read all sources and count.

    Args:
        sources: each with the name its model gets, or None for the name it has; where a source
            holds several models, the name and a slash come before theirs.
        models, tasks: read only these; all where empty. A task is named with or without its
            setting (``math500``, ``math500:paper``).

    Returns:
        ``Collected``. A task that was asked in several settings is a task for each of them,
        ``math500:paper``.

    Raises:
        InputError: as the readers do; one rollout with two different contents; names too long.
        UsageError: a model or task wanted that is in no source, or nothing at all.

    About a second for 200,000 rollouts.
    """
    paths = [str(source.path) for _, source in sources]
    words: dict[str, str] = {}
    shelf = _Shelf(paths)
    found, notices = [], []
    for place, (name, source) in enumerate(sources):
        own = _Shelf(paths)
        counted = _read(own, source, place, words)
        own_models = list(dict.fromkeys(group[0] for group in own.groups))
        shelf.take(own, {model: renamed(name, model, own_models) for model in own_models})
        found.append({"path": paths[place], "kind": source.kind, "rollouts": counted})
        notices += source.notices
    notices += _said_twice(shelf.twice, paths)
    chosen = _chosen(shelf, models, tasks, paths)
    counts = {
        (group[0], label): _counts(
            group[0], label, shelf.groups[group], group in shelf.answers_recorded
        )
        for group, label in chosen.items()
    }
    return Collected(
        tuple(dict.fromkeys(model for model, _ in counts)),
        tuple(dict.fromkeys(task for _, task in counts)),
        counts,
        tuple(found),
        tuple(notices),
    )


def _read(shelf: _Shelf, source: Source, place: int, words: dict[str, str]) -> int:
    def word(text: str) -> str:
        return words.setdefault(text, text)

    counted = 0
    for counted, rollout in enumerate(source.rollouts, start=1):  # noqa: B007
        _check_names(source, rollout)
        new = _Outcome(
            rollout.correct,
            None if rollout.answer is None else word(_short(rollout.answer)),
            word(rollout.stop),
            rollout.error is not None,
            rollout.input_tokens,
            rollout.output_tokens,
            place,
        )
        group = (rollout.model, rollout.task, rollout.setting)
        shelf.put(group, word(rollout.problem), rollout.rollout, new)
    if source.answers_recorded:
        shelf.answers_recorded |= set(shelf.groups)
    return counted


def _check_names(source: Source, rollout: Rollout) -> None:
    for name in ("model", "task", "setting", "problem"):
        value = getattr(rollout, name)
        if len(value) > LONGEST_NAME:
            raise InputError(
                f"{source.path}: {name} {value[:40]!r}…: found {len(value)} characters, expected up"
                f" to {LONGEST_NAME}"
            )


def _short(answer: str) -> str:
    if len(answer) <= LONGEST_ANSWER:
        return answer
    digest = hashlib.blake2b(answer.encode(), digest_size=8).hexdigest()
    return f"{answer[: LONGEST_ANSWER // 2]}…{digest}"


def renamed(name: str | None, model: str, models: Sequence[str]) -> str:
    """What a model of a source is called, where the source was given a name or None.

    >>> renamed("new", "a", ["a"]), renamed("new", "a", ["a", "b"]), renamed(None, "a", ["a"])
    ('new', 'new/a', 'a')
    """
    if name is None:
        return model
    return name if len(models) == 1 else f"{name}/{model}"


def _said_twice(twice: Mapping[tuple[int, int], int], paths: Sequence[str]) -> list[str]:
    return [
        f"{paths[second]}: {count} rollouts are there twice; they count once"
        if first == second
        else f"{paths[second]}: {count} rollouts are also in {paths[first]}; they count once"
        for (first, second), count in twice.items()
    ]


def _chosen(
    shelf: _Shelf, models: Sequence[str], tasks: Sequence[str], paths: Sequence[str]
) -> dict[_Group, str]:
    """The groups wanted, each with the label of its task."""
    settings: dict[str, dict[str, None]] = {}
    for _, task, setting in shelf.groups:
        settings.setdefault(task, {})[setting] = None
    if not settings:
        raise UsageError(f"{', '.join(paths)[:500]}: found no rollouts; nothing to compare")
    names = {
        (task, setting): {task, f"{task}:{setting}"}
        for task, each in settings.items()
        for setting in each
    }
    _check_wanted("model", models, dict.fromkeys(group[0] for group in shelf.groups))
    _check_wanted("task", tasks, dict.fromkeys(name for each in names.values() for name in each))
    return {
        group: group[1] if len(settings[group[1]]) == 1 else f"{group[1]}:{group[2]}"
        for group in shelf.groups
        if (not models or group[0] in models) and (not tasks or names[group[1:]] & set(tasks))
    }


def _check_wanted(kind: str, wanted: Sequence[str], there: Mapping[str, None]) -> None:
    for name in wanted:
        if name not in there:
            shown = ", ".join(sorted(there))[:500]
            raise UsageError(f"{kind} {name!r:.80}: is in none of the sources, expected of {shown}")


def _counts(model: str, task: str, outcomes: _Outcomes, answers_recorded: bool) -> TaskCounts:
    problems = tuple(sorted(outcomes))
    rows = [[outcomes[problem][i] for i in sorted(outcomes[problem])] for problem in problems]
    answers = tuple(tuple(outcome.answer for outcome in row) for row in rows)
    some_answer = any(answer is not None for row in answers for answer in row)
    some_end = any(outcome.stop != "unknown" for row in rows for outcome in row)
    return TaskCounts(
        model,
        task,
        problems,
        n=np.array([len(row) for row in rows], dtype=np.int64),
        c=np.array([sum(outcome.correct for outcome in row) for row in rows], dtype=np.int64),
        right=tuple(tuple(outcome.correct for outcome in row) for row in rows),
        failed=tuple(tuple(outcome.failed for outcome in row) for row in rows),
        answers=answers if some_answer or answers_recorded else None,
        truncated=tuple(tuple(outcome.stop == "length" for outcome in row) for row in rows)
        if some_end
        else None,
        input_tokens=_means([[outcome.input_tokens for outcome in row] for row in rows]),
        output_tokens=_means([[outcome.output_tokens for outcome in row] for row in rows]),
    )


def _means(rows: Sequence[Sequence[int | None]]) -> NDArray[np.float64]:
    known = [[value for value in row if value is not None] for row in rows]
    return np.array([sum(row) / len(row) if row else np.nan for row in known])
