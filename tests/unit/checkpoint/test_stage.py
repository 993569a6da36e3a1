"""A stage: begun once, continued after a kill, refused where it is in the way, cleaned for good."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from timberkit.checkpoint import publish as publishing
from timberkit.checkpoint import stage as staging
from timberkit.checkpoint import stage_folder
from timberkit.checkpoint.stage import (
    Stage,
    find_stages,
    finish_interrupted_publish,
    refuse_overlap,
    remove_stage,
)
from timberkit.errors import (
    InterruptedRunError,
    OutputExistsError,
    StageConflictError,
    UsageError,
)

HOLD_AND_WAIT = """
import sys
from pathlib import Path
from timberkit.checkpoint.stage import Stage
with Stage.open(Path(sys.argv[1]), digest="d", description={}, overwrite=False) as stage:
    (stage.tree / "a").write_text("half")
    stage.record([{"tensor": "a"}])
    print("ready", flush=True)
    sys.stdin.read()
"""


def begin(output: Path, digest: str = "d", *, overwrite: bool = False) -> Stage:
    return Stage.open(output, digest=digest, description={"lam": 0.2}, overwrite=overwrite)


def stage_of(output: Path) -> Path:
    return output.parent / f".{output.name}.timberkit-stage"


def make_output(folder: Path, content: str = "new", *, overwrite: bool = False) -> None:
    with begin(folder, overwrite=overwrite) as stage:
        (stage.tree / "timberkit.json").write_text(content)
        stage.publish()


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_new_stage_stands_beside_the_output(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out"
    with begin(output) as stage:
        assert not stage.resumed
        assert not stage.published
        assert stage.path == stage_of(output)
        assert stage.output == output
        assert stage.tree.is_dir()
        assert stage.completed() == []
        recipe = stage_folder.read_note(stage.path / "recipe.json")
        assert recipe is not None
        assert recipe["digest"] == "d"
        assert recipe["description"] == {"lam": 0.2}
        assert recipe["tool_version"]
        assert recipe["created"].endswith("+00:00")
    assert not output.exists()


def test_published_output_has_its_name_and_nothing_else_is_left(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with begin(output) as stage:
        (stage.tree / "variant").mkdir()
        (stage.tree / "variant" / "weights").write_text("w")
        stage.publish()
        assert stage.published
        stage.publish()
        assert stage.completed() == []
        with pytest.raises(ValueError, match="published"):
            stage.record([{}])
    assert os.listdir(tmp_path) == ["out"]
    assert (output / "variant" / "weights").read_text() == "w"


def test_resumed_stage_knows_what_is_done(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with begin(output) as stage:
        (stage.tree / "a").write_text("done")
        stage.commit([stage.tree / "a", stage.tree / "a"], [{"tensor": "a"}, {"tensor": "b"}])
    with begin(output) as stage:
        assert stage.resumed
        assert stage.completed() == [{"tensor": "a"}, {"tensor": "b"}]
        stage.record([{"tensor": "c"}])
        assert len(stage.completed()) == 3
        assert (stage.tree / "a").read_text() == "done"


def test_entries_are_not_recorded_when_their_file_cannot_be_synced(tmp_path: Path) -> None:
    with begin(tmp_path / "out") as stage:
        with pytest.raises(InterruptedRunError):
            stage.commit([stage.tree / "missing"], [{"tensor": "a"}])
        assert stage.completed() == []


def test_journal_without_its_tree_starts_over(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with begin(output) as stage:
        stage.record([{"tensor": "a"}])
        stage.tree.rmdir()
    with begin(output) as stage:
        assert not stage.resumed
        assert stage.completed() == []
        assert stage.tree.is_dir()


def test_existing_output_is_refused_before_anything_is_created(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    with pytest.raises(OutputExistsError, match="--overwrite"):
        begin(output)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("out")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("file", "link", "dangling"):
        for overwrite in (False, True):
            with pytest.raises(OutputExistsError, match="expected a new folder"):
                begin(tmp_path / name, overwrite=overwrite)
    (output / "config.json").write_text("{}")
    with pytest.raises(OutputExistsError, match="was not made by timberkit"):
        begin(output, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file", "link", "out"]


@pytest.mark.parametrize("place", ["timberkit.json", "variant/timberkit.json", None])
@pytest.mark.parametrize("exchange", [True, False])
def test_overwrite_replaces_empty_folders_and_earlier_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str | None, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(publishing, "_renameat2", lambda *_: False)
    output = tmp_path / "out"
    output.mkdir()
    if place:
        (output / place).parent.mkdir(exist_ok=True)
        (output / place).write_text("old")
    make_output(output, overwrite=True)
    assert os.listdir(output) == ["timberkit.json"]
    assert os.listdir(tmp_path) == ["out"]


def test_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with begin(output) as stage:
        (stage.tree / "timberkit.json").write_text("mine")
        output.mkdir()
        (output / "theirs").write_text("")
        with pytest.raises(OutputExistsError):
            stage.publish()
        assert os.listdir(output) == ["theirs"]
    with pytest.raises(OutputExistsError):
        begin(output)
    (output / "theirs").unlink()
    output.rmdir()
    with begin(output) as stage:
        assert stage.published
        assert stage.resumed
        stage.publish()
    assert (output / "timberkit.json").read_text() == "mine"


def test_output_that_appears_in_the_last_moment_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    with begin(output) as stage:
        monkeypatch.setattr(publishing, "refuse_existing", lambda *_, **__: output.mkdir())
        with pytest.raises(OutputExistsError, match="while the run was at work"):
            stage.publish()
        assert stage.tree.is_dir()


@pytest.mark.parametrize("kind", ["second rename", "exchange"])
def test_publish_that_the_system_refuses_keeps_both_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    output = tmp_path / "out"
    make_output(output, "old")
    rename = os.rename
    with begin(output, overwrite=True) as stage:
        (stage.tree / "timberkit.json").write_text("new")
        with monkeypatch.context() as patch:
            if kind == "exchange":
                patch.setattr(publishing, "_renameat2", failing(errno.EBUSY))
            else:
                patch.setattr(publishing, "_renameat2", lambda *_: False)
                patch.setattr(
                    os,
                    "rename",
                    lambda a, b: failing(errno.EIO)() if Path(a) == stage.tree else rename(a, b),
                )
            with pytest.raises(InterruptedRunError, match="it waits in"):
                stage.publish()
        assert (output / "timberkit.json").read_text() == "old"
        stage.publish()
    assert (output / "timberkit.json").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


def test_other_recipe_is_told_both_ways_out(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with begin(output) as stage:
        stage.record([{"tensor": "a"}])
    with pytest.raises(StageConflictError, match=rf"that recipe again.*clean {tmp_path}"):
        begin(output, "another")
    with begin(output) as stage:
        assert stage.completed() == [{"tensor": "a"}]


def test_half_created_stage_is_made_anew(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for note in (None, "", "{", "[1]"):
        folder = stage_of(output)
        (folder / "tree").mkdir(parents=True)
        (folder / "tree" / "stray").write_text("")
        (folder / "discarded").mkdir()
        if note is not None:
            (folder / "recipe.json").write_text(note)
        with begin(output) as stage:
            assert not stage.resumed
            assert list(stage.tree.iterdir()) == []
        remove_stage(folder)


def test_unreadable_recipe_with_work_behind_it_is_not_thrown_away(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with begin(output) as stage:
        stage.record([{"tensor": "a"}])
    (stage_of(output) / "recipe.json").write_text("{")
    with pytest.raises(StageConflictError, match="cannot be read"):
        begin(output)
    assert stage_of(output).exists()


def test_live_run_holds_its_output_and_a_killed_one_does_not(tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-c", HOLD_AND_WAIT, str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        for digest in ("d", "another"):
            with pytest.raises(StageConflictError, match=f"process {child.pid} is writing"):
                begin(output, digest)
        (info,) = find_stages(tmp_path)
        assert info.alive
        with pytest.raises(StageConflictError, match="is writing"):
            remove_stage(info.path)
        child.kill()
    (info,) = find_stages(tmp_path)
    assert not info.alive
    with begin(output) as stage:
        assert stage.resumed
        assert stage.completed() == [{"tensor": "a"}]


def test_stages_are_found_and_removed(tmp_path: Path) -> None:
    for name in ("b", "a"):
        with begin(tmp_path / name, digest=f"digest {name}") as stage:
            (stage.tree / "weights").write_bytes(bytes(10_000))
    (tmp_path / ".c.timberkit-stage").mkdir()
    (tmp_path / ".d.timberkit-stage").write_text("no folder")
    (tmp_path / ".timberkit-stage").mkdir()
    first, second, third = find_stages(tmp_path)
    assert (first.output, first.digest) == (tmp_path / "a", "digest a")
    assert first.created is not None
    assert first.size_bytes > 10_000
    assert second.output == tmp_path / "b"
    assert (third.digest, third.created, third.alive) == (None, None, False)
    for info in (first, second, third):
        remove_stage(info.path)
    assert sorted(os.listdir(tmp_path)) == [".d.timberkit-stage", ".timberkit-stage"]


def test_only_stages_are_removed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / ".link.timberkit-stage").symlink_to("precious")
    for name in ("precious", "missing", ".missing.timberkit-stage", ".link.timberkit-stage"):
        with pytest.raises(UsageError, match="no unfinished run"):
            remove_stage(tmp_path / name)
    assert (tmp_path / "precious").is_dir()
    with pytest.raises(StageConflictError, match="is a link"):
        begin(tmp_path / "link")
    with pytest.raises(UsageError, match="cannot be listed"):
        find_stages(tmp_path / "missing")


def halfway(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kill between the two renames of an overwrite leaves it."""
    make_output(output, "old")
    with begin(output, overwrite=True) as stage:
        (stage.tree / "timberkit.json").write_text("new")
        with monkeypatch.context() as patch:
            patch.setattr(publishing, "_renameat2", lambda *_: False)
            patch.setattr(publishing, "_rename_tree", failing(errno.EIO))
            patch.setattr(publishing.os.path, "lexists", lambda _: True)
            with pytest.raises(InterruptedRunError):
                stage.publish()
    assert not output.exists()


def test_clean_puts_the_old_output_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halfway(tmp_path / "out", monkeypatch)
    remove_stage(stage_of(tmp_path / "out"))
    assert (tmp_path / "out" / "timberkit.json").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_clean_never_drops_the_only_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    halfway(output, monkeypatch)
    output.mkdir()
    (output / "timberkit.json").write_text("third")
    with pytest.raises(StageConflictError, match="the output from before"):
        remove_stage(stage_of(output))
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_renameat2", lambda *_: False)
        with pytest.raises(StageConflictError, match="was stopped while it published"):
            begin(output, overwrite=True)
    replaced = stage_of(output) / "replaced" / "timberkit.json"
    assert replaced.read_text() == "old"
    (stage_of(output) / "publishing.json").unlink()
    with pytest.raises(StageConflictError, match="was stopped while it published"):
        begin(output, overwrite=True)
    (stage_of(output) / "recipe.json").unlink()
    with pytest.raises(StageConflictError, match="cannot be read"):
        begin(output, overwrite=True)
    assert replaced.read_text() == "old"


def test_interrupted_overwrite_is_finished_by_the_same_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    halfway(output, monkeypatch)
    with pytest.raises(StageConflictError):
        begin(output, "another", overwrite=True)
    assert not finish_interrupted_publish(output, digest="another")
    assert finish_interrupted_publish(output, digest="d")
    assert (output / "timberkit.json").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]
    assert not finish_interrupted_publish(output, digest="d")


def test_nothing_to_finish_while_work_is_left(tmp_path: Path) -> None:
    begin(tmp_path / "out").close()
    assert not finish_interrupted_publish(tmp_path / "out", digest="d")
    assert stage_of(tmp_path / "out").exists()


def killed_while_removing(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with begin(output) as stage:
        (stage.tree / "timberkit.json").write_text("new")
        with monkeypatch.context() as patch:
            patch.setattr(stage_folder.StageFolder, "remove", failing(errno.EIO))
            with pytest.raises(InterruptedRunError, match=r"is complete.*timberkit clean"):
                stage.publish()


def test_published_output_whose_rest_was_left_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    killed_while_removing(output, monkeypatch)
    with begin(output) as stage:
        assert stage.published
    assert os.listdir(tmp_path) == ["out"]


def test_output_changed_after_publishing_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    killed_while_removing(output, monkeypatch)
    (output / "note.txt").write_text("added by the user")
    with pytest.raises(OutputExistsError):
        begin(output)
    assert (output / "note.txt").exists()


def test_output_moved_away_after_publishing_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    killed_while_removing(output, monkeypatch)
    output.rename(tmp_path / "elsewhere")
    with begin(output) as stage:
        assert not stage.resumed
        assert not stage.published
    assert (tmp_path / "elsewhere" / "timberkit.json").exists()


def test_output_needs_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="a name of its own"):
        begin(Path("/"))
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    for path in (Path("."), Path("../out"), Path("../out/sub/..")):
        with pytest.raises(OutputExistsError):
            begin(path)
    with begin(Path("relative")) as stage:
        assert stage.output == tmp_path / "out" / "relative"


def test_stage_goes_where_a_linked_parent_leads(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    make_output(tmp_path / "link" / "out")
    assert (tmp_path / "real" / "out" / "timberkit.json").exists()


def test_overlap_of_output_and_sources_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "models" / "source"
    source.mkdir(parents=True)
    (tmp_path / "link").symlink_to(source)
    for output, relation in [
        (source, "the output is the source"),
        (tmp_path / "link", "the output is the source"),
        (source / "out", "lies inside"),
        (tmp_path / "link" / "deep" / "out", "lies inside"),
        (tmp_path / "models", "contains"),
        (tmp_path, "contains"),
    ]:
        with pytest.raises(UsageError, match=relation):
            refuse_overlap(output, [tmp_path / "elsewhere", source])
    with pytest.raises(UsageError, match="the output is"):
        refuse_overlap(source, [tmp_path / "link"])
    refuse_overlap(tmp_path / "models" / "source-timber", [source, tmp_path / "link"])
    refuse_overlap(tmp_path / "out", [])


def test_overlap_is_found_by_identity_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Model", "model"):
        (tmp_path / name).mkdir(exist_ok=True)
    monkeypatch.setattr(Path, "samefile", lambda a, b: str(a).lower() == str(b).lower())
    with pytest.raises(UsageError, match="lies inside"):
        refuse_overlap(tmp_path / "Model" / "out", [tmp_path / "model"])


def test_tool_version_is_unknown_when_nothing_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: str) -> str:
        raise staging.PackageNotFoundError

    monkeypatch.setattr(staging, "version", missing)
    with begin(tmp_path / "out") as stage:
        recipe = stage_folder.read_note(stage.path / "recipe.json")
    assert recipe is not None
    assert recipe["tool_version"] == "unknown"
