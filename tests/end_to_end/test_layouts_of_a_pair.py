"""Two checkpoints of one model whose weights are stored in different layouts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from architecture_zoo import save_pair
from safetensors.torch import load_file, save_file

import timberkit
from timberkit import refine
from timberkit.errors import PairMismatchError

Tensors = dict[str, torch.Tensor]
FILE = "model.safetensors"


def change(folder: Path, edit: Callable[[Tensors], Tensors]) -> None:
    save_file(
        {name: value.contiguous() for name, value in edit(load_file(folder / FILE)).items()},
        folder / FILE,
        {"format": "pt"},
    )


def stacked(kept: Tensors) -> Tensors:
    """Experts as the classes of transformers hold them: stacked, (E, out, in), gate before up."""
    pattern = re.compile(r"(.*)\.experts\.0\.(gate_proj|w1)\.weight")
    for match in [found for name in [*kept] if (found := pattern.fullmatch(name))]:
        stem = f"{match[1]}.experts"
        parts = ("w1", "w3", "w2") if match[2] == "w1" else ("gate_proj", "up_proj", "down_proj")
        count = sum(f"{stem}.{n}.{match[2]}.weight" in kept for n in range(100))
        gate, up, down = (
            torch.stack([kept.pop(f"{stem}.{n}.{part}.weight") for n in range(count)])
            for part in parts
        )
        new = stem.replace("block_sparse_moe", "mlp")
        kept[f"{new}.gate_up_proj"] = torch.cat([gate, up], 1)
        kept[f"{new}.down_proj"] = down
    return {name.replace("block_sparse_moe", "mlp"): value for name, value in kept.items()}


def singly(kept: Tensors) -> Tensors:
    """The experts of Llama 4, (E, in, out) with columns of gate before up, one by one."""
    for name in [name for name in kept if name.endswith("experts.gate_up_proj")]:
        stem = name.removesuffix(".gate_up_proj")
        both, down = kept.pop(name), kept.pop(f"{stem}.down_proj")
        for n in range(len(both)):
            gate, up = both[n].chunk(2, dim=1)
            for part, value in (("gate", gate), ("up", up), ("down", down[n])):
                kept[f"{stem}.{n}.{part}_proj.weight"] = value.T
    return kept


def apart(kept: Tensors) -> Tensors:
    """q, k and v of Phi-3, and its gate and up, as weights of their own."""
    for name in [
        name for name in kept if name.endswith(("qkv_proj.weight", "gate_up_proj.weight"))
    ]:
        stem, both = name.rsplit(".", 2)[0], kept.pop(name)
        rows, parts = ([32, 16, 16], "qkv") if "qkv" in name else ([48, 48], ("gate", "up"))
        for part, value in zip(parts, both.split(rows), strict=True):
            kept[f"{stem}.{part}_proj.weight"] = value
    return kept


CASES = {
    "qwen2-moe": stacked,
    "qwen3-moe": stacked,
    "deepseek-v3": stacked,
    "mixtral": stacked,
    "jamba": stacked,
    "llama4": singly,
    "phi3": apart,
}


@pytest.mark.parametrize("architecture", CASES)
def test_layouts_do_not_matter(tmp_path: Path, architecture: str) -> None:
    own, other = (tmp_path / "own", tmp_path / "other")
    save_pair(architecture, (own / "base", own / "instruct"))
    shutil.copytree(own, other)
    for side in ("base", "instruct"):
        change(other / side, CASES[architecture])
    results: dict[tuple[Path, Path], Tensors] = {}
    for base in (own, other):
        for instruct in (own, other):
            out = tmp_path / f"{base.name}-{instruct.name}"
            refine(base / "base", instruct / "instruct", out)
            results[base, instruct] = load_file(out / FILE)
            given = load_file(instruct / "instruct" / FILE)
            assert results[base, instruct].keys() == given.keys()
            if base is not instruct:
                manifest = json.loads((out / "timberkit.json").read_text())
                assert manifest["other_layout"]
                assert set(manifest["other_layout"]) <= set(given)
                assert all(name.endswith(".gate.weight") for name in manifest["base_only"])
                assert timberkit.verify(out, every=True).passed
    for instruct in (own, other):
        same, mixed = (results[base, instruct] for base in (own, other))
        assert all(torch.equal(same[name], mixed[name]) for name in same)
    # And the logical matrices are those of the other layout, bit for bit.
    converted = CASES[architecture](dict(results[own, own]))
    assert converted.keys() == results[other, other].keys()
    rounds = {
        n for n, value in converted.items() if not torch.equal(value, results[other, other][n])
    }
    # Llama 4 stores transposes, of which the same directions come out with other rounding.
    assert not rounds or architecture == "llama4"
    for name in rounds:
        assert torch.allclose(converted[name], results[other, other][name], atol=1e-3, rtol=2**-7)


def test_analysis_and_plan_pair_them_too(tmp_path: Path) -> None:
    own, other = (tmp_path / "own", tmp_path / "other")
    save_pair("qwen3-moe", (own / "base", own / "instruct"))
    shutil.copytree(own, other)
    change(other / "base", stacked)
    plan = timberkit.plan(other / "base", own / "instruct")
    names = {tensor.name: tensor.base_names for tensor in plan.other_layout}
    stem = "model.layers.1.mlp.experts"
    assert names[f"{stem}.3.gate_proj.weight"] == (f"{stem}.gate_up_proj",)
    assert names[f"{stem}.3.down_proj.weight"] == (f"{stem}.down_proj",)
    assert not plan.base_only
    found = [
        timberkit.analyze(base / "base", own / "instruct", tmp_path / base.name / "a", page=False)
        for base in (own, other)
    ]
    assert found[0].analysis.summary == found[1].analysis.summary


def pair_of(architecture: str, tmp_path: Path) -> tuple[Path, Path]:
    save_pair(architecture, (tmp_path / "base", tmp_path / "instruct"))
    return tmp_path / "base", tmp_path / "instruct"


def test_a_layout_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    base, instruct = pair_of("qwen3-moe", tmp_path)
    change(base, stacked)
    for folder in (base, instruct):
        config = json.loads((folder / "config.json").read_text())
        config["model_type"] = "of_the_future"
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(PairMismatchError, match="different layouts") as raised:
        refine(base, instruct, tmp_path / "out")
    assert "mlp.experts.0." in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_fused_weights_that_are_to_stay_whole_have_no_counterpart(tmp_path: Path) -> None:
    base, instruct = pair_of("phi3", tmp_path)
    change(base, apart)
    with pytest.raises(PairMismatchError, match=r"gate_up_proj.*gate_proj"):
        refine(base, instruct, tmp_path / "out", fused="whole")


def test_routers_that_were_renamed_are_paired(tmp_path: Path) -> None:
    base, instruct = pair_of("mixtral", tmp_path)
    change(base, stacked)
    plan = timberkit.plan(base, instruct, families=["router"])
    assert [tensor.base_names for tensor in plan.refined] == [
        (f"model.layers.{layer}.mlp.gate.weight",) for layer in (0, 1)
    ]


def test_another_shape_in_another_layout_is_named(tmp_path: Path) -> None:
    base, instruct = pair_of("qwen3-moe", tmp_path)
    change(base, stacked)
    name = "model.layers.0.mlp.experts.down_proj"
    change(base, lambda kept: {**kept, name: kept[name][:, :, :8]})
    with pytest.raises(PairMismatchError, match=r"its down is 32 x 16, and 32 x 8 in"):
        refine(base, instruct, tmp_path / "out")


def test_fewer_experts_in_base_are_refused_where_they_are_stacked(tmp_path: Path) -> None:
    base, instruct = pair_of("qwen3-moe", tmp_path)
    change(instruct, stacked)
    change(base, lambda kept: {n: t for n, t in kept.items() if ".experts.3." not in n})
    with pytest.raises(PairMismatchError, match="different layouts"):
        refine(base, instruct, tmp_path / "out")


def test_experts_that_only_instruct_has_are_copied(tmp_path: Path) -> None:
    base, instruct = pair_of("qwen3-moe", tmp_path)
    change(base, lambda kept: {n: t for n, t in kept.items() if ".experts.3." not in n})
    refine(base, instruct, tmp_path / "out")
    output = next((tmp_path / "out").rglob(FILE))
    found, given = load_file(output), load_file(instruct / FILE)
    same = {name for name in given if torch.equal(found[name], given[name])}
    assert {name for name in given if ".experts.3." in name} <= same
    assert not same & {name for name in given if ".experts.2." in name}
