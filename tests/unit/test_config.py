"""Recipes: documented ranges, one message for all errors, three spellings of a variant, digests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from timberkit.config import (
    DEFAULT_FAMILIES,
    METHODS,
    AnyVariant,
    Merge,
    RefineRecipe,
    Selection,
    Source,
    Timber,
    TimberL,
    TruncateEnergy,
    TruncateRank,
    build_recipe,
    build_selection,
    parse_layers,
    parse_variant,
    parse_variants,
    variant_name,
)
from timberkit.errors import RecipeError

PAIR = {"base": "org/base", "instruct": "org/instruct"}


def recipe(**fields: Any) -> RefineRecipe:
    return build_recipe({**PAIR, **fields})


def message(**fields: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe(**fields)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name", "inside", "outside"),
    [
        (Timber, "lam", (0.0, 0.2, 1.0), (-1e-9, 1.0 + 1e-9, float("nan"), float("inf"))),
        (Merge, "mu", (0.0, 0.5, 1.0), (-1e-9, 1.0 + 1e-9, float("nan"))),
        (TruncateRank, "ratio", (1e-9, 1.0), (0.0, -0.1, 1.0 + 1e-9, float("nan"))),
        (TruncateEnergy, "energy", (1e-9, 1.0), (0.0, -0.1, 1.0 + 1e-9, float("nan"))),
    ],
)
def test_ranges_are_those_documented(
    kind: type[AnyVariant], name: str, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    for value in inside:
        assert getattr(kind(**{name: value}), name) == value
    for value in outside:
        with pytest.raises(ValidationError):
            kind(**{name: value})
        with pytest.raises(RecipeError, match=name):
            parse_variant(f"{kind.model_fields['method'].default}:{name}={value!r}")


def test_the_simple_baselines_have_no_default_parameter() -> None:
    assert Timber().lam == 0.2
    for kind in (Merge, TruncateRank, TruncateEnergy):
        with pytest.raises(ValidationError, match="Field required"):
            kind()


def test_the_methods_are_those_of_the_table() -> None:
    assert list(METHODS) == [
        *("timber", "timber-l", "truncate-rank", "truncate-energy", "merge"),
        *("rank-cut", "mp-cut", "shrink", "rank-one", "leading", "band", "linear"),
        *("steps", "base-subspace", "ramp", "free", "within"),
        *("matched-merge", "noise"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("timber", Timber()),
        ("timber:", Timber()),
        ("timber:lam=0.5", Timber(lam=0.5)),
        ("timber:lam=1e-3", Timber(lam=0.001)),
        ("timber-l", TimberL()),
        ("truncate-rank:ratio=0.9", TruncateRank(ratio=0.9)),
        ("truncate-energy:energy=0.99", TruncateEnergy(energy=0.99)),
        ("merge:mu=1", Merge(mu=1.0)),
    ],
)
def test_text_object_and_mapping_of_a_variant_are_equal(text: str, expected: AnyVariant) -> None:
    assert parse_variant(text) == expected
    spellings = [text, expected, expected.model_dump()]
    recipes = [recipe(variants=[spelling]) for spelling in spellings]
    assert recipes[0] == recipes[1] == recipes[2]
    assert len({found.digest() for found in recipes}) == 1
    assert parse_variants([text]) == parse_variants([expected]) == (expected,)


@pytest.mark.parametrize(
    "text",
    [
        *("", "Timber", "timber-2", "timber:0.2", "timber:lam", "timber:lam=", "timber:=0.2"),
        *("timber:lam=0.2,lam=0.3", "timber:lam=x", "timber:mu=0.2", "timber-l:lam=0", "merge"),
    ],
)
def test_unreadable_variants_are_refused_and_shown(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_variant(text)
    assert repr(text) in str(caught.value)
    with pytest.raises(RecipeError):
        recipe(variants=[text])


def test_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match="'svd'; expected one of timber, timber-l, truncate-rank"):
        parse_variant("svd:k=3")


def test_variants_given_in_python_are_all_reported() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_variants(["timber:lam=2", "nonsense", "merge:mu=-1"])
    assert all(part in str(caught.value) for part in ("lam", "nonsense", "mu"))


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        (Timber(), "timber_lam0.2"),
        (Timber(lam=1), "timber_lam1"),
        (Timber(lam=0), "timber_lam0"),
        (TimberL(), "timber-l"),
        (TruncateRank(ratio=0.9), "truncate-rank_ratio0.9"),
        (Merge(mu=1e-10), "merge_mu1e-10"),
    ],
)
def test_folder_name_of_a_variant(variant: AnyVariant, name: str) -> None:
    assert variant_name(variant) == name


def test_parameters_that_differ_in_the_tenth_digit_have_different_names() -> None:
    values = [0.2, 0.2000000001, 0.2000000002, 0.30000000000000004, 0.3]
    assert len({variant_name(Timber(lam=value)) for value in values}) == len(values)


def test_what_was_found_is_said_once() -> None:
    found = message(variants=["timber:lam=7"])
    assert found.count("(found") == 1
    assert "lam: Input should be less than or equal to 1 (found '7')" in found


def test_the_same_variant_twice_is_refused_however_it_is_spelled() -> None:
    for twice in (["timber", "timber:lam=0.2"], [TimberL(), {"method": "timber-l"}]):
        assert "given more than once" in message(variants=twice)
    assert "name at least one" in message(variants=[])
    assert len(recipe(variants=["timber:lam=0", "timber-l"]).variants) == 2


def test_a_misspelled_variant_does_not_hide_the_other_errors() -> None:
    found = message(variants=["nonsense"], device="tpu")
    assert "unknown method 'nonsense'" in found
    assert "device" in found
    assert found.count("recipe: ") == 2


def test_an_unknown_field_is_named() -> None:
    assert "lambda" in message(lambda_=0.5, **{"lambda": 0.5})
    found = message(selection={"familys": ["ffn"]})
    assert "selection.familys" in found
    assert "variants" in message(variants=[{"method": "timber", "mu": 0.2}])


def test_all_errors_are_reported_together_with_their_place_and_what_was_found() -> None:
    with pytest.raises(RecipeError) as caught:
        build_recipe(
            {"instruct": 5, "dtype": "int8", "device": "tpu", "nonsense": 1}, where="x.yml"
        )
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert all(line.startswith("x.yml: ") for line in lines)
    for name in ("base", "instruct", "dtype", "device", "nonsense"):
        assert any(line.startswith(f"x.yml: {name}") for line in lines)
    assert any("found 'int8'" in line for line in lines)


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:15"])
def test_devices_that_are_understood(device: str) -> None:
    assert recipe(device=device).device == device


@pytest.mark.parametrize("device", ["", "gpu", "mps", "cuda:", "cuda:x", "cpu\n", "xcpu", "CPU"])
def test_other_devices_are_refused(device: str) -> None:
    assert "device" in message(device=device)


def test_recipes_are_frozen_and_hold_their_defaults() -> None:
    found = recipe()
    assert found.variants == (Timber(lam=0.2),)
    assert found.selection == Selection(families=DEFAULT_FAMILIES)
    assert (found.dtype, found.device) == (None, "cpu")
    with pytest.raises(ValidationError, match="frozen"):
        found.device = "cuda"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4-20,25", ((4, 20), (25, 25))),
        ("0", ((0, 0),)),
        (" 1 , 3-3 ", ((1, 1), (3, 3))),
        ("999999", ((999999, 999999),)),
    ],
)
def test_layers_that_are_read(text: str, expected: tuple[tuple[int, int], ...]) -> None:
    assert parse_layers(text) == expected


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "a", "-1", "1-", "5-4", "1-2-3", "1.5", "1000000", "٣", "1 2"]
)
def test_layers_that_are_not_read_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"layers .*(cannot read|runs backwards)"):
        parse_layers(text)
    with pytest.raises(RecipeError, match="layers"):
        build_selection(layers=text)


def test_a_range_of_layers_holds_both_its_ends_and_nothing_outside_layers() -> None:
    found = Selection(layers="4-6,9")
    assert [layer for layer in range(12) if found.has_layer(layer)] == [4, 5, 6, 9]
    assert not found.has_layer(None)
    assert Selection().has_layer(None)
    assert Selection().has_layer(10**6)


def test_families_keep_their_order_once_each() -> None:
    assert build_selection(["ffn", "attention", "ffn"]).families == ("ffn", "attention")
    assert build_selection(["authors"]).families == ("authors",)


@pytest.mark.parametrize(
    ("families", "part"),
    [([], "at least one"), (["authors", "ffn"], "alone"), (["mlp"], "'attention'")],
)
def test_impossible_families_are_refused(families: list[str], part: str) -> None:
    with pytest.raises(RecipeError, match=part):
        build_selection(families)


@pytest.mark.parametrize(
    ("text", "location", "revision"),
    [
        ("org/model", "org/model", None),
        ("org/model@main", "org/model", "main"),
        ("org/model@", "org/model", None),
        ("org/model@a@b", "org/model", "a@b"),
    ],
)
def test_hub_sources_with_and_without_revision(
    text: str, location: str, revision: str | None
) -> None:
    found = Source.parse(text)
    assert (found.location, found.revision) == (location, revision)
    assert Source.parse(str(found)) == found
    assert recipe(base=text).base == found


def test_an_existing_folder_is_a_folder_also_with_an_at_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model@step-3"
    assert Source.parse(str(folder)).revision == "step-3"
    folder.mkdir()
    assert Source.parse(str(folder)) == Source(location=str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Source.parse("~/model@step-3") == Source(location="~/model@step-3")


def test_an_empty_source_is_refused_by_name() -> None:
    assert "base" in message(base="")


def test_flat_fields_are_moved_to_where_the_recipe_has_them() -> None:
    found = recipe(method="merge", mu=0.8, families=["ffn"], layers="1-2", exclude=["*.x"])
    assert found.variants == (Merge(mu=0.8),)
    assert found.selection == Selection(families=("ffn",), layers="1-2", exclude=("*.x",))
    assert recipe(lam=0.7).variants == (Timber(lam=0.7),)
    assert recipe(lam=0.7, variants=None).variants == (Timber(lam=0.7),)


def test_flat_and_nested_fields_together_are_refused() -> None:
    assert "lam given beside variants" in message(lam=0.5, variants=["timber-l"])
    assert "layers given beside selection" in message(layers="1", selection={})


def test_equal_recipes_have_equal_digests_and_any_difference_another() -> None:
    same = [
        recipe(),
        recipe(variants=["timber:lam=0.2"]),
        recipe(selection={"families": ["attention", "ffn", "expert", "ssm", "ffn"]}),
        recipe(method="timber"),
        RefineRecipe(base=Source(location="org/base"), instruct=Source(location="org/instruct")),
    ]
    assert len({found.digest() for found in same}) == 1
    other = [
        recipe(variants=["timber:lam=0.2000000001"]),
        recipe(variants=["timber", "timber-l"]),
        recipe(variants=["timber-l", "timber"]),
        recipe(dtype="bfloat16"),
        recipe(device="cuda"),
        recipe(layers="0-5"),
        recipe(families=["ffn"]),
        recipe(exclude=["*x*"]),
        recipe(base="org/base@v1"),
        build_recipe({"base": PAIR["instruct"], "instruct": PAIR["base"]}),
    ]
    digests = {found.digest() for found in [same[0], *other]}
    assert len(digests) == len(other) + 1
    assert all(len(digest) == 64 for digest in digests)


def test_digest_is_the_same_in_every_version() -> None:
    # A published manifest holds it: a change here breaks the resumption of unfinished runs.
    assert json.loads(recipe().model_dump_json())["variants"] == [{"method": "timber", "lam": 0.2}]
    assert recipe().digest() == recipe().model_copy().digest()
