"""The offline page as a reader meets it: figures, pickers, table, download, keyboard."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from timberkit import measurements as m
from timberkit.measurements import Analysis
from timberkit.metrics.summary import summarise
from timberkit.report.headline import NUMBERS, headline
from timberkit.report.headline import shown as as_shown
from timberkit.report.offline_page import write_page

FIGURES = ["depth", "spread", "spectrum", "energy", "rounding", "overlap", "hidden"]


@pytest.fixture
def page(shown: Any) -> Any:
    """The shared page, with every picker and filter as at its start."""
    shown.page.evaluate(
        """() => {
            document.getElementById("table-filter").value = "";
            for (const picker of document.querySelectorAll("select, #table-filter")) {
                const before = picker.selectedIndex;
                picker.selectedIndex = 0;
                if (before !== 0) picker.dispatchEvent(new Event("change"));
                if (picker.id.startsWith("table")) picker.dispatchEvent(new Event("input"));
            }
        }"""
    )
    return shown.page


def rows_of(page: Any) -> list[list[str]]:
    found: list[list[str]] = page.eval_on_selector_all(
        "#table tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return found


def column_of(page: Any, heading: str) -> list[str]:
    heads = page.eval_on_selector_all(
        "#table thead button", "all => all.map(head => head.textContent)"
    )
    return [row[heads.index(heading)] for row in rows_of(page)]


def drawn(page: Any, figure: str) -> list[dict[str, Any]]:
    """The traces that Plotly has drawn."""
    found: list[dict[str, Any]] = page.evaluate(
        "id => document.getElementById(id).data.map(({ name, x, y, z }) => ({ name, x, y, z }))",
        f"figure-{figure}",
    )
    return found


def test_page_opens_without_an_error_or_a_request(shown: Any, one_run: Path) -> None:
    assert shown.messages == []
    assert set(shown.requests) == {one_run.as_uri()}


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_is_drawn_and_described(shown: Any, figure: str) -> None:
    place = shown.page.locator(f"#figure-{figure}")
    assert place.locator("svg.main-svg").count() >= 1
    assert place.get_attribute("role") == "img"
    assert len(place.get_attribute("aria-label")) > 40
    assert len(shown.page.locator(f"#{figure} > p").first.inner_text()) > 100


def test_the_headline_shows_the_summary(shown: Any, analysis: Analysis) -> None:
    values = shown.page.eval_on_selector_all(
        ".stats div",
        "all => all.map(one => [one.children[0].textContent, one.children[1].textContent])",
    )
    found = headline(analysis)
    expected = {}
    for key, (words, kind) in NUMBERS.items():
        numbers = found.numbers[key]
        assert numbers is not None
        expected[words] = f"{as_shown(numbers[0], kind)} median {as_shown(numbers[1], kind)}"
    assert dict(values) == expected


def test_heat_maps_show_what_was_measured(shown: Any, analysis: Analysis) -> None:
    base, instruct, difference, _ = drawn(shown.page, "depth")
    weight = analysis.weights[0]
    assert base["z"][0][0] == pytest.approx(weight.base.ratio, rel=1e-4)
    assert instruct["z"][0][0] == pytest.approx(weight.instruct.ratio, rel=1e-4)
    assert difference["z"][0][0] == pytest.approx(
        weight.instruct.ratio - weight.base.ratio, rel=1e-4
    )


def test_the_spectrum_follows_its_pickers(page: Any, analysis: Analysis) -> None:
    page.locator("#spectrum-module").select_option(label="down_proj")
    page.locator("#spectrum-layer").select_option(label="1")
    weight = next(w for w in analysis.weights if w.module == "mlp.down_proj" and w.layer == 1)
    assert weight.delta.singular_values is not None
    line = next(trace for trace in drawn(page, "spectrum") if trace["name"] == "Delta")
    assert line["y"][0] == pytest.approx(weight.delta.singular_values[0], rel=1e-3)
    reading = page.locator("#spectrum-reading").inner_text()
    assert reading.startswith("model.layers.1.mlp.down_proj.weight, 1024 × 3072: Timber keeps")
    assert f"{weight.cut.cut} of 1,024 directions" in reading
    assert f"{weight.bulk.spikes} of its values lie above the edge" in reading


def test_the_spectrum_steps_through_layers_by_keyboard(page: Any) -> None:
    layer = page.locator("#spectrum-layer")
    layer.select_option(label="2")
    page.get_by_role("button", name="Next layer").focus()
    page.keyboard.press("Enter")
    assert layer.evaluate("one => one.selectedOptions[0].textContent") == "3"
    assert page.get_by_role("button", name="Next layer").is_disabled()
    page.get_by_role("button", name="Previous layer").focus()
    page.keyboard.press("Space")
    assert layer.evaluate("one => one.selectedOptions[0].textContent") == "2"


def test_the_spectrum_shows_the_leading_directions_and_both_scales(page: Any) -> None:
    axis = "document.getElementById('figure-spectrum').layout"
    page.locator("#spectrum-part").select_option("first")
    assert page.evaluate(f"{axis}.xaxis.range[1]") < 60
    assert page.evaluate(f"{axis}.yaxis.type") == "log"
    page.locator("#spectrum-scale").select_option("linear")
    assert page.evaluate(f"{axis}.yaxis.range[0]") == 0


def test_curves_follow_their_module(page: Any, analysis: Analysis) -> None:
    page.locator("#energy-module").select_option(label="k_proj")
    tail = drawn(page, "energy")[0]
    expected = [1 - w.cut.head_energy for w in analysis.weights if "k_proj" in w.module]
    assert tail["y"] == pytest.approx(expected, rel=1e-4)
    page.locator("#overlap-side").select_option("right")
    page.locator("#overlap-module").select_option(label="k_proj")
    first = drawn(page, "overlap")[0]
    assert analysis.weights[1].subspaces is not None
    assert first["y"][0] == pytest.approx(analysis.weights[1].subspaces.right[0].overlap, rel=1e-4)


def test_the_table_sorts_both_ways_and_tells_assistive_technology(page: Any) -> None:
    head = page.locator('#table th[data-key="delta_ratio"]')
    assert head.get_attribute("aria-sort") == "none"
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    rising = [float(text) for text in column_of(page, "Delta")]
    assert rising == sorted(rising)
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert float(column_of(page, "Delta")[0]) >= rising[-1]
    assert page.locator('#table th[aria-sort="none"]').count() > 10


def test_the_table_filters_and_turns_pages(page: Any) -> None:
    assert page.locator("#table-count").inner_text() == "28 of 28 matrices"
    assert len(rows_of(page)) == 25
    page.get_by_role("button", name="Next →").click()
    assert page.locator("#table-page").inner_text() == "Page 2 of 2"
    assert len(rows_of(page)) == 3
    page.get_by_label("Name contains").fill("LAYERS.2.")
    assert page.locator("#table-count").inner_text() == "7 of 28 matrices"
    assert set(column_of(page, "Layer")) == {"2"}
    page.locator("#table-module").select_option(label="q_proj")
    assert [row[0] for row in rows_of(page)] == ["model.layers.2.self_attn.q_proj.weight"]
    page.locator("#table-layer").select_option(label="0")
    assert page.locator("#table-count").inner_text() == "0 of 28 matrices"


def test_the_download_holds_the_filtered_rows_with_all_digits(
    page: Any, analysis: Analysis
) -> None:
    page.locator("#table-layer").select_option(label="3")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "timberkit-matrices.csv"
    text = Path(download.value.path()).read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    weights = {w.name: w for w in analysis.weights if w.layer == 3}
    assert {row["name"] for row in rows} == set(weights)
    for row in rows:
        weight = weights[row["name"]]
        assert float(row["delta_ratio"]) == pytest.approx(weight.delta.ratio, rel=1e-5)
        assert weight.rounding is not None
        assert float(row["changed"]) == pytest.approx(weight.rounding.changed, rel=1e-5)
        assert (row["family"], row["dtype"]) == (weight.family, "BF16")


def test_the_papers_values_stand_beside_ours(shown: Any) -> None:
    text = shown.page.locator("#paper").inner_text()
    assert "one of the paper’s: Qwen3-8B" in text
    assert "98.82 %" in text
    assert "Timber 74.84" in text


def test_every_control_is_reached_by_tab_and_has_a_name(shown: Any) -> None:
    unnamed = shown.page.eval_on_selector_all(
        "select, input, button",
        "all => all.filter(one => one.tabIndex < 0 || !((one.labels && one.labels.length)"
        " || one.textContent.trim() || one.getAttribute('aria-label'))).map(one => one.id)",
    )
    assert unnamed == []


def test_a_second_run_is_shown_by_the_picker(open_page: Callable[..., Any], two_runs: Path) -> None:
    watched = open_page(two_runs)
    page = watched.page
    assert page.locator(".run").count() == 2
    assert page.locator("#table-count").inner_text() == "28 of 28 matrices"
    page.get_by_label("Figures and table show").select_option(label="example/other")
    assert page.locator("#table-count").inner_text() == "14 of 14 matrices"
    assert len(drawn(page, "depth")[0]["x"]) == 2
    for figure, words in (("rounding", "--measure rounding"), ("hidden", "--hidden-states")):
        assert words in page.locator(f"#figure-{figure}").inner_text()
    page.get_by_label("Figures and table show").select_option(index=0)
    assert page.locator("#figure-rounding svg.main-svg").count() >= 1
    assert watched.messages == []
    assert watched.outside() == []


def test_a_model_of_one_unchanged_matrix_outside_any_layer_has_a_page(
    open_page: Callable[..., Any], analysis: Analysis, tmp_path: Path
) -> None:
    weight = analysis.weights[0]
    still = replace(
        weight,
        layer=None,
        delta=m.SpectrumMeasurement(0.0, 0.0, 0.0, 0.0, 0.0, (0.0,) * 1024),
        relative_delta=0.0,
        cut=replace(weight.cut, cut=0, head_energy=1.0, tail_sum=0.0),
        bulk=m.BulkMeasurement(0.0, 0.0, 0, 0.0),
        rounding=None,
        subspaces=None,
    )
    alone = Analysis("still", {}, summarise([still]), (still,))
    watched = open_page(write_page([alone], tmp_path / "still.html"))
    assert "This delta is zero" in watched.page.locator("#figure-spectrum").inner_text()
    assert "lies in a layer" in watched.page.locator("#figure-depth").inner_text()
    assert watched.page.locator("#table-count").inner_text() == "1 of 1 matrices"
    assert watched.messages == []
