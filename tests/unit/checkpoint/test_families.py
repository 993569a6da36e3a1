"""What a tensor is by its name, over the naming habits of real models, and what is selected."""

from __future__ import annotations

from typing import Any

import pytest

from timberkit.checkpoint.families import (
    Matrices,
    Role,
    classify,
    is_selected,
    matrix_shapes,
    module_path,
)
from timberkit.config import Selection

L = "model.layers.7."

MATRICES = {
    "attention": [
        *(f"{L}self_attn.{m}.weight" for m in ("q_proj", "k_proj", "v_proj", "o_proj")),
        *(f"{L}self_attn.{m}.weight" for m in ("qkv_proj", "out_proj", "dense", "W_pack")),
        *(f"{L}self_attn.{m}.weight" for m in ("q_a_proj", "q_b_proj", "kv_b_proj")),
        f"{L}self_attn.kv_a_proj_with_mqa.weight",
        "gpt_neox.layers.7.attention.query_key_value.weight",
        "gpt_neox.layers.7.attention.dense.weight",
        "h.7.attn.c_attn.weight",
        "transformer.h.7.attn.c_proj.weight",
        "transformer.h.7.self_attention.query_key_value.weight",
        "transformer.blocks.7.attn.Wqkv.weight",
        "transformer.encoder.layers.7.self_attention.dense.weight",
        "layers.7.attention.wq.weight",
        "model.layers.7.attention.wqkv.weight",
        "model.layers.7.linear_attn.in_proj_qkvz.weight",
        "model.layers.7.linear_attn.out_proj.weight",
        "backbone.layers.7.mixer.q_proj.weight",
        "model.language_model.layers.7.self_attn.q_proj.weight",
        "language_model.model.layers.7.self_attn.q_proj.weight",
    ],
    "ffn": [
        *(f"{L}mlp.{m}.weight" for m in ("gate_proj", "up_proj", "down_proj", "gate_up_proj")),
        *(f"{L}mlp.{m}.weight" for m in ("fc1", "fc2", "c_fc", "c_proj", "w1", "w2")),
        "gpt_neox.layers.7.mlp.dense_h_to_4h.weight",
        "gpt_neox.layers.7.mlp.dense_4h_to_h.weight",
        "h.7.mlp.c_fc.weight",
        "transformer.h.7.mlp.c_proj.weight",
        "transformer.blocks.7.ffn.up_proj.weight",
        "model.decoder.layers.7.fc1.weight",
        "layers.7.feed_forward.w3.weight",
        "backbone.layers.7.mixer.up_proj.weight",
        "rwkv.blocks.7.feed_forward.key.weight",
    ],
    "expert": [
        f"{L}mlp.experts.31.gate_proj.weight",
        f"{L}block_sparse_moe.experts.31.w1.weight",
        f"{L}mlp.shared_expert.gate_proj.weight",
        f"{L}mlp.shared_experts.down_proj.weight",
        f"{L}feed_forward.shared_expert.up_proj.weight",
    ],
    "router": [
        f"{L}mlp.gate.weight",
        f"{L}mlp.router.weight",
        f"{L}mlp.gate.wg.weight",
        f"{L}mlp.shared_expert_gate.weight",
        f"{L}block_sparse_moe.gate.weight",
        "backbone.layers.7.mixer.gate.weight",
        f"{L}block_sparse_moe.router.layer.weight",
        f"{L}feed_forward.router.weight",
        "transformer.blocks.7.ffn.router.layer.weight",
    ],
    "embedding": [
        "model.embed_tokens.weight",
        "transformer.wte.weight",
        "wpe.weight",
        "gpt_neox.embed_in.weight",
        "transformer.word_embeddings.weight",
        "model.tok_embeddings.weight",
        "tok_embeddings.weight",
    ],
    "head": [
        "lm_head.weight",
        "embed_out.weight",
        "output.weight",
        "transformer.output_layer.weight",
        f"{L}shared_head.head.weight",
    ],
    "vision": [
        "vision_tower.vision_model.encoder.layers.7.self_attn.q_proj.weight",
        "visual.blocks.7.attn.qkv.weight",
        "model.visual.merger.mlp.0.weight",
        "vision_model.transformer.layers.7.mlp.fc1.weight",
        "multi_modal_projector.linear_1.weight",
        "model.audio_tower.layers.7.self_attn.q_proj.weight",
    ],
    "norm": [f"{L}self_attn.q_norm.weight", "transformer.word_embeddings_layernorm.weight"],
    "bias": [f"{L}mlp.experts.down_proj_bias", "encoder.block.0.relative_attention_bias.weight"],
    "convolution": [f"{L}conv.conv.weight", f"{L}short_conv.weight", f"{L}conv1d.in_proj.weight"],
    "ssm": [
        *(f"{L}mamba.{m}.weight" for m in ("in_proj", "x_proj", "dt_proj", "out_proj")),
        "backbone.layers.7.mixer.in_proj.weight",
        *(f"{L}conv.{m}.weight" for m in ("in_proj", "out_proj")),
    ],
    "state": [f"{L}mixer.A_log", f"{L}linear_attn.A_log", f"{L}mamba.D"],
    "unknown": [
        "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.7.self_attn.q_proj.lora_B.default.weight",
        f"{L}self_attn.indexer.wq_b.weight",
        f"{L}per_layer_input_gate.weight",
        f"{L}eh_proj.weight",
        f"{L}mlp.mystery.weight",
        f"{L}self_attn.gate.weight",
        f"{L}mamba.mystery.weight",
        "transformer.blocks.7.ffn.experts.mlp.w1",
        f"{L}mlp.experts.31.mystery.weight",
        f"{L}mlp.shared_expert.mystery.weight",
        "score.weight",
        "weight",
        "",
    ],
}


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, names in MATRICES.items() for n in names])
def test_matrix_is_classified_by_its_name(kind: str, name: str) -> None:
    assert classify(name, (16, 8)).kind == kind


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        (f"{L}input_layernorm.weight", (8,), "norm"),
        (f"{L}attn_ln.weight", (8,), "norm"),
        ("h.0.ln_1.weight", (8,), "norm"),
        ("h.0.ln_1.bias", (8,), "norm"),
        ("transformer.ln_f.weight", (8,), "norm"),
        ("norm.weight", (8,), "norm"),
        (f"{L}scale.weight", (8,), "norm"),
        (f"{L}self_attn.q_proj.bias", (8,), "bias"),
        (f"{L}self_attn.sinks", (8,), "bias"),
        (f"{L}mlp.gate.e_score_correction_bias", (8,), "bias"),
        ("gpt_neox.layers.0.attention.rotary_emb.inv_freq", (8,), "bias"),
        ("h.0.attn.bias", (1, 1, 8, 8), "bias"),
        ("h.0.attn.masked_bias", (), "bias"),
        (f"{L}mamba.D", (8,), "state"),
        (f"{L}mamba.A_log", (2, 8, 4), "state"),
        (f"{L}mamba.dt_bias", (8,), "state"),
        (f"{L}mamba.dt_proj.bias", (8,), "bias"),
        (f"{L}conv.in_proj.weight", (8, 8, 1), "convolution"),
        (f"{L}mamba.conv1d.weight", (8, 1, 4), "convolution"),
        (f"{L}mamba.conv1d.bias", (8,), "bias"),
        (f"{L}mlp.experts.gate_up_proj", (4, 8, 6), "expert"),
        (f"{L}mlp.experts.down_proj", (4, 8, 6), "expert"),
        (f"{L}feed_forward.experts.gate_up_proj", (4, 8, 6), "expert"),
        (f"{L}block_sparse_moe.input_linear.weight", (4, 8, 6), "expert"),
        (f"{L}mlp.experts.gate_up_proj", (8, 6), "unknown"),
        (f"{L}mlp.experts.mystery", (4, 8, 6), "unknown"),
        (f"{L}mlp.experts.gate_up_proj", (4, 8, 6, 2), "unknown"),
        (f"{L}self_attn.q_proj.weight", (4, 8, 6), "unknown"),
        ("rwkv.blocks.0.attention.time_mix_key", (1, 1, 8), "unknown"),
    ],
)
def test_dimensions_matter(name: str, shape: tuple[int, ...], kind: str) -> None:
    assert classify(name, shape).kind == kind


@pytest.mark.parametrize(
    ("name", "layer", "expert", "module"),
    [
        (f"{L}mlp.experts.31.down_proj.weight", 7, 31, "down_proj"),
        (f"{L}mlp.experts.gate_up_proj", 7, None, "gate_up_proj"),
        ("h.12.attn.c_attn.weight", 12, None, "c_attn"),
        ("transformer.blocks.3.ffn.up_proj.weight", 3, None, "up_proj"),
        ("decoder.block.3.layer.0.SelfAttention.q.weight", 3, None, "q"),
        ("model.visual.merger.mlp.0.weight", None, None, "mlp"),
        ("lm_head.weight", None, None, "lm_head"),
        ("model.layers.weight", None, None, "layers"),
        ("model.layers.99999999999.mlp.up_proj.weight", None, None, "up_proj"),
        ("weight", None, None, "weight"),
        ("1.2.weight", None, None, "1.2.weight"),
    ],
)
def test_numbers_and_module_are_read(
    name: str, layer: int | None, expert: int | None, module: str
) -> None:
    role = classify(name, (16, 8))
    assert (role.layer, role.expert, role.module) == (layer, expert, module)


Q = f"{L}self_attn.q_proj.weight"


def select(name: str, shape: tuple[int, ...] = (16, 8), **fields: Any) -> tuple[bool, str]:
    return is_selected(classify(name, shape), Selection(**fields), name, shape)


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        (Q, {}, ""),
        ("lm_head.weight", {}, "family head not selected"),
        ("lm_head.weight", {"families": ["head"]}, ""),
        ("lm_head.weight", {"families": ["all-linear"]}, ""),
        (f"{L}mlp.gate.weight", {"families": ["all-linear"]}, ""),
        (f"{L}mlp.gate.weight", {}, "family router not selected"),
        ("model.embed_tokens.weight", {"families": ["all-linear"]}, "family embedding not sel"),
        ("model.embed_tokens.weight", {"families": ["embedding"]}, ""),
        ("model.embed_tokens.weight", {"families": ["authors"]}, ""),
        (f"{L}mystery.weight", {}, "name not recognised"),
        (f"{L}mystery.weight", {"families": ["authors"]}, ""),
        ("visual.blocks.7.attn.qkv.weight", {}, "part of a vision or audio tower"),
        ("visual.blocks.7.attn.qkv.weight", {"families": ["authors"]}, ""),
        (f"{L}mamba.in_proj.weight", {}, ""),
        (f"{L}mamba.in_proj.weight", {"families": ["attention"]}, "family ssm not selected"),
        (f"{L}mamba.in_proj.weight", {"families": ["all-linear"]}, ""),
        (f"{L}mamba.A_log", {}, "state-space parameter"),
        (f"{L}mamba.A_log", {"families": ["state"]}, ""),
        (f"{L}conv.conv.weight", {}, "convolution"),
        (f"{L}conv.conv.weight", {"families": ["convolution"]}, ""),
        (Q, {"layers": "0-3,7"}, ""),
        (Q, {"layers": "0-6"}, "layer 7 not selected"),
        ("lm_head.weight", {"families": ["head"], "layers": "0-6"}, "outside any layer"),
        ("lm_head.weight", {"families": ["authors"], "layers": "0-6"}, "outside any layer"),
        (Q, {"exclude": ["*.q_proj*"]}, "matches exclude '*.q_proj*'"),
        (Q, {"include": ["*.q_proj*"], "exclude": ["*.q_proj*"]}, "matches exclude"),
        (Q, {"include": ["*.k_proj*", "*.q_proj.*"]}, ""),
        (Q, {"include": ["*.Q_proj.*"]}, "matches no include pattern"),
        (Q, {"include": ["*.k_proj*"], "families": ["authors"]}, "matches no include pattern"),
    ],
)
def test_selection_gives_its_reason(name: str, fields: dict[str, Any], reason: str) -> None:
    chosen, said = select(name, **fields)
    assert chosen == (not reason)
    assert said.startswith(reason)


@pytest.mark.parametrize(
    ("name", "shape", "families", "reason"),
    [
        (f"{L}mlp.experts.gate_up_proj", (4, 8, 6), "expert", ""),
        (f"{L}mlp.experts.gate_up_proj", (4, 8, 6), "ffn", "family expert not selected"),
        (f"{L}mlp.experts.gate_up_proj", (4, 0, 6), "authors", "no elements"),
        (f"{L}input_layernorm.weight", (8,), "authors", "one-dimensional"),
        (f"{L}input_layernorm.weight", (8,), "ffn", "norm"),
        (f"{L}self_attn.q_norm.weight", (4, 8), "attention", "norm"),
        (f"{L}self_attn.q_norm.weight", (4, 8), "authors", ""),
        (f"{L}self_attn.q_proj.bias", (8,), "attention", "bias"),
        (f"{L}mamba.conv1d.weight", (8, 1, 4), "authors", ""),
        ("scalar", (), "authors", "one-dimensional"),
        (f"{L}conv1d.weight", (8, 1, 4), "convolution", ""),
        (f"{L}conv1d.weight", (8, 1, 4), "state", "convolution"),
        (f"{L}mamba.A_log", (2, 8, 4), "state", "3 dimensions"),
        (f"{L}mamba.D", (8,), "state", "one-dimensional"),
    ],
)
def test_selection_by_dimensions(
    name: str, shape: tuple[int, ...], families: str, reason: str
) -> None:
    assert select(name, shape, families=[families]) == (not reason, reason)


def test_a_role_that_contradicts_its_shape_is_not_refined() -> None:
    role = Role("attention", 0, None, "q_proj")
    assert is_selected(role, Selection(), "a", (2, 2, 2)) == (False, "3 dimensions")
    assert is_selected(role, Selection(), "a", (2,)) == (False, "one-dimensional")


@pytest.mark.parametrize(
    ("shape", "families", "expected"),
    [
        ((16, 8), "attention", Matrices(1, 16, 8)),
        ((16, 8), "authors", Matrices(1, 16, 8)),
        ((4, 16, 8), "expert", Matrices(4, 16, 8)),
        ((4, 16, 8), "authors", Matrices(1, 4, 128)),
        ((4, 3, 2, 2), "authors", Matrices(1, 4, 12)),
    ],
)
def test_matrices_of_a_shape(shape: tuple[int, ...], families: Any, expected: Matrices) -> None:
    assert matrix_shapes(shape, Selection(families=(families,))) == expected


@pytest.mark.parametrize(("shape", "families"), [((8,), "authors"), ((1, 2, 3, 4), "expert")])
def test_other_shapes_are_no_matrices(shape: tuple[int, ...], families: Any) -> None:
    with pytest.raises(ValueError, match="no matrix"):
        matrix_shapes(shape, Selection(families=(families,)))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("model.layers.3.self_attn.q_proj.weight", "self_attn.q_proj"),
        ("model.layers.3.mlp.experts.17.down_proj.weight", "mlp.experts.down_proj"),
        ("model.layers.3.mlp.experts.gate_up_proj", "mlp.experts.gate_up_proj"),
        ("transformer.h.0.attn.c_attn.weight", "attn.c_attn"),
        ("model.embed_tokens.weight", "embed_tokens"),
        ("lm_head.weight", "lm_head"),
        ("weight", "weight"),
        ("layers.1", "layers.1"),
        ("...", "..."),
        ("3", "3"),
    ],
)
def test_a_module_is_said_without_layer_and_numbers(name: str, path: str) -> None:
    assert module_path(name) == path
