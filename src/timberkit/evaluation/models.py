"""Which models are asked: from ``NAME=SOURCE`` to a name and a place.

    parse_model("before=org/model@main")     # a model of the Hub, at a revision
    parse_model("after=runs/refined")        # a folder
    parse_model("http://localhost:8000/v1")  # whatever that server serves

A SOURCE is a folder, a Hub id, or the address of a server that speaks OpenAI's protocol, ending in
``/v1`` as a rule; after ``#`` the name under which the server knows the model, and several
addresses with commas between them serve the same model. ``sapling:base`` and ``sapling:instruct``
are the embedded pair. Results carry the NAME; folders of a run are called after it.
Nothing is fetched or opened here: see ``timberkit.evaluation.backends``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from timberkit.config import Source
from timberkit.errors import SourceError, UsageError
from timberkit.sapling import base_folder, instruct_folder

MOST_NAME_CHARACTERS = 100
SAPLING = {"sapling:base": base_folder, "sapling:instruct": instruct_folder}
"""Shorthands of the embedded pair."""

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MOST_NAME_CHARACTERS - 1}}}", re.ASCII)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that is asked.

    ``location``: an absolute or relative folder, a Hub id, or addresses of servers with commas
    between them. ``revision`` is of the Hub only, ``served_name`` of servers only: None stands for
    the one model that the server has.
    """

    name: str
    kind: Literal["folder", "hub", "server"]
    location: str
    revision: str | None = None
    served_name: str | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of a server's endpoints; empty for other kinds."""
        return tuple(self.location.split(",")) if self.kind == "server" else ()

    @property
    def source(self) -> Source:
        """The folder or Hub id as the rest of timberkit names it; ValueError for a server."""
        if self.kind == "server":
            raise ValueError(f"{self.location} is a server, and has no files")
        return Source(location=self.location, revision=self.revision)


def parse_models(texts: Sequence[str]) -> tuple[ModelSource, ...]:
    """Read several models, in order.

    Raises UsageError for two of one name, without regard to case, or for none at all; else as
    ``parse_model``.
    """
    if not texts:
        raise UsageError("no model given; write NAME=FOLDER, NAME=org/model or NAME=http://…/v1")
    found = tuple(parse_model(text) for text in texts)
    seen: dict[str, str] = {}
    for text, model in zip(texts, found, strict=True):
        other = seen.setdefault(model.name.casefold(), text)
        if other is not text:
            raise UsageError(
                f"{other!r} and {text!r} would both be called {model.name!r}, and results could not"
                " be told apart; name them: before=… after=…"
            )
    return found


def parse_model(text: str) -> ModelSource:
    """Read ``NAME=SOURCE`` or ``SOURCE``.

    NAME: letters, digits, ``.``, ``-`` and ``_``, beginning with a letter or digit, at most 100.
    Without one, the model is called after the last part of its source. A ``=`` belongs to the
    source where what stands before it is no name, or where only the whole is a folder.

    Raises UsageError for a name or an address that cannot be used and for a text that can be read
    in two ways, SourceError for a folder that is not there.

    >>> parse_model("tuned=org/model@main")
    ModelSource(name='tuned', kind='hub', location='org/model', revision='main', served_name=None)
    >>> parse_model("http://localhost:8000/v1#org/model").name
    'model'
    """
    if not text.strip():
        raise UsageError("a model is empty; write NAME=FOLDER, NAME=org/model or NAME=http://…/v1")
    name, source = _split(text)
    if source in SAPLING:
        found = ModelSource("", "folder", str(SAPLING[source]()))
        default = source.replace(":", "-")
    elif _SCHEME.match(source):
        found, default = _server(source)
    else:
        found, default = _files(source)
    if name is None:
        name = _made_name(default, text)
    return ModelSource(name, found.kind, found.location, found.revision, found.served_name)


def _split(text: str) -> tuple[str | None, str]:
    """The name, if there is one, and the source."""
    before, equals, after = text.partition("=")
    looks_bare = not equals or _SCHEME.match(before) or "/" in before or before[:1] in (".", "~")
    if looks_bare:
        return None, text
    whole_is_folder = os.path.isdir(os.path.expanduser(text))
    if _NAME.fullmatch(before) and after.strip():
        if whole_is_folder and _exists(after):
            raise UsageError(
                f"{text!r}: can be read as the folder {text!r}, and as {after!r} called {before!r};"
                f" write ./{text} for the first, {before}=./{after} for the second"
            )
        return (None, text) if whole_is_folder else (before, after)
    if whole_is_folder:
        return None, text
    if not after.strip():
        raise UsageError(f"{text!r}: nothing follows the =; write {before or 'NAME'}=SOURCE")
    raise UsageError(
        f"{text!r}: {before!r} cannot be the name of a model; use up to {MOST_NAME_CHARACTERS}"
        " letters, digits, dots, - and _, beginning with a letter or digit"
    )


def _exists(source: str) -> bool:
    return source in SAPLING or os.path.isdir(os.path.expanduser(source))


def _files(text: str) -> tuple[ModelSource, str]:
    """A folder or a Hub id, and what to call it."""
    source = Source.parse(text)
    expanded = os.path.expanduser(source.location)
    if os.path.isdir(expanded):
        folder = Path(os.path.abspath(expanded))
        return ModelSource("", "folder", source.location), folder.name
    if not _HUB_ID.fullmatch(source.location) or text.startswith((".", "/", "~")):
        found = "found a file" if os.path.isfile(expanded) else "no such folder"
        raise SourceError(
            f"{text}: {found}, expected the folder of a model; check the spelling and where the"
            " command runs, or give a Hub id such as org/name, or a server: http://localhost:8000/v1"
        )
    if os.path.isfile(expanded):
        raise SourceError(f"{text}: found a file, expected the folder of a model; give its folder")
    return (
        ModelSource("", "hub", source.location, source.revision),
        source.location.rsplit("/", 1)[-1],
    )


def _server(text: str) -> tuple[ModelSource, str]:
    """One or more addresses of one served model, and what to call it."""
    places, hash_sign, served = text.partition("#")
    if hash_sign and not served:
        raise UsageError(
            f"{text!r}: nothing follows the #; give the name that the server knows the model by,"
            " or leave the # out where it has one model only"
        )
    addresses = [_address(each, text) for each in places.split(",")]
    if len(set(addresses)) < len(addresses):
        raise UsageError(f"{text!r}: an address stands there twice; give each one once")
    default = served.rstrip("/").rsplit("/", 1)[-1] if served else urlsplit(addresses[0]).netloc
    return ModelSource("", "server", ",".join(addresses), None, served or None), default


def _address(text: str, whole: str) -> str:
    """One address without the slash at its end."""
    try:
        parts = urlsplit(text.strip())
        _ = parts.port  # checked only when it is read
    except ValueError as error:
        raise UsageError(f"{whole!r}: {text!r} is not an address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"{whole!r}: {text!r} is not the address of a server; write http://HOST:PORT/v1, and"
            " several with commas between them"
        )
    if parts.username is not None or parts.password is not None:
        # Results name the address, so nothing secret may stand in it.
        raise UsageError(
            f"the address of {parts.hostname} holds a user or password, which results would show;"
            " leave it out and set TIMBERKIT_API_KEY"
        )
    if parts.query:
        # Not quoted, for keys are often put there.
        raise UsageError(
            f"the address of {parts.hostname} holds a query, which results would show; leave it"
            " out; a key belongs into TIMBERKIT_API_KEY"
        )
    return parts.geturl().rstrip("/")


def _made_name(default: str, text: str) -> str:
    """A name that is fit for a folder, made of a source's last part."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", default).strip("-._")[:MOST_NAME_CHARACTERS]
    if not name:
        raise UsageError(f"{text!r}: no name can be made of it; write NAME={text}")
    return name
