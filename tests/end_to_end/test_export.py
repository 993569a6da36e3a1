"""Recipes as files of mergekit: what its words mean gives the bytes of our own output, nearly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from architecture_zoo import save_pair
from safetensors.torch import load_file, save_file
from tests.support.adapters import save_adapted

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Checkpoints, Commands

FILE = "model.safetensors"


def value_of(setting: Any, name: str) -> float:
    """What a setting of mergekit is for a tensor: the first condition whose text is in the name."""
    if isinstance(setting, float):
        return setting
    return float(next(c["value"] for c in setting if "filter" not in c or c["filter"] in name))


def merged(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The linear merge that a configuration asks for, in float32."""
    assert config["merge_method"] == "linear"
    assert config["parameters"] == {"normalize": False}
    results: dict[str, torch.Tensor] = {}
    for model in config["models"]:
        for name, tensor in load_file(Path(model["model"]) / FILE).items():
            part = value_of(model["parameters"]["weight"], name) * tensor.float()
            results[name] = results.get(name, 0) + part
    return {name: value.to(getattr(torch, config["out_dtype"])) for name, value in results.items()}


ASKED = (
    ("--method", "merge", "--mu", "0.8"),
    ("--method", "merge", "--mu", "0.3", "--families", "attention"),
    ("--method", "merge", "--mu", "0.5", "--layers", "1"),
    ("--method", "merge", "--mu", "0", "--families", "ffn", "--exclude", "*.0.mlp.up_proj.weight"),
    ("--variant", "ramp:first=0.2,last=0.9"),
    ("--variant", "matched-merge:of=merge:mu=0.4"),
    ("--variant", "steps:gains=1.5"),
    ("--method", "merge", "--mu", "0.8", "--dtype", "float32"),
)


@pytest.mark.parametrize("flags", ASKED, ids=" ".join)
def test_what_is_exported_makes_what_refine_makes(
    commands: Commands, checkpoints: type[Checkpoints], tmp_path: Path, flags: tuple[str, ...]
) -> None:
    pair = checkpoints.base, checkpoints.instruct
    done = commands.run("export", *pair, "--mergekit", *flags)
    assert done.exit_code == 0, done.stderr
    theirs = merged(yaml.safe_load(done.stdout))
    assert commands.run("refine", *pair, "-o", tmp_path / "out", *flags).exit_code == 0
    ours = load_file(tmp_path / "out" / FILE)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        differing = float((value != theirs[name]).double().mean())
        # In float32 a tie of 16 bits falls to either side, and a sum near zero is less exact.
        assert differing < (0.02 if value.dtype == torch.bfloat16 else 1.0), name
        assert torch.allclose(value.float(), theirs[name].float(), rtol=2**-7, atol=1e-7), name
    # The same from the manifest of the output.
    again = commands.run(
        "export", "--config", tmp_path / "out" / "timberkit.json", "--mergekit", "-o",
        tmp_path / "file.yaml",
    )  # fmt: skip
    assert again.exit_code == 0, again.stderr
    assert yaml.safe_load((tmp_path / "file.yaml").read_text()) == yaml.safe_load(done.stdout)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "timber_lam0.2: mergekit has no equivalent"),
        (("--variant", "noise:of=merge:mu=0.5"), "mergekit has no equivalent"),
        (("--variant", "merge:mu=0.5", "--variant", "merge:mu=0.6"), "makes one model: name one"),
    ],
)
def test_what_has_no_equivalent_is_refused(
    commands: Commands, checkpoints: type[Checkpoints], flags: tuple[str, ...], said: str
) -> None:
    done = commands.run("export", checkpoints.base, checkpoints.instruct, "--mergekit", *flags)
    assert done.exit_code == 2
    assert said in done.error


def test_parts_of_a_fused_weight_and_adapters_are_refused(
    commands: Commands, tmp_path: Path
) -> None:
    save_pair("phi3", (tmp_path / "base", tmp_path / "instruct"))
    pair = tmp_path / "base", tmp_path / "instruct"
    parts = 'free:edges=none,gains={"model.layers.0.self_attn.qkv_proj.weight [q]": [0.5]}'
    fused = commands.run("export", *pair, "--mergekit", "--variant", "merge:mu=0.5")
    assert fused.exit_code == 0, fused.stderr
    done = commands.run("export", *pair, "--mergekit", "--variant", parts)
    assert done.exit_code == 2
    assert (
        "treats the parts of 'model.layers.0.self_attn.qkv_proj.weight' differently" in done.error
    )
    base, adapter = save_adapted("plain", tmp_path / "lora")
    assert commands.run("export", base, adapter, "--mergekit").exit_code in (2, 3)


def test_an_existing_file_is_left_alone(
    commands: Commands, checkpoints: type[Checkpoints], tmp_path: Path
) -> None:
    (tmp_path / "there.yaml").write_text("mine")
    pair = checkpoints.base, checkpoints.instruct
    flags = ("--mergekit", "--method", "merge", "--mu", "0.5", "-o", tmp_path / "there.yaml")
    done = commands.run("export", *pair, *flags)
    assert done.exit_code == 2
    assert "is there already" in done.error
    assert (tmp_path / "there.yaml").read_text() == "mine"
    assert commands.run("export", *pair).exit_code == 2


def test_models_of_different_tensors_are_refused(
    commands: Commands, checkpoints: type[Checkpoints], tmp_path: Path
) -> None:
    base, instruct = checkpoints.copies(tmp_path)
    tensors = load_file(base / FILE)
    save_file({n: t for n, t in tensors.items() if n != "model.norm.weight"}, base / FILE)
    done = commands.run("export", base, instruct, "--mergekit", "--method", "merge", "--mu", 0.5)
    assert done.exit_code == 2
    assert "'model.norm.weight': is not in Base" in done.error
