"""Rollouts with known counts, for tests of comparisons."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from timberkit.evaluation.readers import Source
from timberkit.rollouts import Rollout


def counted(
    model: str, n: int | Sequence[int], c: Sequence[int], *, task: str = "t", setting: str = ""
) -> Iterator[Rollout]:
    """Problems 0, 1, …: the first c of n rollouts are right and answer "yes"."""
    each = [n] * len(c) if isinstance(n, int) else n
    for problem, (total, right) in enumerate(zip(each, c, strict=True)):
        for i in range(1, total + 1):
            good = i <= right
            answer = "yes" if good else f"no {i}"
            yield Rollout(model, task, setting, str(problem), i, good, answer)


def drawn(model: str, chances: Sequence[float], n: int, *, seed: int) -> list[Rollout]:
    """Problems with these chances, n rollouts each."""
    generator = np.random.default_rng(seed)
    return [
        Rollout(model, "t", "", str(problem), i, bool(right), "yes" if right else "no")
        for problem, chance in enumerate(chances)
        for i, right in enumerate(generator.random(n) < chance, start=1)
    ]


def source(rollouts: Iterable[Rollout], path: str = "made.jsonl") -> Source:
    """As a reader would give them."""
    return Source(Path(path), "made", iter(list(rollouts)))


def write_lines(path: Path, rollouts: Iterable[Rollout]) -> Path:
    """As JSON lines, the four needed fields, the number and the answer."""
    names = ("model", "task", "setting", "problem", "rollout", "correct", "answer", "stop")
    lines: list[Mapping[str, object]] = [
        {name: getattr(rollout, name) for name in names} for rollout in rollouts
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
