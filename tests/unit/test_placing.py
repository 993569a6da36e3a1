"""Methods that depend on the place: what they are at each matrix, and when they mean none."""

from __future__ import annotations

import pytest

from timberkit.errors import UsageError
from timberkit.methods import AnyVariant, parse_variant, variant_name
from timberkit.parts import Position
from timberkit.placing import KEEP, at, check_places, depends_on_place

Q = "model.layers.{}.self_attn.q_proj.weight"
UP = "model.layers.{}.mlp.up_proj.weight"
EXPERTS = "model.layers.0.mlp.experts.up_proj"


def attention(layer: int, layers: int = 4) -> Position:
    return Position(Q.format(layer), "attention", layer, layers)


def ffn(layer: int, layers: int = 4) -> Position:
    return Position(UP.format(layer), "ffn", layer, layers)


def expert(index: int) -> Position:
    return Position(EXPERTS, "expert", 0, 4, index)


HEAD = Position("lm_head.weight", "head", None, 4)
TOWER = Position("visual.blocks.0.mlp.up_proj.weight", "vision", 0, 4)
MODEL = [*map(attention, range(4)), *map(ffn, range(4)), HEAD]


def chosen(text: str) -> list[str]:
    """Matrices at which ``within`` makes its edit."""
    variant = parse_variant(f"within:{text},of=timber-l")
    here = {position.name: at(variant, position) for position in [*MODEL, TOWER]}
    assert {found for found in here.values() if found != KEEP} <= {parse_variant("timber-l")}
    return [name for name, found in here.items() if found != KEEP]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("families=attention", [Q.format(i) for i in range(4)]),
        ("families=ffn+head", [*(UP.format(i) for i in range(4)), HEAD.name]),
        ("families=vision", [TOWER.name]),
        ("modules=up_proj", [*(UP.format(i) for i in range(4)), TOWER.name]),
        ("modules=lm_head+q_proj,families=head", [HEAD.name]),
        ("layers=1-2,families=ffn", [UP.format(1), UP.format(2)]),
        ("layers=0+3,modules=q_proj", [Q.format(0), Q.format(3)]),
        ("start=0,stop=0.25", [Q.format(0), UP.format(0)]),
        ("start=0.5,families=ffn", [UP.format(2), UP.format(3)]),
        ("stop=0.5,families=ffn", [UP.format(0), UP.format(1)]),
        ("stop=1,families=head", []),
        ("layers=7", []),
    ],
)
def test_within_edits_what_every_selector_holds_and_keeps_the_rest(
    text: str, expected: list[str]
) -> None:
    assert chosen(text) == expected


@pytest.mark.parametrize(
    ("layers", "gains"),
    [
        (4, [0.5, 2 / 3, 0.8333333333333333, 1.0]),
        (3, [0.5, 0.75, 1.0]),
        (2, [0.5, 1.0]),
        (1, [0.5]),
    ],
)
def test_a_ramp_runs_from_the_first_layer_to_the_last(layers: int, gains: list[float]) -> None:
    ramp = parse_variant("ramp:first=0.5,last=1")
    found = [at(ramp, ffn(layer, layers)) for layer in range(layers)]
    assert [gain.gains[0] for gain in found] == pytest.approx(gains, abs=1e-15)  # type: ignore[union-attr]
    assert found[-1] == KEEP if layers > 1 else found[-1] != KEEP
    assert at(ramp, HEAD) == at(ramp, TOWER) == KEEP


def test_names_of_free_come_before_patterns_and_patterns_in_order() -> None:
    free = parse_variant(
        f'free:edges=2,gains={{"*.up_proj": [1, 2], "{EXPERTS} [3]": [1, 3], "*.experts.* [2]":'
        f' [1, 4], "{EXPERTS}": [1, 5], "*": [1, 6], "*.q_proj.weight": [1, 7]}}'
    )
    assert at(free, expert(3)) == parse_variant("steps:edges=2,gains=1+3")
    assert at(free, expert(2)) == parse_variant("steps:edges=2,gains=1+5")
    assert at(free, attention(0)) == parse_variant("steps:edges=2,gains=1+6")
    patterns = parse_variant('free:edges=none,gains={"*.experts.* [2]": [4], "*.up_*": [2]}')
    assert at(patterns, expert(2)) == parse_variant("steps:gains=4")
    assert at(patterns, expert(1)) == parse_variant("steps:gains=2")
    assert at(patterns, attention(1)) == KEEP


def test_parts_of_a_fused_weight_are_named_with_their_expert_or_alone() -> None:
    name = f"{EXPERTS}_fused"
    gate, up = (Position(name, "expert", 0, 4, 3, part) for part in ("gate", "up"))
    alone = Position("model.layers.0.qkv_proj.weight", "attention", 0, 4, None, "q")
    assert (gate.matrix, alone.matrix) == (f"{name} [3 gate]", "model.layers.0.qkv_proj.weight [q]")
    free = parse_variant(
        f'free:edges=none,gains={{"{name} [3 up]": [1], "{name} [3]": [2], "*_proj.* [q]": [3],'
        ' "*_fused [3 gate]": [4]}'
    )
    assert at(free, up) == parse_variant("steps:gains=1")
    assert at(free, gate) == parse_variant("steps:gains=2")
    assert at(free, alone) == parse_variant("steps:gains=3")
    unused = parse_variant('free:edges=none,gains={"*_fused [4 gate]": [1], "*.x [q]": [1]}')
    with pytest.raises(UsageError, match=r"'\*_fused \[4 gate\]', '\*\.x \[q\]'"):
        check_places([unused], [gate, up, alone])
    for modules, held in (("q_proj", True), ("qkv_proj", True), ("k_proj", False)):
        within = parse_variant(f"within:modules={modules},of=merge:mu=0")
        assert (at(within, alone) != KEEP) == held


def test_a_control_is_the_control_of_what_its_edit_is_here() -> None:
    inside, outside = attention(0), ffn(0)
    for control in ("noise:seed=2,of={}", "matched-merge:of={}"):
        placed = parse_variant(control.format("within:families=attention,of=shrink"))
        assert at(placed, inside) == parse_variant(control.format("shrink"))
        assert at(placed, outside) == parse_variant(control.format("steps:gains=1"))
    nested = parse_variant("within:layers=0,of=ramp:first=0.5,last=1")
    assert at(nested, attention(0)) == parse_variant("steps:gains=0.5")
    assert at(nested, attention(1)) == KEEP


def test_what_never_depends_on_the_place_is_returned_itself() -> None:
    for text in ("timber", "steps:edges=4,gains=1+2", "base-subspace:share=0.1", "merge:mu=0.5"):
        variant: AnyVariant = parse_variant(text)
        assert at(variant, HEAD) is variant
        assert not depends_on_place(variant)
        assert not depends_on_place(parse_variant(f"noise:of={text}"))
    for text in ("ramp:first=1,last=0", "within:layers=0,of=timber", 'free:gains={"x": [1, 2]}'):
        assert depends_on_place(parse_variant(text))
        assert depends_on_place(parse_variant(f"matched-merge:of={text}"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("within:layers=4-9,of=timber", "found layers 4-9"),
        ("within:families=expert,start=0.5,of=timber", "found families expert, start 0.5"),
        ("noise:of=within:modules=k_proj,of=timber", "found modules k_proj"),
        (
            f'free:gains={{"{Q.format(9)}": [1, 0], "*": [1, 1]}}',
            f"found gains for '{Q.format(9)}'",
        ),
        ('free:gains={"*.k_proj.*": [1, 0], "* [2]": [1, 1]}', "'*.k_proj.*', '* [2]'"),
        ('within:layers=0,of=free:gains={"no": [1, 0]}', "found gains for 'no'"),
    ],
)
def test_what_means_no_matrix_is_refused_naming_it(text: str, said: str) -> None:
    variant = parse_variant(text)
    with pytest.raises(UsageError) as caught:
        check_places([parse_variant("timber"), variant], MODEL)
    assert said in str(caught.value)
    assert "9 matrices" in str(caught.value)


def test_a_long_list_of_unknown_names_is_cut_short() -> None:
    listed = ", ".join(f'"name{i}": [1, 0]' for i in range(200))
    with pytest.raises(UsageError, match=r"'name0', 'name1', 'name10' and 197 more") as caught:
        check_places([parse_variant(f"free:gains={{{listed}}}")], MODEL)
    assert len(str(caught.value)) < 400


def test_a_ramp_over_no_layers_is_refused_and_what_means_something_is_not() -> None:
    ramp = parse_variant("ramp:first=0,last=1")
    with pytest.raises(UsageError, match="no numbered layer"):
        check_places([ramp], [HEAD, TOWER])
    names = {variant_name(ramp): ramp}
    check_places([*names.values(), parse_variant('free:gains={"lm_*": [0, 1]}')], MODEL)
