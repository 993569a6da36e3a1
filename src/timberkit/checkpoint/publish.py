"""Moving a finished tree to its final name, so that a kill leaves the old output or the new one.

Where the system has ``renameat2`` (Linux), a new output is one rename that refuses to replace
anything, and an overwrite is one exchange of two folders. Elsewhere an overwrite takes two renames;
a kill between them leaves the old output in the stage, and the next run of the same recipe (or
``timberkit clean``) puts things right.

Before the first rename the fingerprint of the tree is written into the stage. By it a later run
tells which of two folders is the new one.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from timberkit.checkpoint.manifest import MANIFEST_NAME, hash_file
from timberkit.checkpoint.stage_folder import StageFolder, read_note, write_note
from timberkit.checkpoint.writer import sync_file, sync_folder
from timberkit.errors import InterruptedRunError, OutputExistsError, StageConflictError

_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_CURRENT_FOLDER = -100  # AT_FDCWD


def refuse_existing(output: Path, *, overwrite: bool) -> None:
    """Raise OutputExistsError unless a folder may be put at ``output``.

    Nothing there is always fine. With ``overwrite`` a folder may be replaced when it is empty or
    an output of timberkit (``timberkit.json`` in it or in a direct sub-folder); anything else is
    kept: a link, a file, and a folder of which only the user knows what it is worth.
    """
    if not os.path.lexists(output):
        return
    if output.is_symlink() or not output.is_dir():
        kind = "a link" if output.is_symlink() else "a file"
        raise OutputExistsError(
            f"{output}: is {kind}, expected a new folder; choose another output folder"
        )
    if not overwrite:
        raise OutputExistsError(
            f"{output}: exists already; choose another output folder, or pass --overwrite to"
            " replace it"
        )
    if any(output.iterdir()) and not any(_manifests(output)):
        raise OutputExistsError(
            f"{output}: was not made by timberkit (no {MANIFEST_NAME} in it or in a direct"
            " sub-folder), so --overwrite does not replace it; remove it yourself or choose"
            " another output folder"
        )


def publish(folder: StageFolder, *, overwrite: bool) -> None:
    """Sync the tree, mark it as finished, and put it under the final name.

    The stage is left to ``StageFolder.remove``. Raises OutputExistsError when something came to
    stand there that may not be replaced, InterruptedRunError when the disk or the system refuses:
    in both cases the stage is whole and can be published later.
    """
    try:
        _sync_tree(folder.tree)
        # The recipe is repeated, because recipe.json goes before the marker does.
        recipe = folder.description() or {}
        write_note(folder.marker, {**recipe, "fingerprint": fingerprint(folder.tree)})
        _swap_in(folder, overwrite=overwrite)
    except OSError as error:
        raise InterruptedRunError(
            f"{folder.output}: the finished output cannot be put here: {error.strerror}; it waits"
            f" in {folder.tree}; remove the cause and run the same command again"
        ) from None


def finish_publish(folder: StageFolder, *, overwrite: bool) -> bool:
    """Finish what a killed run began to publish; whether the output is now in its place.

    False, with nothing left to continue, when no publishing had begun, or when it had ended and
    the output has since been changed or moved away. Raises as ``publish`` does, and
    StageConflictError when the fingerprint fits neither folder. The caller holds the lock.
    """
    marked = (read_note(folder.marker) or {}).get("fingerprint")
    if marked is None:
        if folder.replaced.exists():
            raise _unclear(folder)
        return False
    if fingerprint(folder.output) == marked:
        return True
    if fingerprint(folder.tree) == marked:
        publish(folder, overwrite=overwrite)
        return True
    if not folder.tree.exists():
        # Only a rename takes the tree away, so it was published, or was being cleaned up.
        if folder.replaced.exists() and not os.path.lexists(folder.output):
            raise _unclear(folder)
        folder.discard()
        return False
    raise _unclear(folder)


def is_published(folder: StageFolder) -> bool:
    """Whether the finished tree of this stage stands under its final name."""
    marked = (read_note(folder.marker) or {}).get("fingerprint")
    return marked is not None and fingerprint(folder.output) == marked


def fingerprint(tree: Path) -> str | None:
    """SHA-256 over the names and sizes of all files and the content of the manifests.

    None when there is no such folder. Does not depend on inode numbers or times, which not every
    file system keeps. Reads the manifests only.
    """
    if tree.is_symlink() or not tree.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        digest.update(os.fsencode(path.relative_to(tree)) + b"\0")
        digest.update(b"%d\0" % (-1 if path.is_dir() else path.lstat().st_size))
    for path in _manifests(tree):
        digest.update(hash_file(path).encode())
    return digest.hexdigest()


def rename_new(source: Path, target: Path) -> None:
    """Rename, but never over something: FileExistsError when ``target`` exists."""
    if _renameat2(source, target, _RENAME_NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def _swap_in(folder: StageFolder, *, overwrite: bool) -> None:
    refuse_existing(folder.output, overwrite=overwrite)
    if not (overwrite and os.path.lexists(folder.output)):
        _rename_tree(folder)
    elif not _renameat2(folder.tree, folder.output, _RENAME_EXCHANGE):
        if folder.replaced.exists():
            raise _unclear(folder)
        os.rename(folder.output, folder.replaced)
        try:
            _rename_tree(folder)
        except (OSError, OutputExistsError):
            if not os.path.lexists(folder.output):
                os.rename(folder.replaced, folder.output)
            raise
    sync_folder(folder.output.parent)
    sync_folder(folder.path)


def _rename_tree(folder: StageFolder) -> None:
    try:
        rename_new(folder.tree, folder.output)
    except FileExistsError:
        raise OutputExistsError(
            f"{folder.output}: something was put here while the run was at work; the finished"
            f" output waits in {folder.tree}; move the other away and run the same command again"
        ) from None


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Rename with flags; False where the system or the file system has no such call."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    places = (_CURRENT_FOLDER, os.fsencode(source), _CURRENT_FOLDER, os.fsencode(target))
    if call(*places, ctypes.c_uint(flags)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


def _manifests(output: Path) -> Iterator[Path]:
    """The manifests of an output: its own, or of the folders in it, or where all lie deeper.

    A folder that holds anything besides whole outputs is none for having outputs two levels down.
    """
    found = [*_manifests_in(output)]
    if not found:
        below = [[*_manifests_in(path)] if path.is_dir() else [] for path in output.iterdir()]
        found = sorted(path for paths in below for path in paths) if all(below) else []
    yield from found


def _manifests_in(output: Path) -> Iterator[Path]:
    for folder in (output, *sorted(path for path in output.iterdir() if path.is_dir())):
        if (folder / MANIFEST_NAME).is_file():
            yield folder / MANIFEST_NAME


def _sync_tree(tree: Path) -> None:
    for folder, _, files in os.walk(tree, topdown=False):
        for name in files:
            sync_file(Path(folder, name))
        sync_folder(Path(folder))


def _unclear(folder: StageFolder) -> StageConflictError:
    return StageConflictError(
        f"{folder.path}: a run was stopped while it published, and {folder.output} was changed or"
        f" moved since; the finished output may be in {folder.tree.name}, the one before in"
        f" {folder.replaced.name}; move what you want to keep out of the stage, then run"
        f" timberkit clean {quote(str(folder.path.parent))}"
    )
