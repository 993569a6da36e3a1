"""A model that transformers has loaded becomes, bit for bit, the one that refined files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architecture_zoo import save_pair

import timberkit

ARCHITECTURES = ("llama", "gemma2", "phi3", "qwen3-moe", "mixtral", "gpt-oss", "qwen3-vl-moe")
# What noise draws, and where it is added, depends on the name of each matrix.
VARIANTS = ("timber:lam=0.3", "noise:of=timber:lam=0.3")
FAMILIES = ("all-linear", "embedding")
TOKENS = torch.arange(24).reshape(2, 12) * 3 + 3
Pair = tuple[Path, Path]


def load(folder: Path) -> Any:
    config = transformers.AutoConfig.from_pretrained(folder)
    vision = hasattr(config, "vision_config")
    kind = "ImageTextToText" if vision else "CausalLM"
    return getattr(transformers, f"AutoModelFor{kind}").from_pretrained(folder, dtype="auto").eval()


def assert_same_values(found: Any, expected: Any) -> None:
    first, second = found.state_dict(), expected.state_dict()
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert {first[name].dtype for name in first} == {second[name].dtype for name in second}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loaded_model_becomes_what_the_refined_files_hold(
    architecture: str, tmp_path: Path
) -> None:
    pair = (tmp_path / "base", tmp_path / "instruct")
    save_pair(architecture, pair)
    options: dict[str, Any] = {"families": FAMILIES, "exclude": ["*.1.*.down_proj.*"]}
    result = timberkit.refine(*pair, tmp_path / "out", variants=VARIANTS, **options)
    base, instruct = map(load, pair)
    for variant, folder in zip(VARIANTS, result.folders.values(), strict=True):
        expected = load(folder)
        found = timberkit.refine_model(instruct, base, variant=variant, **options)
        assert_same_values(found, expected)
        with torch.no_grad():
            assert torch.equal(found(TOKENS).logits, expected(TOKENS).logits)
    assert_same_values(instruct, load(pair[1]))
    assert timberkit.refine_model(instruct, base, variant=variant, inplace=True, **options) is (
        instruct
    )
    assert_same_values(instruct, expected)


def test_tied_embeddings_stay_tied_and_a_refined_model_can_be_saved(
    checkpoints: Any, tmp_path: Path
) -> None:
    pair = (tmp_path / "base", tmp_path / "instruct")
    save_pair("gemma2", pair)
    timberkit.refine(*pair, tmp_path / "out", families=FAMILIES)
    base, instruct = map(load, pair)
    found = timberkit.refine_model(instruct, base, families=FAMILIES)
    assert found.lm_head.weight is found.model.embed_tokens.weight
    assert found.lm_head.weight is not instruct.lm_head.weight
    found.save_pretrained(tmp_path / "saved")
    saved, expected = (checkpoints.read(tmp_path / name) for name in ("saved", "out"))
    assert checkpoints.equal(saved, expected)


def test_models_that_were_never_files_are_refined_as_they_would_be_saved(
    checkpoints: Any, tmp_path: Path
) -> None:
    pair = (tmp_path / "base", tmp_path / "instruct")
    save_pair("qwen3-moe", pair)
    timberkit.refine(*pair, tmp_path / "out", variants=VARIANTS[1])
    made = []
    for folder in pair:
        loaded = load(folder)
        made.append(transformers.AutoModelForCausalLM.from_config(loaded.config, dtype="bfloat16"))
        made[-1].load_state_dict(loaded.state_dict())
    found = timberkit.refine_model(made[1], made[0], variant=VARIANTS[1])
    assert_same_values(found, load(tmp_path / "out"))
