"""Names and places of models, as users write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from timberkit.errors import SourceError, UsageError
from timberkit.evaluation.models import ModelSource, parse_model, parse_models
from timberkit.sapling import instruct_folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("before=org/model", ModelSource("before", "hub", "org/model")),
        ("org/model@v1.0", ModelSource("model", "hub", "org/model", "v1.0")),
        ("gpt2", ModelSource("gpt2", "hub", "gpt2")),
        (
            "http://localhost:8000/v1/#org/model",
            ModelSource("model", "server", "http://localhost:8000/v1", None, "org/model"),
        ),
        (
            "a=https://example.org/api/v1#served=name",
            ModelSource("a", "server", "https://example.org/api/v1", None, "served=name"),
        ),
        (
            "http://127.0.0.1:8000/v1",
            ModelSource("127.0.0.1-8000", "server", "http://127.0.0.1:8000/v1"),
        ),
    ],
)
def test_a_source_is_read_as_it_was_meant(here: Path, text: str, expected: ModelSource) -> None:
    assert parse_model(text) == expected


def test_several_addresses_are_one_model(here: Path) -> None:
    found = parse_model("m=http://a/v1,http://b:81/v1#x")
    assert found.addresses == ("http://a/v1", "http://b:81/v1")
    assert found.served_name == "x"


def test_a_folder_is_taken_before_the_hub(here: Path) -> None:
    (here / "org/model").mkdir(parents=True)
    assert parse_model("org/model").kind == "folder"


@pytest.mark.parametrize("text", ["runs/lam=0.2", "./lam=0.2", "lam=0.2"])
def test_a_folder_with_an_equals_sign_needs_no_name(here: Path, text: str) -> None:
    (here / "runs/lam=0.2").mkdir(parents=True)
    (here / "lam=0.2").mkdir()
    found = parse_model(text)
    assert (found.name, found.location) == ("lam-0.2", text)


def test_a_named_folder_may_have_an_equals_sign(here: Path) -> None:
    (here / "runs/lam=0.2").mkdir(parents=True)
    assert parse_model("tuned=runs/lam=0.2") == ModelSource("tuned", "folder", "runs/lam=0.2")


def test_a_text_with_two_readings_is_refused_with_both(here: Path) -> None:
    (here / "lam=0.2").mkdir()
    (here / "0.2").mkdir()
    with pytest.raises(UsageError, match=r"write \./lam=0\.2 for the first, lam=\./0\.2"):
        parse_model("lam=0.2")


def test_the_embedded_pair_has_short_names(here: Path) -> None:
    found = parse_model("sapling:instruct")
    assert (found.name, found.location) == ("sapling-instruct", str(instruct_folder()))
    assert parse_model("x=sapling:base").name == "x"


def test_a_bare_folder_is_called_after_itself_whatever_way_it_is_written(here: Path) -> None:
    (here / "my model!").mkdir()
    assert parse_model("my model!/").name == "my-model"
    assert parse_model(".").name == parse_model(str(here)).name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a model is empty"),
        ("x=", "nothing follows the ="),
        ("=org/model", "cannot be the name"),
        ("a b=org/model", "cannot be the name"),
        (f"{'x' * 101}=org/model", "cannot be the name"),
        ("-x=org/model", "cannot be the name"),
        ("ftp://host/v1", "not the address of a server"),
        ("http:///v1", "not the address of a server"),
        ("http://host:99999/v1", "not an address"),
        ("http://host/v1?key=secret", "holds a query"),
        ("http://host/v1#", "nothing follows the #"),
        ("http://a/v1,http://a/v1/", "stands there twice"),
        ("http://a/v1,b", "not the address of a server"),
    ],
)
def test_what_cannot_be_read_is_refused(here: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_model(text)


def test_a_password_in_an_address_is_refused_and_not_repeated(here: Path) -> None:
    with pytest.raises(UsageError, match="TIMBERKIT_API_KEY") as caught:
        parse_model("http://me:hunter2@host/v1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["./nope", "/nope", "~nobody/x", "a/b/c", "x=./nope"])
def test_a_missing_folder_is_not_sought_on_the_hub(here: Path, text: str) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        parse_model(text)


def test_a_file_is_no_model(here: Path) -> None:
    (here / "model.safetensors").touch()
    with pytest.raises(SourceError, match="found a file"):
        parse_model("model.safetensors")


def test_two_models_of_one_name_are_refused_naming_both(here: Path) -> None:
    with pytest.raises(UsageError, match="'a/model' and 'X/MODEL' would both be called"):
        parse_models(["a/model", "other=a/model", "X/MODEL"])


def test_no_model_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="no model given"):
        parse_models([])
