"""``timberkit verify`` passes what is good and finds damage, forged hashes or not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

CHECK_FAILED, BAD_INPUT = 1, 3
REFINED = "model.layers.2.mlp.down_proj.weight"
COPIED = "model.layers.1.post_attention_layernorm.weight"
ALL_CHECKS = ["hashes", "loadable", "sources", "structure", "copies", "oracle"]


@pytest.fixture(scope="module")
def good(commands: Any, checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies of the embedded pair and an output made of them."""
    place: Path = tmp_path_factory.mktemp("good")
    base, instruct = checkpoints.copies(place)
    done = commands.run("refine", base, instruct, "-o", place / "out", "--method", "timber-l")
    assert done.exit_code == 0, done.stderr
    return place


@pytest.fixture
def output(good: Path, tmp_path: Path) -> Path:
    """A copy of the output, to be damaged; its sources stay where they are."""
    return Path(shutil.copytree(good / "out", tmp_path / "out"))


@pytest.fixture
def failed(commands: Any) -> Callable[..., set[str]]:
    """Verify, and return the names of the checks that failed."""

    def run(output: Path, *flags: object) -> set[str]:
        done = commands.run("verify", output, "--json", *flags)
        assert done.stderr == ""
        found = {check["name"] for check in done.json["checks"] if not check["passed"]}
        assert done.exit_code == (CHECK_FAILED if found else 0)
        assert done.json["passed"] is not bool(found)
        return found

    return run


def edit(
    folder: Path, checkpoints: Any, change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    """Change the tensors of a folder with one shard; its header stays as it is."""
    tensors = checkpoints.read(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_good_output_passes_every_check(commands: Any, good: Path) -> None:
    done = commands.fresh("verify", good / "out", "--all")
    assert done.exit_code == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok"] * len(ALL_CHECKS)
    assert "21 of 21 matrices recomputed" in done.stdout


def test_sample_is_recomputed_by_default(commands: Any, good: Path) -> None:
    done = commands.run("verify", good / "out")
    assert done.exit_code == 0
    assert "8 of 21 matrices recomputed" in done.stdout


def test_json_lists_every_check_and_quiet_prints_none(commands: Any, good: Path) -> None:
    done = commands.run("verify", good / "out", "--json", "--sample", 1)
    assert [check["name"] for check in done.json["checks"]] == ALL_CHECKS
    quiet = commands.run("verify", good / "out", "--quiet", "--sample", 1)
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")


def test_verify_changes_nothing(commands: Any, good: Path) -> None:
    def times() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in (good, *good.rglob("*"))}

    before = times()
    assert commands.run("verify", good / "out", "--sample", 1).exit_code == 0
    assert times() == before


@pytest.mark.parametrize("from_end", [1, 300_000], ids=str)
def test_one_flipped_byte_in_a_weight_is_found(
    output: Path, failed: Callable[..., set[str]], commands: Any, from_end: int
) -> None:
    content = bytearray((output / "model.safetensors").read_bytes())
    content[-from_end] ^= 0x80
    (output / "model.safetensors").write_bytes(content)
    assert "hashes" in failed(output, "--without-sources")
    shown = commands.run("verify", output, "--without-sources")
    assert "FAIL" in shown.stdout
    assert "model.safetensors" in shown.stdout


def test_weight_of_instruct_behind_forged_hashes_is_found_by_the_oracle(
    output: Path, failed: Callable[..., set[str]], commands: Any, checkpoints: Any, good: Path
) -> None:
    instruct = checkpoints.read(good / "instruct")
    edit(output, checkpoints, lambda tensors: tensors.update({REFINED: instruct[REFINED]}))
    assert failed(output, "--without-sources") == {"hashes"}
    checkpoints.rehash(output)
    assert failed(output, "--without-sources") == set()
    assert failed(output, "--all") == {"oracle"}
    assert REFINED in commands.run("verify", output, "--all").stdout


def test_weight_of_another_lambda_behind_forged_hashes_is_found_by_the_oracle(
    output: Path, failed: Callable[..., set[str]], checkpoints: Any, good: Path
) -> None:
    from timberkit import refine_matrix
    from timberkit.config import Timber

    base, instruct = checkpoints.read(good / "base"), checkpoints.read(good / "instruct")
    other = refine_matrix(base[REFINED], instruct[REFINED], [Timber(lam=0.2)]).weights[0]
    edit(output, checkpoints, lambda tensors: tensors.update({REFINED: other}))
    checkpoints.rehash(output)
    assert failed(output, "--all") == {"oracle"}


def test_changed_copy_behind_forged_hashes_is_found(
    output: Path, failed: Callable[..., set[str]], commands: Any, checkpoints: Any
) -> None:
    edit(output, checkpoints, lambda tensors: tensors[COPIED][0].add_(0.5))
    checkpoints.rehash(output)
    assert failed(output, "--sample", 0) == {"copies"}
    assert COPIED in commands.run("verify", output, "--sample", 0).stdout


def test_missing_tensor_behind_forged_hashes_is_found(
    output: Path, failed: Callable[..., set[str]], checkpoints: Any
) -> None:
    edit(output, checkpoints, lambda tensors: tensors.pop(COPIED))
    checkpoints.rehash(output)
    assert failed(output) == {"structure"}


def test_record_missing_from_the_manifest_is_found(
    output: Path, failed: Callable[..., set[str]], checkpoints: Any
) -> None:
    manifest = checkpoints.manifest(output)
    manifest["refined"].pop()
    (output / "timberkit.json").write_text(json.dumps(manifest))
    assert failed(output) == {"structure"}


@pytest.mark.parametrize("name", ["extra.txt", "more/extra.safetensors"])
def test_extra_file_is_found(
    output: Path, failed: Callable[..., set[str]], commands: Any, name: str
) -> None:
    (output / name).parent.mkdir(exist_ok=True)
    (output / name).write_text("not from timberkit")
    assert failed(output, "--without-sources") == {"hashes"}
    assert name in commands.run("verify", output, "--without-sources").stdout


def test_missing_file_is_found(
    output: Path, failed: Callable[..., set[str]], commands: Any
) -> None:
    (output / "tokenizer.json").unlink()
    assert failed(output, "--without-sources") == {"hashes"}
    assert "tokenizer.json" in commands.run("verify", output, "--without-sources").stdout


def test_missing_weights_are_found(output: Path, failed: Callable[..., set[str]]) -> None:
    (output / "model.safetensors").unlink()
    assert failed(output) == {"hashes", "structure"}


def test_other_source_than_the_output_was_made_from_is_found(
    output: Path, failed: Callable[..., set[str]], checkpoints: Any, good: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(good / "base", tmp_path / "base"))
    edit(other, checkpoints, lambda tensors: tensors.update({"extra.weight": torch.zeros(2)}))
    assert "sources" in failed(output, "--base", other)


@pytest.mark.parametrize(
    ("which", "tensor", "check"), [("base", REFINED, "oracle"), ("instruct", COPIED, "copies")]
)
def test_values_changed_in_a_source_are_found(
    failed: Callable[..., set[str]],
    checkpoints: Any,
    good: Path,
    tmp_path: Path,
    which: str,
    tensor: str,
    check: str,
) -> None:
    other = Path(shutil.copytree(good / which, tmp_path / which))
    edit(other, checkpoints, lambda tensors: tensors[tensor].mul_(-1))
    assert failed(good / "out", "--all", f"--{which}", other) == {check}


def test_moved_sources_exit_3_with_advice_that_helps(
    output: Path, failed: Callable[..., set[str]], commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    manifest = checkpoints.manifest(output)
    for which in ("base", "instruct"):
        manifest["recipe"][which]["location"] = str(tmp_path / "gone" / which)
    (output / "timberkit.json").write_text(json.dumps(manifest))
    done = commands.run("verify", output, "--quiet")
    assert done.exit_code == BAD_INPUT
    assert str(tmp_path / "gone" / "base") in done.error
    for advised in ("--base", "--instruct", "--without-sources"):
        assert advised in done.error
    base, instruct = checkpoints.copies(tmp_path / "moved")
    assert failed(output, "--base", base, "--instruct", instruct) == set()
    assert failed(output, "--without-sources") == set()


def test_unreadable_manifest_exits_3(output: Path, commands: Any) -> None:
    (output / "timberkit.json").write_text("{}")
    done = commands.run("verify", output)
    assert done.exit_code == BAD_INPUT
    assert "schema_version" in done.error


def test_damage_in_one_variant_is_told_by_its_folder(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    variants = ("--variant", "timber-l", "--variant", "merge:mu=0.5")
    pair = (checkpoints.base, checkpoints.instruct)
    assert commands.run("refine", *pair, "-o", tmp_path / "out", *variants).exit_code == 0
    (tmp_path / "out" / "timber-l" / "config.json").write_text("{}")
    done = commands.run("verify", tmp_path / "out", "--json", "--sample", 1)
    assert done.exit_code == CHECK_FAILED
    wrong = {(c["folder"], c["name"]) for c in done.json["checks"] if not c["passed"]}
    assert wrong == {("timber-l", "hashes")}
