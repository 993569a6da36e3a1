"""What a page says and draws of analyses: the words of its sections, and their numbers as JSON.

What is computed stands in ``page_data``, ``page_spectra``, ``page_table`` and ``headline``; what is
drawn in ``page/*.js``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timberkit.errors import UsageError
from timberkit.measurements import Analysis
from timberkit.report.groups import modules_of
from timberkit.report.headline import headline, side_by_side
from timberkit.report.page_data import figure_data
from timberkit.report.page_file import MOST_FACTS, fact, flat_facts
from timberkit.report.page_spectra import POINTS, spectra_data
from timberkit.report.page_table import COLUMNS, table_data
from timberkit.report.paper import compare
from timberkit.report.text import script_json, visible

DETAILS = ((True, POINTS), (True, POINTS // 2), (False, POINTS), (False, POINTS // 4))
"""(a table row for each expert, points of a spectrum): the first that fits is embedded."""
SCRIPTS = ("rank_figures", "spectrum", "depth_figures", "table", "analysis")
"""Of the figures of an analysis; they stand on ``theme`` and ``sorting``."""
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
}
LONGEST_TITLE = 80


def titles_of(analyses: Sequence[Analysis]) -> list[str]:
    """A title for each analysis, numbered where one would stand twice."""
    titles: list[str] = []
    for analysis in analyses:
        title = visible(analysis.title, longest=LONGEST_TITLE)
        again = sum(title == visible(a.title, longest=LONGEST_TITLE) for a in analyses) > 1
        titles.append(f"{len(titles) + 1}: {title}" if again else title)
    return titles


def analysis_words(
    analyses: Sequence[Analysis], titles: Sequence[str], published: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What ``page/analysis.html`` shows as text, and the sections that it has; all unescaped."""
    runs = [_run_words(analysis, title) for analysis, title in zip(analyses, titles, strict=True)]
    comparisons = [
        (title, compare(analysis, published))
        for title, analysis in zip(titles, analyses, strict=True)
        if published is not None
    ]
    hidden = any(analysis.hidden_states for analysis in analyses)
    left_out = {"hidden": not hidden, "paper": not comparisons}
    return {
        "runs": runs,
        "numbers": side_by_side([run["headline"] for run in runs]),
        "grouped": any(weight.family == "expert" for a in analyses for weight in a.weights),
        "hidden_states": hidden,
        "comparisons": comparisons,
        "source": (published or {}).get("source", {"arxiv": "2509.23595"}),
        "analysis_sections": [item for item in SECTIONS.items() if not left_out.get(item[0])],
    }


def _run_words(analysis: Analysis, title: str) -> dict[str, Any]:
    facts = [(visible(key), fact(value)) for key, value in analysis.facts.items()]
    base, instruct = (visible(analysis.facts.get(key, "")) for key in ("base", "instruct"))
    return {
        "title": title,
        "pair": f"{base} → {instruct}" if base and instruct else "",
        "headline": headline(analysis),
        "facts": facts[:MOST_FACTS],
        "summary": list(flat_facts(analysis.summary["model"]))[:MOST_FACTS],
    }


def fitting_data(
    analyses: Sequence[Analysis], titles: Sequence[str], *, largest_bytes: int
) -> tuple[str, str]:
    """The numbers of a page in the finest detail that fits, and a sentence that says which.

    Raises UsageError where none fits.
    """
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
        if len(data) <= largest_bytes:
            return data, _limits(each_expert, points)
    matrices = sum(len(analysis.weights) for analysis in analyses)
    several = "analyses" if len(analyses) > 1 else "analysis"
    raise UsageError(
        f"report: found {len(analyses)} {several} of {matrices:,} matrices,"
        " more than fit on one page of 8 MB; write several pages"
    )


def _limits(each_expert: bool, points: int) -> str:
    spectra = f"Spectra are drawn through up to {points} of their values each."
    if each_expert:
        return spectra
    return f"{spectra} Experts share one row of the table for each layer; spectra.parquet has all."
