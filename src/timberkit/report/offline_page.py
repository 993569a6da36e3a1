"""One HTML file that shows one or more analyses: no network, no server, nothing beside it.

    write_page([analysis], "report.html", published=published())

The page holds plotly.js once, its own script and style, and its numbers as JSON. Its
Content-Security-Policy allows exactly those two scripts, by their hashes, and no connection at all:
should a name from a checkpoint ever slip through the escaping, it still could not run or load
anything. What is computed stands in ``page_data``, ``page_spectra``, ``page_table`` and
``headline``; what is drawn in ``page/*.js``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from timberkit.errors import MissingExtraError, UsageError
from timberkit.measurements import Analysis
from timberkit.report.groups import modules_of
from timberkit.report.headline import headline, side_by_side
from timberkit.report.page_data import figure_data
from timberkit.report.page_spectra import POINTS, spectra_data
from timberkit.report.page_table import COLUMNS, table_data
from timberkit.report.paper import compare
from timberkit.report.text import script_json, visible

LARGEST_DATA_BYTES = 3_050_000
"""Of the numbers on a page; with plotly.js it stays under 8 MB."""
DETAILS = ((True, POINTS), (True, POINTS // 2), (False, POINTS), (False, POINTS // 4))
"""(a table row for each expert, points of a spectrum): the first that fits is embedded."""
SCRIPTS = ("theme", "rank_figures", "spectrum", "depth_figures", "table", "main")
SECTIONS = {
    "summary": "In short",
    "depth": "By layer",
    "spread": "Beside noise",
    "spectrum": "One delta",
    "energy": "The tail",
    "rounding": "Rounding",
    "overlap": "Directions",
    "hidden": "Hidden states",
    "paper": "The paper",
    "matrices": "Every matrix",
    "run-facts": "What was run",
}
MOST_FACTS = 400
LONGEST_TITLE = 80


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
    try:
        import jinja2
        import markupsafe
        from plotly.offline import get_plotlyjs, get_plotlyjs_version
    except ImportError as error:
        raise MissingExtraError(error.name or "plotly", extra="report") from None
    titles = _titles(analyses)
    data, limits = _fitting_data(analyses, titles)
    plotly, script = _inline(get_plotlyjs()), _inline(_script())
    trusted = {"plotly": plotly, "script": script, "style": _packaged("page.css"), "data": data}
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.from_string(_packaged("page.html")).render(
        **_words(analyses, titles, published),
        **{name: markupsafe.Markup(text) for name, text in trusted.items()},
        policy=_policy(plotly, script),
        plotly_version=get_plotlyjs_version(),
        limits=limits,
    )
    return _replace(Path(path), html)


def _titles(analyses: Sequence[Analysis]) -> list[str]:
    """A title for each analysis, numbered where one would stand twice."""
    titles: list[str] = []
    for analysis in analyses:
        title = visible(analysis.title, longest=LONGEST_TITLE)
        again = sum(title == visible(a.title, longest=LONGEST_TITLE) for a in analyses) > 1
        titles.append(f"{len(titles) + 1}: {title}" if again else title)
    return titles


def _words(
    analyses: Sequence[Analysis], titles: Sequence[str], published: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What the template shows as text; all of it is escaped there."""
    runs = [_run_words(analysis, title) for analysis, title in zip(analyses, titles, strict=True)]
    comparisons = [
        (title, compare(analysis, published))
        for title, analysis in zip(titles, analyses, strict=True)
        if published is not None
    ]
    hidden = any(analysis.hidden_states for analysis in analyses)
    left_out = {"hidden": not hidden, "paper": not comparisons}
    return {
        "heading": f"What post-training changed: {titles[0]}"
        if len(runs) == 1
        else f"What post-training changed, in {len(runs)} runs",
        "subtitle": f"{runs[0]['headline'].extent} measured."
        if len(runs) == 1
        else "; ".join(f"{run['title']}: {run['headline'].extent}" for run in runs) + ".",
        "runs": runs,
        "numbers": side_by_side([run["headline"] for run in runs]),
        "grouped": any(weight.family == "expert" for a in analyses for weight in a.weights),
        "hidden_states": hidden,
        "comparisons": comparisons,
        "source": (published or {}).get("source", {"arxiv": "2509.23595"}),
        "sections": [item for item in SECTIONS.items() if not left_out.get(item[0])],
    }


def _run_words(analysis: Analysis, title: str) -> dict[str, Any]:
    facts = [(visible(key), _fact(value)) for key, value in analysis.facts.items()]
    base, instruct = (visible(analysis.facts.get(key, "")) for key in ("base", "instruct"))
    return {
        "title": title,
        "pair": f"{base} → {instruct}" if base and instruct else "",
        "headline": headline(analysis),
        "facts": facts[:MOST_FACTS],
        "summary": list(_flat(analysis.summary["model"]))[:MOST_FACTS],
    }


def _fact(value: object) -> str:
    """A fact as text: strings as they are, all else as JSON, so that numbers keep their digits."""
    if isinstance(value, list | tuple) and all(isinstance(word, str) for word in value):
        return visible(", ".join(value) or "–", longest=1000)
    if value is None:
        return "–"
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return visible(text, longest=1000)


def _flat(value: object, prefix: str = "") -> Any:
    """(key.key, value) of nested mappings, in order."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{visible(key)}" if prefix else visible(key))
    else:
        yield prefix, _fact(value)


def _fitting_data(analyses: Sequence[Analysis], titles: Sequence[str]) -> tuple[str, str]:
    """The numbers of the page in the finest detail that fits, and a sentence that says which."""
    modules = [modules_of(analysis) for analysis in analyses]
    figures = [figure_data(analysis) for analysis in analyses]
    for each_expert, points in DETAILS:
        runs = [
            {
                "title": title,
                **figure,
                "spectra": spectra_data(analysis, points),
                "table": table_data(parts, each_expert=each_expert),
            }
            for analysis, title, figure, parts in zip(
                analyses, titles, figures, modules, strict=True
            )
        ]
        columns = [
            {"key": column.key, "label": column.label, "help": column.help, "kind": column.kind}
            for column in COLUMNS
        ]
        data = script_json({"runs": runs, "columns": columns})
        if len(data) <= LARGEST_DATA_BYTES:
            return data, _limits(each_expert, points)
    matrices = sum(len(analysis.weights) for analysis in analyses)
    raise UsageError(
        f"report: found {len(analyses)} analyses of {matrices:,} matrices,"
        " more than fit on one page of 8 MB; write several pages"
    )


def _limits(each_expert: bool, points: int) -> str:
    spectra = f"Spectra are drawn through up to {points} of their values each."
    if each_expert:
        return spectra
    return f"{spectra} Experts share one row of the table for each layer; spectra.parquet has all."


def _script() -> str:
    parts = "\n".join(_packaged(f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();'


def _packaged(name: str) -> str:
    return (files("timberkit.report") / "page" / name).read_text(encoding="utf-8")


def _inline(script: str) -> str:
    """A script that may stand inside its tag, and that has the hash of what a browser sees."""
    text = script.replace("\r\n", "\n").replace("\r", "\n")
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(*scripts: str) -> str:
    hashes = (
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    )
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    # Plotly writes its own style rules, draws heat maps into data: images, and saves from blobs.
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline';"
        " img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _replace(path: Path, text: str) -> Path:
    """Write beside the goal and rename, so that a reader sees the old page or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_text(text, encoding="utf-8", newline="\n")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return path
