"""The rounding that ``benchmarks/quantised_delta.py`` measures, against E4M3 written out."""

from __future__ import annotations

import torch
from scripts import load_script

SCRIPT = load_script("benchmarks/quantised_delta.py")


def _e4m3_values() -> torch.Tensor:
    """Every finite number of E4M3: 4 bits of exponent (bias 7), 3 of fraction."""
    positive = [f / 8 * 2.0**-6 for f in range(8)]
    positive += [(1 + f / 8) * 2.0 ** (e - 7) for e in range(1, 16) for f in range(8)]
    positive.remove(480.0)  # its code means NaN
    return torch.tensor(sorted({sign * value for value in positive for sign in (1, -1)}))


def test_block_rounding_takes_the_nearest_code_of_each_block() -> None:
    torch.manual_seed(0)
    weight = torch.randn(256, 128).bfloat16()
    weight[128:] *= 1000  # a scale of its own for each block
    got = SCRIPT.rounded(weight)
    codes = _e4m3_values()
    for start in (0, 128):
        block = weight[start : start + 128].float()
        scale = block.abs().max() / 448
        distance = (got[start : start + 128].float() / scale - block / scale).abs()
        nearest = torch.stack([(code - block / scale).abs() for code in codes]).amin(0)
        slack = (block / scale).abs() * 2**-7  # BF16 of the result
        assert (distance <= nearest + slack + 1e-6).all()


def test_rounding_fills_the_tail_of_the_delta() -> None:
    found = SCRIPT.measure(side=256, rank=8, relative=0.02, seed=0)
    assert found["effective_rank_fp8"] > 2 * found["effective_rank"]
    assert found["rounding_by_delta"] > 0.5
