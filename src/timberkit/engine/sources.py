"""The two checkpoints of a recipe: found, opened, pinned, named without telling of the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timberkit.checkpoint.adapter import Adapter, is_adapter, open_adapter
from timberkit.checkpoint.conversion import Foreign, converted, planned
from timberkit.checkpoint.dequantise import quantised_model
from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.layout import Checkpoint
from timberkit.checkpoint.pickled import PICKLES, PickledModel, pickle_files
from timberkit.checkpoint.reader import check_unchanged, fingerprint
from timberkit.checkpoint.source import ResolvedSource, public_name, resolve
from timberkit.config import RefineRecipe, Source
from timberkit.engine.progress import Progress, ProgressCallback
from timberkit.errors import UsageError


@dataclass(frozen=True, slots=True)
class OpenPair:
    """Base and Instruct, opened; ``recipe`` names the revisions that were found."""

    recipe: RefineRecipe
    base: Checkpoint
    instruct: Checkpoint
    base_source: ResolvedSource
    instruct_source: ResolvedSource
    conversions: Mapping[str, str] = field(default_factory=dict)
    """``base`` or ``instruct`` to what was, or will be, converted: ``pickles``."""
    adapter: Adapter | None = None
    """What is added to Base where Instruct is an adapter; ``instruct`` is Base then."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the two lie, converted or not; never written to."""
        given = self.base_source.folder, self.instruct_source.folder
        return tuple(dict.fromkeys([*given, self.base.folder, self.instruct.folder]))

    @property
    def weights(self) -> dict[str, Checkpoint]:
        """The files that each of ``base`` and ``instruct`` was given as."""
        own = self.instruct if self.adapter is None else self.adapter.weights
        return {"base": self.base, "instruct": own}

    def fingerprint(self) -> dict[str, Any]:
        """What the files of both look like now (``reader.fingerprint``), JSON-able."""
        return {which: fingerprint(found) for which, found in self.weights.items()}

    def check_unchanged(self, expected: Mapping[str, Any]) -> None:
        """Raise CheckpointError unless both still look as ``fingerprint`` recorded them."""
        for which, found in self.weights.items():
            check_unchanged(found, expected[which])


@dataclass(frozen=True, slots=True)
class Opening:
    """How sources are opened that are not plain safetensors.

    ``adapters``: take a LoRA adapter for Instruct. ``allow_pickle``: read ``pytorch_model*.bin``
    (``weights_only``), which are refused otherwise. ``dequantise``: turn weights in FP8 blocks or
    of compressed-tensors into BF16, likewise. ``write``: convert what has to be converted
    (``checkpoint.conversion``); False is enough for a plan. ``on_progress``: told meanwhile.
    """

    allow_pickle: bool = False
    dequantise: bool = False
    adapters: bool = True
    write: bool = True
    on_progress: ProgressCallback | None = None


ANY = Opening()
"""What needs no flag."""
PLAIN = Opening(adapters=False)
"""Whole models in plain safetensors, nothing else."""


def open_pair(recipe: RefineRecipe, opening: Opening = PLAIN) -> OpenPair:
    """Resolve, fetch where necessary, convert where asked, validate both, and pin the recipe.

    Raises SourceError or CheckpointError as ``resolve`` and ``open_model``; UsageError when both
    are the same folder.
    """
    base_source, instruct_source = (
        resolve(source, allow_pickle=opening.allow_pickle)
        for source in (recipe.base, recipe.instruct)
    )
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
    base, base_was = open_model(base_source, opening)
    adapter = None
    if opening.adapters and is_adapter(instruct_source.folder):
        adapter = open_adapter(instruct_source.folder, base)
        instruct, instruct_was = base, None
    else:
        instruct, instruct_was = open_model(instruct_source, opening)
    was = {"base": base_was, "instruct": instruct_was}
    return OpenPair(
        recipe=pinned,
        base=base,
        instruct=instruct,
        base_source=base_source,
        instruct_source=instruct_source,
        conversions={name: kind for name, kind in was.items() if kind is not None},
        adapter=adapter,
    )


def open_model(source: ResolvedSource, opening: Opening = PLAIN) -> tuple[Checkpoint, str | None]:
    """One source, opened, and what it was before it was converted, None if it was plain.

    Raises as ``open_checkpoint``, ``pickle_files`` and ``converted``.
    """
    foreign = _foreign(source.folder, opening)
    if isinstance(foreign, Checkpoint):
        return foreign, None
    if not opening.write:
        return planned(foreign), foreign.kind

    def tell(done: int, total: int) -> None:
        if opening.on_progress is not None:
            phase = f"convert {public_name(source)}"
            opening.on_progress(Progress(phase, 0, done, done, 1, total, total))

    return converted(foreign, tell), foreign.kind


def rounding_caution(conversions: Mapping[str, str]) -> str:
    """What to say of sources that were quantised; empty where none was.

    >>> rounding_caution({"base": "pickles"})
    ''
    """
    quantised = [which.capitalize() for which, kind in conversions.items() if kind != PICKLES]
    if not quantised:
        return ""
    return (
        f"{' and '.join(quantised)} {'were' if len(quantised) > 1 else 'was'} quantised: what"
        " rounding took from the weights does not come back, and lies in the delta, mostly in the"
        " tail that is cut. The unquantised original is the better source."
    )


def cautions(pair: OpenPair) -> tuple[str, ...]:
    """What a user should know of the sources: sentences, mostly none."""
    found = [rounding_caution(pair.conversions)]
    if pair.adapter is not None:
        named, base = pair.adapter.trained_on, public_name(pair.base_source)
        if named is not None and _last(named) != _last(base):
            found.append(
                f"The adapter says that it was trained on {named}, and BASE is {base}: make sure"
                " that they are one model."
            )
    return tuple(sentence for sentence in found if sentence)


def _last(name: str) -> str:
    return name.rpartition("/")[2].lower()


def _foreign(folder: Path, opening: Opening) -> Foreign | Checkpoint:
    """What has to be converted; the opened checkpoint where nothing has to."""
    if opening.allow_pickle and not any(folder.glob("*.safetensors")):
        files = pickle_files(folder)
        if files:
            return PickledModel(folder, files)
    checkpoint = open_checkpoint(folder)
    return (quantised_model(checkpoint) if opening.dequantise else None) or checkpoint


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
