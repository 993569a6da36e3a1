"""A message about a recipe names the line, or the flag, that the wrong field came from."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timberkit.config import RefineRecipe, build_recipe, read_recipe
from timberkit.errors import RecipeError

GOOD = """\
base: org/model-base
instruct: org/model
variants:
  - timber:lam=0.2
  - method: merge
    mu: 0.8
selection:
  layers: 4-20
  families: [attention, ffn]
"""


def parse(path: Path) -> RefineRecipe:
    fields, origin = read_recipe(path)
    return build_recipe(fields, where=origin)


def messages(path: Path, text: str) -> list[str]:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as raised:
        parse(path)
    return str(raised.value).replace(f"{path}:", "").splitlines()


@pytest.mark.parametrize(
    ("wrong", "right", "place"),
    [
        ("4-20", "20-4x", "8:3: "),
        ("[attention, ffn]", "[attention, fnn]", "9:25: "),
        ("mu: 0.8", "mu: 8", "6:5: "),
        ("timber:lam=0.2", "timber:lam=2", "4:5: "),
        ("instruct: org/model", "instruct: []", "2:1: "),
    ],
)
def test_line_and_column_of_a_wrong_field(
    tmp_path: Path, wrong: str, right: str, place: str
) -> None:
    found = messages(tmp_path / "recipe.yaml", GOOD.replace(wrong, right))
    assert len(found) >= 1
    assert found[0].startswith(place)


def test_every_wrong_field_has_its_line_and_the_nearest_name(tmp_path: Path) -> None:
    text = "base: a/b\ninstruct: a/c\nmethod: timber\nlam: 7\nlayer: 1-2\n"
    found = messages(tmp_path / "recipe.yaml", text)
    assert sorted(line[:4] for line in found) == ["4:1:", "5:1:"]
    assert next(line for line in found if line.startswith("5:1")).endswith(
        "check its spelling: layers? (found '1-2')"
    )


def test_a_key_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    found = messages(tmp_path / "recipe.yaml", GOOD + "base: org/other\n")
    assert found == [
        "10:1: base stands there twice, first in line 1; expected once: remove one of them"
    ]


def test_a_key_twice_in_json_is_refused(tmp_path: Path) -> None:
    text = '{"recipe": {"base": "a/b", "instruct": "a/c", "base": "a/d"}}'
    [found] = messages(tmp_path / "timberkit.json", text)
    assert found.endswith("'base' stands twice in one object; expected once: remove one of them")


def test_yaml_that_does_not_parse_names_the_line(tmp_path: Path) -> None:
    found = messages(tmp_path / "recipe.yaml", "base: a/b\ninstruct: [a\nlam: 3\n")
    assert found[0].startswith("3:4: cannot be read as a recipe: ")


def test_lines_of_a_manifest_are_those_of_its_recipe(tmp_path: Path) -> None:
    recipe = {"base": "a/b", "instruct": "a/c", "dtype": "int8"}
    text = json.dumps({"base": 1, "schema_version": 1, "recipe": recipe}, indent=2)
    assert messages(tmp_path / "timberkit.json", text)[0].startswith("7:5: dtype: ")


def test_a_flag_is_named_where_it_overrides_the_file(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(GOOD)
    fields, origin = read_recipe(tmp_path / "recipe.yaml")
    fields["dtype"] = "int8"
    with pytest.raises(RecipeError, match=r"^--dtype: dtype: "):
        build_recipe(fields, where=origin.with_flags(["dtype"]))


def test_the_messages_in_the_docs_are_those_of_the_file_beside_them(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
    content = page.read_text(encoding="utf-8").partition("Of this file")[2]
    recipe, said = (content.split(f"```{kind}\n")[1].split("```")[0] for kind in ("yaml", "text"))
    found = messages(tmp_path / "recipe.yaml", recipe)
    assert found == said.replace("error: ", "").replace("recipe.yaml:", "").splitlines()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_raise_nothing_but_recipe_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(GOOD.encode())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_bytes(content)
    with contextlib.suppress(RecipeError):
        assert isinstance(parse(path), RefineRecipe)
