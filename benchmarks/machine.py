"""What this machine is, and the rates that a roofline is drawn from.

    python benchmarks/machine.py FOLDER

Rates: matrix products of torch in float32 and float64 on one core and on all, memory copies of one
core (bytes read and written both count), SHA-256 on one core, and writing to FOLDER until the disk
has it. Each is the best of some tries: a ceiling, not a typical value. Not here: caches, random
access, other customers of the disk. Takes about 15 seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from threadpoolctl import threadpool_info

SIDE = 2048
COPY_BYTES = 1 << 28
HASH_BYTES = 1 << 26
DISK_BYTES = 1 << 29
TRIES = 4
LIBRARIES = ("torch", "scipy", "numpy", "safetensors", "timberkit")


@dataclass(frozen=True, slots=True)
class Rates:
    """Ceilings: operations and bytes a second."""

    float32_one_core: float
    float64_one_core: float
    float32_all_cores: float
    float64_all_cores: float
    copy_bytes: float
    hash_bytes: float
    disk_write_bytes: float


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def describe() -> dict[str, Any]:
    """Processor, cores, memory, versions and BLAS kernels, as a page may publish them."""
    importlib.import_module("scipy.linalg.blas")  # brings a BLAS of its own, to be named
    blas = sorted(
        {
            f"{pool['internal_api']} {pool.get('version') or ''}".strip()
            + (f" ({pool['architecture']} kernels)" if pool.get("architecture") else "")
            for pool in threadpool_info()
            if pool.get("user_api") == "blas"
        }
    )
    if torch._C.has_mkl:
        blas.append(f"{_mkl_version()} inside torch ({torch.backends.cpu.get_cpu_capability()})")
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "blas": blas,
    }


def measure_rates(folder: Path) -> Rates:
    """Measure this machine; writes and removes a file of 512 MiB in ``folder``."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = _product_rate(torch.float32), _product_rate(torch.float64)
        copied, hashed = _copy_rate(), _hash_rate()
        torch.set_num_threads(cores())
        every = _product_rate(torch.float32), _product_rate(torch.float64)
    finally:
        torch.set_num_threads(before)
    return Rates(*one, *every, copied, hashed, _disk_rate(folder))


def _best(action: Callable[[], object]) -> float:
    """Seconds of the quickest of some tries, after one that does not count."""
    action()
    seconds = []
    for _ in range(TRIES):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _product_rate(dtype: torch.dtype) -> float:
    first = torch.ones((SIDE, SIDE), dtype=dtype)
    result = torch.empty_like(first)
    return 2.0 * SIDE**3 / _best(lambda: torch.mm(first, first, out=result))


def _copy_rate() -> float:
    source = np.ones(COPY_BYTES // 8)
    target = np.empty_like(source)
    return 2.0 * COPY_BYTES / _best(lambda: np.copyto(target, source))


def _hash_rate() -> float:
    content = bytes(HASH_BYTES)
    return HASH_BYTES / _best(lambda: hashlib.sha256(content).digest())


def _disk_rate(folder: Path) -> float:
    """Fresh bytes each try, so that no store can know them already."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "disk-rate.tmp"
    content = np.random.default_rng().bytes(DISK_BYTES)

    def write() -> None:
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    try:
        return DISK_BYTES / _best(write)
    finally:
        path.unlink(missing_ok=True)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _mkl_version() -> str:
    lines = [line.strip(" -") for line in torch.__config__.show().splitlines()]
    found = [line for line in lines if "Math Kernel Library Version" in line]
    return "MKL " + found[0].split("Version", 1)[1].split()[0] if found else "MKL"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    print(json.dumps({"machine": describe(), "rates": asdict(measure_rates(given.folder))}))


if __name__ == "__main__":
    main()
