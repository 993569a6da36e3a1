"""Weights in groups: order, labels, experts, what is typical."""

from __future__ import annotations

from dataclasses import replace

from made_analysis import made_analysis

from timberkit.report.groups import (
    layers_of,
    median,
    modules_of,
    of_overlap,
    of_rounding,
    quantiles,
    typical,
)


def test_modules_come_in_the_order_of_a_block_whatever_the_order_of_the_file() -> None:
    made = made_analysis(layers=2)
    shuffled = replace(made, weights=tuple(sorted(made.weights, key=lambda w: w.name)))
    labels = [module.label for module in modules_of(shuffled)]
    expected = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert labels == expected


def test_experts_of_a_layer_are_one_group_fused_or_not() -> None:
    fused = made_analysis(layers=2, experts=3)
    split = replace(
        fused,
        weights=tuple(
            replace(w, module=w.module.replace("experts.", f"experts.{w.index}."), index=None)
            for w in fused.weights
        ),
    )
    for analysis in (fused, split):
        modules = modules_of(analysis)
        assert len(modules) == 7
        assert [len(group) for group in modules[-1].layers.values()] == [3, 3]


def test_labels_tell_modules_apart_that_end_alike() -> None:
    made = made_analysis(layers=1)
    words = ["mlp.down_proj", "mlp.experts.down_proj", "mlp.experts.down_proj"]
    families = ["ffn", "expert", "head"]
    weights = tuple(
        replace(made.weights[0], module=word, family=family)
        for word, family in zip(words, families, strict=True)
    )
    labels = [module.label for module in modules_of(replace(made, weights=weights))]
    assert len(set(labels)) == 3
    assert labels[0] == "mlp.down_proj"


def test_labels_of_endless_names_stay_short_and_different() -> None:
    made = made_analysis(layers=1)
    middles = ("a" * 900, "b" * 900, "c" * 900)
    weights = tuple(replace(made.weights[0], module="begin" + middle + "end") for middle in middles)
    labels = [module.label for module in modules_of(replace(made, weights=weights))]
    assert len(set(labels)) == 3
    assert max(map(len, labels)) <= 30


def test_weights_outside_any_layer_come_first_and_are_no_layer() -> None:
    made = made_analysis(layers=2)
    head = replace(made.weights[0], layer=None)
    modules = modules_of(replace(made, weights=(*made.weights, head)))
    assert list(modules[0].layers) == [None, 0, 1]
    assert layers_of(modules) == [0, 1]


def test_the_typical_expert_lies_at_the_median_and_has_a_spectrum() -> None:
    group = [w for w in made_analysis(layers=1, experts=9).weights if "up" in w.module]
    kept = [w for w in group if w.delta.singular_values]
    assert 0 < len(kept) < len(group)
    assert typical(group) in kept
    ordered = sorted(kept, key=lambda w: w.delta.ratio)
    assert typical(kept[:1] + kept[1:]) in ordered


def test_values_that_were_not_measured_are_left_out_and_none_if_all_are() -> None:
    bare = made_analysis(layers=1, measured=False).weights
    full = made_analysis(layers=1).weights
    changed = of_rounding("changed")
    assert median(bare, changed) is None
    assert quantiles((), changed, (0.5,)) is None
    assert median((*bare, full[0]), changed) == full[0].rounding.changed


def test_an_overlap_is_picked_by_its_dimension_and_k_by_its_place() -> None:
    weight = made_analysis(layers=1).weights[0]
    overlaps = weight.subspaces.left
    assert of_overlap("left", "8", "overlap")(weight) == overlaps[1].overlap
    assert of_overlap("left", "K", "chance")(weight) == overlaps[-1].chance
    assert of_overlap("left", "7", "overlap")(weight) is None
    assert of_overlap("left", "K", "overlap")(replace(weight, subspaces=None)) is None
