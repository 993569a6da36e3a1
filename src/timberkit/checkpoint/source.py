"""From what the user wrote to a folder on this disk: a local folder, or a pinned Hub snapshot.

    resolved = resolve(Source.parse("org/model@main"))
    checkpoint = open_checkpoint(resolved.folder)

A folder that exists is always taken as a folder. From the Hub only what a refinement needs is
fetched: safetensors weights with their index, configuration, tokenizer, chat template, model code,
licence and model card (which names licence and origin); never pickles, GGUF, ONNX or a second copy
of the weights in another format. The snapshot is pinned: ``revision`` is the commit. The Hub's
cache, its offline switch and its login are huggingface_hub's own; no token is read, shown or kept
here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from timberkit.checkpoint.refused import not_a_folder
from timberkit.config import Source
from timberkit.errors import SourceError

WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "config.json")
FETCHED = (
    *WEIGHT_PATTERNS,
    *("*.json", "*.txt", "*.model", "*.tiktoken", "*.vocab", "*.bpe", "*.jinja", "*.py"),
    *("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "README.md"),
)
"""File patterns fetched from the Hub; patterns match across folders."""
NOT_FETCHED = (
    *("*/*.safetensors", "consolidated*.safetensors"),
    *("original/*", "onnx/*", "openvino/*", "gguf/*", "*.pt", "*.pth", "*.gguf"),
)
"""File patterns left out even where ``FETCHED`` matches."""
PICKLES = ("pytorch_model*.bin",)
"""What is fetched besides where pickles are allowed, and the repository has no safetensors."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER = ("adapter_model.safetensors",)
"""What is fetched besides of a repository that holds an adapter and no model."""

# What a failed download raises, but for plain answers such as "no such model". The first base of
# HfHubHTTPError is that of the transport in use: httpx, httpx2 or requests, by the version of
# huggingface_hub. RuntimeError comes from its Rust downloader.
_FAILURES: tuple[type[BaseException], ...] = (
    *(LocalEntryNotFoundError, HfHubHTTPError, OSError, RuntimeError),
    HfHubHTTPError.__bases__[0],
)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)[\w][\w./+-]{0,254}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ResolvedSource:
    """A source on this disk.

    ``folder`` is absolute, ``location`` what the user gave, without the revision; ``revision`` is
    the commit of a Hub snapshot, None for a local folder.
    """

    folder: Path
    location: str
    revision: str | None
    is_hub: bool


def resolve(source: Source, *, allow_pickle: bool = False) -> ResolvedSource:
    """Find a source on this disk, fetching it from the Hub where necessary.

    A folder if it exists, or if it reads like a path (starts with ``/``, ``.`` or ``~``, or holds
    more than one ``/``); else a Hub id. Without network an earlier snapshot in the cache is used.
    ``allow_pickle``: of a repository without safetensors, ``pytorch_model*.bin`` are fetched too.

    Raises SourceError for a missing folder, a revision given with a folder, an id or revision that
    is malformed or does not exist, missing access, and no network without a cached snapshot.
    """
    text = source.location
    expanded = os.path.expanduser(text)
    if os.path.isdir(expanded):
        return _local(source, Path(os.path.abspath(expanded)))
    if text.startswith(("/", ".", "~")) or text.count("/") > 1 or os.path.exists(expanded):
        if os.path.isfile(expanded):
            raise SourceError(not_a_folder(text))
        raise SourceError(
            f"{text}: no such folder, expected the folder of a model; check the spelling and where"
            " the command runs, or give a Hub id such as org/name"
        )
    return _from_hub(source, allow_pickle=allow_pickle)


def public_name(resolved: ResolvedSource) -> str:
    """What may be printed about a source: its Hub id, or the last part of the folder's name.

    Never a path, which would tell of users and machines; ``model`` where no name is left.

    >>> public_name(ResolvedSource(Path("/home/someone/tiny"), "~/tiny", None, False))
    'tiny'
    """
    return resolved.location if resolved.is_hub else resolved.folder.name or "model"


def _local(source: Source, folder: Path) -> ResolvedSource:
    if source.revision is not None:
        raise SourceError(
            f"{source}: {source.location} is a local folder, and only Hub models have revisions;"
            " leave out the revision, or run the command where no such folder is"
        )
    return ResolvedSource(folder=folder, location=source.location, revision=None, is_hub=False)


def _from_hub(source: Source, *, allow_pickle: bool) -> ResolvedSource:
    if source.revision is not None and not _REVISION.fullmatch(source.revision):
        raise SourceError(
            f"{source.location}: revision {source.revision!r} is not a branch, tag or commit;"
            " write org/name@main, or leave it out"
        )
    folder = Path(_fetch(source, FETCHED))
    if not any(folder.glob("*.safetensors")):
        more = (*(ADAPTER if (folder / ADAPTER_CONFIG).exists() else ()),
                *(PICKLES if allow_pickle else ()))  # fmt: skip
        folder = Path(_fetch(source, (*FETCHED, *more))) if more else folder
    return ResolvedSource(
        folder=folder,
        location=source.location,
        revision=folder.name if _COMMIT.fullmatch(folder.name) else None,
        is_hub=True,
    )


def _fetch(source: Source, patterns: tuple[str, ...]) -> str:
    """The snapshot's folder, from the network or the cache, with every failure explained."""
    try:
        return _snapshot(source, patterns, local_only=False)
    except HFValidationError:
        raise SourceError(
            f"{source.location!r}: neither a folder that exists nor a Hub id such as org/name;"
            " check the spelling"
        ) from None
    except RevisionNotFoundError:
        raise SourceError(
            f"{source}: the model exists, but not this revision; look up its branches, tags and"
            f" commits on https://huggingface.co/{source.location}/commits/main"
        ) from None
    except GatedRepoError:
        raise SourceError(
            f"{source}: access to this model is restricted; accept its licence on"
            f" https://huggingface.co/{source.location}, log in with 'hf auth login', then run the"
            " command again"
        ) from None
    except RepositoryNotFoundError:
        raise SourceError(
            f"{source}: no such model on the Hub, and no such folder here; check the spelling;"
            " if the model is private, log in with 'hf auth login'"
        ) from None
    except _FAILURES as error:
        return _cached(source, patterns, _why(source, error))


def _why(source: Source, error: BaseException) -> str:
    """What kept the Hub from answering; never the error's own text, which may hold addresses.

    Raises SourceError where the cache is no way out because it cannot be written.
    """
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on (HF_HUB_OFFLINE)"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        hint = "; log in with 'hf auth login'" if status in (401, 403) else ""
        return f"the Hub answered {status}{hint}"
    absent = (LocalEntryNotFoundError, ConnectionError, TimeoutError)
    # Failures of the network carry no errno, unless they are of the types above.
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, absent):
        raise SourceError(
            f"{source}: cannot be stored in the Hub's cache: {error.strerror} (errno"
            f" {error.errno}); free some space, or set HF_HOME to a folder that can be written"
        )
    return f"the Hub cannot be reached ({type(error).__name__})"


def _cached(source: Source, patterns: tuple[str, ...], why: str) -> str:
    """The newest cached snapshot. It may lack side files, but no weights that it should have."""
    try:
        weights = (*WEIGHT_PATTERNS, *(name for name in patterns if name not in FETCHED))
        return _snapshot(source, weights, local_only=True)
    except LocalEntryNotFoundError:
        raise SourceError(
            f"{source}: no such folder here, {why}, and the cache holds no complete copy of this"
            " model; connect (unset HF_HUB_OFFLINE if it is set) and run the command again, or give"
            " a local folder"
        ) from None


def _snapshot(source: Source, patterns: tuple[str, ...], *, local_only: bool) -> str:
    wanted = set(ADAPTER) & set(patterns)
    return snapshot_download(
        source.location,
        revision=source.revision,
        allow_patterns=list(patterns),
        ignore_patterns=[*NOT_FETCHED, *(name for name in ADAPTER if name not in wanted)],
        local_files_only=local_only,
    )
