"""Sources that are not plain safetensors, written once as such into a cache.

::

    $TIMBERKIT_CACHE, else $XDG_CACHE_HOME/timberkit, else ~/.cache/timberkit
    └── converted/
        ├── KEY.lock             held by whoever builds or removes the entry
        ├── .KEY.building/       an entry that is not finished; its whole files are kept
        └── KEY/
            ├── conversion.json  from what, how, and the size of each file; written last
            └── NAME/            the model: model*.safetensors and the small files beside them

``KEY`` is a hash of what the source's files look like and of ``CONVERTER``, so that a changed
source or another way of converting is another entry. Each weight file gets the time of change of
the file it was made from: an entry that was removed and made again has the same fingerprint, and a
run that was begun with the first goes on with the second.

    checkpoint = converted(foreign)      # opened; builds the entry where there is none
    checkpoint = planned(foreign)        # what it would be; writes nothing

Not here: what the formats are (``pickled``, ``dequantise``).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from filelock import FileLock, Timeout

from timberkit.checkpoint.header import shown
from timberkit.checkpoint.index import contained, open_checkpoint, read_config
from timberkit.checkpoint.layout import Checkpoint, Shard
from timberkit.checkpoint.model_card import CARD_NAME
from timberkit.checkpoint.output_layout import ShardLayout
from timberkit.checkpoint.planned import FILE, checkpoint_of, planned_shard
from timberkit.checkpoint.sidecars import INDEX_NAME, LARGEST_SIDECAR_BYTES, sidecar_files
from timberkit.checkpoint.writer import (
    create_shard,
    free_bytes,
    sync_file,
    sync_folder,
    write_at,
    write_file,
)
from timberkit.errors import CheckpointError, ResourceError, TimberkitError

if TYPE_CHECKING:
    import torch

CONVERTER = 1
"""Raised whenever the bytes that a conversion writes change."""
NOTE = "conversion.json"
_ENTRY = re.compile(r"[0-9a-f]{24}|\.[0-9a-f]{24}\.(building|discarded)", re.ASCII)
SPARE_BYTES = 64 << 20

OnBytes = Callable[[int, int], None]
"""Called with the bytes written so far and in all."""


@dataclass(frozen=True, slots=True)
class Lazy:
    """A tensor that a conversion will write: its dtype in the format's words, and how to get it."""

    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True)
class ForeignShard:
    """One weight file to be written, and the source file whose time of change it gets."""

    name: str
    origin: str
    tensors: Mapping[str, Lazy]


class Foreign(Protocol):
    """A model in a folder whose weights have to be written anew before they can be used."""

    @property
    def folder(self) -> Path:
        """Where it lies; never written to."""
        ...

    @property
    def kind(self) -> str:
        """What it is, in a word or two: ``pickles``, ``fp8``."""
        ...

    @property
    def config(self) -> Mapping[str, Any] | None:
        """What config.json shall say; None for what it says."""
        ...

    def look(self) -> Mapping[str, Any]:
        """What its files look like now, JSON-able: equal looks, equal bytes."""
        ...

    def shards(self) -> Iterator[ForeignShard]:
        """The files to write, one at a time; raises CheckpointError for a broken source."""
        ...

    def left_out(self) -> tuple[str, ...]:
        """Entries that ``shards`` passed over, for they are no weights."""
        ...


def cache_folder() -> Path:
    """Where conversions are kept: see the module."""
    named = os.environ.get("TIMBERKIT_CACHE")
    if named:
        return Path(named).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser() / "timberkit"


def planned(foreign: Foreign) -> Checkpoint:
    """The checkpoint that a conversion would make, from shapes alone; nothing is written."""
    shards = [_planned(foreign.folder, shard) for shard in foreign.shards()]
    _check_names(foreign.folder, shards)
    return checkpoint_of(foreign.folder, shards, _config(foreign))


def entry_folder(foreign: Foreign) -> Path:
    """Where the converted model lies, or will."""
    small = {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in _small_files(foreign.folder).items()
    }
    look = {"converter": CONVERTER, "kind": foreign.kind, "look": foreign.look(), "small": small}
    key = hashlib.sha256(json.dumps(look, sort_keys=True).encode()).hexdigest()[:24]
    # By its real name: an entry has one model, by whatever link that is given.
    return cache_folder() / "converted" / key / (foreign.folder.resolve().name or "model")


def converted(foreign: Foreign, on_bytes: OnBytes | None = None) -> Checkpoint:
    """The converted model, opened; written first where the cache does not have it whole.

    Two processes that ask for one entry build it once. A build that was killed is continued with
    the next file. Raises ResourceError when the disk has no room, CheckpointError for a source
    that is broken or changes meanwhile. Memory: one tensor. Disk: the weights once more.
    """
    if cache_folder().resolve().is_relative_to(foreign.folder.resolve()):
        raise ResourceError(
            f"{cache_folder()}: the cache of converted models lies in the model's own folder"
            f" ({foreign.folder}), which is never written to; set TIMBERKIT_CACHE elsewhere"
        )
    model = entry_folder(foreign)
    entry = model.parent
    _make_folder(entry.parent)
    with FileLock(entry.parent / f"{entry.name}.lock"):
        found = _whole(entry, model)
        if found is not None:
            return found
        shutil.rmtree(entry, ignore_errors=True)
        building = entry.parent / f".{entry.name}.building"
        _build(foreign, building, model.name, on_bytes)
        if entry_folder(foreign) != model:
            raise CheckpointError(
                f"{foreign.folder}: changed while it was converted; wait until nothing writes there"
                " and run the same command again"
            )
        building.rename(entry)
        sync_folder(entry.parent)
    return open_checkpoint(model)


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies in the cache for one source, finished or not."""

    path: Path
    size_bytes: int


def find_entries() -> list[Entry]:
    """Everything in the cache, sorted; reads sizes only."""
    root = cache_folder() / "converted"
    folders = sorted(path for path in root.glob("*") if _is_entry(path))
    return [Entry(folder, sum(_sizes(folder).values())) for folder in folders]


def _is_entry(path: Path) -> bool:
    """Whether a conversion made it: by its name, and a finished one by its note."""
    match = _ENTRY.fullmatch(path.name)
    if match is None or path.is_symlink() or not path.is_dir():
        return False
    return match[1] is not None or (path / NOTE).is_file()


def remove_entry(entry: Entry) -> bool:
    """Remove an entry; False while another process builds it, True where it is gone already.

    A run that reads it goes on with the files that it has open and fails on the next; its command
    converts again and continues.
    """
    key = entry.path.name.lstrip(".").partition(".")[0]
    lock = FileLock(entry.path.parent / f"{key}.lock", timeout=0)
    try:
        with lock:
            discarded = entry.path.with_name(f".{key}.discarded")
            if entry.path != discarded:
                shutil.rmtree(discarded, ignore_errors=True)  # of a removal that was killed
                entry.path.rename(discarded)  # a half-removed entry must never pass for one
            shutil.rmtree(discarded)
    except FileNotFoundError:
        return True
    except Timeout:
        return False
    return True


def _whole(entry: Path, model: Path) -> Checkpoint | None:
    """The entry's checkpoint, if every file has the size that was noted."""
    try:
        note = json.loads((entry / NOTE).read_text(encoding="utf-8"))
        return open_checkpoint(model) if _sizes(model) == note["files"] else None
    except (OSError, ValueError, KeyError, AttributeError, TimberkitError):
        return None


def _build(foreign: Foreign, building: Path, name: str, on_bytes: OnBytes | None) -> None:
    target = building / name
    target.mkdir(parents=True, exist_ok=True)
    shards = [(shard.name, _planned(target, shard)) for shard in foreign.shards()]
    _check_names(foreign.folder, [shard for _, shard in shards])
    for draft in target.glob(".*.part"):  # of a build that was killed: its room counts as free
        draft.unlink()
    total = sum(shard.size_bytes for _, shard in shards)
    kept = sum((target / name).stat().st_size for name, _ in shards if (target / name).exists())
    _check_room(building, total - kept)
    done = 0
    weight_map: dict[str, str] = {}
    for shard in foreign.shards():
        layout = _planned(target, shard)
        path = target / shard.name
        if not path.exists():  # else of a build that was killed later
            done = _write_shard(foreign.folder, path, layout, shard, done, total, on_bytes)
        else:
            done += layout.size_bytes
        weight_map |= {tensor.name: shard.name for tensor in layout.tensors}
    if [name for name, _ in shards] != [FILE]:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_file(target / INDEX_NAME, json.dumps(index, indent=2).encode())
    _copy_small_files(foreign, target)
    for name in _sizes(target):
        sync_file(target / name)
    for parent, _, _ in os.walk(target):
        sync_folder(Path(parent))
    note = {
        "converter": CONVERTER,
        "kind": foreign.kind,
        "left_out": list(foreign.left_out()),
        "files": _sizes(target),
    }
    write_file(building / NOTE, json.dumps(note, indent=2).encode())
    sync_file(building / NOTE)
    sync_folder(building)


def _sizes(model: Path) -> dict[str, int]:
    files = (path for path in sorted(model.rglob("*")) if path.is_file())
    return {path.relative_to(model).as_posix(): path.stat().st_size for path in files}


def _planned(folder: Path, shard: ForeignShard) -> Shard:
    tensors = {name: (lazy.dtype, lazy.shape) for name, lazy in shard.tensors.items()}
    return planned_shard(folder, shard.name, tensors)


def _write_shard(
    source: Path,
    path: Path,
    layout: Shard,
    shard: ForeignShard,
    done: int,
    total: int,
    on_bytes: OnBytes | None,
) -> int:
    """Write one file under a name of its own, then rename it; the bytes written so far."""
    draft = path.with_name(f".{path.name}.part")
    header = layout.header or b""
    create_shard(draft, ShardLayout(draft.name, header, layout.size_bytes, layout.tensors))
    done += len(header)
    for entry in layout.tensors:
        write_at(draft, entry.start_byte, _bytes(shard.tensors[entry.name].load()))
        done += entry.size_bytes
        if on_bytes is not None:
            on_bytes(done, total)
    time_ns = (source / shard.origin).stat().st_mtime_ns
    os.utime(draft, ns=(time_ns, time_ns))
    sync_file(draft)
    draft.rename(path)
    return done


def _bytes(tensor: torch.Tensor) -> memoryview:
    """Its bytes, row-major; a copy only of what is not stored so."""
    import torch

    flat = tensor.contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy().data) if flat.numel() else memoryview(b"")


def _copy_small_files(foreign: Foreign, target: Path) -> None:
    """Configuration, tokenizer, template, card: what a loader and a later output need."""
    for name, path in _small_files(foreign.folder).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        write_file(target / name, path.read_bytes())
    if foreign.config is not None:
        write_file(target / "config.json", json.dumps(foreign.config, indent=2).encode())


def _small_files(folder: Path) -> dict[str, Path]:
    """What lies beside the weights and is copied, by relative name."""
    found = {}
    for name, reason in {**sidecar_files(folder), CARD_NAME: ""}.items():
        if not reason and (folder / name).is_file():
            path = contained(folder, name)
            if path.stat().st_size <= LARGEST_SIDECAR_BYTES:
                found[name] = path
    return found


def _check_names(folder: Path, shards: Sequence[Shard]) -> None:
    """Raise CheckpointError for a name that is there twice, or that the format keeps for itself."""
    places: dict[str, str] = {}
    for shard in shards:
        for entry in shard.tensors:
            other = places.setdefault(entry.name, shard.name)
            if other != shard.name or entry.name == "__metadata__":
                raise CheckpointError(
                    f"{folder}: tensor {shown(entry.name)} is in the files of {other} and"
                    f" {shard.name}, expected one place for each name, and no __metadata__; two"
                    " exports lie together, or the files are damaged"
                )


def _config(foreign: Foreign) -> Mapping[str, Any]:
    if foreign.config is not None:
        return foreign.config
    return read_config(foreign.folder)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"{path}: cannot be made: {error.strerror}; the cache of converted models needs a"
            " folder that can be written; set TIMBERKIT_CACHE to one"
        ) from None


def _check_room(building: Path, needed: int) -> None:
    free = free_bytes(building)
    if free < needed + SPARE_BYTES:
        raise ResourceError(
            f"{building.parent.parent}: {free / 1e9:.1f} GB free, expected"
            f" {(needed + SPARE_BYTES) / 1e9:.1f} GB for the converted weights; free some space"
            " (timberkit clean --cache shows what lies there), or set TIMBERKIT_CACHE elsewhere"
        )
