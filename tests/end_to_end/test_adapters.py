"""A LoRA adapter in the place of Instruct: refined, verified, analysed; peft merges it too."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.support.adapters import CASES, merged, save_adapted

import timberkit
from timberkit.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Checkpoints, Commands

METHODS = (
    *("timber", "timber-l", "merge:mu=1", "merge:mu=0", "truncate-rank:ratio=0.05", "shrink"),
    *("truncate-energy:energy=0.8", "noise:of=timber-l", "matched-merge:of=timber-l"),
    *("base-subspace:share=0.5,outside=0", "linear:first=0,last=1"),
)
FILE = "model.safetensors"


@pytest.mark.parametrize("case", CASES)
def test_every_method_agrees_with_a_full_svd_of_the_merged_delta(tmp_path: Path, case: str) -> None:
    base, adapter = save_adapted(case, tmp_path)
    families = ["attention", "ffn", "embedding", "head"]
    result = timberkit.refine(base, adapter, tmp_path / "out", variants=METHODS, families=families)
    assert {record.matrix.route for record in result.tensors} <= {"low rank", "float64", "svd"}
    assert "low rank" in {record.matrix.route for record in result.tensors}
    for folder in result.folders.values():
        report = timberkit.verify(folder, every=True)
        assert report.passed, [check for check in report.checks if not check.passed]
    # With all gains 1 it is what peft merges, with all 0 it is Base.
    kept, given = load_file(result.folders["merge_mu1"] / FILE), load_file(base / FILE)
    theirs = merged(base, adapter)
    assert kept.keys() == given.keys()
    for name, value in kept.items():
        expected = theirs[name].to(value.dtype)
        differing = int((value != expected).sum())
        # Theirs is rounded to float32 on the way: a tie in a thousand elements falls otherwise.
        assert differing <= 1 + value.numel() // 1000, name
        assert torch.allclose(value.float(), expected.float(), rtol=2**-7, atol=1e-6), name
    dropped = load_file(result.folders["merge_mu0"] / FILE)
    assert all(torch.equal(dropped[name], value) for name, value in given.items())


def test_spectra_are_those_of_the_factors(tmp_path: Path) -> None:
    base, adapter = save_adapted("plain", tmp_path)
    result = timberkit.analyze(base, adapter, tmp_path / "out", page=False)
    factors = load_file(adapter / "adapter_model.safetensors")
    assert len(result.analysis.weights) == 6
    for weight in result.analysis.weights:
        module = f"base_model.model.{weight.name.removesuffix('.weight')}"
        a, b = (factors[f"{module}.lora_{which}.weight"].double().numpy() for which in "AB")
        expected = np.linalg.svd(8 / 6 * b @ a, compute_uv=False)
        found = np.asarray(weight.delta.singular_values)
        assert found.shape == expected.shape
        assert np.allclose(found[:6], expected[:6], rtol=1e-12)
        assert not found[6:].any()
        shares = expected[:6] / expected[:6].sum()
        assert weight.delta.effective_rank == pytest.approx(
            np.exp(-(shares * np.log(shares)).sum())
        )
        assert weight.cut.cut == np.ceil(weight.delta.effective_rank)


def test_what_is_not_selected_is_merged_and_what_is_not_adapted_is_copied(tmp_path: Path) -> None:
    base, adapter = save_adapted("plain", tmp_path)
    out = tmp_path / "out"
    plan = timberkit.plan(base, adapter, families=["attention"], layers="1")
    assert {tensor.name for tensor in plan.refined} == {
        f"model.layers.1.self_attn.{part}_proj.weight" for part in "qv"
    }
    assert plan.copy_reasons["not adapted"] == 2  # k and o of that layer
    timberkit.refine(base, adapter, out, method="merge", mu=0, families=["attention"], layers="1")
    found, given, theirs = load_file(out / FILE), load_file(base / FILE), merged(base, adapter)
    for name, value in found.items():
        adapted = any(part in name for part in ("q_proj", "v_proj", "down_proj"))
        whole = adapted and not ("layers.1" in name and "self_attn" in name)
        assert torch.equal(value, given[name]) is not whole, name
        if whole:
            assert torch.allclose(value.float(), theirs[name].float(), rtol=2**-7, atol=1e-6)
    assert timberkit.verify(out, every=True).passed


def test_commands_take_an_adapter_and_say_so(
    commands: Commands, checkpoints: type[Checkpoints], tmp_path: Path
) -> None:
    base, adapter = save_adapted("plain", tmp_path)
    (adapter / "chat_template.jinja").write_text("of the adapter")
    (base / "chat_template.jinja").write_text("of base")
    before = checkpoints.hashes(base), checkpoints.hashes(adapter)
    plan = commands.run("plan", base, adapter, "--json")
    assert plan.exit_code == 0, plan.stderr
    assert len(plan.json["refined"]) == 6
    out = tmp_path / "out"
    done = commands.run("refine", base, adapter, "-o", out, "--workers", "2")
    assert done.exit_code == 0, done.stderr
    assert (checkpoints.hashes(base), checkpoints.hashes(adapter)) == before
    assert (out / "chat_template.jinja").read_text() == "of the adapter"
    assert not (out / "adapter_config.json").exists()
    assert checkpoints.manifest(out)["sources"]["instruct"]["adapter"] == "lora"
    card = (out / "README.md").read_text()
    assert "adapter (local folder), converted from a LoRA adapter" in card
    assert "What a LoRA adapter adds to its Base" in card
    assert "those of Instruct" not in card
    assert commands.run("verify", out, "--all").exit_code == 0
    serial = tmp_path / "serial"
    assert commands.run("refine", base, adapter, "-o", serial, "--workers", "1").exit_code == 0
    assert checkpoints.weights(serial) == checkpoints.weights(out)
    analysis = commands.run("analyze", base, adapter, "-o", tmp_path / "analysis", "--no-page")
    assert analysis.exit_code == 0, analysis.stderr
    for flag in (("--measure", "rounding"), ("--hidden-states",)):
        refused = commands.run("analyze", base, adapter, "-o", tmp_path / "no", *flag)
        assert refused.exit_code == 2
        assert "Instruct is an adapter" in refused.error
    assert commands.run("diff", base, adapter).exit_code == 3


def test_a_killed_run_is_continued_and_a_changed_adapter_noticed(
    commands: Commands, checkpoints: type[Checkpoints], tmp_path: Path
) -> None:
    base, adapter = save_adapted("plain", tmp_path)
    whole, out = tmp_path / "whole", tmp_path / "out"
    args = ("refine", base, adapter, "--workers", "1", "-o")
    assert commands.run(*args, whole).exit_code == 0
    running = commands.start(*args, out)
    running.wait_until(lambda: checkpoints.journal(out))
    running.send(signal.SIGKILL)
    running.wait()
    if not out.exists():
        again = commands.run(*args, out)
        assert again.exit_code == 0, again.stderr
    assert checkpoints.weights(out) == checkpoints.weights(whole)
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    found = commands.run("verify", out, "--all")
    assert found.exit_code == 1


def test_several_adapters_of_one_base(tmp_path: Path) -> None:
    base, adapter = save_adapted("plain", tmp_path)
    alone = timberkit.refine(base, adapter, tmp_path / "alone")
    given = [f"first={adapter}", f"second={adapter}"]
    found = timberkit.refine(base, given, tmp_path / "both")
    expected = load_file(alone.output / FILE)
    for name in ("first", "second"):
        tensors = load_file(found.output / name / FILE)
        assert all(torch.equal(tensors[key], value) for key, value in expected.items())


def test_an_adapter_of_which_nothing_is_selected_is_said(tmp_path: Path) -> None:
    base, adapter = save_adapted("plain", tmp_path)
    with pytest.raises(UsageError, match=r"the adapter changes model\.layers\.0"):
        timberkit.plan(base, adapter, families=["head"])


def test_output_loads_and_is_peft_merged_at_full_gain(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base, adapter = save_adapted("patterns", tmp_path, torch.float32)
    out = tmp_path / "out"
    families = ["attention", "ffn", "embedding", "head"]
    timberkit.refine(base, adapter, out, method="merge", mu=1, families=families)
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    theirs = merged(base, adapter)
    for name, value in model.state_dict().items():
        assert torch.allclose(value, theirs[name], rtol=1e-6, atol=1e-7), name
    assert json.loads((out / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_refined_adapter_is_the_refined_delta(
    tmp_path: Path, case: str, dtype: torch.dtype
) -> None:
    base, adapter = save_adapted(case, tmp_path, dtype)
    families = ["attention", "ffn", "embedding", "head"]
    options = {"variants": ["timber-l", "leading:count=2,gain=-0.5"], "families": families}
    result = timberkit.refine(base, adapter, tmp_path / "out", as_adapter=True, **options)
    whole = timberkit.refine(base, adapter, tmp_path / "merged", fused="whole", **options)
    given = load_file(adapter / "adapter_model.safetensors")
    for variant, folder in result.folders.items():
        report = timberkit.verify(folder, every=True)
        assert report.passed, [check for check in report.checks if not check.passed]
        written = load_file(folder / "adapter_model.safetensors")
        assert {n: (v.dtype, v.shape) for n, v in written.items()} == {
            n: (v.dtype, v.shape) for n, v in given.items()
        }
        assert not list(folder.glob("*.index.json"))
        theirs = merged(base, folder)  # peft loads it
        expected = load_file(whole.folders[variant] / FILE)
        original = load_file(base / FILE)
        for name, value in expected.items():
            delta = theirs[name].double() - original[name].double()
            wanted = value.double() - original[name].double()
            # Expected is rounded to Base's dtype; so are the factors.
            noise = torch.finfo(dtype).eps * (value.double().norm() + 4 * wanted.norm())
            assert float((delta - wanted).norm()) <= float(noise) + 1e-6, name


def test_a_refined_adapter_that_was_changed_is_noticed(tmp_path: Path) -> None:
    base, adapter = save_adapted("plain", tmp_path)
    out = tmp_path / "out"
    timberkit.refine(base, adapter, out, as_adapter=True, layers="0")
    file = out / "adapter_model.safetensors"
    right = load_file(file)
    for which in (0, 1):  # a refined factor, one that was kept
        name = next(name for name in right if f"layers.{which}" in name)
        from safetensors.torch import save_file

        save_file({**right, name: right[name] * 1.5}, file, {"format": "pt"})
        failed = [c.name for c in timberkit.verify(out, every=True).checks if not c.passed]
        assert ("oracle", "copies")[which] in failed


def test_layers_of_a_refined_adapter_are_the_model_s(tmp_path: Path) -> None:
    base, adapter = save_adapted("plain", tmp_path)
    options = {"variants": "ramp:first=0.2,last=0.8", "layers": "0"}
    plans = [timberkit.plan(base, adapter, as_adapter=flag, **options) for flag in (False, True)]
    assert [plan.layers for plan in plans] == [2, 2]


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases_come_along(tmp_path: Path, bias: str) -> None:
    base, adapter = save_adapted("biases", tmp_path, bias=bias)
    timberkit.refine(base, adapter, tmp_path / "out", method="merge", mu=1)
    found, theirs = load_file(tmp_path / "out" / FILE), merged(base, adapter)
    for name in found:
        assert torch.allclose(found[name].float(), theirs[name].float(), rtol=2**-7, atol=1e-3), (
            name
        )
    name = "model.layers.0.self_attn.q_proj.bias"
    assert not torch.equal(found[name], load_file(base / FILE)[name])
    assert timberkit.verify(tmp_path / "out", every=True).passed


def test_nan_in_a_delta_that_is_not_selected_is_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    base, adapter = save_adapted("plain", tmp_path)
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "layers.1" in name)
    save_file({**weights, name: weights[name] * float("nan")}, file)
    with pytest.raises(CheckpointError, match="adapter's delta holds NaN"):
        timberkit.refine(base, adapter, tmp_path / "out", layers="0")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variants": "noise:of=timber"}, "no delta of low rank"),
        ({"variants": "base-subspace:share=0.5,outside=0"}, "no delta of low rank"),
        ({"dtype": "float32"}, "leave --dtype out"),
    ],
)
def test_what_no_adapter_can_hold_is_refused(
    tmp_path: Path, options: dict[str, str], said: str
) -> None:
    base, adapter = save_adapted("plain", tmp_path)
    with pytest.raises(UsageError, match=said):
        timberkit.plan(base, adapter, as_adapter=True, **options)
    with pytest.raises(UsageError, match="is a whole model"):
        timberkit.plan(*map(Path, _sapling()), as_adapter=True)


def _sapling() -> tuple[Path, Path]:
    from timberkit.sapling import base_folder, instruct_folder

    return base_folder(), instruct_folder()


def test_an_adapter_that_names_another_base_is_cautioned_about(
    commands: Commands, tmp_path: Path
) -> None:
    base, adapter = save_adapted("plain", tmp_path)
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    for named, cautioned in (("org/another-model", True), ("/home/me/Base", False), (None, False)):
        file.write_text(json.dumps({**config, "base_model_name_or_path": named}))
        said = commands.run("plan", base, adapter).stdout
        assert ("trained on another-model" in said or f"trained on {named}" in said) is cautioned


def test_a_refined_adapter_names_no_path_of_this_machine(
    commands: Commands, checkpoints: type[Checkpoints], tmp_path: Path
) -> None:
    base, adapter = save_adapted("plain", tmp_path)
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text())
    for named, expected in ((str(tmp_path / "base"), "base"), ("org/model", "org/model")):
        file.write_text(json.dumps({**config, "base_model_name_or_path": named}))
        out = tmp_path / expected.replace("/", "-out-")
        out = out.with_name(f"{out.name}-refined")
        done = commands.run("refine", base, adapter, "-o", out, "--as-adapter")
        assert done.exit_code == 0, done.stderr
        assert "copied" not in done.stdout
        written = (out / "adapter_config.json").read_text()
        assert json.loads(written)["base_model_name_or_path"] == expected
        assert str(tmp_path) not in written
        assert commands.run("verify", out).exit_code == 0


def test_a_method_that_changes_nothing_is_said(commands: Commands, tmp_path: Path) -> None:
    base, adapter = save_adapted("plain", tmp_path)
    done = commands.run(
        "refine", base, adapter, "-o", tmp_path / "out", "--method", "merge", "--mu", 1
    )
    assert "merge_mu1 changes nothing" in done.stdout
    assert "not refined (Base's, with the adapter's delta" in done.stdout
