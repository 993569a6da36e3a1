"""Recipes of evaluations: what a file and flags may say, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from timberkit.errors import RecipeError
from timberkit.evaluation_recipe import TaskChoice, build_evaluation_recipe

LEAST: dict[str, Any] = {"models": ["a/b"], "tasks": ["aime24"]}


def test_tasks_are_read_as_names_with_settings_or_as_fields() -> None:
    recipe = build_evaluation_recipe(
        {**LEAST, "tasks": ["aime24", "math500:paper", {"name": "ifeval", "data": "file.jsonl"}]}
    )
    assert [(task.name, task.setting, task.data) for task in recipe.tasks] == [
        ("aime24", None, None),
        ("math500", "paper", None),
        ("ifeval", None, "file.jsonl"),
    ]


def test_recipe_comes_back_from_its_own_json() -> None:
    recipe = build_evaluation_recipe({**LEAST, "temperatures": [0.6, 1], "rollouts": 4})
    assert build_evaluation_recipe(recipe.model_dump(mode="json")) == recipe
    assert recipe.is_swept


def test_one_temperature_is_no_sweep() -> None:
    recipe = build_evaluation_recipe({**LEAST, "temperatures": 0.6})
    assert (recipe.temperatures, recipe.is_swept) == ((0.6,), False)


def test_given_sampling_holds_only_what_was_given() -> None:
    recipe = build_evaluation_recipe({**LEAST, "top_k": 0, "template_args": {"x": True}})
    assert recipe.given_sampling(None) == {"top_k": 0, "chat_template_kwargs": {"x": True}}
    assert recipe.given_sampling(0.0)["temperature"] == 0.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"models": []}, "models"),
        ({"tasks": []}, "tasks"),
        ({"tasks": ["Aime 24"]}, "NAME or NAME:SETTING"),
        ({"tasks": ["math500:"]}, "NAME or NAME:SETTING"),
        ({"tasks": ["aime24", "aime24"]}, "aime24 given more than once"),
        ({"rollouts": 0}, "rollouts"),
        ({"limit": 1, "problems": ["a"]}, "one of the two"),
        ({"temperatures": [0.6, 0.6]}, "stands there twice"),
        ({"temperatures": [-1]}, "0 to 100"),
        ({"temperatures": True}, "temperatures"),
        ({"top_p": 0}, "top_p"),
        ({"prompt": "odd"}, "prompt"),
        ({"rollout": 3}, "rollout"),
    ],
)
def test_wrong_fields_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        build_evaluation_recipe({**LEAST, **change}, where="file.yaml")


def test_same_task_in_two_settings_is_two_tasks() -> None:
    recipe = build_evaluation_recipe({**LEAST, "tasks": ["math500", "math500:paper"]})
    assert len(recipe.tasks) == 2
    assert TaskChoice.parse("math500:paper") == recipe.tasks[1]
