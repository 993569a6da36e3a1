"""An output under construction: begun, continued after a kill, published in one step, or cleaned.

    with Stage.open(output, digest=digest, description={...}, overwrite=False) as stage:
        if not stage.published:             # else a killed run had done everything already
            done = stage.completed()
            ...                             # write shards into stage.tree
            stage.commit([path], [{"tensor": name}])
            stage.publish()

What lies where in the stage is drawn in ``stage_folder``; ``publish`` tells why a kill at any point
leaves the old output or the new one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Any

from timberkit.checkpoint.journal import Journal, holds_entries
from timberkit.checkpoint.publish import (
    finish_publish,
    is_published,
    publish,
    refuse_existing,
    rename_new,
)
from timberkit.checkpoint.stage_folder import (
    STAGE_SUFFIX,
    StageFolder,
    cannot_create,
    write_note,
)
from timberkit.checkpoint.writer import sync_file, sync_folder
from timberkit.errors import InterruptedRunError, StageConflictError, UsageError


class Stage:
    """A stage whose lock this process holds; made by ``Stage.open``, closed by ``with``.

    ``tree`` is the future output folder. ``resumed`` says whether earlier work was found,
    ``published`` whether the output already stands under its final name (nothing is left to do).
    Processes forked from this one keep the lock alive, so that no other run starts while one of
    them still writes.
    """

    def __init__(self, folder: StageFolder, lock: int, *, overwrite: bool) -> None:
        self._folder = folder
        self._lock = lock
        self._overwrite = overwrite
        self._journal: Journal | None = None
        self.resumed = False
        self.published = False

    @classmethod
    def open(
        cls, output: Path, *, digest: str, description: Mapping[str, Any], overwrite: bool
    ) -> Stage:
        """Begin or continue the output of the recipe with this digest.

        Creates missing parent folders. Nothing at all is created when the output exists and may
        not be replaced (OutputExistsError; with ``overwrite``, an empty folder or an earlier
        output of timberkit may). Raises StageConflictError when a live run or the unfinished run
        of another recipe is in the way, ResourceError without room or file locks, UsageError where
        nothing can be created.
        """
        output = _settled(output)
        folder = StageFolder.of(output)
        if not folder.path.exists():
            refuse_existing(output, overwrite=overwrite)
        stage = cls(folder, folder.hold(), overwrite=overwrite)
        try:
            stage._enter(digest, description)
        except OSError as error:
            stage.close()
            raise cannot_create(folder.path, error) from None
        except BaseException:
            stage.close()
            raise
        return stage

    def _enter(self, digest: str, description: Mapping[str, Any]) -> None:
        folder = self._folder
        found = folder.description()
        if found is not None and found.get("digest") == digest:
            if finish_publish(folder, overwrite=self._overwrite):
                folder.remove()
                self.resumed = self.published = True
                return
            # Where the publishing had ended long ago, this has just emptied the stage.
            found = folder.description()
        refuse_existing(folder.output, overwrite=self._overwrite)
        self._refuse_other_recipe(found, digest)
        # A journal says what is done in the tree beside it; alone it is worth nothing.
        self.resumed = found is not None and folder.tree.is_dir()
        if not self.resumed:
            folder.discard()
            folder.tree.mkdir()
            write_note(folder.recipe, _recipe_note(digest, description))
        self._journal = Journal(folder.journal)

    def _refuse_other_recipe(self, found: Mapping[str, Any] | None, digest: str) -> None:
        folder = self._folder
        if found is None:
            if not folder.replaced.exists() and not holds_entries(folder.journal):
                return
            whose = "an unfinished run whose recipe cannot be read"
        elif found.get("digest") == digest:
            return
        else:
            whose = f"the unfinished run of another recipe (begun {found.get('created')})"
        raise StageConflictError(
            f"{folder.path}: holds {whose}; give that recipe again to continue it, or remove it"
            f" with: timberkit clean {quote(str(folder.path.parent))}"
        )

    @property
    def path(self) -> Path:
        """The stage folder."""
        return self._folder.path

    @property
    def output(self) -> Path:
        """The final name of the output, absolute."""
        return self._folder.output

    @property
    def tree(self) -> Path:
        """The future output folder, to be filled."""
        return self._folder.tree

    def empty_tree(self) -> None:
        """Away with what a killed run has left in it, for outputs that are made anew as a whole."""
        for entry in self.tree.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def completed(self) -> list[dict[str, Any]]:
        """All journal entries, of this run and of those it continues, oldest first.

        An entry may occur twice when a run was killed between writing and noting. Read from the
        file, O(its size).
        """
        return [] if self._journal is None else list(self._journal.entries())

    def record(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Note entries as done: one write, one fsync.

        The data they speak of must be on the disk before (``sync_file``, or use ``commit``):
        a journal that survives a power cut its data did not survive would be a lie. Raises
        InterruptedRunError when the disk is full, ValueError for NaN or after publishing.
        """
        if self._journal is None:
            raise ValueError("this stage is published or closed")
        self._journal.append(entries)

    def commit(self, paths: Iterable[Path], entries: Sequence[Mapping[str, Any]]) -> None:
        """Sync each of the files, then record the entries."""
        for path in dict.fromkeys(paths):
            sync_file(path)
        self.record(entries)

    def publish(self) -> None:
        """Sync the tree, put it under the final name and remove the stage.

        A kill at any point leaves the old output or the new one under that name (on systems
        without ``renameat2``: a state that the next run of the recipe repairs). Raises
        OutputExistsError when something came to stand there meanwhile, InterruptedRunError when
        the system refuses; the stage is kept then. A second call does nothing.
        """
        if self.published:
            return
        publish(self._folder, overwrite=self._overwrite)
        self.published = True
        self._close_journal()
        try:
            self._folder.remove()
        except OSError as error:
            raise InterruptedRunError(
                f"{self.path}: {self.output} is complete, but what is left of the run cannot be"
                f" removed: {error.strerror}; remove it with: timberkit clean"
                f" {quote(str(self.path.parent))}"
            ) from None

    def close(self) -> None:
        """Give the lock back; what is staged stays. A second call does nothing."""
        self._close_journal()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
            if self.published:
                _remove_if_empty(self.path)

    def _close_journal(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class StageInfo:
    """A stage found on the disk; digest and created are None when its recipe cannot be read."""

    path: Path
    output: Path
    digest: str | None
    created: str | None
    size_bytes: int
    alive: bool


def refuse_overlap(output: Path, sources: Iterable[Path]) -> None:
    """Raise UsageError when the output is a source, lies in one, or contains one.

    Links are resolved and folders compared by identity, so another spelling of the same place
    (case, bind mount) does not pass.
    """
    for source in sources:
        inside, around = _is_within(output, source), _is_within(source, output)
        if not (inside or around):
            continue
        relation = "is" if inside and around else "lies inside" if inside else "contains"
        raise UsageError(
            f"{output}: the output {relation} the source {source}; sources are never written to;"
            " choose another output folder"
        )


def finish_interrupted_publish(output: Path, *, digest: str, overwrite: bool = False) -> bool:
    """Finish publishing where a run of this recipe was killed at it; whether the output is ready.

    ``Stage.open`` does the same; this is for callers that want to know before they load anything.
    False when there is no stage, or one of another recipe, or one with work left. Raises as
    ``Stage.open`` and ``Stage.publish`` do.
    """
    folder = StageFolder.of(_settled(output))
    if not folder.path.is_dir() or (folder.description() or {}).get("digest") != digest:
        return False
    if not folder.marker.exists():
        return False
    with Stage(folder, folder.hold(), overwrite=overwrite) as stage:
        try:
            stage.published = finish_publish(folder, overwrite=overwrite)
            if stage.published:
                folder.remove()
        except OSError as error:
            raise InterruptedRunError(
                f"{folder.path}: cannot be tidied up: {error.strerror}; look at its permissions and"
                " run the same command again"
            ) from None
        return stage.published


def find_stages(root: Path) -> list[StageInfo]:
    """The stages directly in a folder, sorted by path; those of other places are not looked for.

    Raises UsageError when ``root`` cannot be listed. Reads the sizes of all staged files.
    """
    try:
        paths = sorted(path for path in root.iterdir() if _is_stage(path))
    except OSError as error:
        raise UsageError(
            f"{root}: cannot be listed: {error.strerror}; give the folder in which outputs stand"
        ) from None
    return [_describe(StageFolder(path)) for path in paths]


def remove_stage(path: Path) -> None:
    """Remove an unfinished run for good; the output it was for is untouched.

    When the stage holds the output from before (a kill in the middle of an overwrite), that is put
    back first. Raises StageConflictError when the run is alive, or when another output stands
    where the old one belongs; UsageError when ``path`` is no stage or cannot be removed.
    """
    path = _settled(path)
    if not _is_stage(path):
        raise UsageError(f"{path}: is no unfinished run of timberkit; give its stage folder")
    folder = StageFolder(path)
    lock = folder.hold()
    try:
        if folder.replaced.exists() and not is_published(folder):
            _restore_replaced(folder)
        folder.remove()
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be removed: {error.strerror}; look at its permissions"
        ) from None
    finally:
        os.close(lock)
        _remove_if_empty(path)


def _restore_replaced(folder: StageFolder) -> None:
    try:
        rename_new(folder.replaced, folder.output)
    except FileExistsError:
        raise StageConflictError(
            f"{folder.replaced}: holds the output from before, but another one stands at"
            f" {folder.output}; move the one you want to keep elsewhere, then clean again"
        ) from None
    sync_folder(folder.output.parent)


def _describe(folder: StageFolder) -> StageInfo:
    recipe = folder.description() or {}
    digest, created = recipe.get("digest"), recipe.get("created")
    return StageInfo(
        path=folder.path,
        output=folder.output,
        digest=digest if isinstance(digest, str) else None,
        created=created if isinstance(created, str) else None,
        size_bytes=sum(
            os.lstat(os.path.join(parent, name)).st_size
            for parent, _, files in os.walk(folder.path)
            for name in files
        ),
        alive=folder.is_held(),
    )


def _is_stage(path: Path) -> bool:
    if not (path.name.startswith(".") and path.name.removesuffix(STAGE_SUFFIX)[1:]):
        return False
    return path.name.endswith(STAGE_SUFFIX) and path.is_dir() and not path.is_symlink()


def _is_within(inner: Path, outer: Path) -> bool:
    """Whether ``inner`` is ``outer`` or lies inside it; neither needs to exist."""
    inner, outer = inner.resolve(), outer.resolve()
    if inner.is_relative_to(outer):
        return True
    return outer.exists() and any(
        place.exists() and place.samefile(outer) for place in (inner, *inner.parents)
    )


def _recipe_note(digest: str, description: Mapping[str, Any]) -> dict[str, Any]:
    try:
        tool_version = version("timberkit")
    except PackageNotFoundError:
        tool_version = "unknown"
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "digest": digest,
        "description": dict(description),
        "tool_version": tool_version,
        "created": created,
        "schema_version": 1,
    }


def _remove_if_empty(path: Path) -> None:
    # A network file system keeps an unlinked file that is open, and with it the folder, until the
    # lock is closed.
    try:
        path.rmdir()
    except OSError:
        return


def _settled(path: Path) -> Path:
    """Absolute, with a real last component; links above it resolved, but not the path itself."""
    settled = path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()
    if not settled.name:
        raise UsageError(f"{path}: cannot be an output folder; give it a name of its own")
    return settled
