"""Edits that look at the place of a matrix, or at Base: one pass, any workers, killed, verified."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import timberkit
from timberkit.config import parse_variant, variant_name, variant_text
from timberkit.engine.estimate import worker_memory_bytes

FREE = 'free:edges=4,gains={"model.layers.0.self_attn.q_proj.weight": [0.3, 1.2], "*": [1, 0.9]}'
TEXTS = (
    "steps:edges=4+16,gains=0.3+1.2+1",
    "steps:gains=1.2",
    "within:families=attention,of=timber:lam=0.2",
    "within:families=ffn,of=timber:lam=0.2",
    "within:start=0,stop=0.5,of=timber:lam=0.2",
    "within:start=0.5,stop=1,of=base-subspace:share=0.1,inside=0",
    "within:layers=0,modules=q_proj+v_proj,of=merge:mu=0.5",
    "ramp:first=0.5,last=1",
    FREE,
    "base-subspace:share=0.1,inside=0,outside=1",
    "timber:lam=0.2",
    "matched-merge:of=within:families=attention,of=timber:lam=0.2",
    "noise:seed=1,of=ramp:first=0.5,last=1",
    "noise:seed=1,of=base-subspace:share=0.1,inside=0",
    f"matched-merge:of={FREE}",
)
NAMES = [variant_name(parse_variant(text)) for text in TEXTS]
FLAGS = tuple(word for text in TEXTS for word in ("--variant", text))


@pytest.fixture(scope="module")
def output(commands: Any, checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded pair, every one in one pass, by one worker."""
    folder: Path = tmp_path_factory.mktemp("placed") / "out"
    pair = (checkpoints.base, checkpoints.instruct)
    done = commands.run("refine", *pair, "-o", folder, "--workers", 1, *FLAGS)
    assert done.exit_code == 0, done.stderr
    return folder


def name_of(text: str) -> str:
    return variant_name(parse_variant(text))


def test_every_one_gets_a_folder_and_passes_verify_in_all_its_matrices(
    output: Path, commands: Any, checkpoints: Any
) -> None:
    assert sorted(os.listdir(output)) == sorted(NAMES)
    assert len(set(checkpoints.weights(output).values())) == len(NAMES)
    done = commands.run("verify", output, "--all", "--json")
    assert done.exit_code == 0, done.stdout
    assert {check["folder"] for check in done.json["checks"]} == set(NAMES)


def test_two_workers_write_the_bytes_of_one(
    output: Path, commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    done = commands.run("refine", *pair, "-o", tmp_path / "out", "--workers", 2, *FLAGS)
    assert done.exit_code == 0, done.stderr
    assert checkpoints.weights(tmp_path / "out") == checkpoints.weights(output)


def test_state_dicts_become_what_the_files_hold(output: Path, checkpoints: Any) -> None:
    base, instruct = checkpoints.read(checkpoints.base), checkpoints.read(checkpoints.instruct)
    found = timberkit.refine_state_dicts(base, instruct, variants=TEXTS)
    for name in NAMES:
        assert checkpoints.equal(found[name], checkpoints.read(output / name))


def test_a_part_holds_the_edit_of_a_whole_run_and_the_rest_is_instruct(
    output: Path, checkpoints: Any
) -> None:
    instruct = checkpoints.read(checkpoints.instruct)
    whole = checkpoints.read(output / "timber_lam0.2")
    attention, ffn, half = (
        checkpoints.read(output / name_of(f"within:{part},of=timber"))
        for part in ("families=attention", "families=ffn", "start=0,stop=0.5")
    )
    layers = {name: int(name.split(".")[2]) for name in whole if name.startswith("model.layers.")}
    depth, edited = max(layers.values()) + 1, 0
    for name, weight in whole.items():
        for part, inside in (
            (attention, ".self_attn." in name),
            (ffn, ".mlp." in name),
            (half, name in layers and layers[name] < depth / 2),
        ):
            expected = weight if inside else instruct[name]
            assert torch.equal(part[name].view(torch.int16), expected.view(torch.int16)), name
            edited += int(inside and not torch.equal(weight, instruct[name]))
    assert edited > 0


def test_records_and_manifests_keep_the_method_as_it_was_asked_for(
    output: Path, commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    for text, name in zip(TEXTS, NAMES, strict=True):
        manifest = checkpoints.manifest(output / name)
        assert manifest["variant"] == parse_variant(text).model_dump(mode="json")
        changes = [record["matrix"]["changes"] for record in manifest["refined"]]
        assert {change["variant"] for found in changes for change in found} == {name}
    edited = {
        record["name"]: record["matrix"]["changes"][0]["correction"]
        for record in checkpoints.manifest(output / name_of("ramp:first=0.5,last=1"))["refined"]
    }
    assert {name for name, size in edited.items() if not size} == {
        name for name in edited if name.startswith(f"model.layers.{_last_layer(edited)}.")
    }
    manifest = output / name_of(FREE) / "timberkit.json"
    done = commands.run("refine", "--config", manifest, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert checkpoints.weights(tmp_path / "out") == checkpoints.weights(output)


def _last_layer(names: Any) -> int:
    return max(int(name.split(".")[2]) for name in names)


def test_controls_report_the_correction_of_their_edit(output: Path, checkpoints: Any) -> None:
    def corrections(text: str) -> list[float]:
        records = checkpoints.manifest(output / name_of(text))["refined"]
        return [record["matrix"]["changes"][0]["correction"] for record in records]

    for control in TEXTS[-4:]:
        edit = control.partition("of=")[2]
        assert corrections(control) == pytest.approx(corrections(edit), rel=1e-6, abs=1e-12)


def test_a_card_says_which_part(output: Path) -> None:
    card = (output / name_of("within:families=attention,of=timber") / "README.md").read_text()
    assert "# instruct (local folder), refined with within" in card
    assert "| Parameters | families = attention, of = timber:lam=0.2 |" in card
    assert "| What it does | Edit as of says in the chosen part of the model" in card


def test_a_run_that_is_killed_goes_on_where_it_stood(
    commands: Any, checkpoints: Any, grove: tuple[Path, Path], tmp_path: Path
) -> None:
    variants = ("--variant", "ramp:first=0,last=1.5", "--variant", "within:stop=0.5,of=timber")
    done = commands.run("refine", *grove, "-o", tmp_path / "whole", "--workers", 1, *variants)
    assert done.exit_code == 0, done.stderr
    place = tmp_path / "place"
    place.mkdir()
    asked = ("refine", *grove, "-o", place / "out", *variants)
    running = commands.start(*asked, "--workers", 1)
    running.wait_until(lambda: len(checkpoints.journal(place / "out")) > 3)
    running.send(signal.SIGKILL)
    assert running.wait().exit_code == -signal.SIGKILL
    done = commands.run(*asked, "--workers", 2)
    assert done.exit_code == 0, done.stderr
    assert checkpoints.weights(place / "out") == checkpoints.weights(tmp_path / "whole")


def test_a_recipe_in_yaml_gives_the_bytes_of_the_flags(
    output: Path, commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    lines = "\n".join(f"  - '{variant_text(parse_variant(text))}'" for text in TEXTS)
    recipe.write_text(
        f"base: {checkpoints.base}\ninstruct: {checkpoints.instruct}\nvariants:\n{lines}\n"
    )
    done = commands.run("refine", "--config", recipe, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert checkpoints.weights(tmp_path / "out") == checkpoints.weights(output)


def test_each_expert_of_a_fused_tensor_has_gains_of_its_own(
    checkpoints: Any, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    name = "model.layers.0.mlp.experts.down_proj"
    base = {name: torch.randn(3, 40, 12, generator=generator)}
    instruct = {name: base[name] + 0.01 * torch.randn(3, 40, 12, generator=generator)}
    pair = (
        checkpoints.write(tmp_path / "base", [base]),
        checkpoints.write(tmp_path / "instruct", [instruct]),
    )
    free = f'free:edges=none,gains={{"{name} [0]": [0], "*.experts.* [1]": [0.5]}}'
    timberkit.refine(*pair, tmp_path / "out", variants=free)
    found = checkpoints.read(tmp_path / "out")[name]
    assert torch.equal(found[0], base[name][0])
    torch.testing.assert_close(found[1], (base[name][1] + instruct[name][1]) / 2)
    assert torch.equal(found[2], instruct[name][2])
    again = timberkit.refine_state_dicts(base, instruct, variants=free)
    assert torch.equal(again[name_of(free)][name], found)
    assert timberkit.verify(tmp_path / "out", every=True).passed


def test_a_pass_without_a_decomposition_is_planned_as_one(checkpoints: Any) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    plans = {
        text: timberkit.plan(*pair, variants=text)
        for text in ("timber", "within:layers=0,of=linear:first=1,last=0", "linear:first=1,last=0",
                     "base-subspace:share=1,inside=0", "ramp:first=0.5,last=1")
    }  # fmt: skip
    needs = [worker_memory_bytes(plan) for plan in plans.values()]
    assert needs[0] == needs[4] < needs[1] <= needs[2] < needs[3]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("within:layers=70-90,of=timber", "found layers 70-90, expected a part that holds"),
        ('free:gains={"model.layers.0.mlp.up.weight": [1, 0]}', "found gains for 'model.layers.0"),
        ("within:of=timber", "expected at least one of families"),
        ("steps:edges=4,gains=1", "found 1 gains for 1 edges, expected 2"),
    ],
)
def test_what_means_nothing_is_a_usage_error(
    commands: Any, checkpoints: Any, tmp_path: Path, text: str, part: str
) -> None:
    pair = (checkpoints.base, checkpoints.instruct)
    for command in (("plan", *pair), ("refine", *pair, "-o", tmp_path / "out")):
        refused = commands.run(*command, "--variant", text)
        assert refused.exit_code == 2
        assert part in refused.error
    assert not (tmp_path / "out").exists()
    with pytest.raises(timberkit.errors.UsageError, match=r"found|expected"):
        timberkit.refine_state_dicts(*map(checkpoints.read, pair), variants=text)
