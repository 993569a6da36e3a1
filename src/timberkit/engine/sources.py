"""The two checkpoints of a recipe: found, opened, pinned, named without telling of the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.layout import Checkpoint
from timberkit.checkpoint.reader import check_unchanged, fingerprint
from timberkit.checkpoint.source import ResolvedSource, public_name, resolve
from timberkit.config import RefineRecipe, Source
from timberkit.errors import UsageError


@dataclass(frozen=True, slots=True)
class OpenPair:
    """Base and Instruct, opened; ``recipe`` names the revisions that were found."""

    recipe: RefineRecipe
    base: Checkpoint
    instruct: Checkpoint
    base_source: ResolvedSource
    instruct_source: ResolvedSource

    @property
    def folders(self) -> tuple[Path, Path]:
        """Where the two lie; never written to."""
        return self.base.folder, self.instruct.folder

    def fingerprint(self) -> dict[str, Any]:
        """What the files of both look like now (``reader.fingerprint``), JSON-able."""
        return {"base": fingerprint(self.base), "instruct": fingerprint(self.instruct)}

    def check_unchanged(self, expected: Mapping[str, Any]) -> None:
        """Raise CheckpointError unless both still look as ``fingerprint`` recorded them."""
        check_unchanged(self.base, expected["base"])
        check_unchanged(self.instruct, expected["instruct"])


def open_pair(recipe: RefineRecipe) -> OpenPair:
    """Resolve, fetch where necessary, validate both checkpoints and pin the recipe.

    Raises SourceError or CheckpointError as ``resolve`` and ``open_checkpoint``; UsageError when
    both are the same folder.
    """
    base_source, instruct_source = resolve(recipe.base), resolve(recipe.instruct)
    if base_source.folder.resolve() == instruct_source.folder.resolve():
        raise UsageError(
            f"{recipe.base} and {recipe.instruct} are the same folder, expected a Base and an"
            " Instruct model; their delta is zero and there is nothing to refine"
        )
    pinned = recipe.model_copy(
        update={
            "base": pin(recipe.base, base_source),
            "instruct": pin(recipe.instruct, instruct_source),
        }
    )
    return OpenPair(
        recipe=pinned,
        base=open_checkpoint(base_source.folder),
        instruct=open_checkpoint(instruct_source.folder),
        base_source=base_source,
        instruct_source=instruct_source,
    )


def pin(source: Source, resolved: ResolvedSource) -> Source:
    """The source as a manifest keeps it.

    A hub id with its commit; a folder as an absolute path in which the user's home is ``~``, so
    that a published manifest names no account.
    """
    if resolved.is_hub:
        return Source(location=source.location, revision=resolved.revision)
    home = os.path.expanduser("~")
    path = str(resolved.folder)
    if path == home or path.startswith(home.rstrip(os.sep) + os.sep):
        path = "~" + path[len(home.rstrip(os.sep)) :]
    return Source(location=path)


def described(resolved: ResolvedSource) -> dict[str, Any]:
    """Name and revision of a source for a manifest; never a path."""
    return {"name": public_name(resolved), "revision": resolved.revision, "hub": resolved.is_hub}
