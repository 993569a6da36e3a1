"""The page of a study as a reader meets it: pickers, zoom, sorting, dark, narrow, paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import markupsafe
import pytest
from made_analysis import made_analysis
from made_findings import hostile_findings, made_findings

from timberkit.findings import Findings
from timberkit.report.case_section import CaseSection
from timberkit.report.study_page import write_study_page
from timberkit.report.tables import name_of
from timberkit.study.published import published

FIGURES = ["pass", "plane", "gap", "controls", "parts", "selection-0", "cost", "paper-3"]
WHITE, DARK = "rgb(255, 255, 255)", "rgb(20, 24, 27)"


@pytest.fixture(scope="module")
def findings() -> Findings:
    return made_findings()


@pytest.fixture(scope="module")
def study(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with its analysis and a section of cases."""
    cases = CaseSection(
        title="Cases",
        html=markupsafe.Markup('<p id="case-words"></p>'),
        script="function startCases() {"
        " byId('case-words').textContent = JSON.parse(byId('case-data').textContent).words; }",
        data='{"words":"a case"}',
        style="#case-words { font-weight: 700; }",
    )
    path = tmp_path_factory.mktemp("study") / "study.html"
    analysis = made_analysis(layers=2)
    return write_study_page(
        findings, path, analysis=analysis, published=published(), case_section=cases
    )


@pytest.fixture(scope="module")
def shown(open_page: Callable[..., Any], study: Path) -> Any:
    return open_page(study)


@pytest.fixture
def page(shown: Any) -> Any:
    """The shared page, at its first task and view."""
    shown.page.evaluate(
        """() => {
            for (const picker of document.querySelectorAll("main select")) {
                const before = picker.selectedIndex;
                picker.selectedIndex = 0;
                if (before !== 0) picker.dispatchEvent(new Event("change"));
            }
            document.getElementById("pass-first").click();
        }"""
    )
    return shown.page


def traces(page: Any, figure: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.evaluate(
        "id => document.getElementById(id).data.map("
        "({ name, x, y, mode, showlegend, marker }) => ({ name, x, y, mode, showlegend, marker }))",
        f"figure-{figure}",
    )
    return found


def lines(page: Any) -> dict[str, list[float]]:
    return {one["name"]: one["y"] for one in traces(page, "pass") if one["mode"] == "lines+markers"}


def column(page: Any, table: str, place: int) -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        f"#{table} tbody tr",
        "(rows, place) => rows.map(({ cells }) => cells[place].dataset.value"
        " ?? cells[place].textContent.trim())",
        place,
    )
    return found


def test_page_opens_without_an_error_or_a_request(shown: Any, study: Path) -> None:
    assert shown.messages == []
    assert set(shown.requests) == {study.as_uri()}


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_is_drawn_and_described(shown: Any, figure: str) -> None:
    place = shown.page.locator(f"#figure-{figure}")
    assert place.locator("svg.main-svg").count() >= 1
    assert len(place.get_attribute("aria-label")) > 40


def test_every_section_begins_with_a_question(shown: Any) -> None:
    for section in ("short", "pass", "plane", "beside", "controlled", "parts", "selection", "cost"):
        question = shown.page.locator(f"#{section} .question").first.inner_text()
        assert question.endswith("?")


def test_cases_and_the_analysis_live_on_the_same_page(shown: Any) -> None:
    assert shown.page.locator("#case-words").inner_text() == "a case"
    assert shown.page.locator("#figure-depth svg.main-svg").count() >= 1
    assert shown.page.locator("#table-count").inner_text() == "14 of 14 matrices"


def test_pass_at_k_begins_with_few_models_and_shows_their_scores(
    page: Any, findings: Findings
) -> None:
    drawn = lines(page)
    assert 4 <= len(drawn) <= 9
    assert {"Base", "Instruct"} <= set(drawn)
    curve = next(c for c in findings.curves if c.model == "base")
    assert drawn["Base"] == pytest.approx([p.score.value for p in curve.points], rel=1e-5)
    assert "Base passes Instruct from k = 16" in page.locator("#pass-reading").inner_text()
    assert any(one["name"] == "crossing" for one in traces(page, "pass"))


def test_the_task_picker_changes_all_figures_and_tables_together(
    page: Any, findings: Findings
) -> None:
    page.locator("#plane-task").select_option(label="GPQA-Diamond")
    assert page.locator("#pass-task").input_value() == "1"
    curve = next(c for c in findings.curves if (c.model, c.task) == ("base", "gpqa"))
    assert lines(page)["Base"] == pytest.approx([p.score.value for p in curve.points], rel=1e-5)
    assert page.locator("#table-scores-1").is_visible()
    assert not page.locator("#table-scores-0").is_visible()
    plane = findings.planes[1]
    point = next(p for p in plane.points if p.model == "instruct")
    drawn = next(one for one in traces(page, "plane") if one["name"] == "instruct")
    assert (drawn["x"][0], drawn["y"][0]) == pytest.approx(
        (point.low.value, point.high.value), rel=1e-5
    )


def test_models_are_chosen_by_checkbox_and_keyboard(page: Any) -> None:
    page.locator("#pass-models summary").click()
    box = page.get_by_label("Timber λ = 0.5", exact=True)
    assert not box.is_checked()
    box.focus()
    page.keyboard.press("Space")
    assert "Timber λ = 0.5" in lines(page)
    assert page.locator("#pass-count").inner_text() == str(len(lines(page)))
    page.get_by_role("button", name="First choice").click()
    assert "Timber λ = 0.5" not in lines(page)
    page.locator("#pass-models summary").click()


def test_bands_can_be_of_all_or_none(page: Any) -> None:
    counts = []
    for bands in ("none", "two", "all"):
        page.locator("#pass-bands").select_option(bands)
        counts.append(sum(one["mode"] == "none" for one in traces(page, "pass")))
    assert counts == [0, 2, len(lines(page))]


def plane_range(page: Any) -> list[float]:
    found: list[float] = page.evaluate(
        "[...document.getElementById('figure-plane').layout.xaxis.range,"
        " ...document.getElementById('figure-plane').layout.yaxis.range]"
    )
    return found


def test_the_plane_shows_everything_or_what_lies_near_instruct_and_zooms(
    page: Any, findings: Findings
) -> None:
    base = next(p for p in findings.planes[0].points if p.model == "base")
    instruct = next(p for p in findings.planes[0].points if p.model == "instruct")

    def holds(point: Any) -> bool:
        x0, x1, y0, y1 = plane_range(page)
        return x0 <= point.low.value <= x1 and y0 <= point.high.value <= y1

    page.locator("#plane-view").select_option("near")
    assert holds(instruct)
    assert not holds(base)
    before = plane_range(page)
    page.get_by_role("button", name="Zoom in").focus()
    page.keyboard.press("Enter")
    after = plane_range(page)
    assert after[1] - after[0] == pytest.approx(0.7 * (before[1] - before[0]))
    page.get_by_role("button", name="Zoom out").click()
    assert plane_range(page) == pytest.approx(before)
    page.locator("#plane-view").select_option("all")
    assert holds(base)
    assert holds(instruct)


def test_groups_are_shown_and_hidden_in_both_figures_of_the_plane(page: Any) -> None:
    rows = len(traces(page, "gap"))
    assert any(one["name"] == "noise" for one in traces(page, "plane"))
    page.locator("[data-group=noise]").focus()
    page.keyboard.press("Space")
    assert not any(one["name"] == "noise" for one in traces(page, "plane"))
    assert len(traces(page, "gap")) < rows
    page.locator("[data-group=noise]").focus()
    page.keyboard.press("Space")
    assert len(traces(page, "gap")) == rows


def test_gaps_that_cannot_be_told_from_zero_are_hollow(page: Any, findings: Findings) -> None:
    words = {findings.model(p.model).label: p.verdict for p in findings.planes[0].points}
    for one in traces(page, "gap"):
        told = words[one["name"]] != "not distinguishable"
        assert ("-open" not in one["marker"]["symbol"]) == told or "Merge matched" in one["name"]


def test_controls_show_every_seed_and_follow_the_number_of_attempts(
    page: Any, findings: Findings
) -> None:
    page.locator("#controlled-k").select_option(label="Pass@64")
    one = next(c for c in findings.controls if (c.edit, c.k) == ("timber-0.2", 64))
    seeds = next(trace for trace in traces(page, "controls") if trace["name"] == "seeds")
    assert page.locator("#controlled-reading li").first.inner_text().endswith(one.says)
    assert seeds["x"] == pytest.approx([100 * e.value for e in one.noise_effects], rel=1e-5)


def test_tables_sort_by_number_and_tell_assistive_technology(page: Any) -> None:
    head = page.locator("#table-scores-0 th").nth(2)
    assert head.get_attribute("aria-sort") == "none"
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    falling = [float(text) for text in column(page, "table-scores-0", 2)]
    assert falling == sorted(falling, reverse=True)
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in column(page, "table-scores-0", 2)] == falling[::-1]
    page.locator("#table-scores-0 th").first.get_by_role("button").click()
    names = [text.lower() for text in column(page, "table-scores-0", 0)]
    assert names == sorted(names)
    assert head.get_attribute("aria-sort") == "none"


def test_what_is_not_known_sorts_last_both_ways(page: Any) -> None:
    button = page.locator("#table-plane-0 th").nth(4).get_by_role("button")
    for _ in range(2):
        button.click()
        gaps = column(page, "table-plane-0", 4)
        known = [text for text in gaps if text]
        assert len(known) < len(gaps)
        assert gaps[: len(known)] == known


def test_columns_of_the_paper_sort_below_their_shared_heads(page: Any, findings: Findings) -> None:
    place = next(i for i, table in enumerate(findings.paper) if table.key == "figure-5")
    page.locator(f"#paper-{place} th[data-column='1'] button").click()
    shown = [float(text) for text in column(page, f"paper-{place}", 1)]
    told = published()["pass_at_k_qwen3_0_6b_thinking"]["AIME24"]["Instruct"]
    assert shown == sorted(told, reverse=True)


def test_the_papers_numbers_are_those_that_were_published(page: Any) -> None:
    told = published()
    mean = told["mean_at_k_table_2"]["Qwen3-0.6B"]
    assert [float(x) for x in column(page, "paper-0", 1)] == list(mean.values())
    sweep = told["lambda_sweep_table_5"]["Qwen3-0.6B"]
    row = page.eval_on_selector_all("#paper-2 tbody td", "all => all.map(one => one.dataset.value)")
    assert [float(x) for x in row[::2]] == list(sweep.values())
    thinking = told["thinking_lambda_figure_4"]["Qwen3-0.6B"]
    for place, task in enumerate(("AIME24", "HumanEval")):
        expected = [thinking[task][key] for key in ("0.0", "0.2", "0.5", "0.8")]
        assert [float(x) for x in column(page, "paper-3", 1 + 2 * place)] == expected


def test_every_control_is_reached_by_tab_and_has_a_name(shown: Any) -> None:
    unnamed = shown.page.eval_on_selector_all(
        "select, input, button",
        "all => all.filter(one => one.tabIndex < 0 || !((one.labels && one.labels.length)"
        " || one.textContent.trim() || one.getAttribute('aria-label'))).map(one => one.id)",
    )
    assert unnamed == []


def test_dark_light_and_paper_have_their_colours(shown: Any) -> None:
    page = shown.page

    def look() -> tuple[str, str]:
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = page.evaluate("document.getElementById('figure-plane').layout.font.color")
        return ground, ink

    page.emulate_media(color_scheme="dark")
    dark = look()
    assert dark[0] == DARK
    page.emulate_media(color_scheme="light")
    light = look()
    assert light[0] == WHITE
    assert dark[1] != light[1]
    page.emulate_media(color_scheme="dark", media="print")
    assert look() == (WHITE, "#000000")
    page.emulate_media(color_scheme="light", media="screen")


def test_a_narrow_screen_needs_no_sideways_scrolling(shown: Any) -> None:
    page = shown.page
    page.set_viewport_size({"width": 360, "height": 800})
    for _ in range(200):
        if page.evaluate("document.documentElement.scrollWidth") <= 360:
            break
        page.wait_for_timeout(50)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.set_viewport_size({"width": 1280, "height": 900})


def test_tables_stand_there_without_javascript(
    open_page: Callable[..., Any], chromium: str, playwright: Any, study: Path
) -> None:
    browser = playwright.chromium.launch(
        executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"]
    )
    try:
        page = browser.new_context(java_script_enabled=False).new_page()
        page.goto(study.as_uri())
        assert page.locator("#table-scores-2").is_visible()
        assert page.locator("noscript .notice").is_visible()
        assert page.locator("#table-scores-0 th button").count() == 0
    finally:
        browser.close()


def test_a_study_of_one_task_and_little_else_has_a_page(
    open_page: Callable[..., Any], findings: Findings, tmp_path: Path
) -> None:
    task = findings.tasks[2]
    little = replace(
        findings, tasks=(task,), planes=(), controls=(), selections=(), paper=(), costs=(),
        averages=(), contrasts=(), curves=tuple(c for c in findings.curves if c.task == task.key),
    )  # fmt: skip
    path = write_study_page(little, tmp_path / "little.html", analysis=None, published=None)
    watched = open_page(path)
    assert len(lines(watched.page)) > 2
    assert watched.page.locator("[data-picker]").count() == 0
    assert watched.messages == []


def test_hostile_names_are_text_and_do_nothing(
    open_page: Callable[..., Any], tmp_path: Path
) -> None:
    made = hostile_findings()
    path = write_study_page(made, tmp_path / "hostile.html", analysis=None, published=None)
    watched = open_page(path)
    page = watched.page
    page.locator("#pass-models summary").click()
    boxes = page.locator("#pass-models input")
    page.evaluate(
        """() => {
            const boxes = [...document.querySelectorAll("#pass-models input")];
            for (const box of boxes.slice(2)) box.checked = true;
            document.getElementById("pass-bands").value = "all";
            for (const box of boxes.slice(2, 12)) box.dispatchEvent(new Event("change"));
        }"""
    )
    assert boxes.count() == len(made.models)
    assert len(lines(page)) > 1
    page.locator("#plane-view").select_option("all")
    page.locator("#plane-bars").select_option("all")
    assert page.evaluate("window.harmed") is None
    assert watched.messages == []
    assert set(watched.requests) == {path.as_uri()}
    names = set(column(page, "table-scores-0", 0))
    assert names == {name_of(model.label) for model in made.models}
    ticks = page.locator("#figure-gap .ytick").all_text_contents()
    assert any("<script>" in tick for tick in ticks)
    made_elements = "main img, main b, main i, main iframe, [onerror], [onload], svg a:not(.x)"
    assert page.locator(made_elements).count() == 0
