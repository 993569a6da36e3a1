"""The files of a model that is to be asked: where they are, what they say, what identifies them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from timberkit.checkpoint.header import json_object
from timberkit.checkpoint.index import contained, open_checkpoint
from timberkit.checkpoint.manifest import hash_file
from timberkit.checkpoint.reader import read_range
from timberkit.checkpoint.source import resolve
from timberkit.errors import CheckpointError
from timberkit.evaluation.models import ModelSource
from timberkit.evaluation.sampling import ModelFacts

IDENTIFYING = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("tokenizer.model", "vocab.json", "merges.txt", "special_tokens_map.json"),
    *("chat_template.jinja", "chat_template.json"),
)
"""Files beside the weights that decide answers."""
SAMPLES, SAMPLE_BYTES = 64, 65536
MOST_FILE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model whose files are on this disk."""

    source: ModelSource
    folder: Path

    @classmethod
    def of(cls, source: ModelSource) -> ModelFiles:
        """Find them, from the Hub where necessary, and pin the commit; raises SourceError."""
        resolved = resolve(source.source)
        if resolved.is_hub:
            source = replace(source, revision=resolved.revision)
        return cls(source, resolved.folder)


def read_facts(files: ModelFiles) -> ModelFacts:
    """Configuration and chat template of a folder, as plain values."""
    folder = files.folder
    tokenizer_config = _json_file(folder / "tokenizer_config.json")
    template = _text_file(folder / "chat_template.jinja") or tokenizer_config.get("chat_template")
    if isinstance(template, list):  # several by name: transformers uses the one called default
        named = [each for each in template if isinstance(each, dict)]
        template = next(
            (each.get("template") for each in reversed(named) if each.get("name") == "default"),
            None,
        )
    return ModelFacts(
        names=(files.source.name, files.source.location),
        config=_json_file(folder / "config.json"),
        generation_config=_json_file(folder / "generation_config.json"),
        chat_template=template if isinstance(template, str) and template else None,
        files_known=True,
    )


def fingerprint(files: ModelFiles) -> dict[str, Any]:
    """What the files are, without reading all weights.

    Of the weights: sizes, hashes of the headers, and a hash of samples taken all over each file,
    which an edit of the weights changes as good as always. Not the folder's name or times, so that
    a copy is the same model. Cost: ``SAMPLES * SAMPLE_BYTES`` a shard, 4 MB.
    """
    checkpoint = open_checkpoint(files.folder)
    weights = {}
    for shard in checkpoint.shards:
        weights[shard.name] = {
            "size_bytes": shard.size_bytes,
            "header_sha256": shard.header_sha256,
            "samples_sha256": _sampled(shard.path, shard.size_bytes),
        }
    sides = {
        name: hash_file(files.folder / name)
        for name in IDENTIFYING
        if (files.folder / name).is_file()
    }
    found: dict[str, Any] = {"kind": files.source.kind, "weights": weights, "files": sides}
    if files.source.kind == "hub":
        found |= {"id": files.source.location, "revision": files.source.revision}
    return found


def _sampled(path: Path, size_bytes: int) -> str:
    digest = hashlib.sha256()
    if size_bytes <= SAMPLES * SAMPLE_BYTES:
        digest.update(read_range(path, 0, size_bytes))
        return digest.hexdigest()
    for number in range(SAMPLES):
        start = number * (size_bytes - SAMPLE_BYTES) // (SAMPLES - 1)
        digest.update(read_range(path, start, SAMPLE_BYTES))
    return digest.hexdigest()


def _json_file(path: Path) -> dict[str, Any]:
    text = _text_file(path)
    return {} if text is None else json_object(text.encode(), str(path))


def _text_file(path: Path) -> str | None:
    """A small text file of a checkpoint, None where there is none.

    Refused are links that lead elsewhere, and what is no plain file: a pipe blocks who opens it,
    and ``/dev/zero`` has no end.
    """
    if not os.path.lexists(path):
        return None
    contained(path.parent, path.name)
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MOST_FILE_BYTES:
            raise CheckpointError(
                f"{path}: {size_bytes} bytes long, expected at most {MOST_FILE_BYTES}; that is"
                " another kind of file; download it again"
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); download it again") from None
