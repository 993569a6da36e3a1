"""A push puts exactly a checked output where it belongs, and refuses everything else."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_hub import TOKEN, FakeHub, fake_hub
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import _http

import timberkit
from timberkit.engine.push import plan_push, push
from timberkit.errors import (
    CheckpointError,
    HubError,
    InterruptedRunError,
    OutputExistsError,
    TimberkitError,
    UsageError,
    VerificationError,
)
from timberkit.sapling import base_folder, instruct_folder

# How huggingface_hub hands a file to its transport.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")
REPO = "org/refined"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded pair refined: one output, and one with two variants."""
    place: Path = tmp_path_factory.mktemp("outputs")
    for name, variants in (("one", ["timber-l"]), ("two", ["timber-l", "merge:mu=0.8"])):
        timberkit.refine(
            base_folder(), instruct_folder(), place / name, variants=variants, workers=1
        )
    return place


@pytest.fixture
def output(good: Path, tmp_path: Path) -> Path:
    """A copy of the output, to be damaged."""
    return Path(shutil.copytree(good / "one", tmp_path / "out"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A fake Hub that the client asks in this process, with a login, without waits."""
    with fake_hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        quick = SimpleNamespace(**{**vars(time), "sleep": lambda _seconds: None})
        monkeypatch.setattr(_http, "time", quick)
        yield served


def contents(folder: Path) -> dict[str, bytes]:
    """All files by name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def published(folder: Path) -> dict[str, bytes]:
    """What a push makes of it: the same files, but for the places of local sources."""
    found = contents(folder)
    fields = json.loads(found["timberkit.json"])
    for source in (fields["recipe"]["base"], fields["recipe"]["instruct"]):
        source["location"] = f"./{Path(source['location']).name}"
    found["timberkit.json"] = json.dumps(fields, sort_keys=True, indent=2).encode() + b"\n"
    return found


def test_new_repository_is_private_and_holds_the_output_and_nothing_else(
    hub: FakeHub, output: Path
) -> None:
    before = contents(output)
    result = push(plan_push(output, REPO))
    assert hub.repositories[REPO].private
    assert json.loads(hub.bodies["create"])["visibility"] == "private"
    assert hub.repositories[REPO].files() == published(output)
    assert contents(output) == before
    assert result.created
    assert result.sent == tuple(sorted(before))
    assert result.url.startswith(f"{hub.url}/{REPO}/commit/")


def test_public_only_where_asked(hub: FakeHub, output: Path) -> None:
    push(plan_push(output, REPO, private=False))
    assert not hub.repositories[REPO].private
    with pytest.raises(OutputExistsError, match="is public, expected a private one"):
        push(plan_push(output, REPO))
    hub.make("org/private")
    with pytest.raises(OutputExistsError, match="is private, expected a public one"):
        push(plan_push(output, "org/private", private=False))
    assert hub.repositories["org/private"].files() == {}


def test_nothing_is_uploaded_when_the_new_repository_is_public_after_all(
    hub: FakeHub, output: Path
) -> None:
    hub.make_public = True
    with pytest.raises(OutputExistsError, match="nothing was uploaded"):
        push(plan_push(output, REPO))
    assert hub.repositories[REPO].files() == {}
    assert not hub.objects


def test_planning_contacts_nobody(hub: FakeHub, output: Path) -> None:
    plan = plan_push(output, REPO)
    assert hub.requests == []
    assert {file.name: file.size_bytes for file in plan.files} == {
        name: len(data) for name, data in published(output).items()
    }
    assert plan.private


def test_second_push_sends_nothing(hub: FakeHub, output: Path) -> None:
    push(plan_push(output, REPO))
    commits = len(hub.repositories[REPO].branches["main"])
    result = push(plan_push(output, REPO))
    assert (result.sent, result.removed, result.created) == ((), (), False)
    assert len(hub.repositories[REPO].branches["main"]) == commits


@pytest.mark.parametrize("status", [0, 429, 503])
@pytest.mark.parametrize("where", ["PUT /lfs/", "POST /api/models/org/refined/commit/"])
def test_same_call_continues_after_a_failure(
    hub: FakeHub, output: Path, where: str, status: int
) -> None:
    hub.refuse = {where: status}
    with pytest.raises(InterruptedRunError, match="same command") as raised:
        push(plan_push(output, REPO))
    assert TOKEN not in str(raised.value)
    assert hub.repositories[REPO].files() == {}
    had = len(hub.objects)
    hub.refuse, hub.requests = {}, []
    result = push(plan_push(output, REPO))
    assert not result.created
    assert len(hub.sent("PUT", "/lfs/")) == 1 - had
    assert hub.repositories[REPO].files() == published(output)


def test_part_of_the_output_on_the_hub_is_continued(hub: FakeHub, output: Path) -> None:
    there = hub.make(REPO)
    there.add("main", {".gitattributes": b"", "config.json": contents(output)["config.json"]})
    result = push(plan_push(output, REPO))
    assert "config.json" not in result.sent
    assert there.files() == published(output)


def test_other_files_are_never_overwritten_unless_asked(hub: FakeHub, output: Path) -> None:
    there = hub.make(REPO)
    old = {"config.json": b"{}", "pytorch_model[1].bin": b"old", "notes.md": b"mine"}
    there.add("main", {".gitattributes": b"", **old})
    with pytest.raises(OutputExistsError, match=r"'config.json', 'notes.md', 'pytorch_model\[1\]"):
        push(plan_push(output, REPO))
    assert there.files() == old
    assert not hub.objects
    result = push(plan_push(output, REPO), overwrite=True)
    assert result.removed == ("notes.md", "pytorch_model[1].bin")
    assert there.files() == published(output)
    assert there.branches["main"][-2][1]["notes.md"] == b"mine"


def test_new_branch_begins_without_the_files_of_main(hub: FakeHub, output: Path) -> None:
    there = hub.make(REPO, notes=b"mine")
    push(plan_push(output, REPO, branch="lam-0.2"))
    assert there.files("lam-0.2") == published(output)
    assert there.files("main") == {"notes": b"mine"}


@pytest.mark.parametrize(
    ("where", "status", "message"),
    [
        ("POST /api/repos/create", 401, "hf auth login"),
        ("POST /api/repos/create", 402, "payment"),
        ("POST /api/repos/create", 403, "may not write there"),
        ("POST /api/repos/create", 404, "no such place"),
        ("POST /api/repos/create", 409, "cannot see"),
        ("/commit/", 412, "has changed"),
        ("/preupload/", 418, "answered 418"),
    ],
)
def test_refusals_of_the_hub_say_what_to_do_and_never_the_token(
    hub: FakeHub, output: Path, where: str, status: int, message: str
) -> None:
    hub.refuse = {where: status}
    with pytest.raises(HubError, match=message) as raised:
        push(plan_push(output, REPO))
    assert TOKEN not in str(raised.value)
    assert "http" not in str(raised.value)


def test_wrong_token_and_no_token_ask_for_a_login(
    hub: FakeHub, output: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="hf auth login") as raised:
        push(plan_push(output, REPO))
    assert "hf_wrong" not in str(raised.value)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    hub.requests = []
    with pytest.raises(HubError, match="not logged in"):
        push(plan_push(output, REPO))
    assert hub.requests == []


def test_token_that_may_not_write_is_told_by_hf_xet_too(
    hub: FakeHub, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.refuse = {"xet-write-token": 403}
    with pytest.raises(HubError, match=r"may not write there \(403\)"):
        push(plan_push(output, REPO))
    assert hub.repositories[REPO].files() == {}


def test_unreachable_hub_is_an_interruption(
    hub: FakeHub, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InterruptedRunError, match="cannot be reached"):
        push(plan_push(output, REPO))


def test_card_that_the_hub_refuses_is_named_with_its_words(hub: FakeHub, output: Path) -> None:
    hub.invalid_card = '"license" must be one of <these>'
    with pytest.raises(HubError, match=r"README.md.*must be one of \\<these"):
        push(plan_push(output, REPO))
    assert hub.repositories[REPO].files() == {}


def test_card_goes_round_through_the_hubs_own_reader(output: Path) -> None:
    card = ModelCard.load(output / "README.md")
    assert card.data.to_dict() == plan_push(output, REPO).card
    assert card.data.library_name == "transformers"
    assert card.data.tags == ["timberkit", "timber", "merge"]


def test_local_sources_and_a_missing_licence_are_said(output: Path) -> None:
    plan = plan_push(output, REPO)
    assert "base_model" not in plan.card
    said = "\n".join(plan.notes)
    assert "base was a local folder" in said
    assert "instruct was a local folder" in said
    uploaded = json.loads(plan.manifest or b"")
    assert uploaded["recipe"]["base"]["location"] == "./base"
    assert str(base_folder().parent) not in (plan.manifest or b"").decode() + said
    assert plan.card["license"] == "apache-2.0"
    assert "no licence" not in said


def add_file(folder: Path) -> None:
    (folder / "extra").mkdir()
    (folder / "extra" / "secrets.txt").write_text("mine")
    (folder / ".env").write_text("mine")


def change_file(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def remove_manifest(folder: Path) -> None:
    (folder / "timberkit.json").unlink()


def make_analysis(folder: Path) -> None:
    manifest = json.loads((folder / "timberkit.json").read_text())
    del manifest["variant"]
    (folder / "timberkit.json").write_text(json.dumps(manifest))


def name_source(folder: Path) -> None:
    manifest = json.loads((folder / "timberkit.json").read_text())
    manifest["sources"]["instruct"] |= {"hub": True, "name": "Org/Refined"}
    (folder / "timberkit.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (add_file, VerificationError, r"'\.env', 'extra/secrets\.txt'"),
        (change_file, VerificationError, r"hashes: changed: 'config\.json'"),
        (remove_manifest, CheckpointError, r"no timberkit\.json"),
        (make_analysis, CheckpointError, "not of a model that refine wrote"),
        (name_source, UsageError, "is the instruct model"),
    ],
)
def test_output_without_provenance_is_refused(
    hub: FakeHub,
    output: Path,
    damage: Callable[[Path], None],
    kind: type[TimberkitError],
    message: str,
) -> None:
    damage(output)
    with pytest.raises(kind, match=message):
        plan_push(output, REPO)
    assert hub.requests == []


def test_several_variants_are_pushed_one_by_one(hub: FakeHub, good: Path) -> None:
    with pytest.raises(UsageError, match=r"holds 2 variants .*push one: timberkit push") as raised:
        plan_push(good / "two", REPO)
    named = Path(str(raised.value).rsplit("timberkit push ", 1)[1].split()[0])
    assert plan_push(named, REPO).folder == named


@pytest.mark.parametrize(
    "repo", ["name", "a/b/c", "a--b/c", "a/b..c", "a/b.git", "/b", "a/", "a b/c", "a/b\n", "-a/b",
             "a/" + "b" * 95],
)  # fmt: skip
def test_malformed_names_are_refused(output: Path, repo: str) -> None:
    with pytest.raises(UsageError, match="expected org/name"):
        plan_push(output, repo)


@pytest.mark.parametrize("branch", ["", "a..b", "-x", "a b", "x.lock", "0" * 40, "a/", "é"])
def test_malformed_branches_are_refused(output: Path, branch: str) -> None:
    with pytest.raises(UsageError, match="no name of a branch"):
        plan_push(output, REPO, branch=branch)
