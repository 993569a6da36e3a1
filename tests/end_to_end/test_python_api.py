"""The Python functions do what the commands do, and tell how far they are."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import timberkit
from timberkit.errors import OutputExistsError, RecipeError

OPTIONS: dict[str, Any] = {
    "variants": ["timber:lam=0.4", "timber-l", "merge:mu=0.7"],
    "families": ["attention", "ffn", "embedding"],
    "exclude": ["*.v_proj.*"],
}
FLAGS = (
    *("--variant", "timber:lam=0.4", "--variant", "timber-l", "--variant", "merge:mu=0.7"),
    *("--families", "attention,ffn,embedding", "--exclude", "*.v_proj.*"),
)
SCRIPT = """\
import sys

import timberkit

if __name__ == "__main__":
    base, instruct, output = sys.argv[1:]
    result = timberkit.refine(base, instruct, output, workers=2, variants="timber-l")
    print(len(result.tensors), timberkit.verify(output, sample=1).passed)
"""


@pytest.fixture(scope="module")
def refined(checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any]]:
    """Result of a refinement with three variants, and the progress it told of."""
    seen: list[Any] = []
    output = tmp_path_factory.mktemp("api") / "out"
    result = timberkit.refine(
        checkpoints.base, checkpoints.instruct, output, on_progress=seen.append, **OPTIONS
    )
    return result, seen


def test_function_and_command_write_the_same_weights(
    refined: tuple[Any, list[Any]], commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    assert commands.run("refine", *pair, "-o", tmp_path / "out", *FLAGS).exit_code == 0
    assert checkpoints.weights(tmp_path / "out") == checkpoints.weights(refined[0].output)


def test_state_dicts_become_what_the_files_hold(
    refined: tuple[Any, list[Any]], checkpoints: Any
) -> None:
    base, instruct = checkpoints.read(checkpoints.base), checkpoints.read(checkpoints.instruct)
    found = timberkit.refine_state_dicts(base, instruct, **OPTIONS)
    assert list(found) == list(refined[0].folders) == ["timber_lam0.4", "timber-l", "merge_mu0.7"]
    for variant, folder in refined[0].folders.items():
        assert checkpoints.equal(found[variant], checkpoints.read(folder))
        assert list(found[variant]) == list(instruct)


def test_state_dicts_are_left_as_they_were_and_unrefined_tensors_are_shared(
    checkpoints: Any,
) -> None:
    base, instruct = checkpoints.read(checkpoints.base), checkpoints.read(checkpoints.instruct)
    before = {name: tensor.clone() for name, tensor in instruct.items()}
    found = timberkit.refine_state_dicts(base, instruct, layers="0")["timber_lam0.2"]
    assert checkpoints.equal(instruct, before)
    shared = {name for name in instruct if found[name] is instruct[name]}
    assert shared == {n for n in instruct if ".layers.0." not in n or "norm" in n}


def test_state_dicts_in_another_dtype_agree_with_the_files(
    checkpoints: Any, tmp_path: Path
) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    timberkit.refine(*pair, tmp_path / "out", dtype="float16", layers="1")
    found = timberkit.refine_state_dicts(
        *map(checkpoints.read, pair), dtype=torch.float16, layers="1"
    )
    assert checkpoints.equal(found["timber_lam0.2"], checkpoints.read(tmp_path / "out"))


def test_plan_names_what_refine_then_does(
    refined: tuple[Any, list[Any]], checkpoints: Any, tmp_path: Path
) -> None:
    planned = timberkit.plan(checkpoints.base, checkpoints.instruct, **OPTIONS)
    assert planned == refined[0].plan
    assert {t.name for t in planned.refined} == {t.name for t in refined[0].tensors}
    assert [t.name for t in planned.tensors] == list(checkpoints.read(checkpoints.instruct))
    weights = refined[0].output.rglob("*.safetensors")
    assert planned.output_bytes == sum(path.stat().st_size for path in weights)


def test_verify_passes_every_variant(refined: tuple[Any, list[Any]]) -> None:
    told: list[Any] = []
    report = timberkit.verify(refined[0].output, on_check=told.append)
    assert report.passed
    assert told == list(report.checks)
    assert {check.folder for check in report.checks} == set(refined[0].folders)


def test_records_of_the_result_are_those_of_the_manifests(
    refined: tuple[Any, list[Any]], checkpoints: Any
) -> None:
    result = refined[0]
    assert all(
        [change.variant for change in tensor.matrix.changes] == list(result.folders)
        for tensor in result.tensors
    )
    for variant, folder in result.folders.items():
        for record in checkpoints.manifest(folder)["refined"]:
            (tensor,) = (t for t in result.tensors if t.name == record["name"])
            (change,) = (c for c in tensor.matrix.changes if c.variant == variant)
            assert record["matrix"]["changes"][0]["changed"] == change.changed
            assert record["matrix"]["effective_rank"] == tensor.matrix.effective_rank


def test_progress_grows_and_ends_at_its_total(refined: tuple[Any, list[Any]]) -> None:
    result, seen = refined
    counts = [(s.tasks_done, s.bytes_done, s.cost_done) for s in seen]
    totals = {(s.tasks_total, s.bytes_total, s.cost_total) for s in seen}
    assert len(totals) == 1
    assert counts[0] == (0, 0, 0.0)
    for before, after in pairwise(counts):
        assert all(b < a for b, a in zip(before, after, strict=True))
    tasks, size, cost = totals.pop()
    assert (counts[-1][0], counts[-1][1]) == (tasks, size)
    assert counts[-1][2] == pytest.approx(cost)
    assert tasks == len(result.plan.tasks)


def test_script_with_two_workers_writes_the_bytes_of_one(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    pair = (checkpoints.base, checkpoints.instruct)
    arguments = [sys.executable, "script.py", *map(str, pair), str(tmp_path / "two")]
    done = subprocess.run(
        arguments, cwd=tmp_path, env=commands.environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("21 True\n", "")
    timberkit.refine(*pair, tmp_path / "one", variants="timber-l")
    assert checkpoints.weights(tmp_path / "two") == checkpoints.weights(tmp_path / "one")
    manifests = [checkpoints.manifest(tmp_path / name) for name in ("one", "two")]
    assert [manifest["run"]["workers"] for manifest in manifests] == [1, 2]


def test_errors_of_the_functions_are_those_of_the_commands(
    refined: tuple[Any, list[Any]], checkpoints: Any, tmp_path: Path
) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    with pytest.raises(OutputExistsError, match="exists already"):
        timberkit.refine(*pair, refined[0].output, **OPTIONS)
    with pytest.raises(RecipeError, match="lam"):
        timberkit.refine(*pair, tmp_path / "out", variants="timber:lam=2")
    with pytest.raises(RecipeError, match="lam"):
        timberkit.plan(*pair, variants="timber:lam=2")
    assert not (tmp_path / "out").exists()


def test_refining_leaves_the_threads_of_the_caller_alone(checkpoints: Any, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        timberkit.refine(checkpoints.base, checkpoints.instruct, tmp_path / "out", layers="0")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
