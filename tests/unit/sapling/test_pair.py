"""The shipped files: sizes, formats, splits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from timberkit.errors import InputError
from timberkit.sapling import (
    SPLITS,
    base_folder,
    correct_answers,
    instruct_folder,
    is_held_out,
    load_problems,
)
from timberkit.sapling.training.corpus import base_document, chat_document
from timberkit.sapling.training.reinforcement import draw_problems
from timberkit.sapling.training.settings import RL_PRESETS
from timberkit.sapling.vocabulary import VOCABULARY

FOLDERS = (base_folder(), instruct_folder())
PROJECTIONS = (
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)


@pytest.mark.parametrize(("split", "size"), [("held-out", 300), ("held-out-4", 100)])
def test_shipped_problems_are_distinct_solvable_and_held_out(split: str, size: int) -> None:
    problems = load_problems(split)
    assert len(problems) == len({problem.key for problem in problems}) == size
    assert all(len(problem.numbers) == SPLITS[split] for problem in problems)
    assert all(is_held_out(problem) for problem in problems)
    assert all(correct_answers(problem) for problem in problems)


def test_first_n_problems_are_a_prefix() -> None:
    assert load_problems(n=7) == load_problems()[:7]


@pytest.mark.parametrize("n", [0, -1, 301])
def test_n_outside_the_split_is_refused(n: int) -> None:
    with pytest.raises(InputError, match="expected 1 to 300"):
        load_problems(n=n)


def test_unknown_split_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="held-out, held-out-4"):
        load_problems("train")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_folder_is_below_one_megabyte(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_000_000


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_weights_are_separate_bf16_matrices_with_tied_embeddings(folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        assert weights.metadata() == {"format": "pt"}
        names = set(weights.keys())
        assert {weights.get_slice(name).get_dtype() for name in names} == {"BF16"}
    linear = {name for name in names if name.endswith("_proj.weight")}
    assert linear == {
        f"model.layers.{layer}.{projection}.weight" for layer in range(3)
        for projection in PROJECTIONS
    }  # fmt: skip
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_generation_config_samples_the_whole_distribution(folder: Path) -> None:
    config = json.loads((folder / "generation_config.json").read_text())
    config.pop("transformers_version")
    assert config == {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "max_new_tokens": 32,
        "bos_token_id": VOCABULARY.index("<s>"),
        "eos_token_id": VOCABULARY.index("</s>"),
        "pad_token_id": VOCABULARY.index("<pad>"),
    }


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_model_card_states_licence_library_and_the_measuring_command(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    front = card.split("---\n")[1]
    assert "license: apache-2.0\nlibrary_name: transformers\n" in front
    assert ("base_model:" in front) == (folder.name == "instruct")
    assert "python -m timberkit.sapling.training.measure" in card


def test_importing_the_package_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, timberkit.sapling as s; s.load_problems(); s.base_folder();"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_training_documents_never_show_a_shipped_problem() -> None:
    import random

    rng = random.Random(0)
    shipped = {problem.key for split in SPLITS for problem in load_problems(split)}
    shown = {chat_document(rng)[0].key for _ in range(5000)}
    rewarded = {
        problem.key for preset in RL_PRESETS.values() for problem in draw_problems(preset, rng)
    }
    assert not shipped & (shown | rewarded)
    prompts = {
        f" {problem.prompt} " for split in SPLITS for problem in load_problems(split)
    }  # fmt: skip
    documents = [base_document(rng) for _ in range(5000)]
    assert not any(prompt in document for document in documents for prompt in prompts)
