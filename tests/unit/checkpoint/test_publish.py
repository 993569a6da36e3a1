"""Real SIGKILLs before every step of a run: the old output or the new one, never a mixture.

A child process forks one run after another, each killed one system call later than the one before,
and looks at what is left; then the same command runs again (itself killed at every step), or the
leftovers are cleaned. The second kill comes at every STRIDE-th step only, another set for each of
the first: all pairs take minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from timberkit.checkpoint import publish as publishing
from timberkit.checkpoint.publish import fingerprint, rename_new

STRIDE = 8

KILLED_RUNS = """
import itertools, json, os, shutil, signal, sys
from pathlib import Path

from timberkit.checkpoint import publish as publishing
from timberkit.checkpoint.stage import Stage, finish_interrupted_publish, find_stages, remove_stage
from timberkit.errors import OutputExistsError

root, mode, after, stride = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
overwrite = mode != "fresh"
if mode == "overwrite by two renames":
    publishing._renameat2 = lambda *_: False
# SIGKILL keeps what the system has in memory, so waiting for the disk proves nothing here.
os.fsync = os.fdatasync = lambda descriptor: None
STEPS = "rename replace unlink rmdir mkdir ftruncate pwrite".split()


def kill_at(step):
    count = itertools.count()
    def killing(call):
        def wrapped(*arguments, **options):
            if next(count) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        return wrapped
    for name in STEPS:
        setattr(os, name, killing(getattr(os, name)))
    publishing._renameat2 = killing(publishing._renameat2)


def fill(folder, what):
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    for name in ("timberkit.json", "weights", "sub/tokenizer"):
        (folder / name).write_text(what)


def content(folder):
    names = ("timberkit.json", "weights", "sub/tokenizer")
    texts = {(folder / name).read_text() if (folder / name).exists() else None for name in names}
    return texts.pop() if len(texts) == 1 else "mixed"


def run(output):
    with Stage.open(output, digest="d", description={}, overwrite=overwrite) as stage:
        if not stage.published:
            fill(stage.tree, "new")
            stage.record([{"tensor": "a"}])
            stage.publish()


def forked(action, step=None):
    child = os.fork()
    if not child:
        try:
            if step is not None:
                kill_at(step)
            action()
            os._exit(0)
        except OutputExistsError:
            os._exit(2)
        except BaseException:
            import traceback; traceback.print_exc()
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code


def prepared(name):
    folder = root / name
    output = folder / "out"
    folder.mkdir(parents=True)
    if overwrite:
        fill(output, "old")
    return output


def check_left_behind(output, where):
    found = content(output)
    if found in ("old", "new") or not overwrite and found is None:
        return
    replaced = output.parent / ".out.timberkit-stage" / "replaced"
    # A second run that overwrites sets aside what the first one had made.
    set_aside = not output.exists() and content(replaced) in ("old", "new")
    if mode == "overwrite by two renames" and set_aside:
        return
    problems.append([where, "left behind", found])


def check_end(output, where, code, wanted):
    if code not in (0, 2) or content(output) not in wanted or os.listdir(output.parent) != ["out"]:
        problems.append([where, code, content(output), sorted(os.listdir(output.parent))])


def clean(output):
    for stage in find_stages(output.parent):
        remove_stage(stage.path)


problems, points, rerun_points = [], 0, 0
run(root / "warm" / "out")  # what is imported here need not be imported in each child
for step in itertools.count():
    output = prepared(f"{step}")
    if forked(lambda: run(output), step) != -signal.SIGKILL:
        break
    points += 1
    check_left_behind(output, step)
    saved = root / "saved"
    shutil.copytree(output.parent, saved)
    follow = run if after == "run" else clean
    wanted = ("new",) if after == "run" else ("old", "new") if overwrite else ("new", None)
    for again in itertools.count(step % stride, stride):
        code = forked(lambda: follow(output), again)
        if code != -signal.SIGKILL:
            break
        rerun_points += 1
        check_left_behind(output, (step, again))
        finish = clean if again % 2 and after == "clean" else run
        code = forked(lambda: finish(output))
        if code == 2:
            # The output was complete already; only the empty rest of the stage may be there.
            forked(lambda: clean(output))
        if finish is run or wanted == ("new",):
            check_end(output, (step, again, finish.__name__), code, ("new",))
        shutil.rmtree(output.parent)
        shutil.copytree(saved, output.parent)
    if code == 2:
        forked(lambda: clean(output))
    if not (after == "clean" and not overwrite and not output.exists()):
        check_end(output, (step, after), code, wanted)
    shutil.rmtree(saved)
    shutil.rmtree(output.parent)
print(json.dumps({"points": points, "rerun_points": rerun_points, "problems": problems[:10]}))
"""


@pytest.mark.parametrize("mode", ["fresh", "overwrite", "overwrite by two renames"])
@pytest.mark.parametrize("after", ["run", "clean"])
def test_kill_at_any_step_leaves_the_old_output_or_the_new_one(
    tmp_path: Path, mode: str, after: str
) -> None:
    command = [sys.executable, "-c", KILLED_RUNS, str(tmp_path), mode, after, str(STRIDE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == [], done.stderr
    assert found["points"] >= 15
    assert found["rerun_points"] >= found["points"]


def test_rename_never_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for native in (True, False):
        if not native:
            monkeypatch.setattr(publishing, "_renameat2", lambda *_: False)
        source, target = tmp_path / f"source{native}", tmp_path / f"target{native}"
        source.mkdir()
        target.mkdir()
        with pytest.raises(FileExistsError):
            rename_new(source, target)
        target.rmdir()
        rename_new(source, target)
        assert target.is_dir()
        assert not source.exists()
        with pytest.raises(FileNotFoundError):
            rename_new(source, target.with_name("other"))


def test_fingerprint_tells_outputs_apart_but_not_their_place(tmp_path: Path) -> None:
    def make(name: str, manifest: str = "{}", weights: str = "w", extra: str = "") -> str | None:
        folder = tmp_path / name
        (folder / "variant").mkdir(parents=True)
        (folder / "variant" / "timberkit.json").write_text(manifest)
        (folder / "weights").write_text(weights)
        if extra:
            (folder / extra).mkdir()
        return fingerprint(folder)

    first = make("first")
    assert first == make("same")
    others = [
        make("other manifest", manifest="[]"),
        make("other size", weights="ww"),
        make("other folder", extra="empty"),
    ]
    assert len({first, *others}) == 4
    assert fingerprint(tmp_path / "missing") is None
