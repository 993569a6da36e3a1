"""What rounding of Instruct, to BF16 and to FP8, does to the effective rank of a delta.

    python benchmarks/quantised_delta.py
    python benchmarks/quantised_delta.py --side 2048 --relative 0.02

A made pair: Base is Gaussian noise in BF16; Instruct adds a delta of ``--rank`` leading directions,
whose norm is ``--relative`` of Base's. Instruct is then rounded as blocks of 128 x 128 in E4M3 with
one float32 scale each (largest magnitude to 448), and taken back to BF16. Prints one JSON line:
effective rank of the delta as its factors make it, of Instruct in BF16 (a LoRA adapter that was
merged), and after FP8, and the norm of that rounding by that of the delta.
"""

from __future__ import annotations

import argparse
import json

import torch

from timberkit.spectral.rank import effective_rank

BLOCK = 128
LARGEST = 448.0


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """``weight`` (m, n), sides multiples of 128, through block-scaled E4M3; returned in BF16."""
    rows, columns = weight.shape
    blocks = weight.float().view(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    scales = blocks.abs().amax(dim=(1, 3), keepdim=True).clamp_min(1e-12) / LARGEST
    codes = (blocks / scales).to(torch.float8_e4m3fn)
    return (codes.float() * scales).view(rows, columns).bfloat16()


def measure(side: int, rank: int, relative: float, seed: int) -> dict[str, float]:
    """Effective ranks of the delta of one made pair, with and without the rounding."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(side, side, generator=generator).bfloat16().float()
    delta = torch.randn(side, rank, generator=generator) @ torch.randn(
        rank, side, generator=generator
    )
    delta *= relative * base.norm() / delta.norm()
    instruct = (base + delta).bfloat16()
    quantised = rounded(instruct)
    exact = instruct.float() - base
    found = quantised.float() - base
    return {
        "effective_rank_of_factors": effective_rank(
            torch.linalg.svdvals(delta.double())[:rank].numpy()
        ),
        "effective_rank": effective_rank(torch.linalg.svdvals(exact).double().numpy()),
        "effective_rank_fp8": effective_rank(torch.linalg.svdvals(found).double().numpy()),
        "rounding_by_delta": float((found - exact).norm() / exact.norm()),
    }


def main() -> None:
    """Measure once, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--relative", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    chosen = vars(parser.parse_args())
    print(json.dumps({**chosen, **measure(**chosen)}))


if __name__ == "__main__":
    main()
