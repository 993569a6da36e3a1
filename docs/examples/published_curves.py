"""The authors' published Pass@k curves, and two numbers each that reproduce their shape.

    python docs/examples/published_curves.py               # print the tables
    python docs/examples/published_curves.py --write-docs  # and rewrite docs/published_curves.md

The points are the authors' (Qwen3-0.6B, thinking; see ``timberkit.study.published``). Nothing here
was measured by timberkit: a Beta distribution of how hard the problems are is fitted to each curve
by least squares (``timberkit.metrics.fit_curve``), and drawn beside the points. The band is what
the fitted Instruct would show on other problems of this kind: 95 % of simulated runs with as many
problems and rollouts as the authors had.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from timberkit.metrics import BetaBinomial, fit_curve, pass_at_k
from timberkit.study.published import published

PAGE = Path(__file__).resolve().parents[1] / "published_curves.md"
PICTURE = PAGE.parent / "images" / "published_curves.svg"
PROBLEMS = {"AIME24": 30, "GPQA-Diamond": 198}
ROLLOUTS = {"AIME24": 320, "GPQA-Diamond": 256}
METHODS = {"Instruct": "#222222", "Timber-L": "#0072b2", "Timber": "#c4540a"}
RUNS = 1_000
BEGIN, END = "<!-- begin tables -->", "<!-- end tables -->"

Curves = Mapping[str, Sequence[float]]


def fits(curves: Curves) -> dict[str, BetaBinomial]:
    """The Beta distribution whose Pass@k is nearest to each method's points."""
    return {
        name: fit_curve([int(k) for k in curves["k"]], np.array(curves[name]) / 100)
        for name in METHODS
    }


def simulated(model: BetaBinomial, ks: Sequence[int], problems: int, n: int) -> NDArray[np.float64]:
    """Pass@k in percent of ``RUNS`` runs on problems drawn from the model, (RUNS, ks)."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(RUNS):
        chances = generator.beta(model.alpha, model.beta, problems)
        found.append(100 * pass_at_k(n, generator.binomial(n, chances), ks).mean(axis=0))
    return np.array(found)


def tables() -> str:
    """A table for each benchmark: published, fitted, the difference; below, what the fit says."""
    parts = []
    for benchmark, curves in published()["pass_at_k_qwen3_0_6b_thinking"].items():
        ks = [int(k) for k in curves["k"]]
        models = fits(curves)
        fitted = {name: 100 * model.pass_at_k(ks) for name, model in models.items()}
        lines = [f"### {benchmark}", ""]
        lines.append(
            "| k | " + " | ".join(f"{name}: published | fitted" for name in METHODS) + " |"
        )
        lines.append("| ---: |" + " ---: | ---: |" * len(METHODS))
        for row, k in enumerate(ks):
            cells = [f"{curves[name][row]:.2f} | {fitted[name][row]:.2f}" for name in METHODS]
            lines.append(f"| {k} | " + " | ".join(cells) + " |")
        lines += [
            "",
            "| | alpha | beta | largest distance, points |",
            "| --- | ---: | ---: | ---: |",
        ]
        for name, model in models.items():
            distance = np.abs(fitted[name] - np.array(curves[name])).max()
            lines.append(f"| {name} | {model.alpha:.3f} | {model.beta:.3f} | {distance:.2f} |")
        low, high = np.quantile(
            simulated(models["Instruct"], [1, ks[-1]], PROBLEMS[benchmark], ROLLOUTS[benchmark]),
            [0.025, 0.975],
            axis=0,
        )
        lines += [
            "",
            f"On {PROBLEMS[benchmark]} other problems of this kind, with {ROLLOUTS[benchmark]}"
            f" rollouts each, the fitted Instruct would land between {low[0]:.1f} and"
            f" {high[0]:.1f} at Pass@1 and between {low[1]:.1f} and {high[1]:.1f} at Pass@{ks[-1]},"
            " 19 times in 20. That is the noise of which problems were asked; two models on the"
            " same problems share it, which is why `timberkit compare` pairs them.",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def draw(path: Path) -> None:
    """Points as published, curves as fitted, the band of the fitted Instruct."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    settings = {"svg.hashsalt": "timberkit", "svg.fonttype": "none", "font.size": 9}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(9.0, 4.0), layout="constrained")
        both = published()["pass_at_k_qwen3_0_6b_thinking"]
        for axes, (benchmark, curves) in zip(figure.subplots(1, 2), both.items(), strict=True):
            ks = [int(k) for k in curves["k"]]
            grid = sorted({round(ks[-1] ** (i / 60)) for i in range(61)})
            models = fits(curves)
            runs = simulated(models["Instruct"], ks, PROBLEMS[benchmark], ROLLOUTS[benchmark])
            axes.fill_between(ks, *np.quantile(runs, [0.025, 0.975], axis=0), color="#222222",
                              alpha=0.08, linewidth=0)  # fmt: skip
            for (name, colour), marker in zip(METHODS.items(), "osD", strict=True):
                axes.plot(grid, 100 * models[name].pass_at_k(grid), color=colour, linewidth=1.2)
                axes.plot(ks, curves[name], marker, color=colour, markersize=4, label=name)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_title(f"{benchmark}: published (points), fitted (lines)", loc="left")
            axes.set_xlabel("k")
            axes.set_ylabel("Pass@k (%)")
            axes.grid(True, color="#dddddd", linewidth=0.6)
            axes.legend(frameon=False, loc="lower right")
        figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})


def main() -> None:
    """Print the tables; with ``--write-docs`` put them and the picture into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write-docs", action="store_true", help="rewrite the page and picture")
    arguments = parser.parse_args()
    text = tables()
    print(text)
    if arguments.write_docs:
        draw(PICTURE)
        page = PAGE.read_text(encoding="utf-8")
        start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
        PAGE.write_text(f"{page[:start]}\n{text}\n{page[end:]}", encoding="utf-8")


if __name__ == "__main__":
    main()
