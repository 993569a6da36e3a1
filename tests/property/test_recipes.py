"""Recipes over random fields and hostile files: read back equal, or refused with one error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from timberkit.config import (
    AnyVariant,
    Band,
    BaseSubspace,
    Free,
    Leading,
    Linear,
    MatchedMerge,
    Merge,
    MpCut,
    Noise,
    Ramp,
    RankCut,
    RankOne,
    RefineRecipe,
    Shrink,
    Steps,
    Timber,
    TimberL,
    TruncateEnergy,
    TruncateRank,
    Within,
    build_recipe,
    parse_layers,
    parse_variant,
    read_recipe_fields,
    variant_name,
    variant_text,
)
from timberkit.errors import RecipeError

MANY = settings(max_examples=80, deadline=None, derandomize=True)

unit = st.floats(0.0, 1.0).map(abs)
fraction = st.floats(0.0, 1.0, exclude_min=True)
gain = st.floats(-10.0, 10.0)
edges = st.lists(st.integers(1, 2**40), max_size=3, unique=True).map(sorted).map(tuple)


def with_gains(edges: tuple[int, ...]) -> st.SearchStrategy[tuple[float, ...]]:
    """As many gains as these edges ask for."""
    count = len(edges) + 1
    return st.lists(gain, min_size=count, max_size=count).map(tuple)


def free_of(edges: tuple[int, ...]) -> st.SearchStrategy[Free]:
    """Gains by any names and patterns: those that look like text of ours, too."""
    names = st.text(min_size=1) | st.from_regex(r"\A[a-c*?]{1,4}( \[[0-9]\])?(,of=[a]|,gains=)?\Z")
    entries = st.tuples(names, with_gains(edges))
    listed = st.lists(entries, min_size=1, max_size=4, unique_by=lambda entry: entry[0])
    return listed.map(lambda gains: Free(edges=edges, gains=tuple(gains)))


plain_edits: st.SearchStrategy[Any] = st.one_of(
    st.builds(Timber, lam=unit),
    st.just(TimberL()),
    st.builds(TruncateRank, ratio=fraction),
    st.builds(TruncateEnergy, energy=fraction),
    st.builds(Merge, mu=unit),
    st.builds(RankCut, scale=st.floats(0.0, 100.0, exclude_min=True), lam=unit),
    st.builds(MpCut, lam=unit),
    st.sampled_from([Shrink(), RankOne()]),
    st.builds(Leading, count=st.integers(1), gain=gain),
    st.builds(Leading, share=fraction, gain=gain),
    st.tuples(unit, unit, gain)
    .filter(lambda found: found[0] != found[1])
    .map(lambda found: Band(start=min(found[:2]), stop=max(found[:2]), gain=found[2])),
    st.builds(Linear, first=gain, last=gain),
    edges.flatmap(lambda found: st.builds(Steps, edges=st.just(found), gains=with_gains(found))),
    st.builds(BaseSubspace, share=fraction, inside=gain, outside=gain),
    st.builds(Ramp, first=gain, last=gain),
    edges.flatmap(free_of),
)
parts = st.fixed_dictionaries(
    {},
    optional={
        "families": st.lists(
            st.sampled_from(["attention", "ffn", "expert", "unknown"]), min_size=1
        ),
        "modules": st.lists(st.from_regex(r"\A[A-Za-z0-9_-]{1,8}\Z"), min_size=1, max_size=3),
        "layers": st.sampled_from(["0", "1-3", "2,4-9", "2+4-9+3", " 7 "]),
        "start": st.floats(0.0, 0.4).map(abs),
        "stop": st.floats(0.5, 1.0),
    },
).filter(bool)
edits = plain_edits | st.builds(lambda part, of: Within(**part, of=of), parts, plain_edits)
variants: st.SearchStrategy[AnyVariant] = st.one_of(
    edits,
    st.builds(MatchedMerge, of=edits),
    st.builds(Noise, seed=st.integers(0, 2**63 - 1), of=edits),
)
names = st.from_regex(r"\A[a-z]{1,5}/[A-Za-z0-9._-]{1,8}(@[a-z0-9]{1,5})?\Z")
recipes = st.fixed_dictionaries(
    {
        "base": names,
        "instruct": names,
        "variants": st.lists(variants, min_size=1, max_size=4, unique_by=variant_name),
    },
    optional={
        "dtype": st.sampled_from(["float32", "float16", "bfloat16", "float64"]),
        "device": st.sampled_from(["cpu", "cuda", "cuda:3"]),
        "families": st.lists(st.sampled_from(["ffn", "attention", "head"]), min_size=1),
        "layers": st.sampled_from(["0", "1-3", "2,4-9"]),
        "exclude": st.lists(st.text("*.ab", min_size=1), max_size=2),
    },
).map(build_recipe)


def refusal(read: Callable[[Any], object], value: object) -> str | None:
    """The message of our own error; any other one fails the test."""
    try:
        read(value)
    except RecipeError as error:
        return str(error)
    return None


@MANY
@given(recipe=recipes)
def test_json_yaml_and_text_give_the_recipe_back(
    recipe: RefineRecipe, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("recipes")
    values = recipe.model_dump(mode="json")
    manifest = {"schema_version": 1, "recipe": values, "other": [1]}
    files = {
        "timberkit.json": json.dumps(manifest),
        "recipe.json": json.dumps(values),
        "recipe.yaml": yaml.safe_dump(values),
        "with_text.yml": yaml.safe_dump(
            {**values, "variants": [*map(variant_text, recipe.variants)]}
        ),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        found = build_recipe(read_recipe_fields(folder / name))
        assert found == recipe
        assert found.digest() == recipe.digest()


@settings(MANY, max_examples=30)
@given(first=recipes, second=recipes)
def test_digests_are_equal_exactly_for_equal_recipes(
    first: RefineRecipe, second: RefineRecipe
) -> None:
    assert (first.digest() == second.digest()) is (first == second)


@MANY
@given(first=variants, second=variants)
def test_names_are_equal_exactly_for_equal_variants(first: AnyVariant, second: AnyVariant) -> None:
    assert (variant_name(first) == variant_name(second)) is (first == second)
    name = variant_name(first)
    assert parse_variant(variant_text(first)) == first
    assert re.fullmatch(r"[A-Za-z0-9+._-]{1,100}", name)
    assert name not in (".", "..")


@MANY
@given(st.text(max_size=30))
def test_any_text_is_a_variant_or_an_error_of_ours(text: str) -> None:
    for read in (parse_variant, parse_layers):
        found = refusal(read, text)
        assert found is None or repr(text) in found


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
FIELDS = ["base", "instruct", "variants", "selection", "dtype", "device", "lam", "method", "layers"]


@MANY
@given(st.dictionaries(st.sampled_from([*FIELDS, "other"]), VALUES))
def test_any_fields_are_a_recipe_or_an_error_of_ours(fields: dict[str, Any]) -> None:
    assert refusal(build_recipe, fields) != ""


HOSTILE = {
    "python object": "base: !!python/object/apply:os.system ['echo no']",
    "python name": "base: !!python/name:os.system",
    "own tag": "base: !secret x",
    "empty int tag": 'base: !!int ""',
    "bool tag": "base: !!bool maybe",
    "timestamp tag": "base: !!timestamp never",
    "impossible date": "layers: 2024-99-99",
    "huge integer": "base: " + "1" * 5000,
    "binary zero": "base: 0b_",
    "alias": "a: &x [1]\nb: *x",
    "alias bomb": "a: &a [x,x,x,x]\n"
    + "".join(f"{new}: &{new} [*{old},*{old},*{old}]\n" for old, new in zip("abcdefg", "bcdefgh"))  # noqa: B905
    + "base: *h",
    "merge key": "a: &x {base: b}\n<<: *x",
    "self alias": "a: &a [*a]",
    "deep list": "base: " + "[" * 1_500,
    "deep mapping": "base: " + "{a: " * 1_500,
    "deep indent": "\n".join(" " * i + "a:" for i in range(1500)),
    "two documents": "base: a\n---\nbase: b",
    "unclosed": "base: [a, b",
    "tab": "base:\n\t- a",
    "unhashable key": "? [a]\n: b",
    "number key": "1: a",
    "null": "",
    "text": "just text",
    "list": "- base\n- instruct",
    "control character": "base: a\x00b",
    "manifest without recipe": "schema_version: 1",
    "manifest with a list": "schema_version: 1\nrecipe: [a]",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_naming_the_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(HOSTILE[name], encoding="utf-8")
    with pytest.raises(RecipeError, match=r"recipe\.yaml:(\d+:\d+:)? ") as caught:
        read_recipe_fields(path)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", "1" * 5000, "[" * 200_000, '{"schema_version": 1}', "\x00"]
)
def test_broken_json_is_refused_naming_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "timberkit.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"timberkit\.json: "):
        read_recipe_fields(path)


def unreadable(folder: Path) -> Iterator[Path]:
    yield folder / "absent.yaml"
    (folder / "folder.yaml").mkdir()
    yield folder / "folder.yaml"
    (folder / "binary.yaml").write_bytes(bytes(range(256)) * 8)
    yield folder / "binary.yaml"
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00")
    yield folder / "binary.json"
    (folder / "large.yaml").write_text("# \n" * 700_000)
    yield folder / "large.yaml"


def test_files_that_are_no_text_are_refused_naming_them(tmp_path: Path) -> None:
    for path in unreadable(tmp_path):
        with pytest.raises(RecipeError, match=path.name.replace(".", r"\.")):
            read_recipe_fields(path)


def test_a_large_manifest_is_read(tmp_path: Path) -> None:
    recipe = build_recipe({"base": "a/b", "instruct": "a/c"})
    manifest = {"schema_version": 1, "recipe": recipe.model_dump(mode="json"), "x": "y" * 2**21}
    path = tmp_path / "timberkit.json"
    path.write_text(json.dumps(manifest))
    assert build_recipe(read_recipe_fields(path)) == recipe
