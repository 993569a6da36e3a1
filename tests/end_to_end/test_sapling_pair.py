"""What is true of the shipped pair, through the public interfaces of transformers.

The folders are loaded by the Auto classes, sampled by ``generate`` and judged by the checker, and
the counts are held against the exact probabilities: sampler, chat template, stopping, checker and
evaluator can only agree if all of them are right.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binom

from timberkit.sapling import (
    base_folder,
    instruct_folder,
    is_correct,
    load_problems,
    success_probabilities,
)
from timberkit.sapling.training.measure import KS, main, pass_at_k

FOLDERS = {"base": base_folder(), "instruct": instruct_folder()}
ROLLOUTS = 256
BAND_ERROR = 1e-4  # chance that a right program leaves the band anywhere


@pytest.fixture(scope="module")
def p() -> dict[str, NDArray[np.float64]]:
    return {name: success_probabilities(path, load_problems()) for name, path in FOLDERS.items()}


def curve(p: NDArray[np.float64], k: int) -> float:
    return float((1 - (1 - p) ** k).mean())


def sampled_correct(folder: Path, split: str, n: int, seed: int) -> list[int]:
    """Correct answers among ``ROLLOUTS`` per problem, sampled as any user would."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    problems = load_problems(split, n=n)
    inputs = tokenizer.apply_chat_template(
        [[{"role": "user", "content": problem.prompt}] for problem in problems],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        output = model.generate(**inputs, num_return_sequences=ROLLOUTS)
    answers = output[:, inputs["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    judged = [is_correct(problems[row // ROLLOUTS], text) for row, text in enumerate(texts)]
    return np.array(judged).reshape(n, ROLLOUTS).sum(axis=1).tolist()


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(("split", "n"), [("held-out", 12), ("held-out-4", 4)])
def test_sampled_rollouts_agree_with_exact_probabilities(name: str, split: str, n: int) -> None:
    exact = success_probabilities(FOLDERS[name], load_problems(split, n=n))
    counts = sampled_correct(FOLDERS[name], split, n, seed=0)
    low = binom.ppf(BAND_ERROR / (2 * n), ROLLOUTS, exact)
    high = binom.isf(BAND_ERROR / (2 * n), ROLLOUTS, exact)
    assert (low <= counts).all()
    assert (counts <= high).all()
    total, spread = exact.sum() * ROLLOUTS, np.sqrt((exact * (1 - exact)).sum() * ROLLOUTS)
    assert abs(sum(counts) - total) < 4 * spread


def test_instruct_is_better_at_one_attempt_and_base_at_many(
    p: dict[str, NDArray[np.float64]],
) -> None:
    assert curve(p["instruct"], 1) > curve(p["base"], 1) + 0.10
    assert curve(p["base"], 256) > curve(p["instruct"], 256) + 0.05


def test_curves_cross_exactly_once_between_1_and_256(p: dict[str, NDArray[np.float64]]) -> None:
    ahead = [curve(p["instruct"], k) > curve(p["base"], k) for k in range(1, 257)]
    changes = np.flatnonzero(np.diff(ahead))
    assert ahead[0]
    assert len(changes) == 1


def test_instruct_gains_on_most_problems_and_loses_on_many(
    p: dict[str, NDArray[np.float64]],
) -> None:
    """The trade-off in one number each: mass moves to some problems and away from others."""
    better = (p["instruct"] > p["base"]).mean()
    assert 0.4 < better < 0.9
    assert (p["instruct"] < 0.1 * p["base"]).mean() > 0.05


@pytest.mark.parametrize("split", ["held-out", "held-out-4"])
@pytest.mark.parametrize("name", FOLDERS)
def test_model_card_and_measurements_state_what_is_measured_again(name: str, split: str) -> None:
    found = pass_at_k(FOLDERS[name], load_problems(split))
    stated = json.loads((FOLDERS[name].parent / "measured.json").read_text())[split][name]
    assert found == pytest.approx(stated, abs=0.11)
    row = " | ".join(f"{stated[str(k)]:.1f}" for k in KS)
    assert f"| {name} | {row} |" in (FOLDERS[name] / "README.md").read_text()


def test_measuring_command_prints_both_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| base |") == printed.count("| instruct |") == 2


def test_measuring_a_missing_folder_exits_with_the_error_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nowhere")]) == 3
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("name", FOLDERS)
def test_folder_works_with_its_own_defaults(name: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(FOLDERS[name])
    model = AutoModelForCausalLM.from_pretrained(FOLDERS[name], dtype="auto")
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    prompt = tokenizer("nums 6 3 7 make 60 :", return_tensors="pt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        output = model.generate(**prompt)
    words = tokenizer.decode(output[0], skip_special_tokens=True)
    assert words.startswith("nums 6 3 7 make 60 : ")
    assert "=" in words
