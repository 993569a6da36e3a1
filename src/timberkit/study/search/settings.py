"""The settings of a search: validated once, kept in its folder, compared when it is continued."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from timberkit.config import DEFAULT_FAMILIES, Frozen, Selection, recipe_error
from timberkit.errors import RecipeError
from timberkit.evaluation_recipe import EvaluationRecipe
from timberkit.study.search.candidates import By

_METRIC = re.compile(r"pass@([1-9][0-9]{0,5})", re.ASCII | re.IGNORECASE)


def parse_metric(text: str) -> int:
    """The k of ``pass@K``; RecipeError for anything else.

    >>> parse_metric("pass@64")
    64
    """
    found = _METRIC.fullmatch(text.strip())
    if found is None:
        raise RecipeError(f"metric {text!r}: write pass@K, such as pass@64")
    return int(found[1])


How = Literal["auto", "model", "cma"]


class SearchSettings(Frozen):
    """Everything that decides what a search finds.

    Attributes:
        base, instruct: as given, see ``Source``.
        objective, keep: the k of Pass@k that is raised, and of the one that is held.
        tolerance: points of ``keep`` that may be lost on problems not searched on; confidence: how
            sure that has to be, one-sided.
        selection: which tensors; edges: directions at which a band of gains ends; by: which
            tensors share gains (``candidates.Space``).
        how: "model" or "cma", the sequential search; "auto" takes the model where chances are known
            exactly. start: gain everywhere from which it begins. rounds: of the model.
        evaluations: of CMA-ES, in whole generations; population: of a generation, None for its own
            choice; sigma: its first step; low, high: range of every gain.
        share: part of the search problems (exact) or of the rollouts (sampled) that one evaluation
            of CMA-ES takes, and the first rung of the grid.
        margin, penalty: see ``Objective``.
        levels, merges: gains of the grid's simple rules and of the merges.
        seed: of CMA-ES and of the splits of a benchmark.
        temperature: of exact probabilities; limit: only the first problems of each of their splits.
        evaluation: of rollouts; None judges exactly.
        shares: how a benchmark's problems are shared out: search, constraint, confirm.
    """

    base: str
    instruct: str
    objective: int = Field(default=64, ge=2)
    keep: int = Field(default=1, ge=1)
    tolerance: float = Field(default=0.5, ge=0.0, le=100.0)
    confidence: float = Field(default=0.8, gt=0.5, lt=1.0)
    selection: Selection = Selection(families=DEFAULT_FAMILIES)
    edges: tuple[int, ...] = (2, 8, 32)
    by: By = "thirds"
    how: How = "auto"
    start: float = 0.9
    rounds: int = Field(default=6, ge=0, le=1000)
    evaluations: int = Field(default=2000, ge=0, le=1_000_000)
    population: int | None = Field(default=None, ge=4, le=10_000)
    sigma: float = Field(default=0.25, gt=0.0, le=2.0)
    low: float = Field(default=-1.5, ge=-10.0)
    high: float = Field(default=3.0, le=10.0)
    share: float = Field(default=0.2, gt=0.0, le=1.0)
    margin: float = Field(default=1.0, ge=-100.0, le=100.0)
    penalty: float = Field(default=4.0, gt=0.0, le=1000.0)
    levels: tuple[float, ...] = (0.6, 0.8, 1.0, 1.2)
    merges: tuple[float, ...] = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    temperature: float = Field(default=1.0, gt=0.0, le=100.0)
    limit: int | None = Field(default=None, ge=1)
    evaluation: EvaluationRecipe | None = None
    shares: tuple[float, float, float] = (2.0, 1.0, 1.0)

    @field_validator("edges")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(edge < 1 for edge in value) or sorted(set(value)) != list(value):
            raise ValueError("expected numbers of directions that rise, such as 4 or 2+8+32")
        return value

    @field_validator("merges")
    @classmethod
    def _from_instruct_down(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        falls = all(first > second for first, second in itertools.pairwise(value))
        if len(value) < 2 or value[0] != 1.0 or not falls or value[-1] < 0:
            raise ValueError("expected at least two gains that fall from 1 and stay from 0")
        return value

    @field_validator("levels")
    @classmethod
    def _some(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not -10 <= level <= 10 for level in value):
            raise ValueError("expected gains in [-10, 10]")
        return value

    @field_validator("shares")
    @classmethod
    def _positive(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if any(not share > 0 for share in value):
            raise ValueError("expected three numbers above 0: search, constraint, confirm")
        return value

    @model_validator(mode="after")
    def _together(self) -> SearchSettings:
        if self.objective == self.keep:
            raise ValueError("objective and keep are the same metric, expected two")
        if not (self.low < 1.0 < self.high and self.low < self.start < self.high):
            raise ValueError(f"gains from {self.low} to {self.high}: expected 1 and start inside")
        if self.evaluation is not None:
            rollouts, needed = self.evaluation.rollouts, max(self.objective, self.keep)
            if rollouts < needed:
                raise ValueError(
                    f"{rollouts} rollouts a problem, expected at least {needed} for Pass@{needed}"
                )
        return self

    @property
    def uses_model(self) -> bool:
        """Whether the sequential search is that of ``model``, else CMA-ES."""
        return self.how == "model" or (self.how == "auto" and self.evaluation is None)

    @property
    def ks(self) -> tuple[int, int]:
        """The k that is held, and the one that is raised."""
        return self.keep, self.objective


def build_settings(fields: Mapping[str, Any], *, where: str = "search") -> SearchSettings:
    """Validate fields; RecipeError lists every wrong one, naming ``where``."""
    try:
        return SearchSettings.model_validate(dict(fields))
    except ValidationError as error:
        raise recipe_error(error, where=where, known=SearchSettings.model_fields) from None
