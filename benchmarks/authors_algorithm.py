"""The published algorithm of Timber (arXiv 2509.23595), as its authors run it: the yardstick.

    python benchmarks/authors_algorithm.py BASE INSTRUCT OUT --lam 0.2
    python benchmarks/authors_algorithm.py BASE INSTRUCT --svd-only

For each linear weight, on the CPU with all threads of torch:

    delta = W_instruct - W_base                       float32
    U, s, V^T = full SVD of delta                     float64, kept as float32
    eRank = exp(-sum p ln(p + 1e-9)), p = s / sum s   float32
    K = ceil(eRank); s[K:] *= lam
    W = W_base + (U s) V^T                            float32, rounded to Base's dtype

Tensors of one dimension become ``b + (i - b)``. All factors stay in memory and go to a cache file
at the end; so does the whole output. Our own statement of it, in three points kinder than theirs:
the linear weights that timberkit treats by default (theirs: every tensor of two dimensions, the
embedding included), the diagonal applied as a scaling and not as a matrix, one shard of the output
at a time through the same writer. Prints one JSON line: seconds, K and effective rank by weight.
``--svd-only`` is the bare loop of the SVDs: deltas are made before the clock starts on each.
Not here: tensors that only one of the two models has, sidecar files, errors.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from timberkit.checkpoint.families import classify, is_selected
from timberkit.config import DEFAULT_FAMILIES, Selection

EPSILON = 1e-9
CACHE_NAME = "svd_cache.safetensors"


class OpenModel:
    """The tensors of a folder, read when asked for."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        self.weight_map: dict[str, str] = index["weight_map"]
        self._files: dict[str, Any] = {
            name: stack.enter_context(safe_open(folder / name, framework="pt", device="cpu"))
            for name in sorted(set(self.weight_map.values()))
        }

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor in its own dtype."""
        found: torch.Tensor = self._files[self.weight_map[name]].get_tensor(name)
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape, without reading it."""
        return tuple(self._files[self.weight_map[name]].get_slice(name).get_shape())


def effective_rank(singular_values: torch.Tensor, epsilon: float) -> float:
    """``exp(-sum p ln(p + epsilon))`` in the dtype of the values, (r,); by definition at 0."""
    shares = singular_values / singular_values.sum()
    if epsilon:
        entropy = -(shares * torch.log(shares + epsilon)).sum()
    else:
        entropy = -torch.special.xlogy(shares, shares).sum()
    return float(torch.exp(entropy))


def treated(model: OpenModel, families: list[str], layers: str | None) -> list[str]:
    """Names of the weights that timberkit would refine with these options, in file order."""
    selection = Selection.model_validate({"families": families, "layers": layers})
    return [
        name
        for name in model.weight_map
        if len(model.shape(name)) == 2
        and is_selected(classify(name, model.shape(name)), selection, name, model.shape(name))[0]
    ]


def deltas(base: OpenModel, instruct: OpenModel, names: list[str]) -> Iterator[torch.Tensor]:
    """The delta of each weight in float64."""
    for name in names:
        yield (instruct.tensor(name).float() - base.tensor(name).float()).double()


def bare_loop(base: OpenModel, instruct: OpenModel, names: list[str]) -> dict[str, Any]:
    """Seconds of the full SVDs alone; K by the definition of the effective rank."""
    seconds, facts = 0.0, {}
    for name, delta in zip(names, deltas(base, instruct, names), strict=True):
        started = time.perf_counter()
        _, values, _ = torch.linalg.svd(delta, full_matrices=False)
        seconds += time.perf_counter() - started
        facts[name] = _facts(values)
    return {"svd_seconds": seconds, "matrices": facts}


def _facts(values: torch.Tensor) -> dict[str, float | int]:
    """Effective rank and K as the authors take them, and by the definition in float64."""
    theirs, defined = effective_rank(values.float(), EPSILON), effective_rank(values, 0.0)
    return {
        "effective_rank": theirs,
        "cut": math.ceil(theirs),
        "effective_rank_defined": defined,
        "cut_defined": math.ceil(defined),
    }


def refine(
    base: OpenModel, instruct: OpenModel, names: list[str], out: Path, lam: float, *, cache: bool
) -> dict[str, Any]:
    """Refine the named weights, copy other matrices, write everything at the end."""
    factors: dict[str, torch.Tensor] = {}
    output: dict[str, torch.Tensor] = {}
    svd_seconds, facts, chosen = 0.0, {}, set(names)
    for name in base.weight_map:
        first, second = base.tensor(name).float(), instruct.tensor(name).float()
        if name in chosen:
            started = time.perf_counter()
            exact = torch.linalg.svd((second - first).double(), full_matrices=False)
            svd_seconds += time.perf_counter() - started
            left, values, right = (factor.float() for factor in exact)
            factors |= {f"{name}.U": left, f"{name}.S": values, f"{name}.Vh": right}
            facts[name] = _facts(exact[1])
            scaled = values.clone()
            scaled[int(facts[name]["cut"]) :] *= lam
            change = (left * scaled) @ right
        elif first.ndim < 2:
            change = second - first
        else:
            output[name] = instruct.tensor(name)
            continue
        output[name] = (first + change).to(base.tensor(name).dtype)
    started = time.perf_counter()
    cache_bytes = _save(base, output, factors if cache else {}, out)
    return {
        "svd_seconds": svd_seconds,
        "write_seconds": time.perf_counter() - started,
        "cache_bytes": cache_bytes,
        "matrices": facts,
    }


def _save(
    base: OpenModel, output: dict[str, torch.Tensor], factors: dict[str, torch.Tensor], out: Path
) -> int:
    """Write the cache and the shards; returns the size of the cache."""
    out.mkdir(parents=True, exist_ok=True)
    if factors:
        save_file({name: factor.contiguous() for name, factor in factors.items()}, out / CACHE_NAME)
    for file in sorted(set(base.weight_map.values())):
        members = {name: output[name] for name, held in base.weight_map.items() if held == file}
        save_file(members, out / file)
    (out / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": base.weight_map})
    )
    return (out / CACHE_NAME).stat().st_size if factors else 0


def main() -> None:
    """Command line."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("instruct", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--lam", type=float, default=0.2)
    parser.add_argument("--no-cache", action="store_true", help="do not write the factors")
    parser.add_argument("--svd-only", action="store_true", help="the bare loop; writes nothing")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--families", default=",".join(DEFAULT_FAMILIES))
    parser.add_argument("--layers", help="such as 0-3: the others are copied [all]")
    given = parser.parse_args()
    if not given.svd_only and given.out is None:
        parser.error("OUT is missing")
    torch.set_num_threads(given.threads)  # whatever the environment says of OpenMP
    with ExitStack() as stack:
        base, instruct = OpenModel(given.base, stack), OpenModel(given.instruct, stack)
        names = treated(base, given.families.split(","), given.layers)
        found = (
            bare_loop(base, instruct, names)
            if given.svd_only
            else refine(base, instruct, names, given.out, given.lam, cache=not given.no_cache)
        )
    total = time.perf_counter() - started
    print(json.dumps({"seconds": total, "threads": torch.get_num_threads(), **found}))


if __name__ == "__main__":
    main()
