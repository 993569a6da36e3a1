"""Which matrices a tensor holds: experts, projections of a fused weight, or itself; and why not."""

from __future__ import annotations

from typing import Any

import pytest

from timberkit.checkpoint.fused import LACKING, Matrix, split_tensor
from timberkit.config import Selection

QKV, GATE_UP = "model.layers.0.self_attn.qkv_proj.weight", "model.layers.0.mlp.gate_up_proj.weight"
NEOX = "gpt_neox.layers.0.attention.query_key_value.weight"
FALCON = "transformer.h.0.self_attention.query_key_value.weight"
EXPERTS = "model.layers.0.mlp.experts.gate_up_proj"
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
PHI = {"model_type": "phi3", **SIZES}


def split(
    name: str,
    shape: tuple[int, ...],
    config: dict[str, Any],
    kind: str = "attention",
    **fields: Any,
) -> tuple[Matrix, ...]:
    found = split_tensor(name, shape, kind, Selection(**fields), config)
    assert found.whole_because == ""
    return found.matrices


def whole_because(name: str, shape: tuple[int, ...], config: dict[str, Any]) -> str:
    kind = "expert" if len(shape) == 3 else "attention"
    found = split_tensor(name, shape, kind, Selection(), config)
    assert {matrix.part for matrix in found.matrices} == {None}
    return found.whole_because


def test_rows_of_q_k_and_v_follow_each_other() -> None:
    assert split(QKV, (64, 32), PHI) == (
        Matrix(None, "q", 32, 32, start=0, block=1024, stride=2048),
        Matrix(None, "k", 16, 32, start=1024, block=512, stride=2048),
        Matrix(None, "v", 16, 32, start=1536, block=512, stride=2048),
    )


def test_the_text_model_of_a_nested_config_counts() -> None:
    nested = {"model_type": "llava", "text_config": PHI}
    assert split(QKV, (64, 32), nested) == split(QKV, (64, 32), PHI)


def test_head_dim_comes_before_what_follows_from_the_hidden_size() -> None:
    found = split(QKV, (128, 32), {**PHI, "head_dim": 16})
    assert [matrix.rows for matrix in found] == [64, 32, 32]


def test_parts_within_each_head_are_runs_of_rows() -> None:
    found = split(NEOX, (96, 32), {"model_type": "gpt_neox", **SIZES})
    assert [(m.part, m.rows, m.start // 32, m.block // 32, m.stride // 32) for m in found] == [
        ("q", 32, 0, 8, 24),
        ("k", 32, 8, 8, 24),
        ("v", 32, 16, 8, 24),
    ]
    assert {matrix.runs for matrix in found} == {4}


@pytest.mark.parametrize(
    ("options", "rows", "expected"),
    [
        ({"new_decoder_architecture": True, "num_kv_heads": 2}, 64, [32, 16, 16]),
        ({"multi_query": True}, 48, [32, 8, 8]),
        ({}, 48, [32, 8, 8]),
        ({"multi_query": False}, 96, [32, 32, 32]),
    ],
)
def test_the_three_kinds_of_falcon(options: dict[str, Any], rows: int, expected: list[int]) -> None:
    config = {"model_type": "falcon", "hidden_size": 32, "num_attention_heads": 4, **options}
    assert [matrix.rows for matrix in split(FALCON, (rows, 32), config)] == expected


def test_columns_of_a_transposed_weight_are_runs_in_every_row() -> None:
    found = split("h.0.attn.c_attn.weight", (32, 96), {"model_type": "gpt2"})
    assert found[1] == Matrix(None, "k", 32, 32, start=32, block=32, stride=96)
    assert found[1].runs == 32


@pytest.mark.parametrize(
    ("model_type", "shape", "expected"),
    [
        ("llama4_text", (3, 32, 48), Matrix(2, "up", 32, 24, 3072 + 24, 24, 48)),
        ("qwen3_vl_moe_text", (3, 32, 48), Matrix(2, "up", 32, 24, 3072 + 24, 24, 48)),
        ("qwen3_vl_moe_text", (3, 48, 32), Matrix(2, "up", 24, 32, 3072 + 768, 768, 1536)),
    ],
)
def test_each_expert_has_its_gate_and_its_up(
    model_type: str, shape: tuple[int, ...], expected: Matrix
) -> None:
    found = split(EXPERTS, shape, {"model_type": model_type, **SIZES}, kind="expert")
    assert [(m.index, m.part) for m in found] == [(e, p) for e in range(3) for p in ("gate", "up")]
    assert found[-1] == expected


@pytest.mark.parametrize(
    ("name", "shape", "config", "reason"),
    [
        (QKV, (64, 32), {}, "no config.json says how it is stored"),
        (QKV, (64, 32), {"model_type": 3}, "no config.json says how it is stored"),
        (QKV, (64, 32), {"model_type": "new"}, "how model type 'new' stores it is not known"),
        (QKV, (64, 32), {"model_type": "phi3"}, LACKING),
        (QKV, (64, 32), {**PHI, "head_dim": "8"}, LACKING),
        (QKV, (64, 32), {**PHI, "num_attention_heads": 0}, LACKING),
        (QKV, (60, 32), PHI, "its 60 rows are not the 64 that config.json asks for"),
        (QKV, (64, 32), {**PHI, "num_key_value_heads": 0, "head_dim": 16}, LACKING),
        (GATE_UP, (65, 32), PHI, "its 65 rows are not the 64 that config.json asks for"),
        (EXPERTS, (3, 32, 48), {"model_type": "gpt_oss"}, "gate and up alternate, column by"),
        (
            EXPERTS,
            (3, 32, 32),
            {"model_type": "qwen3_vl_moe_text", **SIZES},
            "its rows and its columns are as many, so that gate and up may lie in either",
        ),
        ("model.layers.0.attention.wqkv.weight", (64, 32), PHI, "how model type 'phi3' stores it"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_one_matrix_and_says_why(
    name: str, shape: tuple[int, ...], config: dict[str, Any], reason: str
) -> None:
    assert whole_because(name, shape, config).startswith(reason)


@pytest.mark.parametrize("fields", [{"fused": "whole"}, {"families": ["authors"]}])
def test_fused_weights_are_whole_where_that_is_asked_for(fields: dict[str, Any]) -> None:
    assert split(QKV, (64, 32), PHI, **fields) == (Matrix(None, None, 64, 32, 0, 2048, 2048),)


def test_other_weights_are_one_matrix_without_a_reason() -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    assert split(name, (64, 32), PHI) == (Matrix(None, None, 64, 32, 0, 2048, 2048),)
    experts = split("model.layers.0.mlp.experts.down_proj", (2, 8, 4), {}, kind="expert")
    assert [(m.index, m.rows, m.cols, m.start) for m in experts] == [(0, 8, 4, 0), (1, 8, 4, 32)]


def test_a_convolution_that_is_asked_for_is_one_matrix_of_its_filters() -> None:
    name, fields = "model.layers.0.mamba.conv1d.weight", {"families": ["convolution"]}
    found = split(name, (64, 1, 4), {}, kind="convolution", **fields)
    assert found == (Matrix(None, None, 64, 4, 0, 256, 256),)
