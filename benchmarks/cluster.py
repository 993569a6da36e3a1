"""How many machines help: models of 70 to 671 billion parameters on clusters, simulated.

    python benchmarks/cluster.py                 # prints tables; JSON as its last line
    python benchmarks/cluster.py --write-docs    # rewrites the section in docs/cluster.md

Measured here: what one core does (timberkit's calibration), how quickly this disk takes bytes that
are written through and gives them back, and what Ray takes to hand a task out. Everything else is
simulated from these (``cluster_simulation``): nothing of this size has been run. Shapes: those of
llama-3.1-70b as in ``make_pair``, the others from the sizes of their published configurations; all
taken as bfloat16. Takes a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster_simulation import Work, simulate
from machine import describe
from make_pair import MODELS, Shapes, tensors

from timberkit.checkpoint.planned import planned_checkpoint
from timberkit.checkpoint.writer import sync_file, write_at, written_through
from timberkit.config import build_recipe
from timberkit.engine.bundles import bundles
from timberkit.engine.cluster_estimate import estimate_cluster
from timberkit.engine.estimate import Calibration, calibrate, refinement_seconds
from timberkit.engine.job import JobContext
from timberkit.engine.plan import RefinementPlan, plan_refinement
from timberkit.engine.tasks import RefineTask, Task

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cluster.md"
BEGIN, END = "<!-- begin simulation -->", "<!-- end simulation -->"
CORES = 32
NODES = (1, 2, 4, 8, 16, 32)
GIGABYTES = (1.0, 5.0, 20.0)
SHARD_BYTES = 5e9
PROBE_BYTES = 256 << 20
PIECE_BYTES = 16 << 20
EMPTY_TASKS = 1000
ENOUGH = 1.1


def shapes() -> Iterator[tuple[str, dict[str, tuple[int, ...]], dict[str, str]]]:
    """Name, tensors and configuration of each model."""
    yield (
        "llama-3.1-70b",
        dict(tensors(MODELS["llama-3.1-70b"], embeddings=True)),
        {"model_type": "llama"},
    )
    large = Shapes(
        "qwen3_moe", "Qwen3MoeForCausalLM", 4096, 94, 64, 4, 128, 1536, 151_936, tied=False,
        experts=128,
    )  # fmt: skip
    yield "qwen3-235b-a22b", dict(tensors(large, embeddings=True)), {"model_type": "qwen3_moe"}
    yield "deepseek-v3-671b", dict(deepseek_tensors()), {"model_type": "deepseek_v3"}


def deepseek_tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
    """DeepSeek V3 without its layer for several tokens; sizes are the defaults of transformers."""
    from transformers import DeepseekV3Config

    c: Any = DeepseekV3Config()
    h, heads = c.hidden_size, c.num_attention_heads
    yield "model.embed_tokens.weight", (c.vocab_size, h)
    yield "lm_head.weight", (c.vocab_size, h)
    for layer in range(c.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        attention = {
            "q_a_proj": (c.q_lora_rank, h),
            "q_b_proj": (heads * (c.qk_nope_head_dim + c.qk_rope_head_dim), c.q_lora_rank),
            "kv_a_proj_with_mqa": (c.kv_lora_rank + c.qk_rope_head_dim, h),
            "kv_b_proj": (heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank),
            "o_proj": (h, heads * c.v_head_dim),
        }
        yield from ((f"{prefix}.self_attn.{name}.weight", s) for name, s in attention.items())
        if layer < c.first_k_dense_replace:
            yield from _mlp(f"{prefix}.mlp", c.intermediate_size, h)
            continue
        yield f"{prefix}.mlp.gate.weight", (c.n_routed_experts, h)
        shared = c.moe_intermediate_size * c.n_shared_experts
        yield from _mlp(f"{prefix}.mlp.shared_experts", shared, h)
        for expert in range(c.n_routed_experts):
            yield from _mlp(f"{prefix}.mlp.experts.{expert}", c.moe_intermediate_size, h)


def _mlp(prefix: str, inner: int, hidden: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name in ("gate_proj", "up_proj"):
        yield f"{prefix}.{name}.weight", (inner, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, inner)


def planned(tensors_of: Mapping[str, tuple[int, ...]], config: Mapping[str, str]) -> RefinementPlan:
    """The plan of Timber at lambda 0.2 for a model of these shapes."""
    base, instruct = (planned_checkpoint(n, tensors_of, "BF16", config) for n in ("base", "it"))
    fields: dict[str, Any] = {"base": "base", "instruct": "it", "method": "timber", "lam": 0.2}
    return plan_refinement(base, instruct, build_recipe(fields, where="benchmark"))


def works(plan: RefinementPlan, calibration: Calibration, cores: int) -> list[Work]:
    """The bundles of a run, as the cluster gets them."""
    seconds = dict(
        zip(
            (task.key for task in plan.refine_tasks),
            refinement_seconds(plan, calibration),
            strict=True,
        )
    )
    context = JobContext(variants=plan.recipe.variants, folders=("out",), layers=plan.layers)
    return [
        Work(
            sum(map(_read_bytes, bundle.tasks)),
            sum(seconds.get(task.key, 0.0) for task in bundle.tasks),
            sum(map(_written_bytes, bundle.tasks)),
        )
        for bundle in bundles(context, plan.tasks, cores)
    ]


def _read_bytes(task: Task) -> int:
    if isinstance(task, RefineTask):
        return task.base.size_bytes + task.instruct.size_bytes
    return task.work_bytes


def _written_bytes(task: Task) -> int:
    return task.target.size_bytes if isinstance(task, RefineTask) else task.work_bytes


def hash_works(plan: RefinementPlan, calibration: Calibration) -> list[Work]:
    """The files of the output, read and hashed one by a core."""
    count = max(1, round(plan.output_bytes / SHARD_BYTES))
    size = plan.output_bytes / count
    return [Work(size, size / calibration.hash_bytes_per_second, 0.0)] * count


def rows(
    plan: RefinementPlan, calibration: Calibration, dispatch_seconds: float, rate: float
) -> Iterator[dict[str, float]]:
    """One run for each number of machines."""
    hashes = hash_works(plan, calibration)
    for nodes in NODES:
        cores = nodes * CORES
        work = simulate(
            works(plan, calibration, cores),
            cores=cores, bytes_per_second=rate, dispatch_seconds=dispatch_seconds,
        )  # fmt: skip
        hashed = simulate(hashes, cores=cores, bytes_per_second=rate)
        yield {
            "nodes": nodes,
            "seconds": work.seconds + hashed.seconds,
            "refine_seconds": work.seconds,
            "hash_seconds": hashed.seconds,
            "cores_busy": work.cores_busy,
            "files_busy": work.files_busy,
        }


def disk_rates(folder: Path) -> dict[str, float]:
    """Bytes per second of this disk, written through as a worker writes, and read back."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        path, piece = Path(file.name), os.urandom(PIECE_BYTES)
        os.truncate(path, PROBE_BYTES)
        started = time.perf_counter()
        with written_through(_nothing):
            for offset in range(0, PROBE_BYTES, PIECE_BYTES):
                write_at(path, offset, piece)
        sync_file(path)
        written = PROBE_BYTES / (time.perf_counter() - started)
        with path.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            started = time.perf_counter()
            while opened.read(PIECE_BYTES):
                pass
        read = PROBE_BYTES / (time.perf_counter() - started)
    return {"written_bytes_per_second": written, "read_bytes_per_second": read}


def dispatch_rate() -> float:
    """Seconds of the driver for each task that does nothing, with two in flight for a core."""
    os.environ["RAY_AUTH_MODE"] = "disabled"  # else it would leave a token in the home folder
    import ray

    ray.init(
        address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
        object_store_memory=80 << 20,
    )  # fmt: skip
    try:
        nothing = ray.remote(num_cpus=1)(_nothing)
        ray.get(nothing.remote())
        started = time.process_time()
        running = []
        for _ in range(EMPTY_TASKS):
            running.append(nothing.remote())
            if len(running) == 2:
                done, running = ray.wait(running, num_returns=1)
                ray.get(done)
        ray.get(running)
        return (time.process_time() - started) / EMPTY_TASKS
    finally:
        ray.shutdown()


def _nothing() -> None:
    return None


def measure(folder: Path) -> dict[str, Any]:
    """Everything: the measurements, then the simulations from them."""
    calibration = calibrate()
    result: dict[str, Any] = {
        "machine": describe(),
        "cores": CORES,
        "sides": calibration.sides,
        "cost_per_second": calibration.cost_per_second,
        "hash_bytes_per_second": calibration.hash_bytes_per_second,
        "disk": disk_rates(folder),
        "dispatch_seconds": dispatch_rate(),
        "models": {},
    }
    for name, found, config in shapes():
        plan = planned(found, config)
        estimated = estimate_cluster(
            plan, calibration, nodes=1, cores=CORES, bytes_per_second=1e9, shard_bytes=SHARD_BYTES
        )
        result["models"][name] = {
            "matrices": len(plan.refine_tasks),
            "output_bytes": plan.output_bytes,
            "moved_bytes": estimated.read_bytes + estimated.written_bytes,
            "core_seconds": sum(refinement_seconds(plan, calibration)),
            "largest_seconds": max(refinement_seconds(plan, calibration)),
            "memory_per_node_bytes": estimated.memory_per_node_bytes,
            "runs": {
                f"{gigabytes:g}": list(
                    rows(plan, calibration, result["dispatch_seconds"], gigabytes * 1e9)
                )
                for gigabytes in GIGABYTES
            },
        }
    return result


def section(result: Mapping[str, Any]) -> str:
    """What the page says."""
    disk = result["disk"]
    rates = [
        f"hashing at {result['hash_bytes_per_second'] / 1e9:.2f} GB/s",
        f"{1e3 * result['dispatch_seconds']:.2f} ms of the driver for a Ray task",
        f"a disk that takes {disk['written_bytes_per_second'] / 1e9:.2f} GB/s written through and"
        f" gives {disk['read_bytes_per_second'] / 1e9:.2f} GB/s (shown, not used)",
    ]
    lines = [
        "## Simulated: 70 to 671 billion parameters",
        "",
        "Written by `benchmarks/cluster.py --write-docs`. **Simulated, not run.** Measured are the"
        f" calibration of one core ({result['machine']['processor']}), {', '.join(rates)}. Machines"
        f" of {result['cores']} such cores; the file system moves so many GB a second for all of"
        " them together, in equal shares. All weights as bfloat16, Timber at lambda 0.2. Busy:"
        " share of the time before the hashes.",
    ]
    for name, model in result["models"].items():
        lines += [
            "",
            f"**{name}**: {model['matrices']:,} matrices, {model['core_seconds'] / 3600:.1f} hours"
            f" of one core, the largest {model['largest_seconds']:.0f} s;"
            f" {model['moved_bytes'] / 1e9:,.0f} GB read and written;"
            f" {model['memory_per_node_bytes'] / 1e9:.0f} GB of memory a machine at most.",
            "",
            "| GB/s | machines | total | refining | hashes | cores busy | file system busy |",
            "|---|---|---|---|---|---|---|",
        ]
        for gigabytes, runs in model["runs"].items():
            lines += [
                f"| {gigabytes} | {row['nodes']} | {_minutes(row['seconds'])} |"
                f" {_minutes(row['refine_seconds'])} | {_minutes(row['hash_seconds'])} |"
                f" {row['cores_busy']:.0%} | {row['files_busy']:.0%} |"
                for row in runs
            ]
        lines += ["", _enough(model["runs"])]
    return "\n".join(lines) + "\n"


def _enough(runs: Mapping[str, Any]) -> str:
    """From how many machines on others save less than a tenth, for each file system."""
    found = []
    for gigabytes, listed in runs.items():
        best = min(row["seconds"] for row in listed)
        nodes = next(row["nodes"] for row in listed if row["seconds"] <= ENOUGH * best)
        found.append(f"{nodes} at {gigabytes} GB/s")
    return f"Machines with which the time is within a tenth of the shortest: {', '.join(found)}."


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"


def write_section(text: str, page: Path = PAGE) -> None:
    """Replace what stands between the marks of the page, or add it at its end."""
    content = page.read_text(encoding="utf-8")
    marked = f"{BEGIN}\n{text}{END}\n"
    if BEGIN in content:
        before, _, rest = content.partition(BEGIN)
        content = before + marked + rest.partition(f"{END}\n")[2]
    else:
        content = f"{content}\n{marked}"
    page.write_text(content, encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("."), help="whose disk is measured")
    parser.add_argument("--write-docs", action="store_true", help="rewrite docs/cluster.md")
    given = parser.parse_args()
    result = measure(given.folder)
    text = section(result)
    if given.write_docs:
        write_section(text)
    print(text)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
