"""The page in the dark, on paper, on a telephone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FIGURES = ["depth", "spread", "spectrum", "energy", "rounding", "overlap", "hidden"]
WHITE, DARK = "rgb(255, 255, 255)", "rgb(20, 24, 27)"


@pytest.fixture(scope="module")
def watched(open_page: Callable[..., Any], one_run: Path) -> Any:
    return open_page(one_run, color_scheme="dark")


def ground(page: Any) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def ink_of_figures(page: Any) -> set[str]:
    return {
        page.evaluate(f"document.getElementById('figure-{figure}').layout.font.color")
        for figure in FIGURES
    }


def contrast(page: Any, over: str, under: str) -> float:
    """Contrast of two colours of the style sheet, as WCAG 2 defines it."""

    def luminance(name: str) -> float:
        text = page.evaluate(
            "name => getComputedStyle(document.documentElement).getPropertyValue(name)", f"--{name}"
        ).strip()
        channels = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    first, second = sorted((luminance(over), luminance(under)), reverse=True)
    return (first + 0.05) / (second + 0.05)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_text_and_lines_can_be_told_from_the_ground(watched: Any, scheme: str) -> None:
    watched.page.emulate_media(color_scheme=scheme)
    for words in ("ink", "soft", "accent"):
        assert contrast(watched.page, words, "page") >= 4.5
    for line in ("base", "instruct", "delta", "noise", "warn"):
        assert contrast(watched.page, line, "page") >= 3


def test_figures_follow_the_colour_scheme(watched: Any) -> None:
    watched.page.emulate_media(color_scheme="dark")
    assert ground(watched.page) == DARK
    dark = ink_of_figures(watched.page)
    watched.page.emulate_media(color_scheme="light")
    assert ground(watched.page) == WHITE
    light = ink_of_figures(watched.page)
    assert len(dark) == len(light) == 1
    assert dark != light


def test_paper_is_white_and_figures_fit_it_whatever_the_screen(watched: Any) -> None:
    page = watched.page
    page.emulate_media(color_scheme="dark", media="print")
    assert ground(page) == WHITE
    assert ink_of_figures(page) == {"#000000"}
    widths = [
        page.locator(f"#figure-{name} svg.main-svg").first.get_attribute("width")
        for name in FIGURES
    ]
    assert set(widths) == {"660"}
    assert not page.locator(".controls").first.is_visible()
    page.emulate_media(color_scheme="dark", media="screen")
    assert ground(page) == DARK
    assert float(page.locator("#figure-depth svg.main-svg").first.get_attribute("width")) > 800


def test_a_print_has_few_pages(watched: Any, tmp_path: Path) -> None:
    content = watched.page.pdf(path=tmp_path / "page.pdf", format="A4", print_background=True)
    assert content.startswith(b"%PDF")
    # Laid out for the screen, the page would be shrunk onto more than ten with empty ones behind.
    assert 4 <= content.count(b"/Type /Page\n") <= 9
    assert ground(watched.page) == DARK
    assert watched.messages == []


@pytest.mark.parametrize("width", [360, 768])
def test_a_narrow_screen_needs_no_sideways_scrolling(watched: Any, width: int) -> None:
    watched.page.set_viewport_size({"width": width, "height": 800})
    for _ in range(200):  # figures follow a moment later; the page's policy forbids polling inside
        if watched.page.evaluate("document.documentElement.scrollWidth") <= width:
            break
        watched.page.wait_for_timeout(50)
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    watched.page.set_viewport_size({"width": 1280, "height": 900})
