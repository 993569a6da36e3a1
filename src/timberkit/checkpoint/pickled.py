"""Pickled weights, the ``pytorch_model*.bin`` of transformers: found, and read without their code.

    checkpoint = converted(PickledModel(folder, pickle_files(folder)))

``torch.load(weights_only=True)`` builds tensors and plain containers and calls nothing else. It is
a second line all the same: nothing here runs unless the user has asked for pickles.

Not here: when a pickle is accepted (``engine.sources``), writing it anew (``conversion``).
"""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timberkit.checkpoint.conversion import ForeignShard, Lazy
from timberkit.checkpoint.families import classify
from timberkit.checkpoint.header import json_object, shown, unique_keys
from timberkit.checkpoint.index import LARGEST_INDEX_BYTES, contained, read_config, read_limited
from timberkit.checkpoint.reader import TORCH_NAMES, read_range
from timberkit.errors import CheckpointError

if TYPE_CHECKING:
    import torch

PICKLES = "pickles"
INDEX = "pytorch_model.bin.index.json"
_END_BYTES = 1 << 20
_FORMAT_NAMES = {name: dtype for dtype, name in TORCH_NAMES.items()}
_FILE = re.compile(r"pytorch_model(?:-(\d{5})-of-(\d{5}))?\.bin", re.ASCII)


@dataclass(slots=True)
class PickledModel:
    """The pickles of a folder as ``conversion`` takes a model.

    A head that shares its storage with the embedding is left to config.json where that ties them,
    as transformers does when it saves; every other tensor is written, shared or not.
    """

    folder: Path
    files: tuple[str, ...]
    kind: str = PICKLES
    config: Mapping[str, Any] | None = None
    _passed_over: set[str] = field(default_factory=set)

    def look(self) -> dict[str, Any]:
        """Place, size, time and end of each file: a zip archive ends with checksums of the rest."""
        return {"folder": str(self.folder.resolve()), "files": list(map(self._look, self.files))}

    def shards(self) -> Iterator[ForeignShard]:
        """One for each pickle, its tensors mapped."""
        tied = read_config(self.folder).get("tie_word_embeddings") is True
        lacking = set(_weight_map(self.folder))
        for name in self.files:
            tensors, left_out = read_pickle(self.folder / name)
            self._passed_over.update(left_out)
            lacking -= {*tensors, *left_out}
            if tied:
                tensors = _without_tied_heads(tensors)
            yield ForeignShard(
                safetensors_name(name),
                name,
                {
                    tensor: Lazy(self._dtype(name, tensor, value), tuple(value.shape), value.detach)
                    for tensor, value in tensors.items()
                },
            )
        if lacking:
            raise CheckpointError(
                f"{self.folder / INDEX}: lists {len(lacking)} tensors that no file holds, such as"
                f" {shown(sorted(lacking)[0])}; index and files come from different exports, or the"
                " download is incomplete: download both again"
            )

    def left_out(self) -> tuple[str, ...]:
        """Entries that were no tensors, sorted; known once ``shards`` has been through."""
        return tuple(sorted(self._passed_over))

    def _look(self, name: str) -> list[Any]:
        path = self.folder / name
        status = path.stat()
        start = max(0, status.st_size - _END_BYTES)
        end = read_range(path, start, status.st_size - start)
        return [name, status.st_size, status.st_mtime_ns, hashlib.sha256(end).hexdigest()]

    def _dtype(self, name: str, tensor: str, value: torch.Tensor) -> str:
        found = _FORMAT_NAMES.get(str(value.dtype).removeprefix("torch."))
        if found is None:
            raise CheckpointError(
                f"{self.folder / name}: {shown(tensor)} is of {value.dtype}, which safetensors does"
                " not have; save the model anew in BF16, F16 or F32"
            )
        return found


def _without_tied_heads(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All but heads that are one with an embedding."""
    kinds = {name: classify(name, tuple(value.shape)).kind for name, value in tensors.items()}
    embedded = {_storage(value) for name, value in tensors.items() if kinds[name] == "embedding"}
    return {
        name: value
        for name, value in tensors.items()
        if kinds[name] != "head" or _storage(value) not in embedded
    }


def _storage(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def pickle_files(folder: Path) -> tuple[str, ...]:
    """Names of the pickles that make up the model in a folder, sorted; none where there are none.

    Those of the index, else ``pytorch_model.bin``, else all ``pytorch_model-…-of-….bin``. Opens
    the index at most. Raises CheckpointError for an index that is broken or names other files, and
    for a part that is missing or leads out of the folder.
    """
    names = {path.name for path in folder.iterdir()}
    if INDEX in names:
        found = _indexed(folder)
    elif "pytorch_model.bin" in names:
        found = {"pytorch_model.bin"}
    else:
        found = {name for name in names if _FILE.fullmatch(name)}
        _refuse_missing(folder, found)
    for name in found:
        contained(folder, name)
    return tuple(sorted(found))


def safetensors_name(pickle_name: str) -> str:
    """What the file is called once it is converted.

    >>> safetensors_name("pytorch_model-00001-of-00002.bin")
    'model-00001-of-00002.safetensors'
    """
    return f"{pickle_name.removeprefix('pytorch_').removesuffix('.bin')}.safetensors"


def read_pickle(path: Path) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The tensors of a pickle by name, and the names of its entries that are none.

    Of a file in torch's format (since 1.6) the tensors are mapped, not read; an older one is read
    whole. Nothing in the pickle is called.

    Raises CheckpointError for a file that cannot be read, that needs more than tensors and plain
    containers, that holds no tensor, or one that is sparse, quantised, or larger than the bytes
    behind it.
    """
    content = _load(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path}: holds a {type(content).__name__}, expected tensors by name; no weights of"
            " transformers; save the model anew with save_pretrained"
        )
    import torch

    tensors, left_out = {}, []
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            _check_tensor(path, name, value)
            tensors[name] = value.detach()
        else:
            left_out.append(str(name))
    if not tensors:
        raise CheckpointError(
            f"{path}: holds {', '.join(map(shown, left_out[:5])) or 'nothing'}, expected tensors by"
            " name; a training state, not a model; save the model anew with save_pretrained"
        )
    return tensors, tuple(left_out)


def _load(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles of other protocols, which may load
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:
        # Damaged and hostile bytes make the unpickler fail in every way there is. Where it met a
        # function, torch's message spells out the way around the protection: its name is enough.
        met = re.search(r"GLOBAL ([\w.]{1,100})", str(error))
        if isinstance(error, pickle.UnpicklingError) and met is not None:
            raise CheckpointError(
                f"{path}: asks for code to be run ({met[1]}), expected tensors and nothing else;"
                " refused, nothing was run; a file of a careless or hostile author: look for the"
                " model in safetensors"
            ) from None
        raise CheckpointError(
            f"{path}: is no readable pickle of torch ({type(error).__name__}); damaged or cut off:"
            " download it again"
        ) from None


def _check_tensor(path: Path, name: str, tensor: torch.Tensor) -> None:
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        kind = "quantised" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
        raise CheckpointError(
            f"{path}: {shown(name)} is {kind} on {tensor.device}, expected a plain dense tensor;"
            " save the model anew in BF16, F16 or F32"
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path}: {shown(name)} of shape {list(tensor.shape)} has"
            f" {tensor.untyped_storage().nbytes()} bytes behind it, expected"
            f" {tensor.numel() * tensor.element_size()}; repeated or hostile: save the model anew"
        )


def _weight_map(folder: Path) -> dict[str, Any]:
    """Tensor to file as the index has it; empty without an index."""
    if not (folder / INDEX).exists():
        return {}
    path = contained(folder, INDEX)
    raw = read_limited(path, LARGEST_INDEX_BYTES)
    found = json_object(raw, str(path), object_pairs_hook=unique_keys).get("weight_map")
    return found if isinstance(found, dict) else {}


def _indexed(folder: Path) -> set[str]:
    path = folder / INDEX
    files = list(_weight_map(folder).values())
    wrong = [name for name in files if not (isinstance(name, str) and _FILE.fullmatch(name))]
    if wrong or not files:
        raise CheckpointError(
            f"{path}: names {shown(wrong[0]) if wrong else 'no file'}, expected files such as"
            " pytorch_model-00001-of-00002.bin beside it; the index is damaged; download it again"
        )
    others = {entry.name for entry in folder.iterdir() if _FILE.fullmatch(entry.name)} - set(files)
    if others:
        raise CheckpointError(
            f"{path}: does not list {shown(sorted(others)[0])}, which lies beside it; two exports"
            " lie together: remove the one that is out of date"
        )
    return set(files)


def _refuse_missing(folder: Path, found: set[str]) -> None:
    parts = [match for name in found if (match := _FILE.fullmatch(name))]
    wanted = {int(match[2]) for match in parts}
    if parts and (len(wanted) > 1 or {int(match[1]) for match in parts} != set(
        range(1, max(wanted) + 1)
    )):  # fmt: skip
        raise CheckpointError(
            f"{folder}: found {len(parts)} of the {max(wanted)} files pytorch_model-…-of-"
            f"{max(wanted):05d}.bin, and no index; an incomplete download; download the rest"
        )
