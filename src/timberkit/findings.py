"""What a study found: records that its page, its tables and ``results.json`` hold (no torch).

A study sets Base, Instruct, edits and controls side by side on benchmarks (``study.reproduce``
makes one, ``report`` shows it). Scores, energies and differences are shares, not percent; the
published numbers are percent as printed. ``None`` stands for what is not known or has no meaning.

Everything shown stands in here: what a page says and what ``results.json`` says is the same value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from pydantic import ConfigDict, TypeAdapter, ValidationError

from timberkit.errors import InputError
from timberkit.metrics import Crossing, Interval
from timberkit.metrics.intervals import Verdict

_EXACTLY = ConfigDict(extra="forbid")
SCHEMA_VERSION = 1

Role: TypeAlias = Literal["base", "instruct", "variant", "control", "temperature"]
Group: TypeAlias = Literal[
    "base", "instruct",
    "timber", "truncate-rank", "truncate-energy", "merge",
    "family", "depth", "band", "edit",
    "matched-merge", "noise", "temperature",
]  # fmt: skip
"""Which of its like a model is shown with: ``family``, ``depth`` and ``band`` are ablations,
``edit`` any other edit."""


@dataclass(frozen=True, slots=True)
class StudyModel:
    """One model of a study.

    Attributes:
        key: its name, the same everywhere; unique, safe as a folder name.
        label: for people, short.
        role, group: what it is, and what it is shown with.
        variant: text of the method; None for Base, Instruct and temperatures.
        of: key of the edit that a control controls.
        parameter: place on the axis of its group: lambda, ratio, energy, mu, temperature, seed.
        temperature: it is asked at, where that is not the task's own.
        correction: ``||refined - instruct|| / ||instruct||`` over all weights that can be refined.
        energy: share of the delta's energy that it keeps; of truncations and Timber-L.
        kept: whether its weights still lie on the disk.
    """

    __pydantic_config__ = _EXACTLY

    key: str
    label: str
    role: Role
    group: Group
    variant: str | None = None
    of: str | None = None
    parameter: float | None = None
    temperature: float | None = None
    correction: float | None = None
    energy: float | None = None
    kept: bool = True


@dataclass(frozen=True, slots=True)
class StudyTask:
    """One benchmark as it was put to the models.

    Attributes:
        key: unique, such as ``aime24:released+thinking``.
        label: for people.
        benchmark: its name in the paper, None for one the paper has not.
        thinking: whether the models were to think aloud first; None: as they do by themselves.
        how: ``exact`` where success probabilities are known, else ``sampled``.
        problems: how many.
        rollouts: of each problem; None where exact.
        whole: whether all problems of the benchmark were asked, as often as the paper does.
    """

    __pydantic_config__ = _EXACTLY

    key: str
    label: str
    benchmark: str | None
    thinking: bool | None
    how: Literal["exact", "sampled"]
    problems: int
    rollouts: int | None
    whole: bool


@dataclass(frozen=True, slots=True)
class At:
    """A value with its interval at one k of Pass@k."""

    __pydantic_config__ = _EXACTLY

    k: int
    score: Interval


@dataclass(frozen=True, slots=True)
class Curve:
    """Pass@k of one model on one task, k ascending from 1; ``mean``: Mean@k, the same as k = 1."""

    __pydantic_config__ = _EXACTLY

    model: str
    task: str
    mean: Interval
    points: tuple[At, ...]


@dataclass(frozen=True, slots=True)
class DifferenceAt:
    """Model minus reference at one k: for it alone, for all k together, and in a word."""

    __pydantic_config__ = _EXACTLY

    k: int
    difference: Interval
    simultaneous: Interval
    corrected_p_value: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Contrast:
    """One model against another on one task, on the same problems.

    ``crossing``: from which k ``behind`` passes ``ahead``; None with a single k.
    """

    __pydantic_config__ = _EXACTLY

    model: str
    reference: str
    task: str
    points: tuple[DifferenceAt, ...]
    behind: str | None = None
    ahead: str | None = None
    crossing: Crossing | None = None


@dataclass(frozen=True, slots=True)
class PlanePoint:
    """A model on the trade-off plane of a task.

    ``gap``: how far above the frontier of plain merges at equal ``low`` score, a share, with its
    paired interval; None where the frontier does not reach, and for the frontier's own models.
    """

    __pydantic_config__ = _EXACTLY

    model: str
    low: Interval
    high: Interval
    gap: Interval | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Plane:
    """Pass@``low_k`` against Pass@``high_k`` of all models on one task.

    ``frontier``: keys of Base, merges and Instruct, in the order of their gain.
    """

    __pydantic_config__ = _EXACTLY

    task: str
    low_k: int
    high_k: int
    frontier: tuple[str, ...]
    points: tuple[PlanePoint, ...]


@dataclass(frozen=True, slots=True)
class ControlledEffect:
    """An edit beside its controls on one task at one k; differences are to Instruct, shares.

    Attributes:
        edit: key of the edit; ``merge``: of its matched merge; ``noise``: of the noise, by seed.
        effect, merge_effect: differences to Instruct with paired intervals.
        noise_effects: one a seed; ``noise_effect``: their mean, interval over problems.
        beyond_merge, beyond_noise: the edit minus its control (minus the mean over seeds), paired.
        says: a sentence: whether the effect is the method's own.
    """

    __pydantic_config__ = _EXACTLY

    task: str
    k: int
    edit: str
    effect: Interval
    merge: str | None
    merge_effect: Interval | None
    beyond_merge: Interval | None
    noise: tuple[str, ...]
    noise_effects: tuple[Interval, ...]
    noise_effect: Interval | None
    beyond_noise: Interval | None
    says: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Lambda chosen on one task, as the paper did, and what choosing on a held-out half would give.

    Attributes:
        task: that it was chosen on, by ``mean``.
        candidates: keys of the models it was chosen among.
        chosen: the one with the best mean over all problems; ties go to the first.
        score: its mean on the problems it was chosen on: flattered.
        held_out: mean over random halves of the score of what the other half chose, on this half.
        instruct: Instruct's mean on all problems.
        flattery: ``score - held_out``.
        halves: number of random halves.
        picks: how often each candidate was chosen by a half, in the order of ``candidates``.
    """

    __pydantic_config__ = _EXACTLY

    task: str
    candidates: tuple[str, ...]
    chosen: str
    score: float
    held_out: float
    instruct: float
    flattery: float
    halves: int
    picks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of the paper beside ours.

    ``published``: percent, as printed. ``ours``: a share. ``difference``: ours to our own Instruct.
    """

    __pydantic_config__ = _EXACTLY

    published: float | None = None
    ours: Interval | None = None
    difference: Interval | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class PaperRow:
    """``label``: the method in the paper's words; ``cells``: one a column."""

    __pydantic_config__ = _EXACTLY

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class PaperTable:
    """A table or figure of the paper with ours beside it.

    Attributes:
        key: ``table-2``, ``table-3``, ``table-5``, ``figure-4``, ``figure-5``, ``figure-6``.
        title: what it shows.
        source: where the published numbers stand.
        over: what ours averages over, in words, and how that differs from the paper.
        columns: headings.
        axis: values of the columns on an axis (k, lambda, mu), where it is drawn as a figure.
        axis_label: of that axis.
    """

    __pydantic_config__ = _EXACTLY

    key: str
    title: str
    source: str
    over: str
    columns: tuple[str, ...]
    rows: tuple[PaperRow, ...]
    axis: tuple[float, ...] | None = None
    axis_label: str | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What one step took, in the run that finished it.

    ``rollouts``, ``output_tokens``: of evaluations. ``peak_bytes``: largest resident memory of this
    process and its children during the step.
    """

    __pydantic_config__ = _EXACTLY

    step: str
    what: str
    seconds: float
    written_bytes: int
    peak_bytes: int | None = None
    rollouts: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class StudyPair:
    """The pair: ``paper_model`` is its name in the paper, None for a pair that is not in it."""

    __pydantic_config__ = _EXACTLY

    name: str
    base: str
    instruct: str
    paper_model: str | None


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a study found.

    Attributes:
        settings: how it was run: JSON values, shown as they are.
        reference: key of Instruct.
        words: the findings in plain sentences, the most important first.
        paper_says: a sentence with the paper's own finding, for the reader to hold beside.
        notices: what a reader should know of the numbers.
        average_over: tasks whose means are averaged in ``averages``.
        averages: Mean@k over these tasks by model (``points`` empty, task ``average``).
    """

    __pydantic_config__ = _EXACTLY

    schema_version: int
    tool_version: str
    pair: StudyPair
    settings: dict[str, Any]
    reference: str
    words: tuple[str, ...]
    paper_says: str
    notices: tuple[str, ...]
    models: tuple[StudyModel, ...]
    tasks: tuple[StudyTask, ...]
    curves: tuple[Curve, ...]
    contrasts: tuple[Contrast, ...]
    planes: tuple[Plane, ...]
    controls: tuple[ControlledEffect, ...]
    selections: tuple[Selection, ...]
    paper: tuple[PaperTable, ...]
    average_over: tuple[str, ...]
    averages: tuple[Curve, ...]
    costs: tuple[Cost, ...]

    def model(self, key: str) -> StudyModel:
        """The model of a key; KeyError where there is none."""
        for model in self.models:
            if model.key == key:
                return model
        raise KeyError(key)


_FINDINGS = TypeAdapter(Findings)


def findings_to_json(findings: Findings) -> dict[str, Any]:
    """The findings as JSON values: what ``results.json`` holds."""
    return asdict(findings)


def findings_from_json(values: Mapping[str, Any], *, where: str = "results.json") -> Findings:
    """The findings that ``findings_to_json`` gave; InputError, naming ``where``, for others."""
    try:
        found = _FINDINGS.validate_python(dict(values))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise InputError(
            f"{where}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}; expected the"
            " results of a study that this version of timberkit wrote; run the study again"
        ) from None
    if found.schema_version != SCHEMA_VERSION:
        raise InputError(
            f"{where}: found version {found.schema_version} of a study's results, expected"
            f" {SCHEMA_VERSION}; read it with the version of timberkit that wrote it"
        )
    return found
