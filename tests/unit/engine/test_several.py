"""Names of the folders of several Instructs, and the grouping of their tasks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timberkit.config import Source
from timberkit.engine.several import named_sources
from timberkit.errors import UsageError


@given(st.text("/.-aZ_\u00e9 =", min_size=1, max_size=300))
def test_a_name_is_one_safe_part_of_a_path_or_refused(text: str) -> None:
    if re.search(r"[A-Za-z0-9_]", text.rpartition("/")[2], re.ASCII):
        (name,) = named_sources([Source(location=text)])
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name, re.ASCII)
    elif not Path(text).exists():
        with pytest.raises(UsageError, match="--instruct first="):
            named_sources([Source(location=text)])


def test_names_are_the_last_parts_and_a_given_one_wins(tmp_path: Path) -> None:
    folder = tmp_path / "lr=2 (best)"
    folder.mkdir()
    found = named_sources(["org/chat@v1", folder, str(tmp_path), "mine=org/chat"])
    assert list(found) == ["chat", "lr-2-best-", tmp_path.name, "mine"]
    assert found["chat"] == Source(location="org/chat", revision="v1")
    assert found["mine"] == Source(location="org/chat")


def test_a_folder_whose_name_holds_an_equals_sign_is_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a=b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert named_sources(["a=b"]) == {"a-b": Source(location="a=b")}


@pytest.mark.parametrize("models", [["x/Chat", "y/chat"], ["a=x/m", "A=y/m"]])
def test_names_that_differ_by_case_only_are_refused(models: list[str]) -> None:
    with pytest.raises(UsageError, match="expected a folder for each"):
        named_sources(models)


def test_an_unknown_home_and_a_name_too_long_for_a_file_still_have_a_name() -> None:
    assert list(named_sources(["~no-such-user/m", "a" * 300])) == ["m", "a" * 100]


def test_no_model_is_refused() -> None:
    with pytest.raises(UsageError, match="no Instruct model"):
        named_sources([])
