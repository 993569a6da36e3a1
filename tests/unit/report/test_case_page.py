"""The case browser as files: bounded, reproducible, whole or not at all, safe by its text alone."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_cases import HOSTILE_TEXTS, hostile_collection, made_collection, made_rollouts

from timberkit.errors import OutputExistsError, UsageError
from timberkit.report import case_page
from timberkit.report.case_packs import PIECE_CHARACTERS, _style_sheet, pack_texts
from timberkit.report.case_page import case_section, write_cases_page
from timberkit.report.cases import CaseCollection
from timberkit.report.text import readable
from timberkit.rollouts import Rollout


def data_of(path: Path) -> dict[str, Any]:
    html = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="case-data">(.*?)</script>', html)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def opened(pack: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(zlib.decompress(base64.b64decode(pack)))
    return cases


def of_sheet(text: str) -> str:
    assert re.fullmatch(r':host\{(--p\d+:"[A-Za-z0-9+/=]+";)+\}\n', text)
    return "".join(re.findall(r'"([^"]*)"', text))


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages so small that texts do not fit."""
    sizes = case_page._parts().size_bytes + case_page.MARKUP_BYTES
    monkeypatch.setattr(case_page, "LARGEST_PAGE_BYTES", sizes + 5_000)


def test_texts_stand_in_the_page_where_they_fit(tmp_path: Path) -> None:
    path = write_cases_page(made_collection(), tmp_path / "cases.html")
    data = data_of(path)
    case = opened(data["packs"][data["cases"][0]["pack"]])[data["cases"][0]["at"]]
    assert case["prompt"]["text"].startswith("Find the number of ways of problem 2024-01.")
    assert [one["number"] for one in case["models"][1]] == [1, 2, 6, 7]
    assert data["cases"][0]["counts"][1] == [10, 6, 1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["cases.html"]


@pytest.mark.usefixtures("beside")
def test_texts_that_do_not_fit_lie_beside_the_page_with_their_digests(tmp_path: Path) -> None:
    path = write_cases_page(made_collection(), tmp_path / "a b#.html")
    data = data_of(path)
    assert data["packs"] is None
    assert data["files"]["folder"] == "a%20b%23-cases"
    files = sorted((tmp_path / "a b#-cases").iterdir())
    assert [file.name for file in files] == ["0000.css"]
    text = of_sheet(files[0].read_text())
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert data["files"]["digests"] == [digest]
    assert len(opened(text)) == 6


def test_a_text_larger_than_a_property_may_be_lies_in_pieces() -> None:
    lot = base64.b64encode(hashlib.shake_256(b"").digest(3 << 20)).decode()
    text = of_sheet(_style_sheet(lot))
    assert text == lot
    assert len(lot) > 2 * PIECE_CHARACTERS


def test_long_texts_spread_over_packs_and_the_page_stays_small(tmp_path: Path) -> None:
    lot = hashlib.shake_256(b"x").digest(9_000_000).hex()
    rollouts = [
        Rollout("m", "t", "", str(i), 1, False, None, response=lot[i * 180_000 :][:180_000])
        for i in range(100)
    ]
    path = write_cases_page(made_collection(rollouts, reference="m"), tmp_path / "p.html")
    assert path.stat().st_size < 8_000_000
    files = sorted((tmp_path / "p-cases").iterdir())
    assert len(files) > 20
    assert sum(file.stat().st_size for file in files) > 8_000_000


@pytest.mark.usefixtures("beside")
def test_an_older_folder_is_replaced_whole_and_goes_when_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "p-cases"
    folder.mkdir()
    for number in range(9):
        (folder / f"{number:04d}.css").write_text("old")
    write_cases_page(made_collection(), tmp_path / "p.html")
    assert [file.name for file in folder.iterdir()] == ["0000.css"]
    assert (folder / "0000.css").read_text() != "old"
    monkeypatch.undo()
    write_cases_page(made_collection(), tmp_path / "p.html")
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.html"]


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("kind", ["file inside", "folder inside", "a file", "a link"])
def test_a_folder_of_somebody_else_is_never_touched(tmp_path: Path, kind: str) -> None:
    folder, page = tmp_path / "p-cases", tmp_path / "p.html"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    if kind == "a file":
        folder.write_text("mine")
    elif kind == "a link":
        folder.symlink_to(theirs)
    else:
        folder.mkdir()
        inside = folder / "thesis"
        inside.mkdir() if kind == "folder inside" else inside.write_text("mine")
    before = sorted(str(entry) for entry in tmp_path.rglob("*"))
    with pytest.raises(OutputExistsError, match="expected only texts of a page"):
        write_cases_page(made_collection(), page)
    assert sorted(str(entry) for entry in tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("beside")
def test_a_disk_that_fails_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cases_page(made_collection(), tmp_path / "p.html")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*")}

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_cases_page(made_collection(made_rollouts(n=5)), tmp_path / "p.html")
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.*")} == before


@pytest.mark.usefixtures("beside")
def test_equal_collections_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        write_cases_page(made_collection(), tmp_path / name / "p.html")
    first, second = (
        {file.name: file.read_bytes() for file in (tmp_path / name).rglob("*.*")} for name in "ab"
    )
    assert first == second
    assert set(first) == {"p.html", "0000.css"}


def test_no_script_but_the_pages_own_and_style_sheets_only_where_needed(tmp_path: Path) -> None:
    collection = made_collection()
    inside = case_section(collection, beside=tmp_path / "p.html", budget_bytes=10**7)
    outside = case_section(collection, beside=tmp_path / "p.html", budget_bytes=5_000)
    assert (inside.style_sources, outside.style_sources) == ((), ("'self'",))
    html = write_cases_page(collection, tmp_path / "q.html").read_text(encoding="utf-8")
    policy = re.search(r"script-src ([^;]*); style-src ([^;]*);", unescape(html))
    assert policy
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]{44}'", policy[1])
    assert policy[2] == "'unsafe-inline'"


class _Markup(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert "src" not in dict(attrs)
        assert not [name for name, _ in attrs if name.startswith("on")]


def test_hostile_texts_make_no_markup_and_are_spelled_out(tmp_path: Path) -> None:
    honest = write_cases_page(made_collection(), tmp_path / "a.html").read_text(encoding="utf-8")
    path = write_cases_page(hostile_collection(), tmp_path / "b.html")
    html = path.read_text(encoding="utf-8")
    assert _Markup(html).tags == _Markup(honest).tags
    assert not set("\x1b\x00\u202e\u2028\u2066\u200b\ufeff") & set(html)
    data = data_of(path)
    prompts = [opened(data["packs"][one["pack"]])[one["at"]]["prompt"] for one in data["cases"]]
    assert [one["text"] for one in prompts] == [readable(text) for text in HOSTILE_TEXTS]
    assert len(set(data["models"])) == 3


def test_the_list_alone_must_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the list of 6 problems has [\d,]+ bytes, more than"):
        case_section(made_collection(), beside=tmp_path / "p.html", budget_bytes=1000)
    assert not list(tmp_path.iterdir())


def test_nothing_to_show_is_refused(tmp_path: Path) -> None:
    nothing = CaseCollection(("m",), {"m": "m"}, "m", "m", {}, ())
    with pytest.raises(UsageError, match="found no problem"):
        write_cases_page(nothing, tmp_path / "p.html")


def test_the_page_says_how_many_of_how_many_and_when_texts_are_missing(tmp_path: Path) -> None:
    collection = made_collection(most_cases=4)
    html = write_cases_page(collection, tmp_path / "p.html").read_text(encoding="utf-8")
    assert "4 of 6 of aime24" in html
    assert "owes part of it to chance" in html
    assert "were not recorded" not in html
    bare = [Rollout("m", "t", "", "p", 1, True, "a")]
    html = write_cases_page(made_collection(bare, reference="m"), tmp_path / "p.html").read_text(
        encoding="utf-8"
    )
    assert "were not recorded" in html


def test_small_cases_share_a_pack() -> None:
    packs = pack_texts(made_collection())
    assert packs.places == tuple((0, place) for place in range(6))
