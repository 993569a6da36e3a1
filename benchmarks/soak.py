"""Refine, kill at a random moment, resume, verify: many rounds, counted, with nothing lost.

    python benchmarks/soak.py --rounds 200 --write-docs
    python benchmarks/soak.py --rounds 5 --seed 7

Each round refines the embedded pair, or a made one of 240 small matrices, with four methods into
one output, with one worker or two, and is killed up to three times (SIGKILL, SIGTERM or SIGINT to
the command) at moments drawn at random: one in five from the start of the process on, the others
from the moment on that it has a stage.
Then it is run to the end, its weights are compared byte for byte with those of an undisturbed run,
and ``verify`` recomputes matrices of each. What stood at the moment of a kill is looked at before
the next start: no stage yet, a stage with tasks noted or without, or an output. An output that is
there must be whole. Prints one JSON line; ``--write-docs`` puts it into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from timberkit.sapling import base_folder, instruct_folder

VARIANTS = ("timber:lam=0.2", "timber-l", "truncate-rank:ratio=0.9", "merge:mu=0.8")
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
MARKS = "<!-- begin soak -->\n", "\n<!-- end soak -->"


Pair = tuple[Path, Path]


def made_pair(folder: Path) -> Pair:
    """A Base and an Instruct of many small matrices: enough for several entries in a journal."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"self_attn.q_proj": (96, 96), "mlp.up_proj": (160, 96), "mlp.down_proj": (96, 160)}
    base, instruct = {}, {}
    for layer in range(80):
        for module, shape in shapes.items():
            name = f"model.layers.{layer}.{module}.weight"
            base[name] = torch.randn(shape, generator=generator).mul(0.02).bfloat16()
            delta = torch.randn(shape, generator=generator) * 0.001
            instruct[name] = (base[name].float() + delta).bfloat16()
    for side, tensors in (("base", base), ("instruct", instruct)):
        (folder / side).mkdir(parents=True)
        save_file(tensors, folder / side / "model.safetensors", {"format": "pt"})
        (folder / side / "config.json").write_text('{"model_type": "llama"}')
    return folder / "base", folder / "instruct"


def command(pair: Pair, out: Path, workers: int) -> list[str]:
    """The command of every round."""
    flags = [word for variant in VARIANTS for word in ("--variant", variant)]
    start = [
        sys.executable,
        "-m",
        "timberkit",
        "refine",
        *map(str, pair),
        "-o",
        str(out),
        "--quiet",
    ]
    return [*start, "--workers", str(workers), *flags]


def hashes(out: Path) -> dict[str, str]:
    """Hash of every file with weights."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*.safetensors"))
    }


def phase(out: Path) -> str:
    """What a kill left."""
    if out.exists():
        return "output is there"
    stage = out.parent / f".{out.name}.timberkit-stage"
    if not stage.exists():
        return "before the stage"
    journal = stage / "journal.jsonl"
    lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
    if lines <= 1:
        return "stage, nothing done yet"
    return "publishing" if (stage / "publishing.json").exists() else "stage, some tasks noted"


def soak(rounds: int, seed: int) -> dict[str, object]:
    """All rounds; raises AssertionError, naming round and seed, for whatever is lost."""
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        pairs = [(base_folder(), instruct_folder()), made_pair(Path(place, "made"))]
        undisturbed = [_undisturbed(pair, Path(place, "whole")) for pair in pairs]
        for number in range(rounds):
            out = Path(place, "out")
            chosen = rng.randrange(len(pairs))
            where = f"round {number} of seed {seed}"
            _round(pairs[chosen], out, rng, undisturbed[chosen], found, where)
            shutil.rmtree(out)
    kills = {name[5:]: count for name, count in sorted(found.items()) if name.startswith("kill ")}
    return {
        "rounds": rounds,
        "seed": seed,
        "kills": sum(kills.values()),
        "by_phase": kills,
        "ended_before_the_kill": found["ended before"],
        "continued": found["continued"],
        "verified": found["verified"],
        "lost": 0,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody stops: its weights, seconds until it has a stage, and from then on."""

    expected: dict[str, str]
    until_stage: float
    working: float


def _undisturbed(pair: Pair, out: Path) -> Undisturbed:
    started = time.monotonic()
    running = subprocess.Popen(command(pair, out, 1))
    until_stage = _wait_for_stage(running, out) - started
    assert running.wait() == 0
    found = Undisturbed(hashes(out), until_stage, time.monotonic() - started - until_stage)
    shutil.rmtree(out)
    return found


def _round(
    pair: Pair,
    out: Path,
    rng: random.Random,
    whole: Undisturbed,
    found: Counter[str],
    where: str,
) -> None:
    workers = rng.choice((1, 1, 2))
    for _ in range(rng.randint(1, 3)):
        running = subprocess.Popen(command(pair, out, workers), stderr=subprocess.DEVNULL)
        if rng.random() < 0.2:
            time.sleep(rng.uniform(0.0, whole.until_stage))
        else:
            _wait_for_stage(running, out)
            time.sleep(rng.uniform(0.0, 1.2 * whole.working))
        if running.poll() is not None:
            found["ended before"] += 1
            break
        signals = signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT
        running.send_signal(rng.choice(signals))
        running.wait(30)
        found[f"kill {phase(out)}"] += 1
        if out.exists():
            assert hashes(out) == whole.expected, f"{where}: what has the name is not whole"
            break
    if not out.exists():
        ended = subprocess.run(
            command(pair, out, workers), capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"{where}: {ended.stderr}"
        found["continued"] += 1
    assert hashes(out) == whole.expected, f"{where}: other weights than those of an undisturbed run"
    checked = subprocess.run(
        [sys.executable, "-m", "timberkit", "verify", str(out), "--sample", "2", "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, f"{where}: {checked.stdout}"
    # A run that was killed while it tidied up leaves a stage; its own command removes it.
    stage = out.parent / f".{out.name}.timberkit-stage"
    if stage.exists():
        subprocess.run(command(pair, out, workers), capture_output=True, check=False)
        assert not stage.exists(), f"{where}: a stage is left"
    found["verified"] += 1


def _wait_for_stage(running: subprocess.Popen[bytes], out: Path) -> float:
    """When the run holds a stage, or has ended."""
    lock = out.parent / f".{out.name}.timberkit-stage" / "lock"
    mine = json.dumps({"pid": running.pid})
    while running.poll() is None:
        with suppress(OSError):
            if lock.read_text() == mine:
                break
        time.sleep(0.002)
    return time.monotonic()


def table(result: dict[str, object]) -> str:
    """The result as a table in Markdown."""
    phases = result["by_phase"]
    assert isinstance(phases, dict)
    rows = {
        "rounds": result["rounds"],
        "kills": result["kills"],
        **{f"… {name}": count for name, count in phases.items()},
        "ended before the kill": result["ended_before_the_kill"],
        "continued by the same command": result["continued"],
        "weights equal, byte for byte, and verified": result["verified"],
        "lost": result["lost"],
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def main() -> None:
    """Soak, print, and write the docs if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write-docs", action="store_true")
    chosen = parser.parse_args()
    result = soak(chosen.rounds, chosen.seed)
    print(json.dumps(result))
    if chosen.write_docs:
        text = DOCUMENT.read_text("utf-8")
        start, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
        DOCUMENT.write_text(text[:start] + table(result) + text[end:], "utf-8")


if __name__ == "__main__":
    main()
