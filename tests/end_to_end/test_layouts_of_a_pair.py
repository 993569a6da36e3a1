"""Two checkpoints of one model whose weights are stored in different layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from architecture_zoo import save_pair
from safetensors.torch import load_file, save_file

from timberkit import refine
from timberkit.errors import PairMismatchError


def restack(folder: Path) -> None:
    """Store the experts of a checkpoint as Qwen3-MoE's class holds them: stacked, (E, out, in)."""
    file = folder / "model.safetensors"
    kept = load_file(file)
    for layer in range(2):
        stem = f"model.layers.{layer}.mlp.experts"
        singles = {
            part: torch.stack([kept.pop(f"{stem}.{n}.{part}_proj.weight") for n in range(4)])
            for part in ("gate", "up", "down")
        }
        kept[f"{stem}.gate_up_proj"] = torch.cat([singles["gate"], singles["up"]], 1)
        kept[f"{stem}.down_proj"] = singles["down"]
    save_file(kept, file, {"format": "pt"})


@pytest.mark.parametrize("stacked", ["base", "instruct"])
def test_experts_in_different_layouts_are_refused_by_name(tmp_path: Path, stacked: str) -> None:
    save_pair("qwen3-moe", (tmp_path / "base", tmp_path / "instruct"))
    restack(tmp_path / stacked)
    with pytest.raises(PairMismatchError, match="different layouts") as raised:
        refine(tmp_path / "base", tmp_path / "instruct", tmp_path / "out")
    assert "mlp.experts.0." in str(raised.value)
    assert "mlp.experts.down_proj" in str(raised.value) or "gate_up_proj" in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_projections_that_one_side_stores_as_one_weight_are_refused(tmp_path: Path) -> None:
    save_pair("phi3", (tmp_path / "base", tmp_path / "instruct"))
    file = tmp_path / "base" / "model.safetensors"
    kept = load_file(file)
    stem = "model.layers.1.self_attn"
    fused = kept.pop(f"{stem}.qkv_proj.weight")
    for part, rows in zip("qkv", fused.split([32, 16, 16]), strict=True):
        kept[f"{stem}.{part}_proj.weight"] = rows.clone()
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(PairMismatchError, match=rf"{stem}.qkv_proj.*{stem}.[qkv]_proj"):
        refine(tmp_path / "base", tmp_path / "instruct", tmp_path / "out")


def test_experts_that_only_instruct_has_are_copied(tmp_path: Path) -> None:
    save_pair("qwen3-moe", (tmp_path / "base", tmp_path / "instruct"))
    file = tmp_path / "base" / "model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if ".experts.3." not in n}, file)
    refine(tmp_path / "base", tmp_path / "instruct", tmp_path / "out")
    output = next((tmp_path / "out").rglob("model.safetensors"))
    found, given = load_file(output), load_file(tmp_path / "instruct" / "model.safetensors")
    same = {name for name in given if torch.equal(found[name], given[name])}
    assert {name for name in given if ".experts.3." in name} <= same
    assert not same & {name for name in given if ".experts.2." in name}
