"""Files of recipes: their fields, and the line that each stands on, for messages.

    fields, origin = read_recipe(Path("recipe.yaml"))
    origin.of(("selection", "layers"))       # 'recipe.yaml:7:3'

Safe YAML only: no tags and no aliases, which keeps a small file from growing into gigabytes, and no
key twice, of which one would be ignored in silence. What the fields mean is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from timberkit.errors import RecipeError

LARGEST_RECIPE_BYTES = 1 << 20
LARGEST_MANIFEST_BYTES = 256 << 20
LONGEST_NUMBER = 200

Step: TypeAlias = str | int
Mark: TypeAlias = tuple[int, int]

_FLAGS: Mapping[str, str] = {
    "base": "BASE", "instruct": "INSTRUCT", "models": "MODEL", "variants": "--variant",
    "tasks": "--task", "temperatures": "--temperature", "raw_models": "--raw",
    "template_args": "--template-arg",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the fields of a recipe come from: a file, or flags, which override it.

    ``name`` stands for what has no line; ``text`` is the file's own, empty without a file;
    ``inside`` the field of the file that holds the recipe; ``flags`` the fields given as flags.
    """

    name: str = "recipe"
    text: str = field(default="", repr=False)
    inside: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()

    def with_flags(self, names: Iterable[str]) -> Origin:
        """The same where these fields were given as flags."""
        return replace(self, flags=self.flags | frozenset(names))

    def of(self, place: tuple[Step, ...]) -> str:
        """What to call the origin of one field: a flag, ``file:line:column``, or the name alone.

        ``place`` is the way to it in the validated recipe. Its steps that the file does not have
        (a level that flat fields leave out, the tag of a union) are passed over, and the last that
        it has is the one named. Both count from 1. Cost: the file is parsed once more.
        """
        flag = self._flag(place)
        if flag is not None:
            return flag
        marks = _marks(self.text) if self.text else {}
        found: tuple[Step, ...] = self.inside
        for step in place:
            if (*found, step) in marks:
                found = (*found, step)
        if len(found) == len(self.inside):
            return self.name
        line, column = marks[found]
        return f"{self.name}:{line}:{column}"

    def _flag(self, place: tuple[Step, ...]) -> str | None:
        if place[:1] == ("variants",) and "method" in self.flags and len(place) <= 2:
            return "--method"
        for step in place:
            if step in self.flags:
                return _FLAGS.get(str(step), f"--{str(step).replace('_', '-')}")
        return None


def origin_of(where: str | Origin) -> Origin:
    """The origin that a caller names by a text alone, or gives."""
    return Origin(where) if isinstance(where, str) else where


def read_recipe(path: Path) -> tuple[dict[str, Any], Origin]:
    """The recipe fields of a YAML file or of a ``timberkit.json`` manifest, and where they stand.

    The manifest's fields stand under ``recipe``. Raises RecipeError, with the line where there is
    one, for an unreadable file, one over 1 MiB that is no manifest, a key that is there twice, or
    content that is not a mapping. Values are validated later. Of a manifest over 1 MiB no lines are
    known.
    """
    try:
        if path.suffix == ".json":
            if path.stat().st_size > LARGEST_MANIFEST_BYTES:
                raise RecipeError(f"{path}: over 256 MiB; that is no manifest")
            text = path.read_text(encoding="utf-8")
            fields = json.loads(text, object_pairs_hook=_once)
        else:
            if path.stat().st_size > LARGEST_RECIPE_BYTES:
                raise RecipeError(f"{path}: over 1 MiB; that is no recipe")
            text = path.read_text(encoding="utf-8")
            loader = PlainLoader(text)
            root = loader.get_single_node()
            _refuse_twice(path, root)
            fields = None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        raise _unreadable(path, error) from None
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: bad UTF-8, JSON, date
        raise RecipeError(f"{path}: cannot be read as a recipe: {error}") from None
    except RecursionError:
        raise RecipeError(f"{path}: nested too deeply for a recipe") from None
    inside: tuple[str, ...] = ()
    if isinstance(fields, dict) and "schema_version" in fields:
        fields, inside = fields.get("recipe"), ("recipe",)
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise RecipeError(
            f"{path}: found {type(fields).__name__}, expected fields such as 'base: …' and"
            " 'variants: [timber]'"
        )
    return fields, Origin(str(path), text if len(text) <= LARGEST_RECIPE_BYTES else "", inside)


def _unreadable(path: Path, error: yaml.MarkedYAMLError) -> RecipeError:
    mark = error.problem_mark or error.context_mark
    where = str(path) if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"
    context = "" if error.context is None else f" ({error.context})"
    return RecipeError(f"{where}: cannot be read as a recipe: {error.problem}{context}")


class PlainLoader(yaml.SafeLoader):
    """Safe YAML without tags, aliases and endless numbers.

    1 KB of nested aliases expands to gigabytes, and ``1:1:1:…`` is a number to base 60, which takes
    time with the square of its length.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not allowed in a recipe", event.start_mark
            )
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(
                None, None, f"tags ({event.tag}) are not allowed in a recipe", event.start_mark
            )
        if _is_endless_number(event):
            raise yaml.composer.ComposerError(
                None, None, f"a number of {len(event.value)} signs", event.start_mark
            )
        return super().compose_node(parent, index)


def _is_endless_number(event: Any) -> bool:
    return (
        isinstance(event, yaml.ScalarEvent)
        and event.implicit[0]
        and len(event.value) > LONGEST_NUMBER
        and event.value[0] in "+-.0123456789"
    )


def _nodes(root: yaml.Node | None) -> list[tuple[tuple[Step, ...], yaml.Node]]:
    """Every key of every mapping and every item of every list, with the way to it, in order."""
    found: list[tuple[tuple[Step, ...], yaml.Node]] = []
    waiting: list[tuple[tuple[Step, ...], yaml.Node | None]] = [((), root)]
    while waiting:
        way, node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                found.append(((*way, str(key.value)), key))
                waiting.append(((*way, str(key.value)), value))
        elif isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                found.append(((*way, number), item))
                waiting.append(((*way, number), item))
    return found


def _marks(text: str) -> dict[tuple[Step, ...], Mark]:
    """Line and column of each key and item; nothing where the text is JSON that is no YAML."""
    try:
        nodes = _nodes(yaml.compose(text, Loader=PlainLoader))
    except (yaml.YAMLError, RecursionError):
        return {}
    return {way: _mark(node) for way, node in nodes}


def _mark(node: yaml.Node) -> Mark:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The mapping of a JSON object; ValueError for a key that it has twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in one object; expected once: remove one of them")
    return found


def _refuse_twice(path: Path, root: yaml.Node | None) -> None:
    """Raise RecipeError for a key that a mapping has twice."""
    seen: dict[tuple[Step, ...], Mark] = {}
    for way, node in _nodes(root):
        mark = _mark(node)
        if way in seen:
            raise RecipeError(
                f"{path}:{mark[0]}:{mark[1]}: {way[-1]} stands there twice, first in line"
                f" {seen[way][0]}; expected once: remove one of them"
            )
        seen[way] = mark
