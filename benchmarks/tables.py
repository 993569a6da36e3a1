"""The tables of a benchmark's result, once for the terminal and for ``docs/performance.md``.

Read by ``refine.py`` and ``performance_page.py``; nothing is measured or concluded here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PROCESS_ROWS = (
    ("yardstick", "published algorithm, whole process"),
    ("svds", "bare loop of full SVDs, nothing written"),
    ("refine", "timberkit refine, whole process"),
    ("merge", "timberkit refine, merge alone, all matrices"),
    ("mergekit", "mergekit linear, all tensors"),
)


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of text: the first column is left-aligned, the others are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(result: dict[str, Any]) -> list[TextTable]:
    """All tables that a result has the numbers for."""
    return [table for table in _all(result) if table.rows]


def _all(result: dict[str, Any]) -> Iterator[TextTable]:
    yield TextTable("Asked and found", ("", "asked", "found", ""), tuple(_floor_rows(result)))
    yield TextTable(
        "Processes",
        ("", "wall s", "CPU s", "peak GB", "read GB", "written GB", "cache GB", "matrices/s"),
        tuple(_process_rows(result)),
    )
    yield TextTable("Against the published algorithm", ("", ""), tuple(_comparison_rows(result)))
    yield TextTable("One pass, several variants; plan", ("", ""), tuple(_pass_rows(result)))
    yield TextTable(
        "Layers and workers", ("", "layers", "workers", "wall s", "CPU s", "busy"),
        tuple(_scaling_rows(result)),
    )  # fmt: skip
    yield TextTable(
        "Stages, one process with one thread",
        ("", "seconds", "share", "calls", "Gflop", "GB", "roofline s", "times roofline"),
        tuple(_stage_rows(result)),
    )
    yield TextTable("This machine's ceilings", ("", ""), tuple(_rate_rows(result)))


def _floor_rows(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for floor in result["floors"]:
        verdict = "pass" if floor["passed"] else "FAIL"
        yield floor["name"], floor["asked"], floor["found"], verdict


def _process_rows(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, title in PROCESS_ROWS:
        run = result[key]
        if run is None:
            continue
        if "wall_seconds" not in run:
            yield (f"{title}: {run['status']}", *[""] * 7)
            continue
        # The bare loop is judged by the SVDs alone; loading and deltas are not on its clock.
        wall = run["svd_seconds"] if key == "svds" else run["wall_seconds"]
        count = (
            len(run["matrices"]) if isinstance(run.get("matrices"), dict) else run.get("matrices")
        )
        threads = f", {run['threads']} threads" if "threads" in run else ""
        if "threads" in run and result["yardstick_layers"] < result["layers"]:
            threads += f", {result['yardstick_layers']} of {result['layers']} layers"
        yield (
            f"{title}{threads}",
            f"{wall:.1f}",
            f"{run['cpu_seconds']:.1f}",
            _gigabytes(run["peak_pss_bytes"]),
            _gigabytes(run["read_bytes"]),
            _gigabytes(run["written_bytes"]),
            _gigabytes(run["cache_bytes"]) if "cache_bytes" in run else "none",
            f"{count / wall:.2f}" if count else "",
        )


def _comparison_rows(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    found = result["comparison"]
    if found is None:
        return
    inside, bare = result["yardstick"]["svd_seconds"], result["svds"]["svd_seconds"]
    yield "the SVDs inside the whole process, and bare", f"{inside:.1f} s, {bare:.1f} s"
    yield "weights with equal K", f"{found['equal_cuts']} of {found['matrices']}"
    for cut in found["different_cuts"]:
        why = "its epsilon" if cut["epsilon_explains"] else "not its epsilon"
        yield cut["name"], f"K {cut['cut']}, there {cut['yardstick']}: {why}"
    off = found["largest_effective_rank_difference"]
    yield "largest difference of effective rank to the definition", f"{off:.1e}"
    yield "identical elements of refined weights", f"{found['identical_share']:.4%}"
    yield "the same, of the weight with the fewest", f"{found['lowest_identical_share']:.4%}"
    far = found["further_than_one_unit_share"]
    yield "elements further apart than one unit in the last place", f"{far:.1e}"


def _pass_rows(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    routes = result["refine"]["routes"]
    yield "routes taken", ", ".join(f"{route} {count}" for route, count in sorted(routes.items()))
    flops, rate = result["refine"]["flops"], result["rates"]["float32_all_cores"]
    yield "operations, and at the float32 rate of all cores", f"{flops:.2e}, {flops / rate:.1f} s"
    variants = result["variants"]
    if variants is not None:
        yield "variants in one pass", ", ".join(variants["names"])
        yield "a further variant costs, its output aside", f"{variants['extra_compute_share']:+.1%}"
        yield "the same in processor time", f"{variants['extra_compute_cpu_share']:+.1%}"
        yield "with writing and hashing, whole process", f"{variants['extra_wall_share']:+.1%}"
    plan = result["plan"]
    if plan is not None:
        yield "plan's time", f"{plan['predicted_seconds']:.1f} s"
        yield "the run's own time", f"{result['refine']['run_seconds']:.1f} s"
    yield "wall seconds a layer, start and end included", f"{result['seconds_per_layer']:.2f}"
    if result["whole_model_seconds"] is not None:
        yield (
            f"all {result['of_layers']} layers, by multiplication",
            f"{result['whole_model_seconds'] / 60:.1f} min",
        )
    for kind, family in result["refine"]["families"].items():
        rate = f"{family['flops_per_second'] / 1e9:.1f} Gflop/s"
        yield f"rate of a worker on {kind} ({family['matrices']} matrices)", rate


def _scaling_rows(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    scaling = result["scaling"]
    if scaling is None:
        return
    for run in scaling["runs"]:
        yield (
            "", str(run["layers"]), str(run["workers"]), f"{run['wall_seconds']:.1f}",
            f"{run['cpu_seconds']:.1f}", f"{run['busy_share']:.0%}",
        )  # fmt: skip
    if scaling["largest_deviation_share"] is not None:
        start, slope = scaling["line_start_seconds"], scaling["line_seconds_per_layer"]
        yield "straight line: seconds at no layers", "", "", f"{start:.1f}", "", ""
        yield "straight line: seconds for each layer", "", "", f"{slope:.2f}", "", ""
        deviation = f"{scaling['largest_deviation_share']:.1%}"
        yield "off a straight line by at most", "", "", deviation, "", ""
    yield "one worker over several", "", "", f"{scaling['workers_speedup']:.2f}x", "", ""


def _stage_rows(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    found = result["stages"]
    if found is None:
        return
    for stage, share in found["stages"].items():
        least = share["roofline_seconds"]
        flops = share["float32_flops"] + share["float64_flops"]
        yield (
            stage,
            f"{share['seconds']:.2f}",
            f"{share['seconds'] / found['seconds']:.1%}",
            str(share["calls"]) if share["calls"] else "",
            f"{flops / 1e9:.1f}" if flops else "",
            f"{share['moved_bytes'] / 1e9:.2f}" if share["moved_bytes"] else "",
            f"{least:.2f}" if least else "",
            f"{share['seconds'] / least:.1f}x" if least > 1e-3 else "",
        )
    total, least = found["seconds"], found["roofline_seconds"]
    yield "all", f"{total:.2f}", "100%", "", "", "", f"{least:.2f}", f"{total / least:.1f}x"
    for probe in found["missing_probes"]:
        yield (f"not found, not timed: {probe}", *[""] * 7)


def _rate_rows(result: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    rates = result["rates"]
    for kind in ("float32", "float64"):
        one, every = rates[f"{kind}_one_core"], rates[f"{kind}_all_cores"]
        yield (
            f"matrix product in {kind}, one core and all",
            f"{one / 1e9:.0f} and {every / 1e9:.0f} Gflop/s",
        )
    yield "memory copies of one core, read and written", f"{rates['copy_bytes'] / 1e9:.1f} GB/s"
    yield "SHA-256 on one core", f"{rates['hash_bytes'] / 1e9:.2f} GB/s"
    yield "writing to the disk", f"{rates['disk_write_bytes'] / 1e9:.2f} GB/s"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f}"
