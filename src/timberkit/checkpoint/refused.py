"""Formats that are refused, and what to do instead: pickles, GGUF, adapters, quantised weights.

Nothing here opens a weight. What a checkpoint says of its own origin is hostile until it looks like
a hub id; it is shown as what the files claim, not as what is so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from timberkit.checkpoint.header import shown
from timberkit.checkpoint.layout import Checkpoint
from timberkit.checkpoint.model_card import HUB_ID, front_matter
from timberkit.checkpoint.quantized import is_known_format, quantization
from timberkit.errors import CheckpointError

CONVERT = (
    'python -c "import glob, torch; from safetensors.torch import save_file;'
    " [save_file({k: v.contiguous().clone() for k, v in"
    " torch.load(f, map_location='cpu', weights_only=True).items()},"
    " f[:-3] + 'safetensors', {'format': 'pt'}) for f in glob.glob('pytorch_model*.bin')]\""
)
"""Turns the pickles of transformers in the current folder into safetensors, file by file.

``weights_only`` runs no code of the pickle; each tensor is cloned because safetensors refuses tied
ones, and nothing needs an index where file names count themselves.
"""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_NO_MODEL = {"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
_METHOD = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ()._+-]{0,39}")
_RELEASED_SO = ("fp8", "mxfp4", "fp4")


def no_weights(folder: Path, names: Sequence[str]) -> CheckpointError:
    """Why a folder without safetensors files cannot be used, by what else lies in it."""
    pickles = [name for name in names if name.endswith(_PICKLES) and name not in _NO_MODEL]
    if "adapter_config.json" in names:
        return CheckpointError(
            f"{folder}: found an adapter (adapter_config.json), expected whole weights;"
            " a LoRA adapter can take the place of INSTRUCT in refine, plan, analyze and verify;"
            " elsewhere merge it first: timberkit refine BASE ADAPTER -o FOLDER --method merge --mu"
            " 1"
        )
    if pickles:
        return CheckpointError(
            f"{folder}: found pickled weights ({shown(pickles[0])}), expected *.safetensors;"
            f" pickles are refused because loading one can run any code; {_conversion(pickles)}"
        )
    if any(name.lower().endswith(".gguf") for name in names):
        return CheckpointError(
            f"{folder}: found GGUF files, expected *.safetensors; {_GGUF}{_original(folder, {})}"
        )
    repository = _repository(folder)
    if repository is not None:
        return CheckpointError(
            f"{repository}: its repository on the Hub holds no *.safetensors in its main folder"
            " (pickles and GGUF files are not fetched); look for a version in safetensors, or"
            " have pickles fetched and read with --allow-pickle, which runs no code of theirs, or"
            f" fetch a model that you trust, hf download {repository} --local-dir FOLDER, and"
            f" convert pickles there: {CONVERT}"
        )
    content = ", ".join(shown(name) for name in names[:5]) or "nothing"
    return CheckpointError(
        f"{folder}: found {content}, expected *.safetensors files; not the folder of a model;"
        " give the folder that holds model.safetensors or its index"
    )


def not_a_folder(text: str) -> str:
    """What to say of a file where the folder of a model should be.

    >>> not_a_folder("model.safetensors")[-25:]
    'give the folder around it'
    """
    start = f"{text}: found a file, expected the folder of a model; "
    if text.lower().endswith(".gguf"):
        return f"{start}{_GGUF}"
    if text.endswith(_PICKLES):
        return (
            f"{start}pickles are refused because loading one can run any code;"
            f" {_conversion([Path(text).name])}"
        )
    return f"{start}give the folder around it"


def refuse_quantised(checkpoint: Checkpoint, which: str) -> None:
    """Raise CheckpointError for quantised weights: the method, and where the original may be.

    ``which`` model it is meant to be: Base or Instruct.
    """
    method = quantization(checkpoint)
    if method is None:
        return
    name = method if _METHOD.fullmatch(method) else "of an unnamed method"
    bits = _bits(checkpoint.config)
    other = (
        f"; a model released in {name} may have a version in BF16"
        if any(word in name.lower() for word in _RELEASED_SO)
        else ""
    )
    raise CheckpointError(
        f"{checkpoint.folder.name} ({which}): weights are quantised"
        f" ({name}{'' if bits is None else f', {bits} bits'}), expected plain BF16, F16 or F32:"
        f" codes mean nothing without their scales, and have no delta; {_way(checkpoint)}give the"
        " unquantised original"
        f" of this model{_original(checkpoint.folder, checkpoint.config)}{other}"
    )


def _way(checkpoint: Checkpoint) -> str:
    """The way on for a format that can be dequantised."""
    if not is_known_format(checkpoint.config):
        return ""
    return "--dequantise turns them into BF16, which does not undo their rounding; better, "


_GGUF = (
    "GGUF weights are mostly quantised, and laid out and named otherwise (llama.cpp's format), so"
    " that they cannot be refined; give the model they were made from, in safetensors"
)


def _conversion(pickles: Iterable[str]) -> str:
    """What turns these pickles into safetensors."""
    if any(re.fullmatch(r"pytorch_model.*\.bin", name) for name in pickles):
        return (
            "refine, plan, analyze, diff and verify read them with --allow-pickle, which runs no"
            " code of theirs; or convert a model that"
            f" you trust, in its folder: {CONVERT}"
        )
    return (
        "load a model that you trust with transformers and save it anew with save_pretrained, or"
        " look for a version in safetensors"
    )


def _bits(config: Mapping[str, Any]) -> int | None:
    settings = config.get("quantization_config")
    bits = settings.get("bits") if isinstance(settings, Mapping) else None
    return bits if type(bits) is int and 1 <= bits <= 16 else None


def _original(folder: Path, config: Mapping[str, Any]) -> str:
    """Where the files say that they come from; empty where they name no hub id."""
    named = front_matter(folder).get("base_model")
    for source, value in (
        (
            "its model card names {} as base_model",
            named[0] if isinstance(named, list) and named else named,
        ),
        ("its config.json names {}", config.get("base_model")),
        ("its config.json names {}", config.get("_name_or_path")),
    ):
        if _is_hub_id(value):
            return f" ({source.format(value)})"
    return ""


def _is_hub_id(value: object) -> bool:
    """Whether it is ``org/name``: no path, no address, nothing else to be shown."""
    return isinstance(value, str) and "/" in value and HUB_ID.fullmatch(value) is not None


def _repository(folder: Path) -> str | None:
    """Hub id of a snapshot in a hub cache, by the names of its folders."""
    if folder.parent.name != "snapshots":
        return None
    name = folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return name if _is_hub_id(name) else None
