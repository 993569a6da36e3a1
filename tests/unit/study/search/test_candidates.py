"""Candidates, the spaces they come from, and simple rules."""

from __future__ import annotations

import numpy as np
import pytest

from timberkit.engine.plan import PlannedTensor
from timberkit.study.search.candidates import Candidate, Space, rules

MODULES = {"self_attn.q_proj": "attention", "mlp.up_proj": "ffn"}


def tensor(layer: int | None, name: str, family: str) -> PlannedTensor:
    full = f"model.layers.{layer}.{name}.weight" if layer is not None else f"{name}.weight"
    return PlannedTensor(full, "refine", "", family, layer, (8, 8), "BF16", 1)


def tensors(layers: int) -> list[PlannedTensor]:
    return [
        tensor(layer, name, family) for layer in range(layers) for name, family in MODULES.items()
    ]


@pytest.mark.parametrize(
    ("by", "groups"), [("matrix", 12), ("thirds", 6), ("module", 2), ("layer", 6)]
)
def test_tensors_of_a_group_share_their_gains(by: str, groups: int) -> None:
    space = Space.of(tensors(6), edges=(4,), by=by)  # type: ignore[arg-type]
    assert len(space.names) == groups
    assert space.size == 2 * groups
    vector = np.arange(space.size) / 10
    candidate = space.candidate("", vector)
    assert set(candidate.gains) == set(space.tensors)
    assert len(set(candidate.gains.values())) == groups
    np.testing.assert_allclose(space.vector(candidate), vector)


def test_thirds_go_by_depth() -> None:
    space = Space.of(tensors(6), edges=(), by="thirds")
    parts = [group.split()[0] for group in space.groups[::2]]
    assert parts == ["early", "early", "middle", "middle", "late", "late"]


def test_a_tensor_outside_any_layer_has_gains_of_its_module() -> None:
    space = Space.of([*tensors(2), tensor(None, "lm_head", "head")], edges=(), by="thirds")
    assert space.groups[-1] == "lm_head"
    assert space.depths[-1] is None


def test_the_key_follows_the_gains_and_not_the_label() -> None:
    one = Candidate("a", (4,), {"x": (0.5, 1.0), "y": (1.0, 1.0)})
    same = Candidate("b", (4,), {"y": (1.0, 1.0), "x": (0.5, 1.0)})
    other_gain = Candidate("a", (4,), {"x": (0.5001, 1.0), "y": (1.0, 1.0)})
    other_edge = Candidate("a", (5,), dict(one.gains))
    assert one.key == same.key
    assert len({one.key, other_gain.key, other_edge.key}) == 3


def test_what_rounds_to_the_same_gains_is_the_same_candidate() -> None:
    space = Space.of(tensors(1), edges=(), by="matrix")
    first = space.candidate("", np.array([0.12341, -0.00001]))
    second = space.candidate("", np.array([0.12344, 0.0]))
    assert first.key == second.key
    assert str(first.gains) == str(second.gains)  # no minus zero


def test_the_way_to_instruct_ends_at_both_ends() -> None:
    space = Space.of(tensors(2), edges=(4,), by="matrix")
    there = space.candidate("there", np.linspace(-1, 2, space.size))
    assert there.towards_instruct(1.0, "").key == there.key
    assert there.towards_instruct(0.0, "").key == space.constant("", 1.0).key
    half = there.towards_instruct(0.5, "half")
    np.testing.assert_allclose(space.vector(half), (1 + space.vector(there)) / 2, atol=1e-4)


def test_the_variant_is_what_refine_is_given() -> None:
    candidate = Candidate("", (4,), {"b": (0.5, 1.0), "a": (0.0, 2.0)})
    assert candidate.variant() == {
        "method": "free",
        "edges": [4],
        "gains": {"a": [0.0, 2.0], "b": [0.5, 1.0]},
    }


def test_rules_say_what_their_labels_say() -> None:
    space = Space.of(tensors(3), edges=(2, 4), by="matrix")
    found = rules(space, levels=(0.5, 1.0), merges=(1.0, 0.8))
    assert {rule: len(each) for rule, each in found.items()} == {
        "merge": 2, "bands": 2, "ramp": 2, "families": 2, "thirds": 6,
    }  # fmt: skip
    q, up = space.tensors[:2]
    by_label = {each.label: each.gains for group in found.values() for each in group}
    assert by_label["merge 0.8"][q] == (0.8, 0.8, 0.8)
    assert by_label["leading 0.5, rest 1"][up] == (0.5, 0.5, 1.0)
    ramp = by_label["ramp 0.5 to 1"]
    assert [ramp[name][0] for name in space.tensors[::2]] == [0.5, 0.75, 1.0]
    assert by_label["attention 0.5, others 1"][q] == (0.5,) * 3
    assert by_label["attention 0.5, others 1"][up] == (1.0,) * 3
    thirds = by_label["early 0.5, middle 1, late 0.5"]
    assert [thirds[name][0] for name in space.tensors[::2]] == [0.5, 1.0, 0.5]


def test_rules_that_a_model_has_no_use_for_are_empty() -> None:
    space = Space.of([tensor(0, "mlp.up_proj", "ffn")], edges=(), by="matrix")
    found = rules(space, levels=(0.5, 1.0), merges=(1.0, 0.8))
    assert [rule for rule, each in found.items() if each] == ["merge"]
