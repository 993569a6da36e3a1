"""Figures from results (matplotlib, extra ``report``); SVG, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from timberkit.errors import MissingExtraError
from timberkit.metrics import exact_pass_at_k

STYLES = {"Base": ("#2a6fbb", "-"), "Instruct": ("#222222", "-")}
"""Colour and line of the two sources; families of variants get their own below."""
FAMILIES = {"timber": ("#c2571a", "--"), "truncate": ("#7a4fa3", "-."), "merge": ("#2e8b57", "-")}


def pass_at_k_figure(
    probabilities: Mapping[str, ArrayLike], path: Path, *, ks: Sequence[int] | None = None
) -> Path:
    """Draw exact Pass@k over k, one curve for each model, from k = 1 on a logarithmic axis.

    Args:
        probabilities: model to success probability of each problem, in [0, 1].
        path: the SVG file to write.
        ks: where to evaluate; 1 to 1024 when None.

    Returns:
        ``path``. Equal inputs give equal bytes.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullLocator, ScalarFormatter
    except ImportError:
        raise MissingExtraError("matplotlib", extra="report") from None
    grid = list(ks) if ks is not None else sorted({round(2 ** (i / 4)) for i in range(41)})
    # A fixed salt and no date: the same results are the same file.
    with mpl.rc_context({"svg.hashsalt": "timberkit", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(8.0, 4.6), layout="constrained")
        axes = figure.add_subplot()
        members: dict[str, int] = {}
        for name, p in probabilities.items():
            colour, line, alpha = _style(name, members)
            curve = [100 * float(np.mean(exact_pass_at_k(p, k))) for k in grid]
            axes.plot(grid, curve, line, color=colour, alpha=alpha, label=name, linewidth=1.8)
        axes.set_xscale("log", base=4)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("k, attempts at a problem")
        axes.set_ylabel("Pass@k: problems solved at least once (%)")
        axes.set_title("One attempt or many: what post-training buys and what it costs", loc="left")
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.legend(frameon=False, fontsize=9, loc="lower right", ncols=2)
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})
    return path


def _style(name: str, members: dict[str, int]) -> tuple[str, str, float]:
    """Colour, line and opacity of a curve; variants of one family fade one by one."""
    if name in STYLES:
        return (*STYLES[name], 1.0)
    family = next((key for key in FAMILIES if name.startswith(key)), "")
    colour, line = FAMILIES.get(family, ("#888888", ":"))
    place = members[family] = members.get(family, -1) + 1
    return colour, line, max(1.0 - 0.22 * place, 0.3)
