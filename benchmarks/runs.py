"""The single measurements of the benchmark, each a fresh process on one pair.

Called by ``refine.py``; nothing to run here. Before each, what earlier ones left in the page cache
for the disk is written out, so that none pays for another. Sources are in the page cache for all.
A command that fails ends the benchmark with its last messages; only mergekit's failure is a result.
Not here: which runs are made, and what is concluded from them.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comparison import refined_records
from process_meter import Usage, measure

HERE = Path(__file__).resolve().parent
MERGE_WEIGHT = 0.8


class RunFailedError(Exception):
    """A measured command did not end well."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A pair on the disk, where to put outputs beside it, and what all runs share."""

    folder: Path
    base: Path
    instruct: Path
    families: tuple[str, ...]
    lam: float
    timeout_seconds: float

    def run(self, name: str, command: Sequence[str], **environment: str) -> tuple[Usage, Any]:
        """Measure a command that ends in JSON on stdout; RunFailedError when it does not."""
        out, err = self.folder / f"{name}.stdout", self.folder / f"{name}.stderr"
        os.sync()
        usage = measure(
            command,
            stdout=out,
            stderr=err,
            timeout_seconds=self.timeout_seconds,
            environment=environment,
        )
        if usage.exit_code != 0:
            last = err.read_text(errors="replace").strip()[-2000:]
            why = "stopped at the time limit" if usage.timed_out else f"exit code {usage.exit_code}"
            raise RunFailedError(f"{name}: {why}\n{last}")
        text = out.read_text()
        return usage, json.loads(text) if text.strip() else None

    @contextmanager
    def output(self, name: str, *, keep: bool = False) -> Iterator[Path]:
        """A folder that is not there yet, removed afterwards."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        try:
            yield path
        finally:
            if not keep:
                shutil.rmtree(path, ignore_errors=True)

    @property
    def sources(self) -> list[str]:
        """Base and Instruct, as every command takes them."""
        return [str(self.base), str(self.instruct)]


def fields(usage: Usage) -> dict[str, Any]:
    """A usage as it is kept: without the command, which names folders."""
    kept = asdict(usage)
    del kept["command"]
    return {**kept, "cpu_seconds": usage.cpu_seconds}


def read_ahead(folder: Path) -> None:
    """Read all files below a folder, so that the first run finds them in the page cache too."""
    for path in folder.rglob("*.safetensors"):
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def refine(
    bench: Bench,
    name: str,
    *,
    workers: int,
    variants: Sequence[str] | None = None,
    families: Sequence[str] | None = None,
    repeats: int = 1,
    keep: bool = False,
) -> dict[str, Any]:
    """``timberkit refine`` as a whole process: the median of some runs by wall time."""
    command = [sys.executable, "-m", "timberkit", "refine", *bench.sources, "--json"]
    command += ["--workers", str(workers), "--families", ",".join(families or bench.families)]
    for variant in variants or [f"timber:lam={bench.lam}"]:
        command += ["--variant", variant]
    runs = []
    with bench.output(name, keep=keep) as out:
        for _ in range(repeats):
            shutil.rmtree(out, ignore_errors=True)
            usage, printed = bench.run(name, [*command, "-o", str(out)])
            runs.append({**fields(usage), "run_seconds": printed["seconds"]})
        written = folder_bytes(out)
        records = refined_records(next(out.rglob("timberkit.json")).parent)
    middle = statistics.median_low([run["wall_seconds"] for run in runs])
    chosen = next(run for run in runs if run["wall_seconds"] == middle)
    return {
        **chosen,
        "workers": workers,
        "output_bytes": written,
        "all_wall_seconds": [run["wall_seconds"] for run in runs],
        "busy_share": chosen["cpu_seconds"] / (chosen["wall_seconds"] * workers),
        **solved(records),
    }


def solved(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Nominal operations, routes, and the rate by family, from the records of a manifest."""
    families: dict[str, dict[str, float]] = {}
    routes: dict[str, int] = {}
    for record in records:
        matrix = record["matrix"]
        kind = "experts" if record["family"] == "expert" else "others"
        family = families.setdefault(kind, {"matrices": 0, "flops": 0.0, "seconds": 0.0})
        family["matrices"] += 1
        family["flops"] += nominal_flops(matrix["rows"], matrix["columns"], matrix["cut"])
        family["seconds"] += record["seconds"]
        routes[matrix["route"]] = routes.get(matrix["route"], 0) + 1
    for family in families.values():
        family["flops_per_second"] = family["flops"] / max(family["seconds"], 1e-9)
    return {
        "matrices": len(records),
        "refined_bytes": sum(2 * r["matrix"]["rows"] * r["matrix"]["columns"] for r in records),
        "flops": sum(family["flops"] for family in families.values()),
        "routes": routes,
        "families": families,
    }


def nominal_flops(rows: int, columns: int, cut: int | None) -> float:
    """Operations of one exact refinement, whatever the code does.

    Gram ``m n r``, reduction ``4/3 r^3``, and for the k directions of the smaller of head and tail
    back-transformation ``2 r^2 k`` and projection ``4 m n k``. None: a merge, ``2 m n``.
    """
    r = min(rows, columns)
    if cut is None:
        return 2.0 * rows * columns
    k = min(cut, r - cut)
    return rows * columns * r + 4.0 / 3.0 * r**3 + 2.0 * r * r * k + 4.0 * rows * columns * k


def yardstick(
    bench: Bench, name: str, *, layers: str | None = None, cache: bool = True
) -> dict[str, Any]:
    """The published algorithm as a whole process; its output stays for the comparison."""
    with bench.output(name, keep=True) as out:
        command = [sys.executable, str(HERE / "authors_algorithm.py"), *bench.sources, str(out)]
        command += ["--lam", str(bench.lam), "--families", ",".join(bench.families)]
        command += ["--layers", layers] if layers else []
        usage, printed = bench.run(name, [*command, *([] if cache else ["--no-cache"])])
    return {**fields(usage), **printed}


def bare_svds(bench: Bench, *, layers: str | None = None) -> dict[str, Any]:
    """The bare loop of full SVDs with all threads, nothing read or written inside the clock."""
    command = [sys.executable, str(HERE / "authors_algorithm.py"), *bench.sources, "--svd-only"]
    command += ["--families", ",".join(bench.families)]
    usage, printed = bench.run("svds", [*command, *(["--layers", layers] if layers else [])])
    return {**fields(usage), **printed}


def predicted_seconds(bench: Bench, *, workers: int) -> float:
    """What ``timberkit plan`` says, calibrated afresh and not from an earlier version's cache."""
    command = [sys.executable, "-m", "timberkit", "plan", *bench.sources, "--json"]
    command += ["--variant", f"timber:lam={bench.lam}", "--workers", str(workers)]
    command += ["--families", ",".join(bench.families)]
    with tempfile.TemporaryDirectory(dir=bench.folder) as cache:
        _, printed = bench.run("plan", command, XDG_CACHE_HOME=cache)
    return float(printed["estimate"]["seconds"])


def stages(
    bench: Bench, rates: dict[str, float], *, variants: Sequence[str], layers: str | None
) -> dict[str, Any]:
    """Time by stage, in one process with one thread."""
    command = [sys.executable, str(HERE / "stages.py"), *bench.sources]
    command += [str(bench.folder / "staged"), "--rates", json.dumps(rates)]
    command += ["--families", ",".join(bench.families)]
    command += ["--layers", layers] if layers else []
    for variant in variants:
        command += ["--variant", variant]
    _, printed = bench.run("stages", command)
    found: dict[str, Any] = printed
    return found


def find_mergekit(given: Path | None) -> Path | None:
    """The program ``mergekit-yaml``: as given, or beside this Python; None when not installed."""
    if given is not None:
        return given
    beside = Path(sys.executable).with_name("mergekit-yaml")
    return beside if beside.exists() else None


def mergekit_linear(bench: Bench, program: Path | None) -> dict[str, Any]:
    """mergekit's ``linear`` on the same pair with the same weight; says why when it cannot."""
    if program is None:
        return {"status": "not installed"}
    recipe = bench.folder / "mergekit.yaml"
    weights = zip(bench.sources, (1.0 - MERGE_WEIGHT, MERGE_WEIGHT), strict=True)
    models = [{"model": model, "parameters": {"weight": weight}} for model, weight in weights]
    # JSON is YAML.
    recipe.write_text(json.dumps({"merge_method": "linear", "models": models, "dtype": "bfloat16"}))
    with bench.output("mergekit") as out:
        command = [str(program), str(recipe), str(out), "--no-copy-tokenizer"]
        usage, err = _any_end(bench, command)
        if usage.exit_code != 0:
            return {"status": f"failed: {err}"}
        return {"status": "ran", **fields(usage), "output_bytes": folder_bytes(out)}


def _any_end(bench: Bench, command: Sequence[str]) -> tuple[Usage, str]:
    err = bench.folder / "mergekit.stderr"
    os.sync()
    usage = measure(
        command,
        stderr=err,
        timeout_seconds=bench.timeout_seconds,
        environment={"HF_HUB_OFFLINE": "1"},
    )
    lines = err.read_text(errors="replace").strip().splitlines()
    # No places on this machine in what is published.
    last = lines[-1].replace(str(bench.folder), "...")[:200] if lines else ""
    return usage, last or f"exit code {usage.exit_code}"
