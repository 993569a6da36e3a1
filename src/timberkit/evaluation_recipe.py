"""Recipes of evaluations: which models answer which problems, how often, and how they are drawn.

What a YAML file and the flags of ``timberkit eval`` parse to:

    recipe = build_evaluation_recipe({"models": ["before=org/model"], "tasks": ["aime24"]})

Two kinds of fields. Those that decide what an answer is (``seed``, ``prompt``, ``raw_models`` and
all about sampling) may not change within one run folder. ``rollouts``, ``limit``, ``problems``,
``models``, ``tasks`` and ``temperatures`` only say how much of it is wanted: more may be asked for
later. How many requests run at once is not here, because it must not change an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from timberkit.config import Frozen, Origin, recipe_error
from timberkit.errors import RecipeError

PromptForm: TypeAlias = Literal["chat", "raw"]

MOST_ROLLOUTS = 1_000_000
_TASK_NAME = re.compile(r"[a-z0-9][a-z0-9-]*", re.ASCII)


class TaskChoice(Frozen):
    """A benchmark, and where its files are where they are not at their usual home.

    ``setting`` None is the task's first. ``data`` and ``shots``: a local file or
    ``hf://org/name/path``; ``shots`` holds the solved examples of tasks that have them apart.
    """

    name: str = Field(pattern=_TASK_NAME.pattern)
    setting: str | None = Field(default=None, pattern=_TASK_NAME.pattern)
    data: str | None = Field(default=None, min_length=1)
    shots: str | None = Field(default=None, min_length=1)

    @classmethod
    def parse(cls, text: str) -> TaskChoice:
        """Read ``NAME`` or ``NAME:SETTING``; RecipeError for anything else.

        >>> TaskChoice.parse("math500:paper").setting
        'paper'
        """
        name, colon, setting = text.partition(":")
        if not _TASK_NAME.fullmatch(name) or (colon and not _TASK_NAME.fullmatch(setting)):
            raise RecipeError(f"task {text!r}: write NAME or NAME:SETTING, such as math500:paper")
        return cls(name=name, setting=setting or None)


def _read_task(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return TaskChoice.parse(value)
    except RecipeError as error:  # a ValueError joins the other wrong fields in one report
        raise ValueError(str(error)) from None


TaskField: TypeAlias = Annotated[TaskChoice, BeforeValidator(_read_task)]


class EvaluationRecipe(Frozen):
    """Everything that decides which rollouts there are, and what is in them.

    ``models``: ``NAME=SOURCE`` as for ``timberkit.evaluation.models.parse_model``. ``raw_models``:
    names of models, Base models as a rule, that get plain text instead of a chat.
    ``temperatures``: with more than one, every model is asked at each of them. None for a field of
    the sampling leaves it to ``preset``, or to what is known of the model.
    """

    models: tuple[str, ...] = Field(min_length=1)
    tasks: tuple[TaskField, ...] = Field(min_length=1)
    rollouts: int = Field(default=1, ge=1, le=MOST_ROLLOUTS)
    limit: int | None = Field(default=None, ge=1)
    problems: tuple[str, ...] = ()
    seed: int = 0
    prompt: PromptForm = "chat"
    raw_models: tuple[str, ...] = ()
    preset: str | None = None
    thinking: bool | None = None
    temperatures: tuple[float, ...] = ()
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    top_k: int | None = Field(default=None, ge=0)
    min_p: float | None = Field(default=None, ge=0.0, le=1.0)
    max_tokens: int | None = Field(default=None, ge=1)
    template_args: dict[str, Any] = Field(default_factory=dict)
    unsandboxed: bool = False

    @field_validator("temperatures", mode="before")
    @classmethod
    def _one_is_some(cls, value: object) -> object:
        return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("temperatures")
    @classmethod
    def _different(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= each <= 100 for each in value):
            raise ValueError("expected temperatures from 0 to 100")
        if len(set(value)) < len(value):
            raise ValueError("a temperature stands there twice")
        return value

    @model_validator(mode="after")
    def _each_task_once(self) -> EvaluationRecipe:
        keys = [(task.name, task.setting) for task in self.tasks]
        twice = sorted({name for name, _ in keys if keys.count((name, _)) > 1})
        if twice:
            raise ValueError(f"tasks: {', '.join(twice)} given more than once")
        if self.limit is not None and self.problems:
            raise ValueError("limit and problems: expected one of the two")
        return self

    @property
    def is_swept(self) -> bool:
        """Whether models are asked at several temperatures, and named after them."""
        return len(self.temperatures) > 1

    def given_sampling(self, temperature: float | None) -> dict[str, Any]:
        """The fields of the sampling that were given, for ``resolve_sampling``."""
        fields = {
            "temperature": temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "max_tokens": self.max_tokens,
            "chat_template_kwargs": self.template_args or None,
        }
        return {name: value for name, value in fields.items() if value is not None}


def build_evaluation_recipe(
    fields: Mapping[str, Any], *, where: str | Origin = "recipe"
) -> EvaluationRecipe:
    """Validate fields into a recipe; RecipeError lists every wrong field, naming ``where``.

    >>> build_evaluation_recipe({"models": ["a/b"], "tasks": ["aime24"]}).rollouts
    1
    """
    try:
        return EvaluationRecipe.model_validate(dict(fields))
    except ValidationError as error:
        raise recipe_error(error, where=where, known=EvaluationRecipe.model_fields) from None
