"""One HTML file that shows one or more analyses: no network, no server, nothing beside it.

    write_page([analysis], "report.html", published=published())

``page_file`` makes it a file and keeps it safe, ``analysis_part`` says what stands on it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timberkit.errors import UsageError
from timberkit.measurements import Analysis
from timberkit.report.analysis_part import SCRIPTS, analysis_words, fitting_data, titles_of
from timberkit.report.page_file import page_parts, render, write_html

LARGEST_DATA_BYTES = 3_050_000
"""Of the numbers on a page; with plotly.js it stays under 8 MB."""
LAST_SECTION = ("run-facts", "What was run")


def write_page(
    analyses: Sequence[Analysis],
    path: str | os.PathLike[str],
    *,
    published: Mapping[str, Any] | None = None,
) -> Path:
    """Write one offline HTML page of one or more analyses.

    Args:
        analyses: at least one; several are shown side by side, with a picker for the figures.
        path: the file to write; an older one is replaced, in one step. Its folder must exist.
        published: the paper's numbers, in the form of ``study/published.json``; None leaves the
            comparison out.

    Returns:
        ``path``. Equal inputs give equal bytes. The page is under 8 MB: spectra are thinned to 200
        points, and where that is not enough experts share a row of the table; the page says so.

    Raises:
        MissingExtraError: plotly or jinja2 is not installed.
        UsageError: no analysis, or more than fit on a page.
        OSError: the file cannot be written.

    Cost: O(matrices), about a second for ten thousand.
    """
    if not analyses:
        raise UsageError("report: found no analysis, expected at least one")
    parts = page_parts(["theme", "sorting", *SCRIPTS, "main"], ["page"])
    titles = titles_of(analyses)
    data, limits = fitting_data(analyses, titles, largest_bytes=LARGEST_DATA_BYTES)
    words = analysis_words(analyses, titles, published)
    runs = words["runs"]
    alone = len(runs) == 1
    html = render(
        "page.html",
        parts,
        {"data": data},
        **words,
        heading=f"What post-training changed: {titles[0]}"
        if alone
        else f"What post-training changed, in {len(runs)} runs",
        subtitle=f"{runs[0]['headline'].extent} measured."
        if alone
        else "; ".join(f"{run['title']}: {run['headline'].extent}" for run in runs) + ".",
        kicker="effective-rank analysis",
        sections=[*words["analysis_sections"], LAST_SECTION],
        limits=limits,
    )
    return write_html(Path(path), html)
