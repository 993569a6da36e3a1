"""Where the time of a refinement goes, stage by stage, and how far each is from the machine's best.

    python benchmarks/stages.py BASE INSTRUCT OUT
    python benchmarks/stages.py BASE INSTRUCT OUT --variant timber:lam=0.2 --variant timber-l

Runs ``timberkit.engine.run.refine`` in this process with one thread, with the functions of
``probes.py`` wrapped from outside: the time of a call counts for its stage, less that of wrapped
calls inside it. Beside it a roofline: the larger of operations over the rate of a matrix product
and bytes over the rate of a copy (a hash, the disk). What no probe covers is ``other``.
Not here: several processes (the share of each stage is the same, waiting for the disk is not), and
starting Python. OUT is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from machine import Rates, measure_rates
from probes import PROBES, Probe, Work

from timberkit.config import DEFAULT_FAMILIES
from timberkit.engine.run import refine

OUTPUT_STAGES = ("allocate", "write", "copy", "sync", "hash")
"""What each variant's output costs, whatever was computed for it."""


@dataclass(slots=True)
class Share:
    """What one stage took, its wrapped inner calls aside."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    calls: int = 0
    float32_flops: float = 0.0
    float64_flops: float = 0.0
    moved_bytes: float = 0.0

    def add(self, work: Work) -> None:
        """Count the operations and bytes of one call."""
        self.float32_flops += work.float32_flops
        self.float64_flops += work.float64_flops
        self.moved_bytes += work.moved_bytes


class StageClock:
    """Exclusive time of nested calls, by stage."""

    def __init__(self) -> None:
        self.shares: dict[str, Share] = {}
        self._inner: list[list[float]] = []

    def wrap(self, probe: Probe, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""
        share = self.shares.setdefault(probe.stage, Share())

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append([0.0, 0.0])
            started, cpu_started = time.perf_counter(), time.thread_time()
            try:
                result = function(*args, **kwargs)
            finally:
                seconds = time.perf_counter() - started
                cpu_seconds = time.thread_time() - cpu_started
                inner_seconds, inner_cpu_seconds = self._inner.pop()
                share.seconds += seconds - inner_seconds
                share.cpu_seconds += cpu_seconds - inner_cpu_seconds
                share.calls += 1
                if self._inner:
                    self._inner[-1][0] += seconds
                    self._inner[-1][1] += cpu_seconds
            if probe.work is not None:
                share.add(probe.work(args, kwargs, result))
            return result

        return timed


@contextmanager
def probed(clock: StageClock) -> Iterator[list[str]]:
    """Wrap all probes while inside; yields the names of those that are no longer there."""
    replaced: list[tuple[Any, str, Any]] = []
    missing = []
    try:
        for probe in PROBES:
            owner = probe.find_owner()
            if owner is None or not hasattr(owner, probe.attribute):
                missing.append(f"{probe.owner}.{probe.attribute}")
                continue
            original = getattr(owner, probe.attribute)
            replaced.append((owner, probe.attribute, original))
            setattr(owner, probe.attribute, clock.wrap(probe, original))
        yield missing
    finally:
        for owner, attribute, original in reversed(replaced):
            setattr(owner, attribute, original)


def roofline_seconds(stage: str, share: Share, rates: Rates) -> float:
    """The least time that one core of this machine could need for a stage."""
    arithmetic = (
        share.float32_flops / rates.float32_one_core + share.float64_flops / rates.float64_one_core
    )
    rate = {"hash": rates.hash_bytes, "sync": rates.disk_write_bytes}.get(stage, rates.copy_bytes)
    return max(arithmetic, share.moved_bytes / rate)


def time_stages(
    base: Path,
    instruct: Path,
    out: Path,
    rates: Rates,
    *,
    variants: Sequence[str],
    families: Sequence[str] = DEFAULT_FAMILIES,
    layers: str | None = None,
) -> dict[str, Any]:
    """Refine with one thread and say where the time went; ``out`` must not exist."""
    clock = StageClock()
    with probed(clock) as missing:
        started, cpu_started = time.perf_counter(), time.thread_time()
        result = refine(
            base, instruct, out, workers=1, variants=variants, families=families, layers=layers
        )
        seconds, cpu_seconds = time.perf_counter() - started, time.thread_time() - cpu_started
    shares = {stage: share for stage, share in clock.shares.items() if share.calls}
    if "sync" in shares:
        shares["sync"].moved_bytes = result.plan.output_bytes
    shares["other"] = Share(
        seconds - sum(share.seconds for share in shares.values()),
        cpu_seconds - sum(share.cpu_seconds for share in shares.values()),
    )
    output = [shares[stage] for stage in OUTPUT_STAGES if stage in shares]
    return {
        "variants": list(variants),
        "matrices": len(result.tensors),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "compute_seconds": seconds - sum(share.seconds for share in output),
        "compute_cpu_seconds": cpu_seconds - sum(share.cpu_seconds for share in output),
        "roofline_seconds": sum(roofline_seconds(*item, rates) for item in shares.items()),
        "stages": {
            stage: {**asdict(share), "roofline_seconds": roofline_seconds(stage, share, rates)}
            for stage, share in shares.items()
        },
        "missing_probes": missing,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("instruct", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--variant", action="append", help="may be repeated [timber:lam=0.2]")
    parser.add_argument("--families", default=",".join(DEFAULT_FAMILIES))
    parser.add_argument("--layers", help="such as 0-3; all when not given")
    parser.add_argument("--rates", type=json.loads, help="measured before, as JSON")
    given = parser.parse_args()
    rates = Rates(**given.rates) if given.rates else measure_rates(given.out.absolute().parent)
    try:
        found = time_stages(
            given.base,
            given.instruct,
            given.out,
            rates,
            variants=given.variant or ["timber:lam=0.2"],
            families=given.families.split(","),
            layers=given.layers,
        )
    finally:
        shutil.rmtree(given.out, ignore_errors=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
