"""A model repository on the Hub: what is in it, making one, putting a folder into it.

Every failure becomes one of ours, never with the text of the other side, which may hold addresses
and more. The login is huggingface_hub's own (``hf auth login`` or ``HF_TOKEN``): no token is read,
shown or kept here.

``upload_folder`` and not ``upload_large_folder``: huggingface_hub 2 no longer has the latter, which
kept its state inside the folder that it uploaded. Content that the Hub has is not sent again.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from timberkit.checkpoint.model_card import CARD_NAME, escape_markdown
from timberkit.errors import CheckpointError, HubError, InterruptedRunError, TimberkitError

MAIN = "main"
KEPT_BY_THE_HUB = ".gitattributes"
"""The one file that the Hub writes into a new repository by itself."""

_LOGIN = "log in with 'hf auth login', or set HF_TOKEN, with a token that may write"
_REFUSALS = {
    401: f"the Hub does not accept the login (401); {_LOGIN}",
    402: "the Hub asks for payment (402), such as for private storage; look at the account's"
    " billing, or push to another account",
    403: f"the login may not write there (403); check the name before the slash, or {_LOGIN}",
    404: f"the Hub finds no such place (404); check the spelling of the name, or {_LOGIN}",
    409: "the Hub reports a conflict (409): a repository of this name that this login cannot see,"
    " or another upload at the same time; choose another name, or run the command again",
    412: "the branch has changed since it was looked at (412); look at what came in, then run the"
    " command again",
}
# hf_xet tells of an answer that refuses it in the text of a ConnectionError only.
_XET_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})\b", re.ASCII)
# The first base of HfHubHTTPError is that of the transport in use: httpx, httpx2 or requests.
# RuntimeError is what its uploaders raise, with the cause inside.
_FAILURES: tuple[type[BaseException], ...] = (
    *(HfHubHTTPError, OSError, RuntimeError, ValueError),
    HfHubHTTPError.__bases__[0],
)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the Hub: its size, and the hash that the Hub keeps of it, by how it is stored."""

    size_bytes: int | None
    sha256: str | None
    git_hash: str | None

    def equals(self, path: Path, sha256: str) -> bool:
        """Whether it has the content of ``path``, whose SHA-256 is given."""
        if self.sha256 is not None:
            return self.sha256 == sha256
        return self.size_bytes == path.stat().st_size and self.git_hash == git_hash(path)


@dataclass(frozen=True, slots=True)
class RemoteState:
    """A repository as one branch shows it; ``files`` is None where the branch does not exist."""

    private: bool
    commit: str | None
    files: Mapping[str, RemoteFile] | None


class HubRepository:
    """One branch of one model repository. Raises HubError and InterruptedRunError throughout."""

    def __init__(self, repo: str, branch: str = MAIN) -> None:
        self.repo, self.branch = repo, branch
        self._api = HfApi()
        if get_token() is None:
            raise HubError(f"{repo}: this machine is not logged in to the Hub; {_LOGIN}")

    def look(self) -> RemoteState | None:
        """What is there now; None where there is no repository that the login can see."""
        with _explained(self.repo):
            try:
                info = self._api.model_info(self.repo, revision=self.branch, files_metadata=True)
            except RevisionNotFoundError:
                info = self._api.model_info(self.repo)
                return RemoteState(info.private is True, None, None)
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                return None
        files = {
            file.rfilename: RemoteFile(
                file.size, None if file.lfs is None else file.lfs.sha256, file.blob_id
            )
            for file in info.siblings or ()
        }
        return RemoteState(info.private is True, info.sha, files)

    def create(self, *, private: bool) -> None:
        """Make the repository; an error where one is there."""
        with _explained(self.repo):
            self._api.create_repo(self.repo, repo_type="model", private=private, exist_ok=False)

    def create_branch(self) -> None:
        """Make the branch from the first commit of main, which the Hub made: without files."""
        with _explained(self.repo):
            first = self._api.list_repo_commits(self.repo)[-1].commit_id
            self._api.create_branch(self.repo, branch=self.branch, revision=first)

    def upload(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        message: str,
        parent: str | None,
        remove: Sequence[str],
    ) -> str:
        """Put these files of ``folder`` on the branch, and take others away; returns the address.

        ``parent`` is the commit that the branch must still be at. What is removed stays in the
        branch's history.
        """
        with _explained(self.repo):
            done = self._api.upload_folder(
                repo_id=self.repo,
                repo_type="model",
                folder_path=folder,
                revision=self.branch,
                commit_message=message,
                parent_commit=parent,
                allow_patterns=[glob.escape(name) for name in names],
                delete_patterns=[glob.escape(name) for name in remove] or None,
            )
        return str(done.commit_url)


def git_hash(path: Path) -> str:
    """The hash that git gives a file: SHA-1 of ``blob SIZE``, a zero byte and the content."""
    content = path.read_bytes()
    opening = b"blob %d\0" % len(content)
    return hashlib.sha1(opening + content, usedforsecurity=False).hexdigest()


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        raise _ours(repo, error) from None


def _ours(repo: str, error: BaseException) -> TimberkitError:
    """The error to raise instead."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 9:
        chain.append(cause)
    if isinstance(error, ValueError) and str(error).startswith("Invalid metadata in README.md"):
        # The only text of the Hub that is shown: it is about our card, and tells what to mend.
        return HubError(
            f"{repo}: the Hub refuses the front matter of {CARD_NAME}:"
            f" {escape_markdown(str(error))}; most often Instruct's licence under a name that the"
            " Hub does not know; mend the card of Instruct and run refine again"
        )
    if any(isinstance(link, LocalTokenNotFoundError) for link in chain):
        return HubError(f"{repo}: this machine is not logged in to the Hub; {_LOGIN}")
    if any(isinstance(link, OfflineModeIsEnabled) for link in chain):
        return HubError(f"{repo}: offline mode is on; unset HF_HUB_OFFLINE, then run it again")
    answers = [link for link in chain if isinstance(link, HfHubHTTPError)]
    if answers:
        return _refusal(repo, answers[0].response.status_code)
    for match in map(_XET_STATUS.search, map(str, chain)):
        if match is not None:
            return _refusal(repo, int(match[1]))
    if any(isinstance(link, PermissionError) and link.filename is None for link in chain):
        return _refusal(repo, 401)  # how the uploader of hf_xet says so
    local = [link for link in chain if isinstance(link, OSError) and link.filename is not None]
    if local:
        return CheckpointError(
            f"{local[0].filename}: cannot be read: {local[0].strerror}; look at its permissions"
        )
    return InterruptedRunError(
        f"{repo}: the Hub cannot be reached ({type(chain[-1]).__name__}); what it already has is"
        " kept; the same command continues"
    )


def _refusal(repo: str, status: int) -> TimberkitError:
    if status == 429:
        return InterruptedRunError(
            f"{repo}: the Hub limits the rate of requests (429); wait some minutes; the same"
            " command continues"
        )
    if status >= 500:
        return InterruptedRunError(
            f"{repo}: the Hub has a failure of its own ({status}); the same command continues"
        )
    return HubError(f"{repo}: {_REFUSALS.get(status, f'the Hub answered {status}; {_LOGIN}')}")
