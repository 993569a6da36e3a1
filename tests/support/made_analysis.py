"""Analyses made up from planted spectra, consistent in themselves, for tests of figures and pages.

    analysis = made_analysis(layers=28)

The deltas are Marchenko-Pastur noise of each shape with a few directions on top, more in the middle
layers; every derived number (effective rank, energies, counts) is computed from the planted values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from timberkit import measurements as m
from timberkit.metrics.summary import summarise
from timberkit.report.null_curve import null_singular_values

DENSE: Mapping[str, tuple[str, int, int]] = {
    "self_attn.q_proj": ("attention", 2048, 1024),
    "self_attn.k_proj": ("attention", 1024, 1024),
    "self_attn.v_proj": ("attention", 1024, 1024),
    "self_attn.o_proj": ("attention", 1024, 2048),
    "mlp.gate_proj": ("ffn", 3072, 1024),
    "mlp.up_proj": ("ffn", 3072, 1024),
    "mlp.down_proj": ("ffn", 1024, 3072),
}
FACTS: Mapping[str, object] = {
    "base": "example/small-base",
    "instruct": "example/small",
    "timberkit": "0.1.0",
    "torch": "2.13.0",
    "measure": ["spectra", "subspaces", "rounding"],
}


def made_analysis(
    *,
    layers: int = 28,
    experts: int = 0,
    measured: bool = True,
    hidden_states: bool = True,
    seed: int = 0,
    title: str = "example/small",
    facts: Mapping[str, object] = FACTS,
) -> m.Analysis:
    """An analysis of ``layers`` blocks of seven matrices, or of four and three for each expert.

    ``measured``: with rounding and subspaces.
    """
    rng = np.random.default_rng(seed)
    weights = []
    for layer in range(layers):
        for module, (family, rows, columns) in DENSE.items():
            shape = (rows, columns)
            if experts and family == "ffn":
                shape = (columns // 4, 1024) if "down" not in module else (1024, columns // 4)
                module = module.replace("mlp.", "mlp.experts.")
                family = "expert"
            for index in range(experts) if family == "expert" else (None,):
                name = f"model.layers.{layer}.{module}.weight"
                made = _weight(rng, (name, index), (family, layer, module), shape, layers, measured)
                weights.append(made)
    states = _hidden_states(layers) if hidden_states else ()
    return m.Analysis(title, dict(facts), summarise(weights, states), tuple(weights), states)


HOSTILE = (
    "<script>window.harmed=1</script>",
    '</script><img src="x" onerror="window.harmed=2">',
    '<a href="https://example.invalid/">q_proj</a><b>bold</b>',
    '=HYPERLINK("https://example.invalid/","x")',
    "model.layers.0.\u2028\u202egnp.exe",
    "{{ 7 * 7 }} $x^$ %{x} &lt;i&gt;",
    "q" * 5000,
    "]]><!--<svg/onload=window.harmed=3>",
)
"""Names that a stranger may give to a tensor."""


def hostile_analysis(names: Sequence[str] = HOSTILE) -> m.Analysis:
    """An analysis whose every text is hostile: title, facts, tensors, modules, families, dtypes."""
    made = made_analysis(layers=2)
    weights = tuple(
        replace(
            weight, name=name, module=name, family=name, base_dtype=name, instruct_dtype=name[::-1]
        )
        for weight, name in zip(made.weights, list(names) * len(made.weights), strict=False)
    )
    facts = {name: name for name in names} | {"base": names[1], "instruct": names[0]}
    summary = summarise(weights, made.hidden_states)
    return m.Analysis(names[1], facts, summary, weights, made.hidden_states)


def spectrum(values: NDArray[np.float64], *, keep: bool = False) -> m.SpectrumMeasurement:
    """What is measured of these singular values, in descending order."""
    shares = values[values > 0] / values.sum()
    effective = float(np.exp(-(shares * np.log(shares)).sum()))
    norm = float(np.linalg.norm(values))
    largest = float(values[0])
    ratio = effective / values.size
    kept = tuple(values.tolist()) if keep else None
    return m.SpectrumMeasurement(norm, largest, effective, ratio, (norm / largest) ** 2, kept)


def _weight(
    rng: np.random.Generator,
    named: tuple[str, int | None],
    part: tuple[str, int, str],
    shape: tuple[int, int],
    layers: int,
    measured: bool,
) -> m.WeightMeasurement:
    (name, index), (family, layer, module), (rows, columns) = named, part, shape
    r, depth = min(shape), layer / max(layers - 1, 1)
    unit = null_singular_values(rows, columns, noise_scale=1.0, positions=range(1, r + 1))
    base = _structured(unit, 0.02, 1.6 + 1.2 * depth + 0.3 * rng.random(), share=0.08)
    instruct = base * (1 + 0.002 * rng.standard_normal())
    instruct[: r // 16] *= 1.01 + 0.01 * depth * rng.random()
    noise_scale = 8e-4 * (1 + 0.25 * math.sin(5 * depth)) * (1 + 0.1 * rng.random())
    delta = noise_scale * unit
    spikes = int(rng.integers(3, 9)) + round(6 * math.sin(math.pi * depth))
    delta[:spikes] = delta[0] * (
        1.1 + 14 * rng.random(spikes) * math.sin(math.pi * depth + 0.2) ** 2
    )
    delta = np.sort(delta)[::-1]
    measures = spectrum(delta, keep=index is None or index < 2)
    edge = noise_scale * (math.sqrt(rows) + math.sqrt(columns))
    energy = np.cumsum(delta**2) / (delta**2).sum()
    cut = math.ceil(measures.effective_rank)
    above = int((delta > 1.02 * edge).sum())
    null = spectrum(unit)
    null_tail = float((unit[math.ceil(null.effective_rank) :] ** 2).sum() / (unit**2).sum())
    base_measures = spectrum(np.sort(base)[::-1])
    return m.WeightMeasurement(
        name=name, index=index, family=family, layer=layer, module=module, rows=rows,
        columns=columns, base_dtype="BF16", instruct_dtype="BF16", seconds=0.1 + 0.1 * rng.random(),
        base=base_measures, instruct=spectrum(np.sort(instruct)[::-1]), delta=measures,
        null=m.NullMeasurement(null.ratio, null_tail),
        relative_delta=measures.norm / base_measures.norm,
        cut=m.CutMeasurement(
            cut, float(energy[cut - 1]), float(delta[cut:].sum() / delta.sum()),
            tuple(math.ceil(ratio * r) for ratio in m.TRUNCATE_RANK_RATIOS),
            tuple(int(np.searchsorted(energy, share)) + 1 for share in m.TRUNCATE_ENERGIES),
        ),
        bulk=m.BulkMeasurement(
            noise_scale, edge, above, float(energy[above - 1]) if above else 0.0
        ),
        rounding=_rounding(rng, measures, base_measures, energy[cut - 1]) if measured else None,
        subspaces=_subspaces(rng, shape, cut, depth) if measured else None,
    )  # fmt: skip


def _structured(
    unit: NDArray[np.float64], scale: float, lift: float, *, share: float
) -> NDArray[np.float64]:
    """Noise whose leading part stands above it, by ``lift`` at the first value."""
    place = np.arange(unit.size) / unit.size
    values: NDArray[np.float64] = scale * unit * (1 + (lift - 1) * np.exp(-place / share))
    return values


def _rounding(
    rng: np.random.Generator, delta: m.SpectrumMeasurement, base: m.SpectrumMeasurement, head: float
) -> m.RoundingMeasurement:
    correction, weight = 0.8 * math.sqrt(1 - head), base.norm
    over_weight = correction * delta.norm / weight
    noise = 0.0017
    return m.RoundingMeasurement(
        noise, noise, math.sqrt(2) * noise * weight / delta.norm, correction, over_weight,
        0.0017 * (0.9 + 0.2 * rng.random()) / over_weight, 0.2 + 0.1 * rng.random(),
    )  # fmt: skip


def _subspaces(
    rng: np.random.Generator, shape: tuple[int, int], cut: int, depth: float
) -> m.SubspaceMeasurement:
    counts = [k for k in m.LEADING_COUNTS if k <= min(shape)] + [cut]

    def overlaps(side: int, near: float) -> tuple[m.OverlapMeasurement, ...]:
        found = []
        for k in counts:
            chance = k / side
            overlap = chance + (1 - chance) * near * (1 - 0.02 * math.log2(k)) * rng.uniform(0.9, 1)
            found.append(m.OverlapMeasurement(k, overlap, overlap / 2, chance))
        return tuple(found)

    near, far = 0.99 - 0.1 * depth, 0.02 + 0.1 * depth
    rows, columns = shape
    return m.SubspaceMeasurement(
        overlaps(rows, near), overlaps(columns, near), overlaps(rows, far), overlaps(columns, far)
    )


def _hidden_states(layers: int) -> tuple[m.HiddenStateMeasurement, ...]:
    found = []
    for layer in range(layers + 1):
        base = 40 + 160 * math.sin(math.pi * (layer + 1) / (layers + 2))
        instruct = base * (0.93 - 0.1 * layer / layers)
        found.append(m.HiddenStateMeasurement(layer, base, instruct, base - instruct, 8192))
    return tuple(found)
