"""Matrices and checkpoints that several test folders share."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from timberkit.engine import execute
from timberkit.spectral import oracle


def planted_pair(
    rows: int,
    columns: int,
    singular_values: np.ndarray | list[float],
    *,
    seed: int,
    weight: float = 0.02,
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A (base, instruct) pair whose delta has these singular values, up to rounding."""
    rng = np.random.default_rng(seed)
    values = np.asarray(singular_values, dtype=np.float64)
    left = np.linalg.qr(rng.standard_normal((rows, values.size)))[0]
    right = np.linalg.qr(rng.standard_normal((columns, values.size)))[0]
    base = torch.from_numpy(rng.standard_normal((rows, columns)) * weight).to(dtype)
    instruct = base.double() + torch.from_numpy((left * values) @ right.T)
    return base, instruct.to(dtype)


def noise_pair(
    rows: int,
    columns: int,
    *,
    seed: int,
    spikes: float = 0.0,
    weight: float = 0.02,
    size: float = 0.03,
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Delta of Gaussian noise with a few leading directions ``spikes`` times the bulk's edge."""
    rng = np.random.default_rng(seed)
    base = torch.from_numpy(rng.standard_normal((rows, columns)) * weight).to(dtype)
    delta = rng.standard_normal((rows, columns)) * weight * size
    if spikes:
        edge = weight * size * (np.sqrt(rows) + np.sqrt(columns))
        count = min(4, rows, columns)
        left = np.linalg.qr(rng.standard_normal((rows, count)))[0]
        right = np.linalg.qr(rng.standard_normal((columns, count)))[0]
        delta += (left * (spikes * edge * np.array([1.0, 0.6, 0.3, 0.1])[:count])) @ right.T
    return base, (base.double() + torch.from_numpy(delta)).to(dtype)


@pytest.fixture
def pairs() -> type:
    """The two makers above as one fixture, importable nowhere else under importlib mode."""

    class Pairs:
        planted = staticmethod(planted_pair)
        noise = staticmethod(noise_pair)

    return Pairs


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Arithmetic with one thread, as in a worker; many small problems are also quicker so."""
    with execute.one_thread():
        yield


@pytest.fixture(scope="module")
def one_svd_a_delta() -> Iterator[None]:
    """The oracle decomposes a delta once for all the methods that are held against it in a row."""
    with pytest.MonkeyPatch.context() as patched:
        known: dict[tuple[tuple[int, ...], bytes], tuple[NDArray[np.float64], ...]] = {}
        decompose = oracle.singular_value_decomposition

        def remembered(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
            key = (matrix.shape, matrix.tobytes())
            if key not in known:
                known.clear()
                known[key] = decompose(matrix)
                for part in known[key]:
                    part.flags.writeable = False
            return known[key]

        patched.setattr(oracle, "singular_value_decomposition", remembered)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Thousands of tests and half the libraries stay to the end: nothing need look for them again.

    Looking is a sixth of the whole run's time. What the tests themselves leave is still found.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Ctrl-C works in the processes that tests start, also where the whole run ignores it.

    A job in the background of a script is started with SIGINT ignored, which children inherit.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
