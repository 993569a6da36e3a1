"""The exception tree is the one drawn in its header, with the exit codes stated there."""

from __future__ import annotations

import inspect
import re

import pytest

from timberkit import errors
from timberkit.errors import MissingExtraError, TimberkitError

CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, TimberkitError)
}


def drawn() -> dict[str, tuple[int, int]]:
    """Name to (depth, exit code), as the module's header draws them."""
    lines = (errors.__doc__ or "").splitlines()
    found = {}
    for line in lines:
        match = re.match(r"^\s{4}([│├└─ ]*)(\w+Error)\s+(\d)\b", line)
        if match:
            found[match[2]] = (len(match[1]) // 4, int(match[3]))
    return found


def test_every_class_is_drawn_where_it_stands_with_its_exit_code() -> None:
    tree = drawn()
    assert set(tree) == set(CLASSES)
    for name, kind in CLASSES.items():
        depth, code = tree[name]
        assert kind.exit_code == code, name
        assert len(kind.__mro__) - TimberkitError.__mro__.__len__() == depth, name


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_class_says_what_it_is_for_and_carries_its_message(name: str) -> None:
    kind = CLASSES[name]
    assert kind.__doc__
    if kind is not MissingExtraError:
        assert str(kind("which: what")) == "which: what"


def test_programming_errors_are_not_ours() -> None:
    assert not issubclass(TimberkitError, ValueError | TypeError)


def test_a_missing_extra_says_how_to_get_it() -> None:
    found = str(MissingExtraError("transformers", extra="eval"))
    assert "pip install 'timberkit[eval]'" in found
