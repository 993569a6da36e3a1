"""Recipes of studies: which pair, which edits and controls, how much of the paper's evaluation.

    recipe = build_study_recipe({"base": "org/model-base", "instruct": "org/model", "scale": 0.1})

What is here decides what a study finds; a folder of a study belongs to one recipe. How it is
carried out (workers, servers, which part now) is not here, because it must not change a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pydantic import Field, ValidationError, model_validator

from timberkit.config import Frozen, Selection, SourceField, Variant, known_fields, recipe_error
from timberkit.evaluation_recipe import TaskField
from timberkit.recipe_file import Origin

Catalogue: TypeAlias = Literal["paper", "ablations", "short"]
Controls: TypeAlias = Literal["none", "timber", "all"]
Keep: TypeAlias = Literal["all", "best", "none"]


class StudyRecipe(Frozen):
    """Everything that decides what a study finds.

    Attributes:
        pair: name of a ready-made pair, for its protocol; None for any other two checkpoints.
        base, instruct: the checkpoints.
        catalogue: ``paper`` for the edits of the paper, ``ablations`` for these and ablations by
            family, depth and band; ``short`` for a few of both.
        variants: edits besides, each with its controls.
        controls: edits that get a matched merge and noise: Timber's, all of them, or none.
        noise_seeds: how often noise is drawn for each of these.
        selection: which tensors the edits treat.
        tasks: benchmarks with their files where these are not at their usual home; none: all that
            the paper has.
        thinking: whether models think in thinking mode; None: as the pair, or as the model does.
        scale: share of the problems of each benchmark and of the rollouts for Pass@k.
        temperatures: at which Instruct is asked besides its own; None: as the protocol has it.
        confidence: of all intervals.
        seed: of rollouts, splits and bootstraps.
    """

    pair: str | None = None
    base: SourceField
    instruct: SourceField
    catalogue: Catalogue = "paper"
    variants: tuple[Variant, ...] = ()
    controls: Controls = "timber"
    noise_seeds: int = Field(default=5, ge=1, le=100)
    selection: Selection = Selection()
    tasks: tuple[TaskField, ...] = ()
    thinking: bool | None = None
    scale: float = Field(default=1.0, gt=0.0, le=1.0)
    temperatures: tuple[float, ...] | None = None
    unsandboxed: bool = False
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    seed: int = Field(default=0, ge=0, lt=1 << 31)

    @model_validator(mode="after")
    def _sensible(self) -> StudyRecipe:
        temperatures = self.temperatures or ()
        if any(not 0 < each <= 100 for each in temperatures):
            raise ValueError("temperatures: expected numbers above 0, up to 100")
        if len(set(temperatures)) < len(temperatures):
            raise ValueError("temperatures: one stands there twice")
        keys = [(task.name, task.setting) for task in self.tasks]
        if len(set(keys)) < len(keys):
            raise ValueError("tasks: one is given twice")
        return self


def build_study_recipe(fields: Mapping[str, Any], *, where: str | Origin = "recipe") -> StudyRecipe:
    """Validate fields into a recipe; RecipeError lists every wrong field, naming ``where``.

    >>> build_study_recipe({"base": "a/b", "instruct": "a/c"}).catalogue
    'paper'
    """
    try:
        return StudyRecipe.model_validate(dict(fields))
    except ValidationError as error:
        raise recipe_error(error, where=where, known=known_fields(StudyRecipe)) from None
