"""Debian's Chromium, driven by Playwright; where it cannot be had these tests skip and say why."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from made_analysis import hostile_analysis, made_analysis

from timberkit.measurements import Analysis
from timberkit.report.offline_page import write_page
from timberkit.study.published import published

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
BINARIES = ("chromium", "chromium-browser", "google-chrome")
REQUIRED = "TIMBERKIT_REQUIRE_BROWSER"
"""Set by .ci/run where it has installed Chromium: a browser that does not start fails then."""


def _without_browser(reason: str) -> None:
    if os.environ.get(REQUIRED):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where Chromium lies."""
    found = next(filter(None, map(shutil.which, BINARIES)), None)
    if found is None:
        _without_browser("no chromium here; as root: apt-get install chromium")
    return str(found)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Any]:
    """The driver; its package brings no browser of its own.

    While it lives, this thread has a running event loop, which no other test is to meet.
    """
    try:
        from playwright import sync_api
    except ImportError:
        _without_browser("playwright is not installed; it comes with the extra dev")
    with sync_api.sync_playwright() as driver:
        yield driver


@dataclass
class Watched:
    """A page in a fresh browser, and everything it said or asked for."""

    page: Any
    context: Any
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def outside(self) -> list[str]:
        """Requests to anything but files and the page's own data."""
        return [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))]


@pytest.fixture(scope="module")
def open_page(
    chromium: str, playwright: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Watched]]:
    """Open an HTML file in a browser with an empty profile; all are closed at the end."""
    opened = []

    def open_in_browser(path: Path, **options: Any) -> Watched:
        profile = tmp_path_factory.mktemp("profile")
        settings = {"viewport": {"width": 1280, "height": 900}, "locale": "en-GB"} | options
        try:
            context = playwright.chromium.launch_persistent_context(
                str(profile), executable_path=chromium, args=list(FLAGS), headless=True, **settings
            )
        except Exception as error:  # whatever keeps a browser from starting
            _without_browser(f"chromium does not start: {str(error).splitlines()[0]}")
        opened.append(context)
        context.set_default_timeout(60_000)
        watched = Watched(context.pages[0], context)
        watched.page.on("console", lambda message: watched.messages.append(message.text))
        watched.page.on("pageerror", lambda error: watched.messages.append(str(error)))
        context.on("request", lambda request: watched.requests.append(request.url))
        watched.page.goto(path.as_uri())
        watched.page.wait_for_selector("html[data-ready=yes]")
        return watched

    yield open_in_browser
    for context in opened:
        context.close()


@pytest.fixture(scope="session")
def analysis() -> Analysis:
    """Four layers of seven matrices, everything measured, as one of the paper's models."""
    facts = {"base": "Qwen/Qwen3-8B-Base", "instruct": "Qwen/Qwen3-8B", "torch": "2.13.0"}
    return made_analysis(layers=4, facts=facts)


@pytest.fixture(scope="session")
def one_run(analysis: Analysis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of one run."""
    path = tmp_path_factory.mktemp("page") / "one.html"
    return write_page([analysis], path, published=published())


@pytest.fixture(scope="session")
def two_runs(analysis: Analysis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two runs; the second measured less, of fewer layers."""
    other = made_analysis(
        layers=2, seed=5, measured=False, hidden_states=False, title="example/other"
    )
    path = tmp_path_factory.mktemp("page") / "two.html"
    return write_page([analysis, other], path, published=published())


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose every name comes from a stranger who means harm."""
    path = tmp_path_factory.mktemp("page") / "hostile.html"
    return write_page([hostile_analysis()], path, published=published())


@pytest.fixture(scope="module")
def shown(open_page: Callable[..., Watched], one_run: Path) -> Watched:
    """The page of one run, opened once; tests leave it as they found it."""
    return open_page(one_run)
