"""Units: one model on one benchmark at one temperature, and all that decides its answers.

Everything an evaluation keeps is kept by unit, and a unit's settings never change: ``digest``
stands in every file of its rollouts, so that answers of other weights, data, sampling, seed or
grading cannot be mixed in. How many rollouts there are is no setting.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GRADING_VERSION = 1
"""Raised whenever an answer would be split or judged differently: old grades are not new ones."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One model on one benchmark at one temperature.

    ``model``: the name of its results, ``before@T=1.0`` where temperatures are swept. ``folder``:
    the name that the user gave the model. ``stem``: the beginning of its files' names.
    ``settings``: JSON values, nested objects allowed; ``digest`` is their SHA-256.
    """

    model: str
    folder: str
    task: str
    setting: str
    stem: str
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Model, task and setting as one text: what makes it another unit of the same run."""
        return f"{self.model} {self.task}:{self.setting}"

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of key and settings."""
        content = {"key": self.key, "settings": self.settings}
        canonical = json.dumps(content, sort_keys=True, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """All of it, for the manifest."""
        return {
            "model": self.model,
            "folder": self.folder,
            "task": self.task,
            "setting": self.setting,
            "stem": self.stem,
            "settings": dict(self.settings),
            "digest": self.digest,
        }


def name_with_temperature(model: str, temperature: float, *, swept: bool) -> str:
    """The name of a model's results.

    >>> name_with_temperature("before", 1.0, swept=True)
    'before@T=1.0'
    """
    return f"{model}@T={float(temperature)!r}" if swept else model


def unit_stem(task: str, setting: str, temperature: float, *, swept: bool) -> str:
    """How the files of a unit begin.

    >>> unit_stem("math500", "paper", 0.6, swept=True)
    'math500_paper_T0.6'
    """
    return f"{task}_{setting}" + (f"_T{float(temperature)!r}" if swept else "")


def rollout_seed(seed: int, task: str, problem: str, rollout: int) -> int:
    """The seed of one rollout: its own for every problem and rollout, the same at every run.

    The first 31 bits of BLAKE2b over the four values. Models share it, so that two of them are
    drawn with the same randomness.

    >>> rollout_seed(0, "aime24", "60", 1) == rollout_seed(0, "aime24", "60", 2)
    False
    """
    text = json.dumps([seed, task, problem, rollout])
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") & 0x7FFFFFFF
