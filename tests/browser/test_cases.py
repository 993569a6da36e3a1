"""The case browser as a reader meets it: filters, search, sorting, two answers side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_cases import HOSTILE_TEXTS, hostile_collection, made_collection, made_rollouts

from timberkit.report import case_page
from timberkit.report.case_page import write_cases_page
from timberkit.report.text import readable, visible
from timberkit.rollouts import Rollout


def answers(first: str, second: str) -> list[Rollout]:
    """One problem, two models, one answer each."""
    return [
        Rollout(model, "t", "", "p", 1, right, "x", response=text)
        for model, right, text in (("a", True, first), ("b", False, second))
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cases")


@pytest.fixture(scope="module")
def watched(open_page: Callable[..., Any], folder: Path) -> Any:
    other = [replace(one, task="math") for one in made_rollouts(n=2) if one.problem < "2024-03"]
    return open_page(write_cases_page(made_collection(made_rollouts() + other), folder / "p.html"))


@pytest.fixture
def page(watched: Any, folder: Path) -> Any:
    """The shared page as at its start."""
    page = watched.page
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto((folder / "p.html").as_uri())
    shows(page, "2024-01")
    return page


def shows(page: Any, key: str) -> Any:
    """The detail, once it shows a problem."""
    return page.wait_for_selector(f"#case-detail[data-shows='{key}']")


def listed(page: Any, *expected: str) -> None:
    """Wait for the list; the page's policy forbids polling inside."""
    for _ in range(200):
        if keys(page) == list(expected):
            break
        page.wait_for_timeout(25)
    assert keys(page) == list(expected)


def keys(page: Any) -> list[str]:
    found: list[str] = page.locator("#case-table tbody .case-key").all_text_contents()
    return [key.removeprefix("2024-") for key in found]


def marks(page: Any) -> list[list[str]]:
    return [
        page.locator(f".case-side.{side} .case-response mark").all_text_contents() for side in "ab"
    ]


def counts(page: Any) -> dict[str, int]:
    buttons = page.locator("#case-filters button")
    return {
        one.get_attribute("data-filter"): int(one.locator("span").inner_text())
        for one in buttons.all()
    }


def test_page_opens_on_the_reference_beside_the_best_other_and_asks_for_nothing(
    page: Any, watched: Any, folder: Path
) -> None:
    chosen = [page.locator(f"#case-{side} option:checked").inner_text() for side in "ab"]
    assert chosen == ["instruct", "timber"]
    assert watched.messages == []
    assert set(watched.requests) == {(folder / "p.html").as_uri()}


def test_filters_count_and_leave_what_they_say(page: Any) -> None:
    assert counts(page) == {"all": 6, "only-a": 1, "only-b": 1, "changed": 3, "neither": 1}
    for name, expected in [
        ("only-a", ["04"]),
        ("only-b", ["02"]),
        ("changed", ["02", "01", "04"]),
        ("neither", ["05"]),
        ("all", ["02", "01", "03", "05", "06", "04"]),
    ]:
        page.locator(f"[data-filter={name}]").click()
        assert keys(page) == expected
        assert page.locator("[aria-pressed=true][data-filter]").get_attribute("data-filter") == name
        shows(page, f"2024-{expected[0]}")


def test_every_column_sorts_both_ways(page: Any) -> None:
    for key, column in [("a", 2), ("b", 3), ("change", 5), ("key", 1)]:
        head = page.locator(f"#case-table th[data-key={key}]")
        for _ in range(2):
            head.locator("button").click()
            falling = head.get_attribute("aria-sort") == "descending"
            cells = page.locator(f"#case-table tbody tr > :nth-child({column})")
            numbers = [number(text) for text in cells.all_text_contents()]
            assert numbers == sorted(numbers, reverse=falling)
    assert page.locator("#case-table th[aria-sort=none]").count() == 3


def number(text: str) -> float:
    if text.startswith("2024-"):
        return float(text[5:7])
    top, _, bottom = text.replace("−", "-").partition(" / ")
    return float(top) / float(bottom or 1)


def test_models_are_swapped_and_chosen(page: Any) -> None:
    page.locator("#case-swap").click()
    assert counts(page)["only-a"] == 1
    page.locator("[data-filter=only-a]").click()
    assert keys(page) == ["02"]
    page.locator("#case-b").select_option("base")
    page.locator("#case-a").select_option("base")
    assert counts(page)["changed"] == 0
    assert "None of the 6 problems fits" in page.locator("#case-count").inner_text()


def test_benchmarks_are_told_apart(page: Any) -> None:
    page.locator("#case-task").select_option("math")
    assert keys(page) == ["01", "02"]
    assert page.locator("#case-count").inner_text() == "2 of 2 problems"


def test_search_looks_at_names_prompts_and_answers_and_on_demand_at_whole_texts(page: Any) -> None:
    def found(words: str) -> list[str]:
        page.locator("#case-search").fill(words)
        return keys(page)

    assert found("2024-03") == ["03"]
    assert found("OF PROBLEM 2024-05") == ["05"]
    assert found("135") == ["06"]  # its target
    assert found("\\boxed{135}") == []
    page.locator("#case-whole").check()
    listed(page, "06")
    page.locator("#case-whole").uncheck()
    assert found("nowhere at all") == []
    assert found("") == ["01", "02", "03", "04", "05", "06"]


def test_the_keyboard_moves_through_the_problems(page: Any) -> None:
    page.locator("#case-table tbody button").first.focus()
    for key, expected in [("ArrowDown", "02"), ("End", "06"), ("ArrowUp", "05"), ("Home", "01")]:
        page.keyboard.press(key)
        shows(page, f"2024-{expected}")
        focused = page.evaluate("document.activeElement.querySelector('.case-key').textContent")
        assert focused == f"2024-{expected}"
    page.get_by_role("button", name="Next →").click()
    shows(page, "2024-02")
    assert page.locator("#case-table tr[aria-current] .case-key").inner_text() == "2024-02"


def test_two_answers_stand_side_by_side_with_what_is_known_of_them(page: Any) -> None:
    a, b = (page.locator(f".case-side.{side}") for side in "ab")
    assert "6 of 10 right" in a.inner_text()
    assert "✗ wrong, taken as the answer: 906" in a.inner_text()
    assert "906 is not 100" in a.inner_text()
    assert "✓ right, taken as the answer: 100" in b.inner_text()
    assert "ended by itself · " in b.inner_text()
    assert "seed 1001" in b.inner_text()
    assert page.locator(".case-target .case-words").inner_text() == "100"
    boxes = [side.locator(".case-response").bounding_box() for side in (a, b)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] < boxes[1]["x"]


def test_other_rollouts_are_a_press_away(page: Any) -> None:
    buttons = page.locator(".case-side.a .case-rollouts button")
    assert buttons.all_text_contents() == ["✓ 1", "✓ 2", "✗ 6", "✗ 7"]
    buttons.first.click()
    assert "✓ right, taken as the answer: 100" in page.locator(".case-side.a").inner_text()
    assert page.evaluate("document.activeElement.textContent") == "✓ 1"


def test_reasoning_is_folded_until_it_is_opened(page: Any) -> None:
    folded = page.locator(".case-side.a details")
    assert folded.get_attribute("open") is None
    assert folded.locator(".case-words").count() == 0
    folded.locator("summary").click()
    folded.locator(".case-words").wait_for()
    assert len(folded.locator(".case-words").inner_text()) > 300


def test_differences_are_marked_and_can_be_left_unmarked(page: Any) -> None:
    a, b = marks(page)
    assert (a[-1], b[-1]) == ("906", "100")
    assert "of their words are in both" in page.locator(".case-common").inner_text()
    page.locator("#case-marks").uncheck()
    assert marks(page) == [[], []]
    page.locator("#case-marks").check()
    assert marks(page) == [a, b]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("one two  three\nfour", "one two three four", [[], []]),
        ("the cat sat on the mat", "the dog sat on the mat", [["cat"], ["dog"]]),
        ("start middle end", "start end", [["middle"], []]),
        ("alone", "other words", [["alone"], ["other words"]]),
        ("数は三百です", "数は四百です", [["三"], ["四"]]),
        ("x = 3, so y = 4.", "x = 3, so y = 5.", [["4"], ["5"]]),
    ],
)
def test_words_are_compared_and_spaces_are_not(
    watched: Any, folder: Path, first: str, second: str, expected: list[list[str]]
) -> None:
    page = watched.page
    path = write_cases_page(
        made_collection(answers(first, second), reference="a"), folder / "words.html"
    )
    page.goto(path.as_uri())
    shows(page, "p")
    assert marks(page) == expected


def test_unmarked_text_reads_the_same_in_both_however_long_they_are(
    watched: Any, folder: Path
) -> None:
    page = watched.page
    long = made_rollouts({"a": (1.0,), "b": (0.0,)}, n=1, sentences=1000)
    assert len(long[0].response) > 100_000
    page.goto(write_cases_page(made_collection(long, reference="a"), folder / "l.html").as_uri())
    shows(page, "2024-01")
    words = page.locator(".case-response .case-words")
    assert [len(text) for text in words.all_text_contents()] == [4000, 4000]
    for _ in range(2):
        page.locator(".case-response .case-more").first.click()
    rest = page.evaluate(
        """() => [...document.querySelectorAll(".case-response .case-words")].map((box) => {
            const whole = box.textContent, alone = box.cloneNode(true);
            for (const mark of alone.querySelectorAll("mark")) mark.remove();
            return [whole, alone.textContent.replace(/\\s+/g, "")];
        })"""
    )
    assert [whole for whole, _ in rest] == [one.response for one in long]
    assert rest[0][1] == rest[1][1]
    assert len(rest[0][1]) > 50_000


def test_a_text_that_was_cut_says_so(watched: Any, folder: Path) -> None:
    page = watched.page
    rollouts = answers("word " * 2_000_000, "short")
    page.goto(
        write_cases_page(made_collection(rollouts, reference="a"), folder / "c.html").as_uri()
    )
    shows(page, "p")
    assert (
        "9,800,000 characters of this text are left out"
        in page.locator(".case-side.a").inner_text()
    )


def test_hostile_texts_do_nothing_and_stand_letter_by_letter(
    open_page: Callable[..., Any], folder: Path
) -> None:
    path = write_cases_page(hostile_collection(), folder / "hostile.html")
    watched = open_page(path)
    page = watched.page
    for place, text in enumerate(HOSTILE_TEXTS):
        shows(page, visible(text).replace("\\", "\\\\").replace("'", "\\'"))
        shown = page.locator(".case-asked .case-words").first.text_content()
        assert shown == readable(text)[:4000]
        for summary in page.locator("details summary").all():
            summary.click()
        page.locator("#case-search").fill(text[:5])
        page.locator("#case-search").fill("")
        if place + 1 < len(HOSTILE_TEXTS):
            page.get_by_role("button", name="Next →").click()
    assert page.evaluate("window.harmed") is None
    assert watched.messages == []
    assert set(watched.requests) == {path.as_uri()}
    made = page.locator("#cases img, #cases b, #cases i, #cases a, #cases script, #cases [onerror]")
    assert made.count() == 0


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A page whose texts lie beside it, one file a problem."""
    sizes = case_page._parts().size_bytes + case_page.MARKUP_BYTES
    monkeypatch.setattr(case_page, "LARGEST_PAGE_BYTES", sizes + 6_000)
    monkeypatch.setattr("timberkit.report.case_packs.PACK_CHARACTERS", 1)
    return write_cases_page(made_collection(), tmp_path / "a b.html")


def test_texts_beside_the_page_come_from_the_disk_alone(watched: Any, beside: Path) -> None:
    page = watched.page
    watched.requests.clear()
    page.goto(beside.as_uri())
    shows(page, "2024-01")
    assert "The answer is" in page.locator(".case-side.a .case-response").inner_text()
    page.get_by_role("button", name="Next →").click()
    shows(page, "2024-02")
    page.locator("#case-search").fill("\\boxed{135}")
    page.locator("#case-whole").check()
    listed(page, "06")
    addresses = {beside.as_uri()}
    addresses |= {(beside.parent / "a b-cases" / f"{n:04d}.css").as_uri() for n in range(6)}
    assert set(watched.requests) == addresses


def test_a_missing_file_is_told_in_words(watched: Any, beside: Path) -> None:
    (beside.parent / "a b-cases" / "0000.css").unlink()
    watched.page.goto(beside.as_uri())
    shows(watched.page, "2024-01")
    words = watched.page.locator("#case-detail .notice").inner_text()
    assert "a b-cases/0000.css beside this page, and that file is not there" in words
    watched.page.get_by_role("button", name="Next →").click()
    shows(watched.page, "2024-02")
    assert watched.page.locator(".case-side.a").is_visible()


@pytest.mark.parametrize("how", ["other text", "style", "script", "cut off"])
def test_a_file_that_was_tampered_with_is_refused_and_can_do_nothing(
    watched: Any, beside: Path, how: str
) -> None:
    folder = beside.parent / "a b-cases"
    first = folder / "0000.css"
    first.write_text(
        {
            "other text": (folder / "0001.css").read_text(),
            "style": 'html, * { display: none !important } :host { --p0: "AAAA" }',
            "script": "window.harmed = 1; document.title = 'harmed';",
            "cut off": first.read_text()[:-200],
        }[how]
    )
    page = watched.page
    page.goto(beside.as_uri())
    shows(page, "2024-01")
    assert "is not the file that was written with it" in page.locator("#case-detail").inner_text()
    assert page.locator(".case-words").count() == 1  # the search's label
    assert page.evaluate("window.harmed") is None
    assert page.locator("h1").is_visible()


@pytest.mark.parametrize("width", [360, 768])
def test_a_narrow_screen_needs_no_sideways_scrolling(
    watched: Any, page: Any, folder: Path, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    for name in ("p.html", "hostile.html"):
        page.goto((folder / name).as_uri())
        page.wait_for_selector("#case-detail[data-shows]")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_paper_shows_the_problem_and_no_controls(watched: Any, page: Any) -> None:
    page.emulate_media(media="print")
    for hidden in (".controls", ".case-list", ".case-filters", ".case-rollouts"):
        assert not page.locator(f"#cases {hidden}").first.is_visible()
    assert page.locator(".case-side.b .case-response").is_visible()
    page.emulate_media(media="screen")
    assert watched.page is page
