"""Everything of Instruct that is no weight: config, tokenizer, templates, code, licence, index.

Copied from Instruct alone, because the output answers as Instruct does. Files are copied as plain
files with mode 0644; whatever is left behind is reported with its reason. The model card is written
anew (``model_card``), the manifest too (``manifest``).
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timberkit.checkpoint.adapter import WEIGHTS
from timberkit.checkpoint.layout import Checkpoint
from timberkit.checkpoint.manifest import MANIFEST_NAME
from timberkit.checkpoint.output_layout import output_data_bytes, output_dtype
from timberkit.checkpoint.writer import write_file
from timberkit.errors import CheckpointError

LARGEST_SIDECAR_BYTES = 100_000_000
INDEX_NAME = "model.safetensors.index.json"

TOKENIZER_FILES = frozenset(
    {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    }
)  # fmt: skip
"""Names of the files that make a tokenizer and its chat template."""

WEIGHT_SUFFIXES = frozenset(
    {
        ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ckpt", ".h5", ".msgpack", ".onnx",
        ".onnx_data", ".npz", ".tflite", ".ot", ".pdparams",
    }
)  # fmt: skip
"""Endings of files that hold weights in one format or another."""

_TORCH_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_POINTER_OPENING = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class CopiedSidecars:
    """Relative names that the output got, and ``(name, reason)`` of what was left behind."""

    copied: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def copy_sidecars(
    instruct: Checkpoint, target: Path, *, dtype: str | None, base_folder: Path | None = None
) -> CopiedSidecars:
    """Copy the files of Instruct beside its weights into ``target``, sub-folders included.

    ``dtype`` is that of ``plan_output``. With it, config.json names it (``dtype`` or
    ``torch_dtype``, nested configs too) and the index gets the new ``total_size``; otherwise both
    are copied byte for byte. Shards without an index get one, unless the only one is called
    model.safetensors. ``base_folder`` is left out where it lies inside the Instruct folder.

    Left behind and reported: weights and their indices, README.md, ``timberkit.json``, names that
    begin with a dot, outputs and stages of timberkit in sub-folders, links that lead outside
    (except into the blobs of the hub cache), anything that is no plain file, files over 100 MB.
    Raises CheckpointError for a file that cannot be read or is only a Git LFS pointer,
    InterruptedRunError when the disk is full. Not synced. Memory: the largest file copied.
    """
    copied: list[str] = []
    skipped: list[tuple[str, str]] = []
    handled = {shard.name for shard in instruct.shards} | {instruct.index_name}
    for name, reason in _files(instruct.folder, base_folder):
        if name in handled:
            continue
        if reason := reason or _reason_to_skip(instruct.folder / name, instruct.folder):
            skipped.append((name, reason))
            continue
        data = _read(instruct.folder / name)
        if name == "config.json" and dtype is not None:
            data = _config_with_dtype(data, _TORCH_NAMES[dtype])
        write_file(target / name, data)
        copied.append(name)
    index = _index(instruct, dtype)
    if index is not None:
        name, data = index
        write_file(target / name, data)
        copied.append(name)
    return CopiedSidecars(tuple(sorted(copied)), tuple(sorted(skipped)))


def copy_tokenizer(adapter: Path, target: Path) -> None:
    """Put the tokenizer and template that an adapter brings in the place of Base's.

    Raises as ``copy_sidecars``. Not synced.
    """
    for name, reason in sidecar_files(adapter).items():
        if name in TOKENIZER_FILES and not reason:
            write_file(target / name, _read(adapter / name))


def sidecar_files(folder: Path) -> dict[str, str]:
    """Relative names of what lies beside the weights, each with why it must not be opened, or "".

    The files that ``copy_sidecars`` copies, whatever their size: no weights, index, model card,
    manifest or hidden file. Raises CheckpointError when a folder cannot be listed.
    """
    names = (name for name, reason in _files(folder, None) if not reason)
    beside = (name for name in names if not _other_reason(folder / name))
    return {name: _unsafe_reason(folder / name, folder) for name in beside}


def _files(folder: Path, base_folder: Path | None) -> Iterator[tuple[str, str]]:
    """Relative names of all files, and of the sub-folders left out with the reason."""
    for parent, folders, files in os.walk(folder, onerror=_refuse_folder):
        for name in sorted(folders):
            path = Path(parent, name)
            if reason := _reason_to_leave_out(path, base_folder):
                folders.remove(name)
                yield path.relative_to(folder).as_posix(), reason
        folders.sort()
        for name in sorted(files):
            yield Path(parent, name).relative_to(folder).as_posix(), ""


def _reason_to_leave_out(path: Path, base_folder: Path | None) -> str:
    if path.name.startswith("."):
        return "hidden"
    if path.is_symlink():
        return "a link to a folder"
    if (path / MANIFEST_NAME).exists():
        return "an output of timberkit"
    if base_folder is not None and base_folder.exists() and path.samefile(base_folder):
        return "the Base checkpoint"
    return ""


def _reason_to_skip(path: Path, folder: Path) -> str:
    """Why a file is not copied; empty when it is."""
    if reason := _other_reason(path) or _unsafe_reason(path, folder):
        return reason
    size_bytes = path.stat().st_size
    if size_bytes > LARGEST_SIDECAR_BYTES:
        return f"{size_bytes} bytes, over {LARGEST_SIDECAR_BYTES}"
    return ""


def _other_reason(path: Path) -> str:
    """Why a file does not belong to what a model loads beside its weights, by its name."""
    lowered = path.name.lower()
    if path.name.startswith("."):
        return "hidden"
    if path.suffix.lower() in WEIGHT_SUFFIXES:
        return "weights"
    if ".index." in lowered and lowered.endswith(".json"):
        return "index of weights"
    if lowered == "readme.md":
        return "the output gets a model card of its own"
    if lowered == MANIFEST_NAME:
        return "the output gets a manifest of its own"
    return ""


def _unsafe_reason(path: Path, folder: Path) -> str:
    """Why a file is not opened, whatever its name."""
    if path.is_symlink() and not _leads_home(path, folder):
        return "a link that leads outside the model folder"
    return "" if stat.S_ISREG(path.stat().st_mode) else "no plain file"


def _leads_home(link: Path, folder: Path) -> bool:
    """Whether a link ends at something in its own folder, or in the blobs of its hub cache."""
    homes = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        homes.append(folder.resolve().parent.parent / "blobs")
    try:
        place = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    return any(place.is_relative_to(home) for home in homes)


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read: {error.strerror}; make the file readable and run the same"
            " command again"
        ) from None
    if data.startswith(_POINTER_OPENING) and len(data) < 1024:
        raise CheckpointError(
            f"{path}: is a Git LFS pointer, expected the file itself; the repository was cloned"
            " without its large files; run git lfs pull in it"
        )
    return data


def _refuse_folder(error: OSError) -> None:
    raise CheckpointError(
        f"{error.filename}: the folder cannot be listed: {error.strerror}; look at its permissions"
    )


def _config_with_dtype(data: bytes, torch_name: str) -> bytes:
    """config.json with another dtype; the same bytes when it names that one, or none, already."""
    config = _parse(data, "config.json")
    return _dump(config) if _set_dtype(config, torch_name) else data


def _set_dtype(config: dict[str, Any], torch_name: str) -> bool:
    changed = False
    for key, value in config.items():
        if key in ("dtype", "torch_dtype") and (value is None or isinstance(value, str)):
            changed |= value != torch_name
            config[key] = torch_name
        elif key.endswith("_config") and key != "quantization_config" and isinstance(value, dict):
            changed |= _set_dtype(value, torch_name)
    return changed


def _index(instruct: Checkpoint, dtype: str | None) -> tuple[str, bytes] | None:
    """Name and content of the output's index; None for a lone model.safetensors."""
    if instruct.index_name is None:
        # Loaders find shards of any other name through an index only; peft knows its own.
        if [shard.name for shard in instruct.shards] in (["model.safetensors"], [WEIGHTS]):
            return None
        weight_map = {name: entry.shard for name, entry in instruct.tensors.items()}
        totals = {"total_size": output_data_bytes(instruct, dtype)}
        return INDEX_NAME, _dump({"metadata": totals, "weight_map": weight_map})
    data = _read(instruct.folder / instruct.index_name)
    entries = instruct.tensors.values()
    if all(output_dtype(entry.dtype, dtype) == entry.dtype for entry in entries):
        return instruct.index_name, data
    index = _parse(data, instruct.index_name)
    metadata = index.get("metadata")
    kept = metadata if isinstance(metadata, dict) else {}
    index["metadata"] = {**kept, "total_size": output_data_bytes(instruct, dtype)}
    return instruct.index_name, _dump(index)


def _parse(data: bytes, name: str) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{name}: cannot be read as JSON: {error}; the file is broken; download it again"
        ) from None
    if not isinstance(fields, dict):
        raise CheckpointError(
            f"{name}: found {type(fields).__name__}, expected a JSON object; the file is broken;"
            " download it again"
        )
    return fields


def _dump(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, indent=2).encode() + b"\n"
