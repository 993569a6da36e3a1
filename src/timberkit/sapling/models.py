"""Loading Sapling models quietly, and bounding torch's threads for a while.

transformers is an optional dependency and torch is slow to import, so both are imported inside the
functions that need them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timberkit.errors import InputError, MissingExtraError, SourceError
from timberkit.sapling.vocabulary import IDS, VOCABULARY

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def load_model(folder: str | Path) -> LlamaForCausalLM:
    """A Sapling model from a Hugging Face folder, on the CPU in float32, in evaluation mode.

    The stored bf16 weights convert to float32 without loss. Nothing is fetched from any hub.
    Raises ``SourceError`` where the folder holds no readable ``config.json``, ``InputError``
    where the model is no Llama model on the Sapling vocabulary (``config.json`` and, if there,
    ``tokenizer.json`` are compared), ``MissingExtraError`` without transformers.
    Cost: 4 bytes per parameter, 1.8 MB for the shipped models.
    """
    _check_folder(Path(folder))
    try:
        from transformers import LlamaForCausalLM
    except ModuleNotFoundError as error:
        raise MissingExtraError("transformers", extra="eval") from error
    import torch

    with quiet():
        model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(
            Path(folder), dtype=torch.float32, local_files_only=True
        )
    model.train(mode=False)
    return model


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Run a block with ``threads`` torch threads, then restore; ``None`` changes nothing.

    Raises ``ValueError`` for ``threads < 1``.
    """
    if threads is None:
        yield
        return
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Run a block without transformers' progress bars: these models load in milliseconds."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _check_folder(folder: Path) -> None:
    config = _read_json(folder / "config.json")
    found = (config.get("model_type"), config.get("vocab_size"))
    if found != ("llama", len(VOCABULARY)):
        raise InputError(
            f"{folder / 'config.json'}: found model type and vocabulary size {found}, expected "
            f"('llama', {len(VOCABULARY)}); this is no Sapling model; give a folder that was made "
            "from the shipped pair or trained by timberkit.sapling.training"
        )
    tokenizer = folder / "tokenizer.json"
    if tokenizer.exists() and _read_json(tokenizer).get("model", {}).get("vocab") != IDS:
        raise InputError(
            f"{tokenizer}: its words or their ids differ from the Sapling vocabulary; the "
            "probabilities would be those of other words; use the tokenizer of the shipped pair"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SourceError(
            f"{path}: cannot be read as JSON ({error}), expected a Hugging Face model folder; "
            "check the path"
        ) from error
    if not isinstance(content, dict):
        raise SourceError(f"{path}: found a {type(content).__name__}, expected a JSON object")
    return content
