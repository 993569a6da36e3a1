"""An output of refine onto the Hub: checked first, private, never over what others put there.

    plan = plan_push("OUT", "org/name")   # contacts nobody
    push(plan).url

What may be pushed is one output whose manifest holds; what it says of local folders is left out of
what is uploaded (``published``). Where it may go: a new repository, or a
branch that has nothing but files of this very output (an interrupted upload), unless told to
overwrite; then the branch afterwards holds this output and nothing else, its history the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timberkit.checkpoint.hub_repository import KEPT_BY_THE_HUB, MAIN, HubRepository, RemoteState
from timberkit.checkpoint.manifest import (
    MANIFEST_NAME,
    hash_file,
    list_output_files,
    read_manifest,
)
from timberkit.checkpoint.model_card import front_matter
from timberkit.engine.published import local_sources, public_manifest, published_folder
from timberkit.engine.verify import verify
from timberkit.errors import (
    CheckpointError,
    HubError,
    OutputExistsError,
    UsageError,
    VerificationError,
)

# Narrower than what huggingface_hub takes, which would also take a name without an owner.
_WORD = r"[A-Za-z0-9][\w.-]*(?<![.-])"
_REPO = re.compile(rf"(?!.*(?:--|\.\.|\.git$)){_WORD}/{_WORD}", re.ASCII)
_LONGEST_REPO = 96
_BRANCH = re.compile(r"(?!.*(?:\.\.|//|@\{|\.lock$))[A-Za-z0-9][\w./+-]{0,99}(?<![./])", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class PushedFile:
    """A file of the output, with the SHA-256 that was checked."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What would go where; ``notes`` are what the owner should know before it does."""

    folder: Path
    repo: str
    branch: str
    private: bool
    files: tuple[PushedFile, ...]
    card: Mapping[str, Any]
    notes: tuple[str, ...]
    manifest: bytes | None = None
    """What is uploaded in place of ``timberkit.json``, which may tell of this machine."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class PushResult:
    """What was done: names sent and removed, whether the repository is new, where it is now."""

    url: str
    created: bool
    sent: tuple[str, ...]
    removed: tuple[str, ...]


def plan_push(
    output: str | Path, repo: str, *, branch: str = MAIN, private: bool = True
) -> PushPlan:
    """Check an output of ``refine`` and say what a push would do; contacts nobody.

    Raises UsageError for a malformed name or branch, the repository of a source, and an output of
    several variants; CheckpointError without a manifest of ``refine``; VerificationError when the
    output is not what its manifest says, or holds other files. Cost: reads every file once.
    """
    root = Path(output)
    _check_names(repo, branch)
    manifest = _manifest_of_one(root, repo)
    sources = _sources(manifest)
    for which, source in sources.items():
        if source.get("hub") is True and str(source.get("name")).lower() == repo.lower():
            raise UsageError(
                f"{repo}: is the {which} model that {root} was made from, expected a repository of"
                " its own; a push would take the place of the source; choose another name"
            )
    _check_output(root, manifest)
    card = front_matter(root)
    public = public_manifest(manifest)
    with published_folder(root, public) as folder:
        files = tuple(
            PushedFile(name, (folder / name).stat().st_size, sha256)
            for name, sha256 in sorted(
                {**manifest["files"], MANIFEST_NAME: hash_file(folder / MANIFEST_NAME)}.items()
            )
        )
    notes = _notes(manifest, card)
    return PushPlan(root, repo, branch, private, files, card, notes, public)


def push(plan: PushPlan, *, overwrite: bool = False) -> PushResult:
    """Upload what was planned; what the Hub has of it already is not sent again.

    Raises OutputExistsError where the branch has other files and ``overwrite`` is not given, or the
    repository is not as visible as asked; HubError when the Hub refuses; InterruptedRunError when
    it cannot be reached: the same call continues; VerificationError when it holds something else
    afterwards.
    """
    with published_folder(plan.folder, plan.manifest) as folder:
        return _push(plan, folder, overwrite=overwrite)


def _push(plan: PushPlan, folder: Path, *, overwrite: bool) -> PushResult:
    place = HubRepository(plan.repo, plan.branch)
    state = place.look()
    created = state is None
    if state is None:
        place.create(private=plan.private)
        state = _look_again(place)
    _check_visibility(plan, state)
    if state.files is None:
        place.create_branch()
        state = _look_again(place)
    sent, other = _to_send(plan, state, folder), _other_files(plan, state, folder)
    if other and not overwrite:
        raise OutputExistsError(
            f"{plan.repo}: branch {plan.branch} has files that are not of this output:"
            f" {_listed(other)}; expected an empty branch or an interrupted push of it; choose"
            " another name or --branch, or give --overwrite: the branch then holds this output"
            " only, and its history the files of before"
        )
    removed = [name for name in other if name not in {file.name for file in plan.files}]
    url = f"https://huggingface.co/{plan.repo}/tree/{plan.branch}"
    if sent or removed:
        url = place.upload(
            folder,
            sent,
            message=f"Upload an output of timberkit ({plan.folder.resolve().name})",
            parent=state.commit,
            remove=removed,
        )
        after = _look_again(place)
        wrong = sorted({*_to_send(plan, after, folder), *_other_files(plan, after, folder)})
        if wrong:
            raise VerificationError(
                f"{plan.repo}: after the upload the Hub has something else for {_listed(wrong)};"
                " somebody else writes there, or a .gitignore keeps files out; look at the"
                " repository, then run the command again"
            )
    return PushResult(url, created, tuple(sent), tuple(removed))


def _check_names(repo: str, branch: str) -> None:
    if len(repo) > _LONGEST_REPO or not _REPO.fullmatch(repo):
        raise UsageError(
            f"{repo!r}: no name of a repository, expected org/name: letters, digits, '-', '_' and"
            " '.', with the user or organisation before the slash"
        )
    if not _BRANCH.fullmatch(branch) or _COMMIT.fullmatch(branch):
        raise UsageError(
            f"--branch {branch!r}: no name of a branch, expected one such as main or lam-0.2"
        )


def _manifest_of_one(root: Path, repo: str) -> dict[str, Any]:
    if not (root / MANIFEST_NAME).is_file():
        variants = sorted(path.parent.name for path in root.glob(f"*/{MANIFEST_NAME}"))
        if variants:
            raise UsageError(
                f"{root}: holds {len(variants)} variants ({_listed(variants)}), expected one, for a"
                f" repository is one model; push one: timberkit push {root / variants[0]} {repo}"
            )
        raise CheckpointError(
            f"{root}: no {MANIFEST_NAME} in it, expected an output of timberkit refine; without it"
            " nobody can tell where the weights come from; check the path"
        )
    manifest = read_manifest(root)
    if not all(isinstance(manifest.get(field), dict) for field in ("variant", "files")):
        raise CheckpointError(
            f"{root / MANIFEST_NAME}: is not of a model that refine wrote (no variant, or no"
            " files); only outputs of refine are pushed; check the path"
        )
    return manifest


def _check_output(root: Path, manifest: Mapping[str, Any]) -> None:
    extra = sorted(set(list_output_files(root)) - set(manifest["files"]))
    if extra:
        raise VerificationError(
            f"{root}: files that are not in its {MANIFEST_NAME}: {_listed(extra, limit=None)};"
            " expected only what refine wrote; move them out of the folder, and add them to the"
            " repository yourself if they belong there"
        )
    failed = [check for check in verify(root, sources=False).checks if not check.passed]
    if failed:
        found = "; ".join(f"{check.name}: {check.detail}" for check in failed)
        raise VerificationError(
            f"{root}: is not what its {MANIFEST_NAME} says: {found}; something has changed it since"
            " refine; make the output again"
        )


def _sources(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    listed = manifest.get("sources")
    found = listed if isinstance(listed, dict) else {}
    return {
        which: found[which] if isinstance(found.get(which), dict) else {}
        for which in ("base", "instruct")
    }


def _notes(manifest: Mapping[str, Any], card: Mapping[str, Any]) -> tuple[str, ...]:
    notes = [
        f"{which} was a local folder: base_model does not name it, and in the {MANIFEST_NAME} that"
        " is uploaded it has its name alone, not where it was"
        for which in local_sources(manifest)
    ]
    if "license" not in card:
        notes.append(
            "no licence: Instruct's model card names none that the Hub would take; the licences of"
            " both sources apply all the same"
        )
    return tuple(notes)


def _look_again(place: HubRepository) -> RemoteState:
    state = place.look()
    if state is None or (place.branch == MAIN and state.files is None):
        raise HubError(
            f"{place.repo}: was made, but the Hub does not show it to this login; give the token"
            " the right to read it, then run the command again"
        )
    return state


def _check_visibility(plan: PushPlan, state: RemoteState) -> None:
    if state.private == plan.private:
        return
    found, remedy = (
        ("private", "leave out --public") if state.private else ("public", "give --public")
    )
    raise OutputExistsError(
        f"{plan.repo}: the repository is {found}, expected a"
        f" {'private' if plan.private else 'public'} one; nothing was uploaded; {remedy}, or change"
        " the repository's settings on the Hub"
    )


def _to_send(plan: PushPlan, state: RemoteState, folder: Path) -> list[str]:
    """Files that the branch does not have with this content."""
    there = state.files or {}
    return [
        file.name
        for file in plan.files
        if file.name not in there or not there[file.name].equals(folder / file.name, file.sha256)
    ]


def _other_files(plan: PushPlan, state: RemoteState, folder: Path) -> list[str]:
    """Files of the branch that are not those of the output, by name or content."""
    sent = set(_to_send(plan, state, folder))
    known = {file.name for file in plan.files} - sent | {KEPT_BY_THE_HUB}
    return sorted(name for name in state.files or {} if name not in known)


def _listed(names: list[str], limit: int | None = _NAMES_SHOWN) -> str:
    more = "" if limit is None or len(names) <= limit else f" and {len(names) - limit} more"
    return ", ".join(map(repr, names[:limit])) + more
