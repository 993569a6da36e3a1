"""What people look at of an analysis: the paper's figures, and one offline page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from timberkit.engine.analysis_files import read_analysis
from timberkit.errors import UsageError
from timberkit.measurements import Analysis
from timberkit.report.analysis_figures import analysis_figures
from timberkit.report.offline_page import write_page
from timberkit.study.published import published

PAGE = "report.html"
LIBRARIES = ("matplotlib", "plotly", "jinja2")
"""Of the extra ``report``."""


def can_draw() -> bool:
    """Whether the extra ``report`` is installed."""
    return all(find_spec(name) is not None for name in LIBRARIES)


def draw_analysis(analysis: Analysis, folder: Path) -> None:
    """Write ``report.html`` and ``figures/`` (SVG and PNG) into the folder of an analysis.

    The paper's published numbers stand beside ours where the model is one of its pairs. Raises
    MissingExtraError without the extra ``report``. About three seconds.
    """
    if analysis.weights:
        figures = folder / "figures"
        figures.mkdir(exist_ok=True)
        analysis_figures(analysis, figures)
    write_page([analysis], folder / PAGE, published=published())


def write_report(folders: Sequence[Path], page: Path, *, overwrite: bool = False) -> Path:
    """Show several analyses, each a folder of ``analyze``, side by side on one page.

    Raises UsageError when the page is there and is not to be replaced, CheckpointError for a folder
    that holds no analysis, MissingExtraError without the extra ``report``.
    """
    if page.exists() and not overwrite:
        raise UsageError(f"{page}: is there already; name another file, or add --overwrite")
    if not page.parent.is_dir():
        raise UsageError(f"{page.parent}: no such folder; make it first, or write elsewhere")
    return write_page([read_analysis(folder) for folder in folders], page, published=published())
