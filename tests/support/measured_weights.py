"""Measurements with numbers of choice, for tests of summaries and files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from timberkit import measurements as m

OVERLAPS = tuple(
    m.OverlapMeasurement(k, overlap=0.5 + k / 100, smallest_cosine=0.25, chance=k / 32)
    for k in (1, 8, 5)
)
ROUNDING = m.RoundingMeasurement(
    base_noise=0.0016,
    instruct_noise=0.0017,
    delta_noise=0.04,
    correction_over_delta=0.08,
    correction_over_weight=0.005,
    error_over_correction=0.25,
    changed=0.75,
)


def spectrum(ratio: float, *, kept: bool = False) -> m.SpectrumMeasurement:
    """A spectrum of an 8 x 32 matrix; its values fit nothing but their number."""
    values = tuple(float(8 - i) for i in range(8)) if kept else None
    return m.SpectrumMeasurement(
        norm=2.0, largest=1.0, effective_rank=8 * ratio, ratio=ratio, stable_rank=4.0,
        singular_values=values,
    )  # fmt: skip


def weight(name: str = "model.layers.0.mlp.up_proj.weight", **changes: Any) -> m.WeightMeasurement:
    """A weight of 8 x 32 with rounding and subspaces measured."""
    made = m.WeightMeasurement(
        name=name, index=None, family="ffn", layer=0, module="mlp.up_proj", rows=8, columns=32,
        base_dtype="BF16", instruct_dtype="BF16", seconds=0.125,
        base=spectrum(0.75), instruct=spectrum(0.625), delta=spectrum(0.5, kept=True),
        null=m.NullMeasurement(0.875, 0.01), relative_delta=0.05,
        cut=m.CutMeasurement(5, 0.98, 0.1, (8, 8, 7, 7), (6, 5, 4, 3)),
        bulk=m.BulkMeasurement(0.001, 0.02, 3, 0.9),
        rounding=ROUNDING,
        subspaces=m.SubspaceMeasurement(OVERLAPS, OVERLAPS, OVERLAPS, OVERLAPS),
    )  # fmt: skip
    return replace(made, **changes)


HIDDEN = (
    m.HiddenStateMeasurement(0, 11.0, 12.0, -1.0, 60),
    m.HiddenStateMeasurement(1, 10.0, 9.5, 0.5, 60),
)
