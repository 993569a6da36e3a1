"""A checkpoint folder, opened: which files hold which tensors, all of it validated.

``open_checkpoint`` reads headers, index and configuration, never a tensor. It accepts what
transformers can load: one ``model.safetensors``, shards with a ``*.safetensors.index.json``, or
shards alone. Files are treated as hostile: a path that leads out of the folder, an index that
disagrees with its shards, pickled weights are errors (CheckpointError), never guesses.

Not here: what a header may contain (``header``), reading tensors (``reader``), what makes weights
quantised (``quantized``), what is said of formats that are no safetensors (``refused``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from timberkit.checkpoint.header import json_object, read_shard, shown, unique_keys
from timberkit.checkpoint.layout import Checkpoint, Shard, TensorEntry
from timberkit.checkpoint.quantized import quantization as quantization
from timberkit.checkpoint.reader import read_range
from timberkit.checkpoint.refused import no_weights, not_a_folder
from timberkit.errors import CheckpointError, SourceError

LARGEST_INDEX_BYTES = 100_000_000
LARGEST_CONFIG_BYTES = 10_000_000
INDEX_SUFFIX = ".safetensors.index.json"

_OF_MANY = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors", re.ASCII)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a checkpoint folder: every header, the weight map and config.json, validated.

    Without an index, ``model.safetensors`` alone is the checkpoint if it is there, else all
    ``*.safetensors`` files together, whose tensor names must differ; adapters and, beside other
    files, ``consolidated*`` copies do not count. Shards are sorted by name.

    Raises SourceError when the folder is missing or cannot be listed, CheckpointError for anything
    in it that is broken, hostile or unsupported (pickles, GGUF, adapters without weights). Cost:
    the headers, 100 MB a file at most; the result can be pickled and sent to other processes.
    """
    folder = Path(os.path.abspath(folder.expanduser()))
    names = _list(folder)
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    if len(indexes) > 1:
        raise CheckpointError(
            f"{folder}: found several index files ({', '.join(indexes)}), expected one; variants"
            " of one model lie together; leave only the one to be refined in the folder"
        )
    if indexes:
        weight_map = _read_weight_map(folder, indexes[0])
        _refuse_two_models(folder, names, indexes[0], weight_map)
        shards = _read_shards(folder, sorted(set(weight_map.values())))
        _compare(folder / indexes[0], weight_map, shards)
    else:
        shards = _read_shards(folder, _unindexed(folder, names))
        _refuse_duplicates(folder, shards)
    tensors = {entry.name: entry for shard in shards for entry in shard.tensors}
    if not tensors:
        raise CheckpointError(
            f"{folder}: its safetensors files hold no tensor; the export failed; download it again"
        )
    return Checkpoint(
        folder=folder,
        shards=shards,
        tensors=tensors,
        index_name=indexes[0] if indexes else None,
        config=_read_config(folder, names),
    )


def stale_shards(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Names of ``*.safetensors`` files in the folder that are no part of the checkpoint, sorted.

    They are left-overs of another export, adapters, or copies in another format; nothing reads
    them. Raises SourceError when the folder can no longer be listed.
    """
    used = {shard.name for shard in checkpoint.shards}
    return tuple(
        name
        for name in _list(checkpoint.folder)
        if name.endswith(".safetensors") and name not in used
    )


def _list(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except NotADirectoryError:
        raise SourceError(not_a_folder(str(folder))) from None
    except FileNotFoundError:
        raise SourceError(
            f"{folder}: no such folder; check the spelling, or give a Hub id such as org/name"
        ) from None
    except OSError as error:
        raise SourceError(
            f"{folder}: cannot be listed: {error.strerror}; check its permissions"
        ) from None


def contained(folder: Path, name: str) -> Path:
    """``folder / name`` as a regular file, after making sure that no link leads elsewhere.

    A snapshot in a Hub cache links to the ``blobs`` folder of its own repository, nothing else may
    leave the folder: a link to a private file would be copied into the output.
    """
    path = folder / name
    try:
        target = path.resolve(strict=True)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: missing; the download or copy is incomplete, or a link points nowhere;"
            " download it again"
        ) from None
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        raise CheckpointError(
            f"{path}: cannot be followed to a file (a loop of links, or no permission); replace it"
            " by the file itself"
        ) from None
    home = folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if not (target.is_relative_to(home) or target.is_relative_to(blobs)):
        raise CheckpointError(
            f"{path}: a link that leads out of the folder, to {target}; expected the file itself,"
            " or a link within the folder or into its own Hub cache; replace it by the file"
        )
    if not target.is_file():
        raise CheckpointError(f"{path}: expected a regular file; replace it by one")
    return path


def _read_limited(path: Path, largest_bytes: int) -> bytes:
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if size_bytes > largest_bytes:
        raise CheckpointError(
            f"{path}: {size_bytes} bytes long, expected at most {largest_bytes}; that is another"
            " kind of file; download it again"
        )
    return bytes(read_range(path, 0, size_bytes))


def _read_config(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """config.json as transformers reads it, NaN and repeated keys included; empty if absent."""
    if "config.json" not in names:
        return {}
    path = contained(folder, "config.json")
    return json_object(_read_limited(path, LARGEST_CONFIG_BYTES), str(path))


def _read_weight_map(folder: Path, index_name: str) -> dict[str, str]:
    path = contained(folder, index_name)
    raw = _read_limited(path, LARGEST_INDEX_BYTES)
    weight_map = json_object(raw, str(path), object_pairs_hook=unique_keys).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{path}: weight_map is {shown(weight_map)}, expected an object from tensor names to"
            " shard files; the index is damaged; download it again"
        )
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not _safe_name(shard):
            raise CheckpointError(
                f"{path}: tensor {shown(tensor)} lies in {shown(shard)}, expected a file such as"
                " model-00001-of-00002.safetensors in the folder of the index; the index is"
                " damaged or hostile; download it from its author"
            )
    return weight_map


def _safe_name(name: str) -> bool:
    """A plain relative path to a safetensors file, written the only way it can be written."""
    path = PurePosixPath(name)
    return (
        name.endswith(".safetensors")
        and name.isprintable()
        and "\\" not in name
        and not path.is_absolute()
        and ".." not in path.parts
        and str(path) == name
    )


def _refuse_two_models(
    folder: Path, names: Iterable[str], index_name: str, weight_map: dict[str, str]
) -> None:
    if "model.safetensors" in names and "model.safetensors" not in weight_map.values():
        raise CheckpointError(
            f"{folder}: found model.safetensors beside {index_name}, which does not list it:"
            " transformers would load the former, other programs the latter; two exports lie"
            " together; remove the one that is out of date"
        )


def _read_shards(folder: Path, names: Iterable[str]) -> tuple[Shard, ...]:
    return tuple(read_shard(contained(folder, name), name) for name in names)


def _compare(index: Path, weight_map: dict[str, str], shards: Iterable[Shard]) -> None:
    """Refuse an index that does not list exactly the tensors of its shards, each in its place."""
    lying = {(entry.name, shard.name) for shard in shards for entry in shard.tensors}
    listed = set(weight_map.items())
    missing = sorted(listed - lying)
    if missing:
        raise CheckpointError(
            f"{index}: lists {_some(missing)}, which the shard does not hold; index and shards"
            " come from different exports; download both again"
        )
    unlisted = sorted(lying - listed)
    if unlisted:
        raise CheckpointError(
            f"{index}: does not list {_some(unlisted)}, which the shard holds: no program would"
            " load it; the index was copied from another model; save the model anew with"
            " transformers, or add the tensors to weight_map"
        )


def _some(places: list[tuple[str, str]]) -> str:
    first = ", ".join(f"{shown(tensor)} in {shown(shard)}" for tensor, shard in places[:3])
    return first if len(places) <= 3 else f"{first} and {len(places) - 3} more"


def _refuse_duplicates(folder: Path, shards: Iterable[Shard]) -> None:
    places: dict[str, TensorEntry] = {}
    for shard in shards:
        for entry in shard.tensors:
            other = places.setdefault(entry.name, entry)
            if other is not entry:
                raise CheckpointError(
                    f"{folder}: tensor {shown(entry.name)} lies in {shown(other.shard)} and in"
                    f" {shown(entry.shard)}, expected one place; there is no index to decide;"
                    " remove the files of the other export"
                )


def _unindexed(folder: Path, names: list[str]) -> list[str]:
    """The safetensors files that make up a checkpoint without an index."""
    found = [
        name
        for name in names
        if name.endswith(".safetensors") and name != "adapter_model.safetensors"
    ]
    if "model.safetensors" in found:
        return ["model.safetensors"]
    # Mistral's own format of the same weights, often shipped beside the other.
    found = [name for name in found if not name.startswith("consolidated")] or found
    if not found:
        raise no_weights(folder, names)
    for name in found:
        if not _safe_name(name):
            raise CheckpointError(f"{folder}: file {shown(name)}: rename it; expected plain text")
        match = _OF_MANY.fullmatch(name)
        if match is not None:
            _refuse_missing_part(folder, found, match[1], int(match[3]))
    return found


def _refuse_missing_part(folder: Path, found: list[str], stem: str, parts: int) -> None:
    present = [match for name in found if (match := _OF_MANY.fullmatch(name)) and match[1] == stem]
    if len(present) != parts or {int(match[2]) for match in present} != set(range(1, parts + 1)):
        raise CheckpointError(
            f"{folder}: found {len(present)} of the {parts} files {stem}-…-of-{parts:05d}"
            ".safetensors, and no index; an incomplete download; download the rest"
        )
