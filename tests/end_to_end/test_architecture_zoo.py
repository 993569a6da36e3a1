"""Every architecture of the zoo, from two folders to an output that loads and computes rightly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architecture_zoo import ZOO, is_vision, save_pair
from safetensors.torch import save_file

import timberkit
from timberkit.config import parse_variant, variant_name
from timberkit.engine.run import RefineResult

METHODS = ("timber:lam=0.3", "merge:mu=0", "merge:mu=1")
TIMBER, BASE, INSTRUCT = (variant_name(parse_variant(text)) for text in METHODS)
TOKENS = torch.arange(24).reshape(2, 12) * 3 + 3

Refined = tuple[tuple[Path, Path], RefineResult]


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Refined]:
    """A pair of an architecture and what refining it wrote, three methods in one pass."""
    made: dict[str, Refined] = {}

    def refine(architecture: str) -> Refined:
        if architecture not in made:
            place = tmp_path_factory.mktemp("zoo")
            pair = (place / "base", place / "instruct")
            save_pair(architecture, pair)
            made[architecture] = pair, timberkit.refine(*pair, place / "out", variants=METHODS)
        return made[architecture]

    return refine


def logits(folder: Path, architecture: str) -> torch.Tensor:
    kind = "ImageTextToText" if is_vision(architecture) else "CausalLM"
    auto = getattr(transformers, f"AutoModelFor{kind}")
    model, report = auto.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        found: torch.Tensor = model(TOKENS).logits
    return found


@pytest.mark.parametrize("architecture", ZOO)
def test_every_refined_matrix_agrees_with_the_oracle(
    architecture: str, refined: Callable[[str], Refined]
) -> None:
    _, result = refined(architecture)
    checks = timberkit.verify(result.output, every=True).checks
    assert {check.name for check in checks} >= {"oracle", "copies", "structure"}
    assert [check for check in checks if not check.passed] == []


@pytest.mark.parametrize("architecture", ZOO)
def test_merging_to_an_end_gives_that_models_linear_weights(
    architecture: str, refined: Callable[[str], Refined], checkpoints: Any
) -> None:
    pair, result = refined(architecture)
    base, instruct = map(checkpoints.read, pair)
    chosen = {tensor.name for tensor in result.plan.refined}
    assert chosen
    expected = {name: (base if name in chosen else instruct)[name] for name in instruct}
    assert checkpoints.equal(checkpoints.read(result.output / BASE), expected)
    assert checkpoints.equal(checkpoints.read(result.output / INSTRUCT), instruct)


@pytest.mark.parametrize("architecture", ZOO)
def test_output_loads_and_computes_what_refining_in_memory_gives(
    architecture: str, refined: Callable[[str], Refined], checkpoints: Any, tmp_path: Path
) -> None:
    pair, result = refined(architecture)
    config = json.loads((pair[1] / "config.json").read_text())
    tensors = map(checkpoints.read, pair)
    (weights,) = timberkit.refine_state_dicts(*tensors, variants=METHODS[0], config=config).values()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    shutil.copy(pair[1] / "config.json", tmp_path)
    found = logits(result.output / TIMBER, architecture)
    assert torch.equal(found, logits(tmp_path, architecture))
    assert torch.isfinite(found).all()
    assert not torch.equal(found, logits(pair[1], architecture))
