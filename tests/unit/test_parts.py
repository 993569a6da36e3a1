"""Where a matrix stands: its names, its layer, and what fractions of the depth are."""

from __future__ import annotations

import pytest

from timberkit.parts import Position, layer_at, matrix_name, module_name


def test_a_position_names_its_matrix_and_what_holds_it() -> None:
    fused = Position("model.layers.1.mlp.experts.down_proj", "expert", 1, 4, index=7)
    assert (fused.matrix, fused.module) == ("model.layers.1.mlp.experts.down_proj [7]", "down_proj")
    whole = Position("model.layers.1.self_attn.q_proj.weight", "attention", 1, 4)
    assert (whole.matrix, whole.module) == (whole.name, "q_proj")
    assert matrix_name("w", 0) == "w [0]"
    names = ("lm_head.weight", "x.experts.17.w1.weight", "bare", "a.b.3")
    assert [module_name(name) for name in names] == ["lm_head", "w1", "bare", "b"]


def test_a_tower_beside_the_language_model_has_no_depth_in_it() -> None:
    assert Position("visual.blocks.3.attn.qkv.weight", "vision", 3, 28).depth is None
    assert Position("layers.3.q.weight", "attention", 3, 28).depth == 3
    assert Position("lm_head.weight", "head", None, 28).depth is None


@pytest.mark.parametrize(
    ("layers", "fraction", "expected"),
    [
        (28, 0.0, 0), (28, 1.0, 28), (28, 0.25, 7), (28, 0.5, 14), (3, 1 / 3, 1), (3, 2 / 3, 2),
        (3, 0.333, 1), (3, 0.334, 1), (3, 0.667, 2), (3, 0.67, 3), (28, 0.333, 10),
        (28, 0.667, 19), (36, 0.333, 12), (36, 0.667, 24), (36, 0.334, 12), (1, 0.5, 1), (1, 1, 1),
        (0, 0.5, 0), (5000, 1.0, 5000), (5000, 0.5, 2500),
    ],
)  # fmt: skip
def test_the_first_layer_of_a_fraction_forgives_a_thousandth(
    layers: int, fraction: float, expected: int
) -> None:
    assert layer_at(fraction, layers) == expected
