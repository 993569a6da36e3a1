"""What a search found: every model of the trade-off on every split, and what may be said of it.

``results.json`` of a search holds a ``Findings`` as JSON::

    schema_version   1
    objective, keep  "pass@64", "pass@1"
    splits           problems of each split
    points           one object for each model and split:
        name           "instruct", "merge 0.8", "winner", "simple rule: ramp"
        role           "instruct", "merge", "winner" or "rule"
        label          how the candidate came about
        candidate      its key in the journal
        split          "search", "constraint" or "confirm"
        low, high      Pass@k that is held and Pass@k that is raised, in percent, each with the
                       ends of its 95 % interval over problems: value, low, high
        difference     low minus Instruct's on the same problems, in points, likewise (paired)
        gap            points of high above the merges at equal low, likewise; null for merges and
                       where the merges say nothing (``place``: within, above, below)
    winner           the variant that ``winner.yaml`` has
    openings         when, and for which candidates, the confirm split was opened
    said             the sentences shown on the terminal
    evaluations      how many of this run, seconds how long it took

``frontier.csv`` has the points as a table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from timberkit.metrics import Interval, frontier_gap, mean_interval, paired_difference
from timberkit.study.search.candidates import Candidate
from timberkit.study.search.evaluators import Scores, Split

Role = Literal["instruct", "merge", "winner", "rule"]
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Named:
    """A candidate with its part in the results."""

    name: str
    role: Role
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Point:
    """One model on one split; see the module."""

    name: str
    role: Role
    label: str
    candidate: str
    split: Split
    low: Interval
    high: Interval
    difference: Interval
    gap: Interval | None
    place: str | None

    @property
    def is_above(self) -> bool:
        """Whether the whole interval of the gap lies above zero."""
        return self.gap is not None and self.gap.low > 0


@dataclass(frozen=True, slots=True)
class Findings:
    """All of it; see the module."""

    objective: int
    keep: int
    tolerance: float
    splits: Mapping[str, int]
    points: tuple[Point, ...]
    winner: Mapping[str, Any]
    openings: tuple[Mapping[str, Any], ...]
    said: tuple[str, ...]
    evaluations: int
    seconds: float

    def point(self, name: str, split: Split) -> Point:
        """The point of a name on a split; KeyError if there is none."""
        for point in self.points:
            if (point.name, point.split) == (name, split):
                return point
        raise KeyError((name, split))

    def of_split(self, split: Split) -> list[Point]:
        """All points of a split, in order."""
        return [point for point in self.points if point.split == split]

    def as_json(self) -> dict[str, Any]:
        """JSON values; see the module."""
        fields = asdict(self)
        return {
            "schema_version": SCHEMA_VERSION,
            **fields,
            "objective": f"pass@{self.objective}",
            "keep": f"pass@{self.keep}",
        }


def points_of(models: Sequence[Named], scores: Sequence[Scores], split: Split) -> list[Point]:
    """Points of all models on one split; the first one is Instruct, the merges follow in order.

    ``scores``: (problems, 2) of each model, the same problems. The frontier is Instruct and the
    merges.
    """
    percent = [100 * each for each in scores]
    instruct = percent[0]
    line = np.stack([
        each for model, each in zip(models, percent, strict=True)
        if model.role in ("instruct", "merge")
    ])  # fmt: skip
    found = []
    for model, each in zip(models, percent, strict=True):
        gap = None if model.role in ("instruct", "merge") else frontier_gap(each, line)
        found.append(
            Point(
                model.name,
                model.role,
                model.candidate.label,
                model.candidate.key,
                split,
                mean_interval(each[:, 0]),
                mean_interval(each[:, 1]),
                paired_difference(each[:, 0], instruct[:, 0]),
                None if gap is None else gap.interval,
                None if gap is None else gap.place,
            )
        )
    return found


COLUMNS = (
    "split", "name", "role", "label", "low", "low_from", "low_to", "high", "high_from", "high_to",
    "difference", "difference_from", "difference_to", "gap", "gap_from", "gap_to", "place",
    "candidate",
)  # fmt: skip


def as_csv(points: Sequence[Point]) -> str:
    """The points as a table with ``COLUMNS``; numbers in percent and points, empty where none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for point in points:
        writer.writerow(
            [
                point.split, point.name, point.role, point.label,
                *_ends(point.low), *_ends(point.high), *_ends(point.difference),
                *_ends(point.gap), point.place or "", point.candidate,
            ]
        )  # fmt: skip
    return text.getvalue()


def _ends(interval: Interval | None) -> list[str]:
    if interval is None:
        return ["", "", ""]
    return [f"{value:.4f}" for value in (interval.value, interval.low, interval.high)]
