"""Gaussian noise for a weight that is the same wherever and however it is made.

    noise = NamedNoise(seed=0, name="model.layers.0.mlp.up_proj.weight", shape=(4096, 1024))
    for rows, values in noise.blocks(): ...

Every block of rows has a stream of its own: a counter-based generator (Philox) whose key is the
SHA-256 of seed and name, and whose counter starts at the number of the block. What is drawn
therefore depends on nothing but seed, name and shape: not on who draws it, in which order, nor on
the blocks in which the weight is read and written.

Source of Philox: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from timberkit.spectral.delta import row_blocks

NOISE_ELEMENTS = 1 << 18
"""Elements of a block of rows, about. Part of what is drawn: another number, other noise."""


class NamedNoise:
    """Independent standard normal numbers for an m x n matrix, by blocks of rows."""

    def __init__(self, seed: int, name: str, shape: tuple[int, int]) -> None:
        digest = hashlib.sha256(f"timberkit noise {seed} {name}".encode()).digest()
        self._key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
        self._shape = shape

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Rows and their values, from the first to the last. Cost: about 10 ns an element."""
        for number, rows in enumerate(row_blocks(self._shape, NOISE_ELEMENTS)):
            counter = np.array([0, 0, 0, number], dtype=np.uint64)
            stream = np.random.Generator(np.random.Philox(key=self._key, counter=counter))
            yield rows, stream.standard_normal((rows.stop - rows.start, self._shape[1]))

    def norm(self) -> float:
        """Frobenius norm of it all, which takes drawing it all."""
        return math.sqrt(math.fsum(float(np.square(values).sum()) for _, values in self.blocks()))
