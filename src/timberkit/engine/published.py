"""An output as it may be published: its manifest without the paths of this machine.

``timberkit.json`` keeps where a local source lay, so that ``verify`` finds it. Who downloads the
output could not use that, and would learn how its owner's folders are called; so what is uploaded
has the folder's name alone. The output itself stays as it is, and no hash is affected, for the
manifest is the one file that it does not list.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from timberkit.checkpoint.manifest import MANIFEST_NAME, list_output_files

SOURCES = ("base", "instruct")


def public_manifest(manifest: Mapping[str, Any]) -> bytes | None:
    """The content of a manifest without paths; None where there is none in it.

    Only ``recipe`` names places: a folder ``/somewhere/tiny`` becomes ``./tiny``.

    >>> public_manifest({"recipe": {"base": {"location": "org/base"}}, "sources": {}}) is None
    False
    >>> hub = {"base": {"hub": True}, "instruct": {"hub": True}}
    >>> public_manifest({"recipe": {"base": {"location": "org/base"}}, "sources": hub}) is None
    True
    """
    recipe = manifest.get("recipe")
    if not isinstance(recipe, dict):
        return None
    shortened = {
        which: _shortened(recipe[which]) for which in local_sources(manifest) if which in recipe
    }
    if not shortened:
        return None
    content = {**manifest, "recipe": {**recipe, **shortened}}
    return json.dumps(content, sort_keys=True, indent=2, allow_nan=False).encode() + b"\n"


def local_sources(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Which of the sources were folders of this machine."""
    listed = manifest.get("sources")
    facts = listed if isinstance(listed, dict) else {}
    return tuple(
        which
        for which in SOURCES
        if not (isinstance(facts.get(which), dict) and facts[which].get("hub") is True)
    )


def _shortened(source: object) -> object:
    if isinstance(source, dict):
        return {**source, "location": _name(source.get("location"))}
    return _name(source)


def _name(location: object) -> str:
    return f"./{PurePath(str(location)).name or 'model'}"


@contextmanager
def published_folder(folder: Path, manifest: bytes | None) -> Iterator[Path]:
    """The folder as it is to be published: itself, or links to its files beside another manifest.

    ``manifest``: the content in place of ``timberkit.json``, None where that stays.
    """
    if manifest is None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="timberkit-") as place:
        root = Path(place)
        for name in list_output_files(folder):
            link = root / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((folder / name).resolve())
        (root / MANIFEST_NAME).write_bytes(manifest)
        yield root
