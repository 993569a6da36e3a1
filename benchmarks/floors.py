"""What the benchmark must show, and whether it does: reported, never asserted.

Read by ``refine.py``. A floor that a run could not measure (no yardstick, no mergekit, no experts)
is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

LARGE_HIDDEN = 4096
WHOLE_PROCESS = 7.0
BARE_SVDS = {"small": 5.0, "large": 7.0}
PEAK_BYTES = {"small": 2e9, "large": 6e9}
EXTRA_VARIANT = 0.10
PREDICTION = 0.25
LAYER_SECONDS = 40.0
MERGE_SHARE = 0.5
EXPERT_RATE = 0.5


@dataclass(frozen=True, slots=True)
class Floor:
    """One promise: what was asked, what was found."""

    name: str
    asked: str
    found: str
    passed: bool


def floors(result: dict[str, Any]) -> list[Floor]:
    """The floors that a result can be held against."""
    return [*_speed(result), *_agreement(result), *_memory(result), *_pass(result)]


def _at_least(name: str, found: float, asked: float, unit: str = "x") -> Floor:
    return Floor(name, f"at least {asked:g}{unit}", f"{found:.2f}{unit}", found >= asked)


def _below(name: str, found: float, asked: float, *, percent: bool = False) -> Floor:
    if percent:
        return Floor(name, f"under {asked:.0%}", f"{found:.1%}", found < asked)
    return Floor(name, f"under {asked:g}", f"{found:.2f}", found < asked)


def _size(result: dict[str, Any]) -> str:
    return "large" if result["hidden"] >= LARGE_HIDDEN else "small"


def _speed(result: dict[str, Any]) -> Iterator[Floor]:
    ratios = result["ratios"]
    if "whole_process" in ratios:
        yield _at_least(
            "published algorithm over timberkit, whole processes, wall time",
            ratios["whole_process"],
            WHOLE_PROCESS,
        )
    if "bare_svds" in ratios:
        yield _at_least(
            "bare full SVDs over timberkit as a whole process, wall time",
            ratios["bare_svds"],
            BARE_SVDS[_size(result)],
        )
    if result["hidden"] == LARGE_HIDDEN:
        yield _below("seconds a layer", result["seconds_per_layer"], LAYER_SECONDS)
    families = result["refine"]["families"]
    if "experts" in families and "others" in families:
        rate = families["experts"]["flops_per_second"]
        yield _at_least(
            "operations a second: experts over attention of the same run",
            rate / families["others"]["flops_per_second"],
            EXPERT_RATE,
        )
        for model, dense in result["dense_flops_per_second"].items():
            yield _at_least(f"operations a second: experts over {model}", rate / dense, EXPERT_RATE)


def _agreement(result: dict[str, Any]) -> Iterator[Floor]:
    comparison = result["comparison"]
    if comparison is None:
        return
    different = len(comparison["different_cuts"])
    unexplained = comparison["unexplained_cuts"]
    yield Floor(
        "weights with another K than the published algorithm",
        "none but for its epsilon",
        f"{different}, {unexplained} of them not for its epsilon",
        unexplained == 0,
    )


def _memory(result: dict[str, Any]) -> Iterator[Floor]:
    if result["hidden"] <= LARGE_HIDDEN:
        small = result["hidden"] <= LARGE_HIDDEN // 4
        asked = PEAK_BYTES["small" if small else "large"]
        yield _below("peak memory, GB", result["refine"]["peak_pss_bytes"] / 1e9, asked / 1e9)


def _pass(result: dict[str, Any]) -> Iterator[Floor]:
    if result["variants"] is not None:
        yield _below(
            "extra time of a further variant, its output aside",
            result["variants"]["extra_compute_share"],
            EXTRA_VARIANT,
            percent=True,
        )
    if result["plan"] is not None:
        off = abs(result["plan"]["predicted_over_run"] - 1.0)
        yield _below("plan's time off that of the run by", off, PREDICTION, percent=True)
    mergekit = result["mergekit"]
    if mergekit is not None and mergekit["status"] == "ran":
        for name, key in (("wall time", "wall_seconds"), ("peak memory", "peak_pss_bytes")):
            share = result["merge"][key] / mergekit[key]
            yield _below(f"merge over mergekit's linear, {name}", share, MERGE_SHARE)
