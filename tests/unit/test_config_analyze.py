"""Recipes of an analysis."""

from __future__ import annotations

from typing import Any

import pytest

from timberkit.config import AnalyzeRecipe, build_analyze_recipe
from timberkit.errors import RecipeError

PAIR = {"base": "org/a", "instruct": "org/b@main"}


def test_defaults_measure_values_only() -> None:
    recipe = build_analyze_recipe(PAIR)
    assert (recipe.measure, recipe.keep_values) == ((), "delta")
    assert (recipe.hidden_states, recipe.prompts) == (False, None)
    assert recipe.instruct.revision == "main"
    refinement = recipe.refinement()
    assert (refinement.base, refinement.selection) == (recipe.base, recipe.selection)


@pytest.mark.parametrize("measure", [["subspaces", "rounding"], ["rounding", "subspaces"] * 2])
def test_the_order_of_measures_does_not_matter(measure: list[str]) -> None:
    recipe = build_analyze_recipe({**PAIR, "measure": measure})
    assert recipe.measure == ("rounding", "subspaces")
    same = build_analyze_recipe({**PAIR, "measure": ["rounding", "subspaces"]})
    assert recipe.digest() == same.digest()


@pytest.mark.parametrize(
    "fields", [{"measure": ["rounding"]}, {"keep_values": "all"}, {"layers": "0"}, {"base": "x/y"}]
)
def test_whatever_decides_a_number_changes_the_digest(fields: dict[str, Any]) -> None:
    changed = build_analyze_recipe({**PAIR, **fields})
    assert changed.digest() != build_analyze_recipe(PAIR).digest()


def test_a_recipe_of_refine_will_do() -> None:
    fields = {**PAIR, "variants": ["timber"], "dtype": "float32", "device": "cuda", "lam": 3}
    assert build_analyze_recipe({**fields, "selection": {"layers": "2"}}) == build_analyze_recipe(
        {**PAIR, "layers": "2"}
    )


def test_a_dumped_recipe_is_read_again() -> None:
    recipe = build_analyze_recipe(
        {**PAIR, "measure": ["rounding"], "hidden_states": True, "prompts": "texts.txt"}
    )
    assert AnalyzeRecipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"measure": ["teapots"]}, "measure"),
        ({"keep_values": "none"}, "keep_values"),
        ({"prompts": "texts.txt"}, "only hidden_states reads them"),
        ({"more": 1}, "more: is not known"),
        ({"selection": {}, "layers": "1"}, "beside selection"),
        ({"base": None}, "base"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        build_analyze_recipe({**PAIR, **fields})
