"""Problems to look at side by side: which ones, and what each model answered to them (no torch).

    collection = collect_cases(partial(read_rollouts, path), texts, reference="instruct")

Rollouts pass by twice: once without texts, to count, and once with them, to keep those of the
rollouts that are shown. What is held grows with problems and models, not with rollouts, and the
texts kept are compressed and bounded. ``case_section`` shows a collection on a page.

Where there are more problems than are shown, those are taken that changed most between the
reference and another model, those that only one model solves, and a random sample, in turn. The
first two are chosen *because* of their outcomes, so part of what they show is chance; whoever shows
a collection says so, and how many of how many it holds.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeAlias

from timberkit.errors import UsageError
from timberkit.rollouts import Rollout

MOST_CASES = 400
"""Problems in a collection."""
ROLLOUTS_EACH = 4
"""Rollouts shown of a model and problem."""
MOST_TEXT_CHARACTERS = 200_000
"""Of a text; a longer one loses what lies between its beginning and its end."""
FEWEST_TEXT_CHARACTERS = 20_000
MOST_CHARACTERS = 400_000_000
"""Of all texts together: with many texts each keeps less, but ``FEWEST_TEXT_CHARACTERS``."""
_BEGINNING = 0.75

Why: TypeAlias = Literal["all", "changed", "only-one", "random"]
"""Why a problem is shown: all are, its rate changed most, only one model solves it, by lot."""
_TURNS: Sequence[Why] = ("changed", "only-one", "changed", "random")


class Rollouts(Protocol):
    """Gives the same rollouts whenever it is called: ``partial(read_rollouts, path)`` does."""

    def __call__(self, *, texts: bool) -> Iterable[Rollout]:
        """All rollouts; the long texts may be empty without ``texts``."""


@dataclass(frozen=True, slots=True)
class ProblemText:
    """What was asked and what is right, as people read it; empty where it is not known."""

    prompt: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class KeptText:
    """A text, compressed; ``left_out`` characters of its middle are gone."""

    packed: bytes
    left_out: int = 0

    @property
    def text(self) -> str:
        """What is kept of it, with a line in the middle that says what is not. O(length)."""
        return zlib.decompress(self.packed).decode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class ShownRollout:
    """One rollout that is shown; its fields are those of ``Rollout``.

    ``response`` is all that was generated where it is not known apart from the reasoning.
    """

    rollout: int
    correct: bool
    answer: str | None
    reason: str
    stop: str
    seed: int | None
    output_tokens: int | None
    error: str | None
    reasoning: KeptText
    response: KeptText


@dataclass(frozen=True, slots=True)
class ModelCase:
    """One model on one problem.

    Attributes:
        n, c: all its rollouts, and the right ones.
        first_right: number of the first right rollout, so the first k solve the problem for every k
            from it on; None where none is right.
        shown: the first right and the first wrong ones, by number.
    """

    n: int
    c: int
    first_right: int | None
    shown: tuple[ShownRollout, ...]

    @property
    def rate(self) -> float:
        """Share of right rollouts, in [0, 1]."""
        return self.c / self.n


@dataclass(frozen=True, slots=True)
class Case:
    """One problem: its texts, and what each model that was asked it did (by model)."""

    task: str
    problem: str
    text: ProblemText
    why: Why
    models: Mapping[str, ModelCase]


@dataclass(frozen=True, slots=True)
class CaseCollection:
    """Cases of one or more models and tasks.

    Attributes:
        models: in the order they were met in; ``labels`` are what people call them.
        reference: the model the others are set beside.
        focus: the other model that is shown first; the reference itself where there is no other.
        tasks: each with how many problems it has in all.
        cases: task after task, in the order the problems were met in.
    """

    models: tuple[str, ...]
    labels: Mapping[str, str]
    reference: str
    focus: str
    tasks: Mapping[str, int]
    cases: tuple[Case, ...]


_Key = tuple[str, str, str]
"""Task, setting, problem."""


@dataclass(slots=True)
class _Counts:
    """Of one model and problem: counts, and the lowest numbers of right and of wrong rollouts."""

    n: int = 0
    c: int = 0
    right: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)

    def count(self, number: int, correct: bool, most: int) -> None:
        self.n += 1
        self.c += correct
        first = self.right if correct else self.wrong
        if len(first) < most or number < first[-1]:
            first.append(number)
            first.sort()
            del first[most:]

    def shown(self, most: int) -> list[int]:
        """Half right, half wrong, more of one where the other has too few."""
        right = max(min(len(self.right), most - most // 2), most - len(self.wrong))
        return sorted(self.right[:right] + self.wrong[: most - min(right, len(self.right))])


_Table = dict[_Key, dict[str, _Counts]]


def collect_cases(
    rollouts: Rollouts,
    texts: Mapping[tuple[str, str], ProblemText] | None = None,
    *,
    reference: str,
    models: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    focus: str | None = None,
    most_cases: int = MOST_CASES,
    rollouts_each: int = ROLLOUTS_EACH,
    seed: int = 0,
) -> CaseCollection:
    """Count all rollouts, choose problems and keep what is shown of them.

    Args:
        rollouts: called twice, without and with texts; each rollout once, in any order that is the
            same both times.
        texts: by task and problem; the task with its setting (``math500:paper``) or without.
        reference: a model, usually Instruct.
        models: only these, in this order; all where empty.
        labels: names for people, by model; a model without one is called as it is.
        focus: the model shown beside the reference at first; None takes the one that solves most.
        most_cases: problems in all; each task gets an equal share, what one leaves goes to others.
        rollouts_each: of a model and problem, >= 1.
        seed: of the random sample.

    Returns:
        The collection. It depends on the rollouts and not on their order, but for the order of
        models, tasks and problems, in which they are first met. A task that was asked in several
        settings is a task for each of them, ``math500:paper``.

    Raises:
        UsageError: no rollouts, or a reference or focus that has none.
        InputError: as whatever reads them.

    Memory: about 500 bytes for each model and problem, and the compressed texts.
    """
    table = _counted(rollouts, set(models), rollouts_each)
    met = dict.fromkeys(model for counts in table.values() for model in counts)
    names = tuple(name for name in models if name in met) or tuple(met)
    for name in (reference, focus or reference):
        if name not in met:
            raise UsageError(
                f"cases: model {name[:80]!r} has no rollouts, expected one of"
                f" {', '.join(names)[:500] or 'none at all'}"
            )
    by_task = _by_task(table)
    why: dict[_Key, Why] = {}
    for task, room in _rooms({task: len(keys) for task, keys in by_task.items()}, most_cases):
        why |= _chosen(table, by_task[task], reference, room, seed)
    numbers = {
        (key, model): counts.shown(rollouts_each)
        for key in why
        for model, counts in table[key].items()
    }
    kept = _kept(rollouts, numbers)
    return CaseCollection(
        names,
        {name: (labels or {}).get(name, name) for name in names},
        reference,
        focus or _solving_most(table, names, reference),
        {task: len(keys) for task, keys in by_task.items()},
        tuple(
            _case(task, key, why[key], table[key], kept, texts or {})
            for task, keys in by_task.items()
            for key in keys
            if key in why
        ),
    )


def with_texts(
    collection: CaseCollection, texts: Mapping[tuple[str, str], ProblemText]
) -> CaseCollection:
    """The collection with the texts of its problems, for whoever reads only those that are shown.

    ``texts``: as in ``collect_cases``; a problem without one keeps what it has. O(cases).
    """
    cases = tuple(
        replace(case, text=_text_of(texts, case.task, case.problem) or case.text)
        for case in collection.cases
    )
    return replace(collection, cases=cases)


def _text_of(
    texts: Mapping[tuple[str, str], ProblemText], task: str, problem: str
) -> ProblemText | None:
    found = texts.get((task, problem))
    return texts.get((task.rpartition(":")[0], problem)) if found is None else found


def _counted(rollouts: Rollouts, models: set[str], most: int) -> _Table:
    table: _Table = {}
    for rollout in rollouts(texts=False):
        if models and rollout.model not in models:
            continue
        key = (rollout.task, rollout.setting, rollout.problem)
        counts = table.setdefault(key, {}).setdefault(rollout.model, _Counts())
        counts.count(rollout.rollout, rollout.correct, most)
    return table


def _by_task(table: _Table) -> dict[str, list[_Key]]:
    """Problems by the label of their task, which names the setting where there are several."""
    settings: dict[str, set[str]] = {}
    for task, setting, _ in table:
        settings.setdefault(task, set()).add(setting)
    found: dict[str, list[_Key]] = {}
    for key in table:
        label = key[0] if len(settings[key[0]]) == 1 else f"{key[0]}:{key[1]}"
        found.setdefault(label, []).append(key)
    return found


def _rooms(sizes: Mapping[str, int], most: int) -> Iterator[tuple[str, int]]:
    """How many problems of each task are shown; small tasks first, so that none wastes its room."""
    left, tasks = most, len(sizes)
    for task, size in sorted(sizes.items(), key=lambda item: item[1]):
        room = min(size, left // tasks)
        yield task, room
        left, tasks = left - room, tasks - 1


def _chosen(
    table: _Table, keys: Sequence[_Key], reference: str, room: int, seed: int
) -> dict[_Key, Why]:
    if len(keys) <= room:
        return dict.fromkeys(keys, "all")
    lot = {key: _lot(key, seed) for key in keys}
    changes = {key: _change(table[key], reference) for key in keys}
    ranked: dict[Why, Iterator[_Key]] = {
        "changed": iter(
            sorted((k for k in keys if changes[k] > 0), key=lambda k: (-changes[k], lot[k]))
        ),
        "only-one": iter(sorted((k for k in keys if _only_one(table[k])), key=lot.__getitem__)),
        "random": iter(sorted(keys, key=lot.__getitem__)),
    }
    chosen: dict[_Key, Why] = {}
    turn = 0
    while len(chosen) < room:
        why = _TURNS[turn % len(_TURNS)]
        turn += 1
        key = next((key for key in ranked[why] if key not in chosen), None)
        if key is not None:
            chosen[key] = why
    return chosen


def _lot(key: _Key, seed: int) -> bytes:
    text = "\0".join((str(seed), *key))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _change(counts: Mapping[str, _Counts], reference: str) -> float:
    """The largest change of a model's rate from the reference's; 0 without the reference."""
    if reference not in counts:
        return 0.0
    rates = {model: one.c / one.n for model, one in counts.items()}
    return max(abs(rate - rates[reference]) for rate in rates.values())


def _only_one(counts: Mapping[str, _Counts]) -> bool:
    return len(counts) > 1 and sum(one.c > 0 for one in counts.values()) == 1


def _solving_most(table: _Table, names: Sequence[str], reference: str) -> str:
    """The model with the highest mean rate over its problems, the reference left out."""
    means = {}
    for name in names:
        rates = [counts[name].c / counts[name].n for counts in table.values() if name in counts]
        if name != reference:
            means[name] = sum(rates) / len(rates)
    return max(means, key=means.__getitem__, default=reference)


def _kept(
    rollouts: Rollouts, numbers: Mapping[tuple[_Key, str], list[int]]
) -> dict[tuple[_Key, str], dict[int, ShownRollout]]:
    texts = 2 * sum(map(len, numbers.values()))
    longest = min(
        max(MOST_CHARACTERS // max(texts, 1), FEWEST_TEXT_CHARACTERS), MOST_TEXT_CHARACTERS
    )
    kept: dict[tuple[_Key, str], dict[int, ShownRollout]] = {place: {} for place in numbers}
    for rollout in rollouts(texts=True):
        place = ((rollout.task, rollout.setting, rollout.problem), rollout.model)
        if rollout.rollout in numbers.get(place, ()) and rollout.rollout not in kept[place]:
            kept[place][rollout.rollout] = _shown(rollout, longest)
    return kept


def _shown(rollout: Rollout, longest: int) -> ShownRollout:
    apart = bool(rollout.response or rollout.reasoning)
    return ShownRollout(
        rollout=rollout.rollout,
        correct=rollout.correct,
        answer=rollout.answer,
        reason=rollout.reason,
        stop=rollout.stop,
        seed=rollout.seed,
        output_tokens=rollout.output_tokens,
        error=rollout.error,
        reasoning=keep_text(rollout.reasoning, longest),
        response=keep_text(rollout.response if apart else rollout.text, longest),
    )


def keep_text(text: str, longest: int = MOST_TEXT_CHARACTERS) -> KeptText:
    """A text compressed, without its middle where it is longer than ``longest`` characters.

    >>> keep_text("a" * 30 + "b" * 30, longest=40).left_out
    20
    """
    left_out = max(len(text) - longest, 0)
    if left_out:
        beginning = round(_BEGINNING * longest)
        text = (
            f"{text[:beginning]}\n[… {left_out:,} characters left out …]\n"
            f"{text[beginning + left_out :]}"
        )
    return KeptText(zlib.compress(text.encode("utf-8", "surrogatepass"), 6), left_out)


def _case(
    task: str,
    key: _Key,
    why: Why,
    counts: Mapping[str, _Counts],
    kept: Mapping[tuple[_Key, str], Mapping[int, ShownRollout]],
    texts: Mapping[tuple[str, str], ProblemText],
) -> Case:
    name, setting, problem = key
    text = _text_of(texts, f"{name}:{setting}", problem)
    return Case(
        task,
        problem,
        text or ProblemText(),
        why,
        {
            model: ModelCase(
                one.n,
                one.c,
                one.right[0] if one.right else None,
                tuple(kept[key, model][number] for number in sorted(kept[key, model])),
            )
            for model, one in counts.items()
        },
    )
