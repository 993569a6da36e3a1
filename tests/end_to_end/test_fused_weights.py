"""A weight that holds several projections gives what they give when each is stored by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from architecture_zoo import save_pair

import timberkit

HEADS, GROUPS, WIDTH = 4, 2, 8
L = "model.layers.0."
Tensors = dict[str, torch.Tensor]


def noisy(shapes: dict[str, tuple[int, ...]]) -> tuple[Tensors, Tensors]:
    """A Base with these tensors and an Instruct a little way from it."""
    generator = torch.Generator().manual_seed(0)
    base = {n: torch.randn(s, generator=generator).bfloat16() for n, s in shapes.items()}
    moved = {n: w + 0.05 * torch.randn(w.shape, generator=generator) for n, w in base.items()}
    return base, {name: weight.bfloat16() for name, weight in moved.items()}


@pytest.fixture
def refined(checkpoints: Any, tmp_path: Path) -> Any:
    """Refine two sets of tensors, from files, and check the output; returns its tensors."""

    def refine(pair: tuple[Tensors, Tensors], *, workers: int = 1, **fields: Any) -> Tensors:
        config = fields.pop("config", {})
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        folders = [
            checkpoints.write(place / name, [tensors], **config)
            for name, tensors in zip(("base", "instruct"), pair, strict=True)
        ]
        timberkit.refine(*folders, place / "out", workers=workers, **fields)
        checks = timberkit.verify(place / "out", every=True).checks
        assert [check for check in checks if not check.passed] == []
        found: Tensors = checkpoints.read(place / "out")
        return found

    return refine


def qkv_alone(weight: torch.Tensor) -> Tensors:
    """The projections of a Phi-3 weight under the names that Llama has for them."""
    sizes = (HEADS * WIDTH, GROUPS * WIDTH, GROUPS * WIDTH)
    parts = zip("qkv", weight.split(sizes), strict=True)
    return {f"{L}self_attn.{name}_proj.weight": part.contiguous() for name, part in parts}


def test_phi3_gives_the_weights_of_its_unfused_twin(refined: Any) -> None:
    qkv, gate_up = f"{L}self_attn.qkv_proj.weight", f"{L}mlp.gate_up_proj.weight"
    pair = noisy({qkv: (64, 32), gate_up: (96, 32)})
    twins = [
        {
            **qkv_alone(tensors[qkv]),
            f"{L}mlp.gate_proj.weight": tensors[gate_up][:48].contiguous(),
            f"{L}mlp.up_proj.weight": tensors[gate_up][48:].contiguous(),
        }
        for tensors in pair
    ]
    sizes = {"hidden_size": 32, "num_attention_heads": HEADS, "num_key_value_heads": GROUPS}
    phi = {"model_type": "phi3", "head_dim": WIDTH, **sizes}
    found = refined(pair, config=phi, workers=2)
    twin = refined(twins)
    assert torch.equal(found[qkv], torch.cat([*(twin[n] for n in qkv_alone(found[qkv]))]))
    up = torch.cat([twin[f"{L}mlp.{name}_proj.weight"] for name in ("gate", "up")])
    assert torch.equal(found[gate_up], up)
    whole = refined(pair, config=phi, fused="whole")
    assert not torch.equal(whole[qkv], found[qkv])
    assert torch.equal(whole[qkv], refined(pair)[qkv])  # as stored, too, where nothing is known


def test_heads_that_alternate_give_the_weights_of_the_unfused_twin(refined: Any) -> None:
    name = "gpt_neox.layers.0.attention.query_key_value.weight"
    pair = noisy({name: (3 * HEADS * WIDTH, 32)})

    def apart(weight: torch.Tensor) -> list[torch.Tensor]:
        return [*weight.reshape(HEADS, 3, WIDTH, 32).transpose(0, 1).reshape(3, -1, 32)]

    twins = [
        {f"{L}self_attn.{x}_proj.weight": w for x, w in zip("qkv", apart(t[name]), strict=True)}
        for t in pair
    ]
    config = {"model_type": "gpt_neox", "hidden_size": 32, "num_attention_heads": HEADS}
    found, twin = refined(pair, config=config), refined(twins)
    expected = [twin[f"{L}self_attn.{x}_proj.weight"] for x in "qkv"]
    assert torch.equal(torch.stack(apart(found[name])), torch.stack(expected))


@pytest.mark.parametrize("columns", [False, True], ids=["rows", "columns"])
def test_experts_give_the_weights_of_experts_stored_one_by_one(columns: bool, refined: Any) -> None:
    fused = f"{L}mlp.experts.gate_up_proj"
    pair = noisy({fused: (3, 32, 48) if columns else (3, 48, 32)})
    alone = f"{L}mlp.experts.{{}}.{{}}_proj.weight"

    def apart(weight: torch.Tensor) -> Tensors:
        return {
            alone.format(expert, part): half.contiguous()
            for expert in range(3)
            for part, half in zip(
                ("gate", "up"), weight[expert].chunk(2, dim=int(columns)), strict=True
            )
        }

    config = {"model_type": "qwen3_vl_moe_text", "hidden_size": 32}
    found = refined(pair, config=config)[fused]
    twin = refined([apart(tensors[fused]) for tensors in pair])
    assert {name: weight.shape for name, weight in apart(found).items()} == {
        name: weight.shape for name, weight in twin.items()
    }
    assert all(torch.equal(weight, twin[name]) for name, weight in apart(found).items())


def test_either_orientation_of_experts_gives_the_same_up_to_rounding(refined: Any) -> None:
    name = f"{L}mlp.experts.gate_up_proj"
    pair = [{name: tensors[name].float()} for tensors in noisy({name: (3, 48, 32)})]
    turned = [{name: tensors[name].transpose(1, 2).contiguous()} for tensors in pair]
    config = {"model_type": "qwen3_vl_moe_text", "hidden_size": 32}
    first, second = (refined(each, config=config)[name] for each in (pair, turned))
    torch.testing.assert_close(first, second.transpose(1, 2), rtol=1e-6, atol=1e-6)


def test_edits_are_placed_by_projection_and_by_expert(refined: Any) -> None:
    qkv = f"{L}self_attn.qkv_proj.weight"
    base, instruct = noisy({qkv: (64, 32)})
    sizes = {"hidden_size": 32, "num_attention_heads": HEADS, "num_key_value_heads": GROUPS}
    config = {"model_type": "phi3", **sizes}
    for variant in ("within:modules=q_proj,of=merge:mu=0", 'free:edges=none,gains={"* [q]": [0]}'):
        found = refined((base, instruct), config=config, variants=variant)[qkv]
        assert torch.equal(found, torch.cat([base[qkv][:32], instruct[qkv][32:]]))


def test_an_analysis_measures_each_projection_as_its_unfused_twin(
    checkpoints: Any, tmp_path: Path
) -> None:
    qkv = f"{L}self_attn.qkv_proj.weight"
    pair = noisy({qkv: (64, 32)})
    sizes = {"hidden_size": 32, "num_attention_heads": HEADS, "num_key_value_heads": GROUPS}
    found = []
    for name, config, tensors in (
        ("fused", {"model_type": "phi3", **sizes}, pair),
        ("twin", {}, [qkv_alone(tensors[qkv]) for tensors in pair]),
    ):
        folders = [tmp_path / name / side for side in ("base", "instruct")]
        for folder, content in zip(folders, tensors, strict=True):
            checkpoints.write(folder, [content], **config)
        result = timberkit.analyze(*folders, tmp_path / name / "out", page=False)
        assert timberkit.verify(result.output).passed
        found.append(timberkit.read_analysis(result.output))
    fused, twin = found
    assert [weight.part for weight in fused.weights] == ["k", "q", "v"]
    assert fused.weights[0].module == "self_attn.qkv_proj [k]"
    assert [weight.delta for weight in fused.weights] == [weight.delta for weight in twin.weights]


def test_the_plan_says_which_weights_are_split_and_which_are_not_and_why(
    commands: Any, tmp_path: Path
) -> None:
    for architecture, expected in {
        "phi3": "Refined by projection: mlp.gate_up_proj (gate, up), self_attn.qkv_proj (q, k, v).",
        "gpt-oss": "Fused, refined as one matrix: mlp.experts.gate_up_proj: gate and up alternate,"
        " column by column.",
    }.items():
        pair = (tmp_path / architecture / "base", tmp_path / architecture / "instruct")
        save_pair(architecture, pair)
        done = commands.run("plan", *pair)
        assert (done.exit_code, done.stderr) == (0, "")
        assert f"{expected}\n" in done.stdout
        asked = commands.run("plan", *pair, "--fused", "whole", "--json").json
        assert asked["recipe"]["selection"]["fused"] == "whole"
        assert {(*tensor["parts"], tensor["whole_because"]) for tensor in asked["refined"]} == {
            ("",)
        }


def test_a_plan_names_the_parts_and_an_unknown_choice_is_refused(
    commands: Any, tmp_path: Path
) -> None:
    pair = (tmp_path / "base", tmp_path / "instruct")
    save_pair("phi3", pair)
    listed = commands.run("plan", *pair, "--json").json["refined"]
    (found,) = (tensor for tensor in listed if tensor["name"] == f"{L}self_attn.qkv_proj.weight")
    assert (found["parts"], found["matrices"]) == (["q", "k", "v"], 3)
    refused = commands.run("refine", *pair, "-o", tmp_path / "out", "--fused", "half")
    assert refused.exit_code == 2
    assert "fused" in refused.error
