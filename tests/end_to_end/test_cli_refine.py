"""What ``timberkit refine`` and ``plan`` do, seen from the shell, on the embedded pair."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

VARIANTS = {
    "timber:lam=0.2": "timber_lam0.2",
    "timber-l": "timber-l",
    "merge:mu=0.8": "merge_mu0.8",
    "truncate-rank:ratio=0.9": "truncate-rank_ratio0.9",
    "truncate-energy:energy=0.99": "truncate-energy_energy0.99",
}
LINEAR = 21
SIDECARS = ("chat_template.jinja", "generation_config.json", "tokenizer.json")

Refine = Callable[..., Path]


@pytest.fixture
def refine(commands: Any, checkpoints: Any, tmp_path: Path) -> Refine:
    """Refine the embedded pair with these flags, in one process, and return the output."""

    def run(*flags: object, name: str = "out", sources: bool = True) -> Path:
        pair = (checkpoints.base, checkpoints.instruct) if sources else ()
        output = tmp_path / name
        done = commands.run("refine", *pair, "-o", output, "--workers", 1, *flags)
        assert done.exit_code == 0, done.stderr
        return output

    return run


@pytest.fixture(scope="module")
def plain(commands: Any, checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default output, made as a user makes it."""
    output: Path = tmp_path_factory.mktemp("plain") / "out"
    done = commands.fresh("refine", checkpoints.base, checkpoints.instruct, "-o", output)
    assert done.exit_code == 0, done.stderr
    assert str(output) in done.stdout
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return output


def is_linear(name: str) -> bool:
    return name.endswith("_proj.weight")


def refined_names(checkpoints: Any, output: Path) -> set[str]:
    return {record["name"] for record in checkpoints.manifest(output)["refined"]}


def test_default_refine_changes_the_linear_weights_and_nothing_else(
    plain: Path, checkpoints: Any
) -> None:
    found, instruct = checkpoints.read(plain), checkpoints.read(checkpoints.instruct)
    base = checkpoints.read(checkpoints.base)
    changed = {name for name in instruct if not torch.equal(found[name], instruct[name])}
    assert found.keys() == instruct.keys()
    assert changed == {name for name in instruct if is_linear(name)}
    assert len(changed) == LINEAR
    assert not any(torch.equal(found[name], base[name]) for name in changed)


def test_default_output_has_the_files_of_instruct_and_nothing_is_left_beside_it(
    plain: Path, checkpoints: Any
) -> None:
    found, instruct = checkpoints.hashes(plain), checkpoints.hashes(checkpoints.instruct)
    assert found.keys() == instruct.keys() | {"timberkit.json"}
    differing = {name for name in instruct if found[name] != instruct[name]}
    assert differing == {"model.safetensors", "README.md"}
    assert (plain / "model.safetensors").stat().st_size == (
        checkpoints.instruct / "model.safetensors"
    ).stat().st_size
    assert os.listdir(plain.parent) == ["out"]


def test_manifest_tells_recipe_records_and_hashes(plain: Path, checkpoints: Any) -> None:
    manifest = checkpoints.manifest(plain)
    assert manifest["recipe"]["variants"] == [{"method": "timber", "lam": 0.2}]
    assert manifest["variant"] == {"method": "timber", "lam": 0.2}
    assert refined_names(checkpoints, plain) | manifest["copied"].keys() == (
        checkpoints.read(plain).keys()
    )
    for record in manifest["refined"]:
        matrix = record["matrix"]
        assert 1 <= matrix["cut"] <= min(matrix["rows"], matrix["columns"])
        assert [change["variant"] for change in matrix["changes"]] == ["timber_lam0.2"]
    hashes = checkpoints.hashes(plain)
    del hashes["timberkit.json"]
    assert manifest["files"] == hashes


def test_several_variants_in_one_pass_get_a_folder_each_and_pass_verify(
    refine: Refine, plain: Path, commands: Any, checkpoints: Any
) -> None:
    output = refine(*(word for variant in VARIANTS for word in ("--variant", variant)))
    assert sorted(os.listdir(output)) == sorted(VARIANTS.values())
    assert len(set(checkpoints.weights(output).values())) == len(VARIANTS)
    for folder in VARIANTS.values():
        manifest = checkpoints.manifest(output / folder)
        assert {c["variant"] for r in manifest["refined"] for c in r["matrix"]["changes"]} == {
            folder
        }
        assert (output / folder / "tokenizer.json").is_file()
    alone, together = checkpoints.read(plain), checkpoints.read(output / "timber_lam0.2")
    for name in alone:
        assert (alone[name] == together[name]).double().mean() >= 0.999
    done = commands.run("verify", output, "--sample", 4, "--json")
    assert done.exit_code == 0
    assert {check["folder"] for check in done.json["checks"]} == set(VARIANTS.values())


def test_yaml_config_gives_the_same_bytes_as_flags(
    refine: Refine, checkpoints: Any, tmp_path: Path
) -> None:
    recipe = {
        "base": str(checkpoints.base),
        "instruct": str(checkpoints.instruct),
        "variants": ["timber:lam=0.4", {"method": "merge", "mu": 0.6}],
        "selection": {"families": ["ffn"], "layers": "1-2"},
        "dtype": "float32",
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    by_file = refine("--config", tmp_path / "recipe.yaml", name="file", sources=False)
    flags = ("--variant", "timber:lam=0.4", "--variant", "merge:mu=0.6", "--families", "ffn")
    by_flags = refine(*flags, "--layers", "1-2", "--dtype", "float32", name="flags")
    found, expected = checkpoints.hashes(by_file), checkpoints.hashes(by_flags)
    assert found.keys() == expected.keys()
    differing = {name for name in expected if found[name] != expected[name]}
    assert all(name.endswith("timberkit.json") for name in differing)  # it holds the run's time
    folder = "merge_mu0.6"
    assert (
        checkpoints.manifest(by_file / folder)["recipe"]
        == checkpoints.manifest(by_flags / folder)["recipe"]
    )


def test_flags_override_the_config(refine: Refine, checkpoints: Any, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("method: merge\nmu: 0.5\nlayers: 0-1\n")
    output = refine("--config", tmp_path / "recipe.yaml", "--method", "timber", "--lam", 0.7)
    recipe = checkpoints.manifest(output)["recipe"]
    assert recipe["variants"] == [{"method": "timber", "lam": 0.7}]
    assert recipe["selection"]["layers"] == "0-1"


def test_manifest_fed_back_gives_the_same_weight_bytes(
    refine: Refine, plain: Path, checkpoints: Any
) -> None:
    again = refine("--config", plain / "timberkit.json", sources=False)
    assert checkpoints.weights(again) == checkpoints.weights(plain)


def test_manifest_of_one_variant_makes_all_variants_of_its_pass_again(
    refine: Refine, checkpoints: Any
) -> None:
    first = refine("--variant", "timber-l", "--variant", "merge:mu=0.3", name="first")
    again = refine("--config", first / "timber-l" / "timberkit.json", sources=False)
    assert sorted(os.listdir(again)) == ["merge_mu0.3", "timber-l"]
    assert checkpoints.weights(again) == checkpoints.weights(first)


@pytest.mark.parametrize("flags", [("--lam", 1), ("--method", "merge", "--mu", 1)], ids=str)
def test_all_gains_one_reproduces_instruct_bit_for_bit(
    refine: Refine, checkpoints: Any, flags: tuple[object, ...]
) -> None:
    output = refine(*flags)
    assert len(refined_names(checkpoints, output)) == LINEAR
    written = (output / "model.safetensors").read_bytes()
    assert written == (checkpoints.instruct / "model.safetensors").read_bytes()


def test_merge_mu_0_gives_linear_weights_of_base_and_the_rest_of_instruct(
    refine: Refine, checkpoints: Any
) -> None:
    found = checkpoints.read(refine("--method", "merge", "--mu", 0))
    base, instruct = checkpoints.read(checkpoints.base), checkpoints.read(checkpoints.instruct)
    expected = {name: (base if is_linear(name) else instruct)[name] for name in instruct}
    assert checkpoints.equal(found, expected)
    assert not checkpoints.equal(expected, instruct)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_other_dtype_is_in_weights_and_config_and_loads_in_transformers(
    refine: Refine, plain: Path, checkpoints: Any, dtype: str
) -> None:
    from transformers import AutoModelForCausalLM

    wanted = getattr(torch, dtype)
    output = refine("--dtype", dtype)
    found = checkpoints.read(output)
    assert {tensor.dtype for tensor in found.values()} == {wanted}
    assert json.loads((output / "config.json").read_text())["dtype"] == dtype
    instruct = checkpoints.read(checkpoints.instruct)
    kept = [name for name in instruct if not is_linear(name)]
    assert all(torch.equal(found[name], instruct[name].to(wanted)) for name in kept)
    model = AutoModelForCausalLM.from_pretrained(output, dtype="auto")
    assert model.dtype == wanted
    assert torch.isfinite(model(torch.arange(8)[None]).logits).all()
    narrow = checkpoints.read(plain)
    same = [(found[name].bfloat16() == narrow[name]).double().mean() for name in narrow]
    assert min(same) > (0.999 if dtype == "float32" else 0.9)


@pytest.mark.parametrize(
    ("flags", "fits"),
    [
        (("--families", "attention"), lambda name: ".self_attn." in name),
        (("--families", "ffn, embedding"), lambda name: ".mlp." in name or "embed" in name),
        (("--layers", "0,2"), lambda name: is_linear(name) and ".layers.1." not in name),
        (("--include", "*.q_proj.*"), lambda name: ".q_proj." in name),
        (("--exclude", "*.q_proj.*"), lambda name: is_linear(name) and ".q_proj." not in name),
        (
            ("--include", "*.q_proj.*", "--include", "*.k_proj.*", "--exclude", "*.1.*"),
            lambda name: (".q_proj." in name or ".k_proj." in name) and ".1." not in name,
        ),
        (("--families", "authors"), lambda name: "norm" not in name),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_selection_refines_exactly_what_it_names_and_copies_the_rest(
    refine: Refine, checkpoints: Any, flags: tuple[str, ...], fits: Callable[[str], bool]
) -> None:
    output = refine("--method", "timber-l", *flags)
    found, instruct = checkpoints.read(output), checkpoints.read(checkpoints.instruct)
    expected = {name for name in instruct if fits(name)}
    assert 0 < len(expected) < len(instruct)
    assert refined_names(checkpoints, output) == expected
    copied = checkpoints.manifest(output)["copied"]
    assert copied.keys() == instruct.keys() - expected
    assert all(copied.values())  # each with its reason
    assert {n for n in instruct if not torch.equal(found[n], instruct[n])} == expected


def test_json_is_one_object_with_every_matrix_and_nothing_else_is_printed(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    done = commands.run("refine", *pair, "-o", tmp_path / "out", "--variant", "timber-l", "--json")
    assert done.exit_code == 0
    assert done.stderr == ""
    assert done.json["folders"] == {"timber-l": str(tmp_path / "out")}
    assert done.json["resumed"] is False
    assert {tensor["name"] for tensor in done.json["tensors"]} == refined_names(
        checkpoints, tmp_path / "out"
    )
    assert sum(done.json["copied"].values()) == len(checkpoints.read(tmp_path / "out")) - LINEAR


def test_quiet_prints_nothing_at_all(commands: Any, checkpoints: Any, tmp_path: Path) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    done = commands.run("refine", *pair, "-o", tmp_path / "out", "--quiet")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


def test_sources_are_untouched_by_a_refinement(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    base, instruct = checkpoints.copies(tmp_path / "pair")
    before = state(tmp_path / "pair")
    done = commands.run("refine", base, instruct, "-o", tmp_path / "out")
    assert done.exit_code == 0
    assert state(tmp_path / "pair") == before


def state(*folders: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything in these folders, folders included."""
    places = (place for folder in folders for place in (folder, *folder.rglob("*")))
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in places}


@pytest.mark.parametrize("command", [("plan",), ("refine", "-o", "out", "--dry-run")], ids=str)
def test_plan_and_dry_run_write_nothing_but_the_calibration(
    commands: Any, checkpoints: Any, tmp_path: Path, command: tuple[str, ...]
) -> None:
    base, instruct = checkpoints.copies(tmp_path / "pair")
    (tmp_path / "cwd").mkdir()
    home = Path(commands.environment["HOME"])
    before = state(tmp_path, home)
    done = commands.run(command[0], base, instruct, *command[1:], cwd=tmp_path / "cwd")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "attention" in done.stdout
    assert state(tmp_path, home) == before
    cache = Path(commands.environment["XDG_CACHE_HOME"]) / "timberkit"
    assert {path.name for path in cache.rglob("*") if path.is_file()} <= {"calibration.json"}


def test_plan_json_names_what_refine_then_does(
    commands: Any, checkpoints: Any, plain: Path
) -> None:
    done = commands.run("plan", checkpoints.base, checkpoints.instruct, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    manifest = checkpoints.manifest(plain)
    assert {tensor["name"] for tensor in done.json["refined"]} == refined_names(checkpoints, plain)
    copied = {tensor["name"]: tensor["reason"] for tensor in done.json["copied"]}
    assert copied == manifest["copied"]
    assert done.json["recipe"] == manifest["recipe"]
    needs = done.json["estimate"]
    assert needs["disk_bytes"] == (plain / "model.safetensors").stat().st_size
    assert needs["seconds"] > 0
    assert needs["workers"] >= 1


def test_plan_lists_what_no_rule_for_names_fits(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    odd = {f"model.layers.{n}.self_attn.{'x' * 9}.weight": torch.zeros(4, 4) for n in range(3)}
    odd |= {
        f"model.mystery.{letter}.weight": torch.zeros(4, 4) for letter in "abcdefghijklmnopqrstu"
    }
    pair = [
        checkpoints.write(tmp_path / name, [{**checkpoints.read(folder), **odd}])
        for name, folder in (("base", checkpoints.base), ("instruct", checkpoints.instruct))
    ]
    done = commands.run("plan", *pair)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "Not recognised by name, so copied: 24 tensors." in done.stdout
    assert "  model.layers.*.self_attn.xxxxxxxxx.weight (3)\n" in done.stdout
    assert "  … and 2 patterns more; --json has every name\n" in done.stdout
    listed = commands.run("plan", *pair, "--json").json["unrecognised"]
    assert len(listed) == 22


def test_overwrite_replaces_an_earlier_output(refine: Refine, checkpoints: Any) -> None:
    output = refine()
    (output / "left-over.txt").write_text("from before")
    refine("--overwrite", "--method", "merge", "--mu", 0.5)
    assert checkpoints.manifest(output)["variant"] == {"method": "merge", "mu": 0.5}
    assert not (output / "left-over.txt").exists()
    assert os.listdir(output.parent) == ["out"]


def test_version_and_help_answer_without_a_model(commands: Any) -> None:
    assert commands.fresh("--version").stdout.startswith("timberkit ")
    shown = commands.run("refine", "--help")
    assert shown.exit_code == 0
    assert "Exit codes: 0 done, 1 a check failed, 2 usage, 3 bad input, 4 interrupted" in (
        " ".join(shown.stdout.split())
    )
