"""Writing what was trained: Hugging Face model folders, model cards, held-out problems."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from timberkit.sapling.models import load_model, quiet
from timberkit.sapling.puzzle import Problem, problem_pool
from timberkit.sapling.training.tokenizer import build_tokenizer
from timberkit.sapling.vocabulary import BOS, EOS, IDS, PAD

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

MOST_NEW_TOKENS = 32
"""Limit in the generation config; the longest correct answer with its end token takes 18."""


def write_model(model: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """Save a model in bf16 with tokenizer and generation config; return what was stored.

    The returned model is read back in float32, so that the next stage starts from exactly the
    rounded weights that a reader of the folder sees. ``model`` itself is left in bf16.
    """
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=MOST_NEW_TOKENS,
        bos_token_id=IDS[BOS],
        eos_token_id=IDS[EOS],
        pad_token_id=IDS[PAD],
    )
    with quiet():
        model.bfloat16()
        model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # it is written for its owner only
    build_tokenizer(model.config.max_position_embeddings).save_pretrained(folder)
    _name_tokenizer_class_for_old_readers(folder / "tokenizer_config.json")
    return load_model(folder)


def _name_tokenizer_class_for_old_readers(path: Path) -> None:
    """transformers 5 writes its new class name, which 4 does not know; both know the old one."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.pop("backend", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def draw_held_out(counts: Sequence[tuple[int, int]], seed: int) -> list[Problem]:
    """Held-out problems drawn without replacement, numbers shuffled.

    ``counts``: pairs of how many numbers and how many such problems.
    Raises ``ValueError`` when the held-out pool holds fewer.
    """
    rng = random.Random(seed)
    return [
        Problem(tuple(rng.sample(problem.numbers, numbers)), problem.target)
        for numbers, size in counts
        for problem in rng.sample(problem_pool(numbers, held_out=True), size)
    ]


def write_problems(problems: Sequence[Problem], path: Path) -> None:
    """One JSON object per line: ``numbers``, ``target`` and, for the reader, ``prompt``."""
    lines = (
        json.dumps({"numbers": problem.numbers, "target": problem.target, "prompt": problem.prompt})
        for problem in problems
    )
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
