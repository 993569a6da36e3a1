"""The page of a study as a file: every number from the findings, safe, bounded, reproducible."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import markupsafe
import pytest
from made_analysis import HOSTILE, made_analysis
from made_findings import hostile_findings, made_findings
from page_tags import ShownCell, Tags

from timberkit.errors import UsageError
from timberkit.findings import Cell, Findings, PaperTable
from timberkit.metrics import Interval
from timberkit.report import study_page
from timberkit.report.case_section import CaseSection
from timberkit.report.findings_tables import digits_of
from timberkit.report.study_page import selection_words, write_study_page
from timberkit.report.tables import name_of, percent, signed
from timberkit.study.published import published

LIMIT_BYTES = 8_000_000


def page_of(findings: Findings, to: Path, **options: Any) -> Tags:
    options = {"analysis": None, "published": published()} | options
    path = write_study_page(findings, to / "page.html", **options)
    return Tags(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def findings() -> Findings:
    return made_findings()


@pytest.fixture(scope="module")
def page(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Tags:
    folder = tmp_path_factory.mktemp("study")
    return page_of(findings, folder, analysis=made_analysis(layers=2))


def assert_shows(cell: ShownCell, interval: Interval | None, words: str = "", digits: int = 1,
                 *, difference: bool = False) -> None:  # fmt: skip
    """A cell shows this interval, and holds its value in full."""
    assert cell.number == (None if interval is None else interval.value)
    if interval is None:
        assert cell.text == "–"
        return
    write = signed if difference else percent
    value, low, high = (write(x, digits) for x in (interval.value, interval.low, interval.high))
    assert cell.text.split() == f"{value} [{low}, {high}] {words}".split()


def test_pass_at_k_tables_hold_every_score(page: Tags, findings: Findings) -> None:
    for place, task in enumerate(findings.tasks):
        table = page.tables[f"table-scores-{place}"]
        curves = [curve for curve in findings.curves if curve.task == task.key]
        assert len(table.rows) == len(curves) == len(findings.models)
        for row, curve in zip(table.rows, curves, strict=True):
            assert row[0].text == findings.model(curve.model).label
            for cell, point in zip(row[2:], curve.points, strict=True):
                assert_shows(cell, point.score, digits=digits_of(task))
        assert table.heads[2:] == [f"Pass@{point.k}" for point in curves[0].points]


def test_difference_tables_hold_every_contrast_with_its_word(
    page: Tags, findings: Findings
) -> None:
    for place, task in enumerate(findings.tasks):
        contrasts = [one for one in findings.contrasts if one.task == task.key]
        rows = page.tables[f"table-differences-{place}"].rows
        for row, contrast in zip(rows, contrasts, strict=True):
            for cell, point in zip(row[1:-1], contrast.points, strict=True):
                assert_shows(
                    cell, point.difference, point.verdict, digits_of(task), difference=True
                )
            assert contrast.crossing is not None
            if contrast.crossing.k is not None:
                assert row[-1].text.endswith(f"from k = {contrast.crossing.text}")


def test_plane_tables_hold_every_point_the_greatest_gap_first(
    page: Tags, findings: Findings
) -> None:
    for place, plane in enumerate(findings.planes):
        rows = page.tables[f"table-plane-{place}"].rows
        digits = digits_of(findings.tasks[place])
        points = {findings.model(point.model).label: point for point in plane.points}
        gaps = [row[4].number for row in rows if row[4].number is not None]
        assert gaps == sorted(gaps, reverse=True)
        assert len(rows) == len(points)
        for row in rows:
            point = points[row[0].text]
            assert_shows(row[2], point.low, digits=digits)
            assert_shows(row[3], point.high, digits=digits)
            assert_shows(row[4], point.gap, point.verdict or "", digits, difference=True)
            assert row[5].number == findings.model(point.model).correction


def test_glance_tables_count_the_words_of_each_group(page: Tags, findings: Findings) -> None:
    at = {point.model: point for point in findings.planes[0].points}
    for row in page.tables["table-groups-0"].rows:
        if row[0].text != "Timber":
            continue
        words = [at[m.key].verdict for m in findings.models if m.group == "timber"]
        counts = [words.count(word) for word in ("better", "not distinguishable", "worse")]
        assert [cell.number for cell in row[1:4]] == counts
        return
    raise AssertionError


def test_control_tables_hold_effects_controls_and_sentences(page: Tags, findings: Findings) -> None:
    own = [one for one in findings.controls if one.task == findings.tasks[0].key]
    for row, one in zip(page.tables["table-controls-0"].rows, own, strict=True):
        assert row[1].number == one.k
        spans = (one.effect, one.merge_effect, one.beyond_merge, one.noise_effect, one.beyond_noise)
        for cell, span in zip(row[2:7], spans, strict=True):
            assert_shows(cell, span, difference=True)
        assert row[7].number == len(one.noise)
        assert row[8].text == one.says


def test_ablation_selection_average_and_cost_tables(page: Tags, findings: Findings) -> None:
    parts = page.tables["table-parts-0"]
    assert len(parts.rows) == 9
    contrasts = {c.model: c for c in findings.contrasts if c.task == findings.tasks[0].key}
    first = contrasts["family-attention"].points
    assert_shows(parts.rows[0][2], first[0].difference, first[0].verdict, difference=True)
    assert_shows(parts.rows[0][3], first[-1].difference, first[-1].verdict, difference=True)
    picks = [row[2].number for row in page.tables["table-selection-0"].rows]
    assert picks == list(findings.selections[0].picks)
    assert selection_words(findings, findings.selections[0]) in page.text
    means = page.tables["table-averages"].rows
    for row, average in zip(means, findings.averages, strict=True):
        assert_shows(row[1], average.mean)
    for row, cost in zip(page.tables["table-costs"].rows, findings.costs, strict=True):
        values = (cost.seconds, cost.written_bytes, cost.peak_bytes, cost.rollouts)
        assert [cell.number for cell in row[2:6]] == list(values)


def cells_of(table: PaperTable) -> list[Sequence[Cell]]:
    """Rows of cells as the page shows them: an axis runs down."""
    rows = [row.cells for row in table.rows]
    return rows if table.axis is None else [list(column) for column in zip(*rows, strict=True)]


def test_paper_tables_show_the_published_number_as_printed_and_ours(
    page: Tags, findings: Findings
) -> None:
    for place, table in enumerate(findings.paper):
        shown = page.tables[f"paper-{place}"]
        cells = cells_of(table)
        told = any(cell.published is not None for row in cells for cell in row)
        for row, expected in zip(shown.rows, cells, strict=True):
            pairs = list(row[1:])
            for cell in expected:
                if told:
                    paper = pairs.pop(0)
                    assert paper.number == cell.published
                    assert paper.text == ("–" if cell.published is None else
                                          f"{cell.published:.2f}")  # fmt: skip
                between = ""
                if cell.difference is not None:
                    value, low, high = (
                        signed(x, 2)
                        for x in (cell.difference.value, cell.difference.low, cell.difference.high)
                    )
                    between = f"{value} [{low}, {high}]"
                assert_shows(pairs.pop(0), cell.ours, f"{between} {cell.verdict or ''}", 2)
            assert pairs == []


def test_a_pair_that_is_not_in_the_paper_has_only_ours_and_the_page_says_so(
    tmp_path: Path,
) -> None:
    page = page_of(made_findings(paper_model=None), tmp_path)
    assert "This pair is not in the paper" in page.text
    for place in range(len(made_findings().paper)):
        assert "paper" not in page.tables[f"paper-{place}"].heads


def test_words_notices_and_settings_stand_on_the_page(page: Tags, findings: Findings) -> None:
    for text in (*findings.words, findings.paper_says, *findings.notices):
        assert text in page.text
    for key in findings.settings:
        assert key in page.text


def test_figures_hold_the_findings_to_six_digits(page: Tags, findings: Findings) -> None:
    data = json.loads(page.scripts[1])
    curves = [curve for curve in findings.curves if curve.task == findings.tasks[1].key]
    for shown, curve in zip(data["tasks"][1]["curves"], curves, strict=True):
        assert shown["k"] == [point.k for point in curve.points]
        assert shown["value"] == pytest.approx([p.score.value for p in curve.points], rel=1e-5)
    plane = data["tasks"][0]["plane"]
    assert [p["word"] for p in plane["points"]] == [p.verdict for p in findings.planes[0].points]
    frontier = [findings.models[i].key for i in plane["frontier"]]
    assert tuple(frontier) == findings.planes[0].frontier


def test_both_pages_share_one_policy_with_the_hashes_of_their_scripts(page: Tags) -> None:
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv")) or ""
    hashes = [
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for text in page.scripts[-2:]
    ]
    assert f"script-src {' '.join(hashes)};" in policy
    assert len(page.scripts) == 4
    assert "connect-src" not in policy
    for _, attributes in page.tags:
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]


def test_ids_are_there_once_and_every_link_leads_somewhere(page: Tags) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = [attributes.get("href") or "" for tag, attributes in page.tags if tag == "a"]
    assert {link[1:] for link in links} <= set(ids)
    named = {a["aria-labelledby"] for _, a in page.tags if a.get("aria-labelledby")}
    assert named <= set(ids)


def test_hostile_texts_are_text_and_make_no_tag(tmp_path: Path) -> None:
    honest = page_of(made_findings(), tmp_path)
    hostile = page_of(hostile_findings(), tmp_path)
    assert {tag for tag, _ in hostile.tags} == {tag for tag, _ in honest.tags}
    assert len(hostile.scripts) == len(honest.scripts)
    for name in (HOSTILE[0], HOSTILE[1], HOSTILE[5]):
        assert name_of(name) in hostile.text
    assert "\u202e" not in hostile.text


def test_equal_findings_give_equal_bytes_under_the_limit(tmp_path: Path) -> None:
    first, second = (
        write_study_page(
            made_findings(), tmp_path / name, analysis=made_analysis(layers=28), published=None
        ).read_bytes()
        for name in "ab"
    )
    assert first == second
    assert len(first) < LIMIT_BYTES


def test_the_analysis_is_thinned_to_the_room_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysis = made_analysis(layers=6, experts=20)
    bare = len(write_study_page(made_findings(), tmp_path / "bare", analysis=None,
                                published=None).read_bytes())  # fmt: skip
    monkeypatch.setattr(study_page, "LARGEST_PAGE_BYTES", bare + 150_000)
    path = write_study_page(made_findings(), tmp_path / "thin", analysis=analysis, published=None)
    assert path.stat().st_size < bare + 150_000
    assert "Experts share one row" in path.read_text(encoding="utf-8")


def test_more_than_a_page_can_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_page, "LARGEST_PAGE_BYTES", 5_000_000)
    with pytest.raises(UsageError, match=r"43 models on 3 tasks.*more than fit"):
        write_study_page(made_findings(), tmp_path / "p.html", analysis=None, published=None)


def test_sections_that_have_nothing_to_say_are_left_out(tmp_path: Path) -> None:
    made = made_findings()
    nothing = replace(
        made, planes=(), controls=(), selections=(), paper=(), costs=(), averages=(), contrasts=(),
        words=(), notices=(),
    )  # fmt: skip
    page = page_of(nothing, tmp_path)
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert not ids & {"plane", "controlled", "parts", "selection", "beside", "cost", "cases"}
    assert {"short", "pass", "run-facts"} <= ids


def test_cases_stand_on_the_page_with_their_script_style_and_data(tmp_path: Path) -> None:
    cases = CaseSection(
        title="<Cases>", html=markupsafe.Markup('<div id="case-list"></div>'), data='{"a":1}',
        script="function startCases() { byId('case-list').textContent = 'here'; }",
        style=".case { color: red; }", style_sources=("'self'",),
    )  # fmt: skip
    text = write_study_page(
        made_findings(), tmp_path / "p.html", analysis=None, published=None, case_section=cases
    ).read_text(encoding="utf-8")
    page = Tags(text)
    assert '<script type="application/json" id="case-data">{"a":1}</script>' in text
    assert '<div id="case-list"></div>' in text
    assert "&lt;Cases&gt;" in text
    assert cases.style in text
    assert cases.script in page.scripts[-1]
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv")) or ""
    own = r"script-src( 'sha256-[^']{44}'){2}; style-src 'unsafe-inline' 'self';"
    assert re.search(own, policy)
    assert text.index('id="selection"') < text.index('id="cases"') < text.index('id="cost"')


def test_every_control_has_a_label(tmp_path: Path) -> None:
    html = write_study_page(
        made_findings(), tmp_path / "p.html", analysis=None, published=None
    ).read_text(encoding="utf-8")
    body = html[html.index("<body") : html.index('<script type="application/json"')]
    outside = re.sub(r"<label[^>]*>.*?</label>", "", body, flags=re.DOTALL)
    assert "<select" not in outside
    assert "<input" not in outside
