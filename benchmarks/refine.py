"""The benchmark: the published algorithm and timberkit on the same pair, in one command.

    python benchmarks/refine.py --model qwen3-0.6b --write-docs            # whole, some minutes
    python benchmarks/refine.py --model qwen3-0.6b --layers 1              # a quick look
    python benchmarks/refine.py --model qwen3-8b --layers 1 --write-docs
    python benchmarks/refine.py --model qwen3-30b-a3b --layers 1 --experts 16
    python benchmarks/refine.py --model llama-3.1-70b --layers 1           # no yardstick: hours

Each measurement is a fresh process with its children; they run in turn, on a machine that should
have nothing else to do. Prints tables and, as its last line, one JSON object with every number.
Floors are reported, never asserted: the exit code is 0 when everything ran. The pair stays in
--folder for the next time; outputs are removed, but for the yardstick's (--reuse-yardstick).
Not here: GPUs, real weights, a cold page cache, the quality of the refined models.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import runs
from comparison import compare
from floors import floors
from machine import cores, describe, measure_rates
from make_pair import MODELS, make_pair, shapes_of
from performance_page import write_section
from rich.console import Console
from rich.table import Table
from tables import tables

from timberkit.config import DEFAULT_FAMILIES

VARIANTS = ("timber:lam=0.2", "timber:lam=0.5", "timber-l", "merge:mu=0.8")
WITHOUT_YARDSTICK = ("llama-3.1-70b",)
DENSE = ("qwen3-8b", "llama-3.1-8b")
NOT_REPRODUCED = ("folder", "mergekit", "reuse_yardstick", "write_docs")
"""Options that say nothing of what was measured, or name a place on this machine."""


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="qwen3-0.6b")
    parser.add_argument("--layers", type=int, help="the first of them only")
    parser.add_argument("--experts", type=int, help="the first of each layer only")
    parser.add_argument(
        "--embeddings",
        nargs="?",
        const="refined",
        choices=("none", "copied", "refined"),
        help="embedding and head: alone means refined [copied for a whole model, else none]",
    )
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--repeats", type=int, default=1, help="of timberkit's run; median counts")
    parser.add_argument(
        "--variants",
        nargs="*",
        default=list(VARIANTS),
        help="one pass of the first, one of all; fewer than two: not measured",
    )
    parser.add_argument("--stage-layers", type=int, help="layers in the split by stage [all]")
    parser.add_argument("--scaling", action="store_true", help="against layers and workers")
    parser.add_argument("--skip-yardstick", action=argparse.BooleanOptionalAction)
    parser.add_argument(
        "--yardstick-layers", type=int, help="so many for the yardstick; ratios are per layer [all]"
    )
    parser.add_argument("--reuse-yardstick", action="store_true", help="numbers of its last run")
    parser.add_argument("--skip-merge", action="store_true")
    parser.add_argument("--mergekit", type=Path, help="its program mergekit-yaml")
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--timeout", type=float, default=4 * 3600.0, help="seconds, each process")
    parser.add_argument("--write-docs", action="store_true", help="rewrite docs/performance.md")
    given = parser.parse_args(arguments)
    shapes = shapes_of(given.model, given.layers, given.experts)
    given.layers, given.experts = shapes.layers, shapes.experts
    whole = shapes == MODELS[given.model]
    given.embeddings = given.embeddings or ("copied" if whole else "none")
    if given.skip_yardstick is None:
        given.skip_yardstick = given.model in WITHOUT_YARDSTICK
    return given


def command_line(given: argparse.Namespace) -> str:
    """The command that measures the same, without places on this machine."""
    plain = vars(parse(["--model", given.model]))
    words = ["python", "benchmarks/refine.py", "--model", given.model]
    for name, value in vars(given).items():
        if name in NOT_REPRODUCED or value == plain[name]:
            continue
        flag = f"--{name.replace('_', '-')}"
        values = value if isinstance(value, list) else [] if value is True else [value]
        words += [f"--no{flag[1:]}"] if value is False else [flag, *map(str, values)]
    return shlex.join(words)


def bench_of(given: argparse.Namespace, layers: int) -> runs.Bench:
    """The pair with so many layers, made when it is not there yet."""
    experts = f"-experts{given.experts}" if given.experts else ""
    embedded = "" if given.embeddings == "none" else "-embedded"
    folder: Path = given.folder.absolute() / f"{given.model}-layers{layers}{experts}{embedded}"
    pair = folder / "pair"
    if not pair.exists():
        say(f"making the pair: {folder.name}")
        partial = folder / "pair.partial"
        shutil.rmtree(partial, ignore_errors=True)
        make_pair(
            given.model,
            partial,
            layers=layers,
            experts=given.experts or None,
            embeddings=given.embeddings != "none",
        )
        partial.rename(pair)
    runs.read_ahead(pair)
    extra = ("embedding", "head") if given.embeddings == "refined" else ()
    return runs.Bench(
        folder=folder,
        base=pair / "base",
        instruct=pair / "instruct",
        families=(*DEFAULT_FAMILIES, *extra),
        lam=0.2,
        timeout_seconds=given.timeout,
    )


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"· {text}", file=sys.stderr, flush=True)


def measure_all(given: argparse.Namespace) -> dict[str, Any]:
    """Every measurement in turn; what was left out is None."""
    bench = bench_of(given, given.layers)
    say("measuring this machine")
    result: dict[str, Any] = {
        "model": given.model,
        "hidden": MODELS[given.model].hidden,
        "layers": given.layers,
        "of_layers": MODELS[given.model].layers,
        "experts": given.experts,
        "embeddings": given.embeddings,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe(),
        "load_before": os.getloadavg()[0],
        "rates": asdict(measure_rates(bench.folder)),
        "pair_bytes": runs.folder_bytes(bench.base) + runs.folder_bytes(bench.instruct),
        "yardstick": None,
        "yardstick_layers": given.yardstick_layers or given.layers,
        "svds": None,
    }
    if not given.skip_yardstick:
        result |= measure_yardstick(bench, given)
    say("timberkit as a whole process")
    result["refine"] = runs.refine(
        bench, "refined", workers=given.workers, repeats=given.repeats, keep=True
    )
    result["comparison"] = None
    if result["yardstick"] is not None:
        say("comparing the outputs")
        facts = result["yardstick"]["matrices"]
        result["comparison"] = compare(bench.folder / "refined", bench.folder / "yardstick", facts)
    shutil.rmtree(bench.folder / "refined")
    say("plan's prediction")
    seconds = runs.predicted_seconds(bench, workers=given.workers)
    over = seconds / result["refine"]["wall_seconds"]
    result["plan"] = {"predicted_seconds": seconds, "predicted_over_run": over}
    result |= measure_variants(bench, given, result)
    result |= measure_merges(bench, given)
    result["scaling"] = measure_scaling(given, result["refine"]) if given.scaling else None
    return result | conclude(given, result)


def measure_yardstick(bench: runs.Bench, given: argparse.Namespace) -> dict[str, Any]:
    """The published algorithm and the bare loop, or what they took the last time."""
    layers = f"0-{given.yardstick_layers - 1}" if given.yardstick_layers else None
    said = f"-layers{layers}" if layers else ""
    kept = bench.folder / f"yardstick-{'-'.join(bench.families)}{said}.json"
    if given.reuse_yardstick and kept.exists() and (bench.folder / "yardstick").exists():
        say("yardstick: numbers of its last run")
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    kept.unlink(missing_ok=True)
    say("published algorithm as a whole process")
    whole = runs.yardstick(bench, "yardstick", layers=layers)
    (bench.folder / "yardstick" / "svd_cache.safetensors").unlink(missing_ok=True)
    say("bare loop of full SVDs")
    found = {"yardstick": whole, "svds": runs.bare_svds(bench, layers=layers)}
    kept.write_text(json.dumps(found))
    return found


def measure_variants(
    bench: runs.Bench, given: argparse.Namespace, result: dict[str, Any]
) -> dict[str, Any]:
    """Split by stage with one variant and with all; the whole process with all."""
    chosen: list[str] = given.variants
    layers = None if given.stage_layers is None else f"0-{given.stage_layers - 1}"
    say("time by stage")
    one = runs.stages(bench, result["rates"], variants=chosen[:1] or VARIANTS[:1], layers=layers)
    if len(chosen) < 2:
        return {"stages": one, "variants": None}
    say(f"one pass, {len(chosen)} variants")
    several = runs.stages(bench, result["rates"], variants=chosen, layers=layers)
    whole = runs.refine(bench, "several", workers=given.workers, variants=chosen)
    further = len(chosen) - 1

    def extra(first: float, second: float) -> float:
        return (second / first - 1.0) / further

    return {
        "stages": one,
        "variants": {
            "names": chosen,
            "run": whole,
            "stages": several,
            "extra_compute_share": extra(one["compute_seconds"], several["compute_seconds"]),
            "extra_compute_cpu_share": extra(
                one["compute_cpu_seconds"], several["compute_cpu_seconds"]
            ),
            "extra_wall_share": extra(result["refine"]["wall_seconds"], whole["wall_seconds"]),
        },
    }


def measure_merges(bench: runs.Bench, given: argparse.Namespace) -> dict[str, Any]:
    """A plain merge of every matrix, and mergekit's."""
    if given.skip_merge:
        return {"merge": None, "mergekit": None}
    say("merge alone")
    merge = runs.refine(
        bench,
        "merged",
        workers=given.workers,
        variants=[f"merge:mu={runs.MERGE_WEIGHT}"],
        families=["authors"],
    )
    say("mergekit's linear")
    return {
        "merge": merge,
        "mergekit": runs.mergekit_linear(bench, runs.find_mergekit(given.mergekit)),
    }


def measure_scaling(given: argparse.Namespace, full: dict[str, Any]) -> dict[str, Any]:
    """Wall time against a quarter, half and all of the layers, and against one worker."""
    kept = ("wall_seconds", "cpu_seconds", "busy_share", "workers", "peak_pss_bytes")
    points = []
    for layers in sorted({max(1, given.layers // 4), max(1, given.layers // 2)} - {given.layers}):
        say(f"scaling: {layers} layers")
        run = runs.refine(bench_of(given, layers), "scaled", workers=given.workers)
        points.append({"layers": layers, **{key: run[key] for key in kept}})
    points.append({"layers": given.layers, **{key: full[key] for key in kept}})
    say("scaling: one worker")
    single = runs.refine(bench_of(given, given.layers), "scaled", workers=1)
    deviation, start, slope = None, None, None
    if len(points) > 2:
        walls = np.array([point["wall_seconds"] for point in points])
        counts = np.array([point["layers"] for point in points], dtype=np.float64)
        line = np.polynomial.Polynomial.fit(counts, walls, 1)
        start, slope = map(float, line.convert().coef)
        deviation = float(np.max(np.abs(line(counts) / walls - 1.0)))
    return {
        "runs": [*points, {"layers": given.layers, **{key: single[key] for key in kept}}],
        "line_start_seconds": start,
        "line_seconds_per_layer": slope,
        "largest_deviation_share": deviation,
        "workers_speedup": single["wall_seconds"] / full["wall_seconds"],
    }


def conclude(given: argparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    """Ratios, extrapolations and floors from what was measured."""
    run, ratios = result["refine"], {}
    if result["yardstick"] is not None:
        times = given.layers / (given.yardstick_layers or given.layers)
        ratios = {
            "whole_process": times * result["yardstick"]["wall_seconds"] / run["wall_seconds"],
            "bare_svds": times * result["svds"]["svd_seconds"] / run["wall_seconds"],
            "cpu": times * result["yardstick"]["cpu_seconds"] / run["cpu_seconds"],
            "peak_pss": result["yardstick"]["peak_pss_bytes"] / run["peak_pss_bytes"],
        }
    a_layer = run["wall_seconds"] / given.layers
    partial = given.layers < MODELS[given.model].layers
    every_expert = given.experts == MODELS[given.model].experts
    concluded: dict[str, Any] = {
        "matrices": run["matrices"],
        "refined_bytes": run["refined_bytes"],
        "flops_per_second": run["flops"] / run["wall_seconds"],
        "seconds_per_layer": a_layer,
        "whole_model_seconds": a_layer * MODELS[given.model].layers
        if partial and every_expert
        else None,
        "dense_flops_per_second": dense_rates(given.folder) if given.experts else {},
        "ratios": ratios,
    }
    held = floors(result | concluded)
    return {**concluded, "floors": [asdict(floor) for floor in held]}


def dense_rates(folder: Path) -> dict[str, float]:
    """A worker's rate on the weights of dense models, from their last results in the folder."""
    found = {}
    for model in DENSE:
        kept = folder / f"{model}.json"
        if kept.exists():
            families = json.loads(kept.read_text())["refine"]["families"]
            found[model] = float(families["others"]["flops_per_second"])
    return found


def show(result: dict[str, Any]) -> None:
    """The tables, on stdout."""
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 120)
    for text in tables(result):
        table = Table(title=text.title, title_justify="left")
        for i, column in enumerate(text.columns):
            table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
        for row in text.rows:
            table.add_row(*row)
        console.print(table)


def main() -> None:
    """Measure, show, keep; the last line is the result as JSON."""
    given = parse()
    try:
        result = measure_all(given)
    except runs.RunFailedError as error:
        sys.exit(f"error: {error}")
    (given.folder / f"{given.model}.json").write_text(json.dumps(result))
    if given.write_docs:
        write_section(result, command_line(given))
    show(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
