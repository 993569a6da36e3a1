"""Names from a stranger's checkpoint: shown as they are, and doing nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_analysis import HOSTILE

from timberkit.report.text import visible


@pytest.fixture(scope="module")
def watched(open_page: Callable[..., Any], hostile: Path) -> Any:
    return open_page(hostile)


def test_nothing_ran_and_nothing_was_asked_for(watched: Any, hostile: Path) -> None:
    assert watched.page.evaluate("window.harmed") is None
    assert watched.messages == []
    assert set(watched.requests) == {hostile.as_uri()}


def test_names_made_no_element(watched: Any) -> None:
    count = watched.page.evaluate(
        "selector => document.querySelectorAll(selector).length",
        "img, b, i, iframe, svg a, [onerror], [onload], a:not([href^='#'])",
    )
    # Plotly's own tool bar holds links without an address.
    bars = watched.page.locator("a.modebar-btn").count()
    assert count == bars


def test_names_stand_in_table_and_figures_letter_by_letter(watched: Any) -> None:
    names = watched.page.eval_on_selector_all(
        "#table tbody th", "all => all.map(one => one.textContent)"
    )
    assert set(names) == {visible(name) for name in HOSTILE}
    labels = watched.page.locator("#figure-depth .ytick").all_text_contents()
    modules = watched.page.eval_on_selector_all(
        "#table-module option", "all => all.slice(1).map(one => one.textContent)"
    )
    assert {label.strip() for label in labels} == set(modules)


def test_pickers_work_on_hostile_modules(watched: Any) -> None:
    modules = watched.page.locator("#spectrum-module option").count()
    for place in range(modules):
        watched.page.locator("#spectrum-module").select_option(index=place)
        assert "Timber keeps" in watched.page.locator("#spectrum-reading").inner_text()
    assert watched.page.evaluate("window.harmed") is None


def test_no_cell_of_the_download_is_a_formula(watched: Any) -> None:
    with watched.page.expect_download() as download:
        watched.page.get_by_role("button", name="Download CSV").click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    rows = list(csv.reader(io.StringIO(text)))
    assert len({len(row) for row in rows}) == 1
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell.lstrip()[:1] in {"=", "+", "@"}]
    assert "'" + HOSTILE[3] in cells


def test_the_policy_stops_what_escaping_would_miss(
    open_page: Callable[..., Any], one_run: Path
) -> None:
    page = open_page(one_run).page
    found = page.evaluate(
        """async () => {
            const stopped = [];
            document.addEventListener("securitypolicyviolation",
                (event) => stopped.push(event.effectiveDirective));
            const image = document.createElement("img");
            image.setAttribute("onerror", "window.harmed = 1");
            image.src = "http://127.0.0.1:9/pixel.png";
            document.body.append(image);
            const script = document.createElement("script");
            script.textContent = "window.harmed = 2";
            document.body.append(script);
            await fetch("http://127.0.0.1:9/").catch(() => null);
            await new Promise((done) => setTimeout(done, 300));
            return [stopped, window.harmed ?? null];
        }"""
    )
    assert {"img-src", "connect-src", "script-src-elem", "script-src-attr"} <= set(found[0])
    assert found[1] is None
