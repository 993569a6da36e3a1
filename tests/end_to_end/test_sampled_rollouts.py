"""Sampled answers of the embedded pair are right as often as the exact evaluator says.

The whole way is tested at once: chat template, sampler, end tokens, seeds, decoding and checker;
first through the model in this process, then through a server that other people wrote.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import timberkit
from timberkit import sapling
from timberkit.evaluation.backends import BackendOptions, OpenModel, open_model
from timberkit.evaluation.models import ModelSource, parse_model
from timberkit.evaluation.sampling import Sampling
from timberkit.metrics import binomial_band

pytest.importorskip("inspect_ai")
from inspect_ai.model import GenerateConfig, ModelOutput

PROBLEMS = sapling.load_problems(n=20)
ROLLOUTS = 32
SAMPLING = Sampling(temperature=1.0, max_tokens=32)


def asked(model: OpenModel, rollouts: int, *, raw: bool = False) -> list[list[ModelOutput]]:
    """Answers to every problem, each rollout with a seed of its own."""
    made = model.inspect_model(SAMPLING, raw=raw)

    async def run() -> list[list[ModelOutput]]:
        try:
            return [
                await asyncio.gather(
                    *(
                        made.generate(
                            problem.prompt, config=GenerateConfig(seed=1000 * number + rollout)
                        )
                        for rollout in range(rollouts)
                    )
                )
                for number, problem in enumerate(PROBLEMS)
            ]
        finally:
            await made.api.aclose()

    return asyncio.run(run())


def counts(outputs: list[list[ModelOutput]]) -> list[int]:
    return [
        sum(sapling.is_correct(problem, output.completion) for output in each)
        for problem, each in zip(PROBLEMS, outputs, strict=True)
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Base, Instruct, and two models refined from them."""
    out = tmp_path_factory.mktemp("refined") / "out"
    base, instruct = sapling.base_folder(), sapling.instruct_folder()
    variants = ["timber:lam=0.2", "merge:mu=0.6"]
    timberkit.refine(base, instruct, out, variants=variants, workers=1)
    refined = {folder.name: folder for folder in sorted(out.iterdir()) if folder.is_dir()}
    assert len(refined) == 2
    return {"base": base, "instruct": instruct, **refined}


def test_the_local_model_agrees_with_the_exact_evaluator(folders: dict[str, Path]) -> None:
    """One band for all problems of all models: 1 in 1,000 that sound code would leave it."""
    exact, found = [], []
    for folder in folders.values():
        with open_model(parse_model(str(folder)), options=BackendOptions(device="cpu")) as model:
            outputs = asked(model, ROLLOUTS)
        exact.append(sapling.success_probabilities(folder, PROBLEMS))
        found.append(counts(outputs))
        assert {output.stop_reason for each in outputs for output in each} == {"stop"}
    band = binomial_band(ROLLOUTS, np.concatenate(exact), level=0.999)
    together = np.concatenate(found)
    assert band.holds(together), (list(folders), band.outside(together))


def test_the_band_would_notice_another_temperature() -> None:
    """The test above has the power to fail: at temperature 1.5 the counts lie outside."""
    source = parse_model("sapling:instruct")
    with open_model(source, options=BackendOptions(device="cpu")) as model:
        made = _at_temperature(model, 1.5)
        outputs = asked(made, ROLLOUTS)
    exact = sapling.success_probabilities(source.location, PROBLEMS)
    assert not binomial_band(ROLLOUTS, exact, level=0.999).holds(counts(outputs))
    hot = sapling.success_probabilities(source.location, PROBLEMS, temperature=1.5)
    assert binomial_band(ROLLOUTS, hot, level=0.999).holds(counts(outputs))


def _at_temperature(model: OpenModel, temperature: float) -> Any:
    class Hotter:
        def inspect_model(self, sampling: Sampling, *, raw: bool) -> Any:
            return model.inspect_model(Sampling(temperature=temperature, max_tokens=32), raw=raw)

    return Hotter()


@contextlib.contextmanager
def transformers_serve(folder: Path, log: Path) -> Iterator[str]:
    """``transformers serve`` on a folder, as a process; its address."""
    from transformers.utils.import_utils import is_serve_available

    program = shutil.which("transformers", path=Path(sys.executable).parent)
    if program is None or not is_serve_available():
        pytest.skip("transformers serve needs fastapi, uvicorn and openai: transformers[serving]")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--device", "cpu", "--dtype", "float32"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_a_server_that_others_wrote_agrees_with_the_exact_evaluator(tmp_path: Path) -> None:
    folder = sapling.instruct_folder()
    rollouts = 6
    with transformers_serve(folder, tmp_path / "log") as address:
        # It seeds all of torch for every request, so only one may be under way.
        options = BackendOptions(fields="standard", connections=1)
        source = ModelSource("served", "server", address, None, str(folder))
        with open_model(source, options=options) as model:
            outputs = asked(model, rollouts)
    exact = sapling.success_probabilities(folder, PROBLEMS)
    found = counts(outputs)
    assert binomial_band(rollouts, exact, level=0.999).holds(found), (sum(found), exact.sum())
    usages = [output.usage for each in outputs for output in each]
    assert all(usage is not None and usage.output_tokens >= 2 for usage in usages)
