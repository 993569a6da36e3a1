"""The page as a file: self-contained, bounded, reproducible, safe by its text alone."""

from __future__ import annotations

import base64
import builtins
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_analysis import HOSTILE, hostile_analysis, made_analysis
from page_tags import Tags

from timberkit.errors import MissingExtraError, UsageError
from timberkit.measurements import Analysis
from timberkit.report import offline_page
from timberkit.report.offline_page import write_page
from timberkit.study.published import published

LIMIT_BYTES = 8_000_000


def page_of(*analyses: Analysis, to: Path, **options: Any) -> Tags:
    return Tags(write_page(analyses, to / "page.html", **options).read_text(encoding="utf-8"))


def data_of(page: Tags) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.scripts[0])
    return found


def test_page_asks_for_nothing_outside_itself(tmp_path: Path) -> None:
    page = page_of(made_analysis(layers=2), to=tmp_path, published=published())
    for tag, attributes in page.tags:
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#"), tag
        assert tag not in {"link", "iframe", "object", "embed", "form", "base"}
        assert not [name for name in attributes if name.startswith("on")]


def test_policy_allows_the_two_scripts_by_hash_and_no_connection(tmp_path: Path) -> None:
    page = page_of(made_analysis(layers=1), to=tmp_path)
    policy = next(
        attributes["content"]
        for tag, attributes in page.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules
    hashes = [
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for text in page.scripts[1:]
    ]
    assert rules["script-src"].split() == hashes
    assert len(hashes) == 2


def test_hostile_texts_are_text_and_make_no_tag(tmp_path: Path) -> None:
    honest = page_of(made_analysis(layers=2), to=tmp_path, published=published())
    hostile = page_of(hostile_analysis(), to=tmp_path, published=published())
    assert {tag for tag, _ in hostile.tags} == {tag for tag, _ in honest.tags}
    assert len(hostile.scripts) == 3
    assert HOSTILE[0] in hostile.text
    assert HOSTILE[1] in hostile.text
    assert "{{ 7 * 7 }}" in hostile.text
    assert "\u202e" not in hostile.text


def test_every_control_has_a_label(tmp_path: Path) -> None:
    html = write_page([made_analysis(layers=1)], tmp_path / "p.html").read_text(encoding="utf-8")
    body = html[html.index("<body") : html.index('<script type="application/json"')]
    outside = re.sub(r"<label>.*?</label>", "", body, flags=re.DOTALL)
    assert "<select" not in outside
    assert "<input" not in outside


def test_summary_numbers_stand_on_the_page_to_the_last_digit(tmp_path: Path) -> None:
    analysis = made_analysis(layers=2)
    html = write_page([analysis], tmp_path / "p.html").read_text(encoding="utf-8")
    model = analysis.summary["model"]
    for key in ("base_ratio", "delta_ratio", "null_ratio", "delta_tail_energy"):
        mean = json.dumps(model[key]["mean"])
        assert f'<dd data-summary="{key}.mean">{mean}</dd>' in html


def test_sections_that_have_nothing_to_say_are_left_out(tmp_path: Path) -> None:
    bare = page_of(made_analysis(layers=1, hidden_states=False), to=tmp_path)
    ids = {attributes.get("id") for _, attributes in bare.tags}
    assert not ids & {"hidden", "paper"}
    links = {attributes.get("href") for tag, attributes in bare.tags if tag == "a"}
    assert {link[1:] for link in links if link} <= ids
    full = page_of(made_analysis(layers=1), to=tmp_path, published=published())
    assert {"hidden", "paper"} <= {attributes.get("id") for _, attributes in full.tags}


def test_runs_stand_side_by_side_and_equal_titles_are_numbered(tmp_path: Path) -> None:
    page = page_of(made_analysis(layers=1), made_analysis(layers=2), to=tmp_path)
    assert [run["title"] for run in data_of(page)["runs"]] == [
        "1: example/small",
        "2: example/small",
    ]
    assert "2: example/small: 14 matrices in 2 layers" in page.text


def test_equal_analyses_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (
        write_page([made_analysis(layers=2)], tmp_path / name).read_bytes() for name in "ab"
    )
    assert first == second


def test_an_older_page_is_replaced_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    assert write_page([made_analysis(layers=1)], path) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_a_page_that_cannot_be_written_leaves_no_half(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        write_page([made_analysis(layers=1)], tmp_path / "missing" / "page.html")
    assert not list(tmp_path.iterdir())


def many_experts(layers: int, experts: int) -> Analysis:
    """As many weights as a large mixture has, from few made ones."""
    made = made_analysis(layers=1, experts=2)
    weights = tuple(
        replace(weight, name=weight.name.replace(".0.", f".{layer}.", 1), layer=layer, index=index)
        for layer in range(layers)
        for weight in made.weights
        if weight.index in (None, 1)
        for index in (range(experts) if weight.index is not None else (None,))
    )
    return replace(made, weights=weights)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [lambda: made_analysis(layers=94), lambda: many_experts(48, 128)],
    ids=["94 layers", "18624 matrices"],
)
def test_large_models_fit_with_every_matrix_in_the_table(
    make: Callable[[], Analysis], tmp_path: Path
) -> None:
    analysis = make()
    path = write_page([analysis], tmp_path / "page.html", published=published())
    assert path.stat().st_size < LIMIT_BYTES
    table = data_of(Tags(path.read_text(encoding="utf-8")))["runs"][0]["table"]
    assert len(table["rows"]["name"]) == len(analysis.weights)


def test_what_does_not_fit_is_shared_by_experts_and_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline_page, "LARGEST_DATA_BYTES", 90_000)
    page = page_of(made_analysis(layers=2, experts=100), to=tmp_path)
    assert len(data_of(page)["runs"][0]["table"]["rows"]["name"]) == 14
    assert "Experts share one row of the table" in page.text


def test_more_than_a_page_can_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offline_page, "LARGEST_DATA_BYTES", 5_000)
    with pytest.raises(UsageError, match=r"found 2 analyses of 14 matrices, more than fit"):
        write_page([made_analysis(layers=1)] * 2, tmp_path / "page.html")


def test_no_analysis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found no analysis"):
        write_page([], tmp_path / "page.html")


@pytest.mark.parametrize("package", ["jinja2", "plotly"])
def test_a_missing_extra_is_named(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {name!r}", name=package)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=rf"{package} is not installed.*\[report\]"):
        write_page([made_analysis(layers=1)], tmp_path / "page.html")
