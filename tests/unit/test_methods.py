"""Methods and the texts that name them: ranges, nesting, names, and a line each in the docs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from timberkit.config import Selection, build_analyze_recipe, build_recipe, read_recipe_fields
from timberkit.edits import (
    Band,
    BaseSubspace,
    Free,
    Leading,
    Linear,
    Merge,
    MpCut,
    Ramp,
    RankCut,
    RankOne,
    Shrink,
    Steps,
    Timber,
    TimberL,
)
from timberkit.errors import RecipeError, quoted
from timberkit.methods import (
    METHODS,
    PARAMETERS,
    AnyVariant,
    MatchedMerge,
    Noise,
    Within,
    explanation,
    parameters_shown,
    parse_variant,
    variant_name,
    variant_text,
)

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES: list[tuple[str, AnyVariant, str]] = [
    ("rank-cut:scale=0.8", RankCut(scale=0.8, lam=0.2), "rank-cut_scale0.8_lam0.2"),
    ("mp-cut", MpCut(lam=0.2), "mp-cut_lam0.2"),
    ("shrink", Shrink(), "shrink"),
    ("rank-one:", RankOne(), "rank-one"),
    ("leading:count=8,gain=0.5", Leading(count=8, gain=0.5), "leading_count8_gain0.5"),
    ("leading:gain=-2,share=0.05", Leading(share=0.05, gain=-2), "leading_share0.05_gain-2"),
    (
        "band:start=0.25,stop=0.5,gain=-0.0",
        Band(start=0.25, stop=0.5, gain=0),
        "band_start0.25_stop0.5_gain0",
    ),
    ("linear:first=1,last=0.2", Linear(first=1, last=0.2), "linear_first1_last0.2"),
    (
        "matched-merge:of=timber",
        MatchedMerge(of=Timber(lam=0.2)),
        "matched-merge_of_timber_lam0.2",
    ),
    ("noise:of=timber-l", Noise(seed=0, of=TimberL()), "noise_seed0_of_timber-l"),
    (
        "noise:seed=3,of=leading:count=1,gain=2",
        Noise(seed=3, of=Leading(count=1, gain=2)),
        "noise_seed3_of_leading_count1_gain2",
    ),
    ("noise:of=merge:mu=0.8", Noise(of=Merge(mu=0.8)), "noise_seed0_of_merge_mu0.8"),
    (
        "steps:edges=4+16,gains=0.3+1.2+1",
        Steps(edges=(4, 16), gains=(0.3, 1.2, 1)),
        "steps_edges4+16_gains0.3+1.2+1",
    ),
    ("steps:gains=-0.0", Steps(gains=(0,)), "steps_gains0"),
    ("ramp:first=0.5,last=1", Ramp(first=0.5, last=1), "ramp_first0.5_last1"),
    (
        "base-subspace:share=0.1,inside=0",
        BaseSubspace(share=0.1, inside=0, outside=1),
        "base-subspace_share0.1_inside0_outside1",
    ),
    (
        "within:families=ffn+attention+ffn,start=0,stop=0.25,of=timber-l",
        Within(families=("attention", "ffn"), start=0, stop=0.25, of=TimberL()),
        "within_familiesattention+ffn_start0_stop0.25_of_timber-l",
    ),
    (
        "within:layers=04-20+7,modules=q_proj,of=ramp:first=1,last=0",
        Within(layers="4-20,7", modules=("q_proj",), of=Ramp(first=1, last=0)),
        "within_modulesq_proj_layers4-20+7_of_ramp_first1_last0",
    ),
    (
        'free:gains={"b": [1, 2], "*,of=": [3, 4.5], "a [3]": [0, 1]}',
        Free(edges=(4,), gains=(("a [3]", (0, 1)), ("b", (1, 2)), ("*,of=", (3, 4.5)))),
        "free_4d91263e91",
    ),
    (
        'free:edges=none,gains=[["b*", [1]], ["*a", [2]]]',
        Free(edges=(), gains=(("b*", (1,)), ("*a", (2,)))),
        "free_d5d65e8b44",
    ),
    (
        'noise:of=within:layers=3,of=free:edges=1,gains={"x": [1, 2]}',
        Noise(of=Within(layers="3", of=Free(edges=(1,), gains=(("x", (1, 2)),)))),
        "noise_seed0_of_within_layers3_of_free_a6ee405a50",
    ),
]


def recipe(variant: Any) -> Any:
    return build_recipe({"base": "a/b", "instruct": "a/c", "variants": [variant]})


@pytest.mark.parametrize(("text", "variant", "name"), EXAMPLES)
def test_text_object_and_mapping_of_a_variant_are_equal(
    text: str, variant: AnyVariant, name: str
) -> None:
    assert parse_variant(text) == variant
    assert parse_variant(variant_text(variant)) == variant
    assert variant_name(variant) == name
    spellings = [text, variant, variant.model_dump(), variant.model_dump(mode="json")]
    assert len({recipe(spelling).digest() for spelling in spellings}) == 1


def test_an_edit_inside_a_mapping_may_be_a_text_or_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "base: a/b\ninstruct: a/c\nvariants:\n"
        "  - {method: noise, seed: 1, of: {method: timber, lam: 0.5}}\n"
        "  - {method: noise, seed: 2, of: 'timber:lam=0.5'}\n"
    )
    first, second = build_recipe(read_recipe_fields(path)).variants
    assert first == Noise(seed=1, of=Timber(lam=0.5))
    assert second == Noise(seed=2, of=Timber(lam=0.5))


def test_flat_fields_of_a_recipe_name_any_method() -> None:
    flat = {"base": "a/b", "instruct": "a/c", "method": "leading", "count": 2, "gain": 0.5}
    assert build_recipe(flat).variants == (Leading(count=2, gain=0.5),)
    nested = {"base": "a/b", "instruct": "a/c", "method": "noise", "of": "timber-l"}
    assert build_recipe(nested).variants == (Noise(of=TimberL()),)
    assert set(PARAMETERS) >= {"method", "lam", "mu", "of", "seed", "count", "first"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("steps:edges=4,gains=1", "found 1 gains for 1 edges, expected 2"),
        ("steps:edges=4+4,gains=1+1+1", "edges: found 4+4, expected numbers of directions that"),
        ("steps:edges=16+4,gains=1+1+1", "edges: found 16+4"),
        ("steps:edges=0,gains=1+1", "edges.0"),
        ("steps:edges=4+x,gains=1+1+1", "edges.1"),
        ("steps:edges=4", "gains: is needed"),
        ("steps:gains=11", "gains.0"),
        ("steps:gains=inf", "gains.0"),
        ("steps:gains=none", "gains"),
        ("ramp:first=1", "last: is needed"),
        ("ramp:first=-11,last=1", "first"),
        ("base-subspace:inside=0", "share: is needed"),
        ("base-subspace:share=0,inside=0", "share"),
        ("base-subspace:share=0.5,inside=nan", "inside"),
        ("within:of=timber", "expected at least one of families, modules, layers, start and stop"),
        ("within:families=attention", "of: is needed"),
        ("within:families=all-linear,of=timber", "families.0"),
        ("within:modules=a/b,of=timber", "modules.0"),
        ("within:layers=9-4,of=timber", "runs backwards"),
        ("within:layers=,of=timber", "cannot read 'layers='"),
        ("within:start=0.5,stop=0.5,of=timber", "expected start below"),
        ("within:start=1,of=timber", "start"),
        ("within:layers=1,of=within:layers=2,of=timber", "of: expected an edit"),
        ("within:layers=1,of=noise:of=timber", "of: expected an edit"),
        ("within:layers=1," + "of=within:layers=1," * 5_000, "of: expected an edit"),
        ("free", "gains: is needed"),
        ("free:gains=", "gains: cannot be read as JSON"),
        ("free:gains=0.5", "gains: "),
        ("free:gains=[[", "gains: cannot be read as JSON"),
        ("free:gains=" + "[" * 100_000, "gains: "),
        ("free:gains={}", "gains: "),
        ('free:gains={"x": [1]}', "gains of 'x': found 1 gains for 1 edges, expected 2"),
        ('free:gains={"x": [1, 1], "x": [1, 2]}', "'x' given more than once"),
        ('free:gains={"": [1, 1]}', "gains.0.0"),
        ('free:gains={"x": [1, NaN]}', "gains.0.1.1"),
        ('free:gains={"x": [1, 1e999]}', "gains.0.1.1"),
        ('free:gains={"x": {"y": 1}}', "gains.0.1"),
        ('free:gains={"\\ud800": [1, 1]}', "gains.0.0"),
        ('free:gains={"x": [1, 1]},edges=1', "gains: cannot be read as JSON"),
        ("rank-cut", "scale: is needed"),
        ("rank-cut:scale=0", "scale"),
        ("rank-cut:scale=101", "scale"),
        ("rank-cut:scale=1,lam=1.1", "lam"),
        ("mp-cut:lam=-0.1", "lam"),
        ("shrink:lam=0.2", "lam: is not known"),
        ("rank-one:gain=1", "gain: is not known"),
        ("leading:gain=0.5", "expected either count or share"),
        ("leading:count=2,share=0.1,gain=0.5", "expected either count or share"),
        ("leading:count=2", "gain: is needed"),
        ("leading:count=0,gain=1", "count"),
        ("leading:count=1.5,gain=1", "count"),
        ("leading:share=1.5,gain=1", "share"),
        ("leading:count=1,gain=10.1", "gain"),
        ("leading:count=1,gain=nan", "gain"),
        ("leading:count=1,gain=inf", "gain"),
        ("band:start=0.5,stop=0.5,gain=1", "expected start below"),
        ("band:start=0.6,stop=0.5,gain=1", "expected start below"),
        ("band:start=-0.1,stop=0.5,gain=1", "start"),
        ("band:start=0.1,stop=1.5,gain=1", "stop"),
        ("band:start=0.1,stop=0.5,gain=-11", "gain"),
        ("linear:first=1", "last: is needed"),
        ("linear:first=-10.5,last=1", "first"),
        ("noise", "of: is needed"),
        ("noise:of=", "of: expected an edit"),
        ("noise:seed=-1,of=timber", "seed"),
        ("noise:seed=0.5,of=timber", "seed"),
        ("noise:of=timber,seed=1", "as the last part"),
        ("noise:of=timber:lam=2", "lam"),
        ("matched-merge:of=noise:of=timber", "of: expected an edit"),
        ("noise:" + "of=noise:" * 5_000, "of: expected an edit"),
        ("timber:of=timber", "of: is not known"),
    ],
)
def test_unreadable_variants_are_refused_saying_what_is_wrong(text: str, part: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_variant(text)
    assert quoted(text) in str(caught.value)
    assert part in str(caught.value)
    with pytest.raises(RecipeError):
        recipe(text)


def test_a_control_of_a_control_is_refused_in_a_mapping_too() -> None:
    deep: Any = {"method": "noise"}
    for _ in range(200):
        deep = {"method": "noise", "of": deep}
    with pytest.raises(RecipeError, match="'noise'"):
        recipe(deep)


def test_the_gains_zero_and_minus_zero_have_one_name() -> None:
    for kind in (Band(start=0, stop=1, gain=-0.0), Leading(count=1, gain=-0.0)):
        assert variant_name(kind).endswith("gain0")
    assert variant_name(Linear(first=-0.0, last=0.0)) == "linear_first0_last0"


def test_names_are_safe_parts_of_a_path_however_long_the_variant() -> None:
    long = "within:families=attention+expert+ffn+head+router,modules=k_proj+q_proj+v_proj"
    for text in (
        f"{long},of=steps:edges=1+2+3,gains=0.123456789+0.2+0.3+0.4",
        f"noise:seed={2**62},of={long},of=timber",
        "steps:edges=" + "+".join(map(str, range(1, 60))) + ",gains=" + "+".join(["1"] * 60),
        'free:gains={"../*/x y": [1, 2]}',
    ):
        variant = parse_variant(text)
        assert re.fullmatch(r"[a-z-]+_[0-9a-f]{10}", variant_name(variant))
        assert variant_name(variant).startswith(variant.method)
        assert variant_name(variant) == variant_name(parse_variant(variant_text(variant)))
    assert variant_name(parse_variant(f"{long},of=timber")) != variant_name(
        parse_variant(f"{long},of=timber-l")
    )


def test_the_order_of_names_is_nothing_and_that_of_patterns_is_kept() -> None:
    def free(**gains: list[float]) -> Free:
        return Free.model_validate({"gains": gains, "edges": []})

    assert free(a=[1], b=[2]) == free(b=[2], a=[1])
    first, second = free(**{"a*": [1], "*b": [2]}), free(**{"*b": [2], "a*": [1]})
    assert first != second
    assert variant_name(first) != variant_name(second)
    # A mapping that is sorted on its way, as in a manifest, could not say which comes first.
    assert first.model_dump(mode="json")["gains"] == [["a*", [1.0]], ["*b", [2.0]]]
    assert free(**{"a*": [1], "b": [2]}).model_dump()["gains"] == {"b": [2.0], "a*": [1.0]}
    for variant in (first, second):
        assert recipe(variant.model_dump(mode="json")).variants == (variant,)


def test_lists_in_a_recipe_may_be_texts_lists_or_single_values(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "base: a/b\ninstruct: a/c\nvariants:\n"
        "  - {method: steps, edges: 4, gains: [0.5, 1]}\n"
        "  - {method: steps, edges: [4, 8], gains: 0.5+1+0}\n"
        "  - {method: within, families: ffn, layers: 3, of: timber}\n"
        "  - {method: within, families: [ffn], layers: '1, 3-4', of: {method: timber}}\n"
        "  - method: free\n    edges: none\n    gains:\n      x: 0.5\n      y [2]: [1]\n"
    )
    found = build_recipe(read_recipe_fields(path)).variants
    assert [variant_text(variant) for variant in found] == [
        "steps:edges=4,gains=0.5+1",
        "steps:edges=4+8,gains=0.5+1+0",
        "within:families=ffn,layers=3,of=timber:lam=0.2",
        "within:families=ffn,layers=1+3-4,of=timber:lam=0.2",
        'free:edges=none,gains={"x": [0.5], "y [2]": [1.0]}',
    ]


def test_the_selection_of_a_recipe_is_not_taken_for_a_part_of_a_method() -> None:
    assert not set(PARAMETERS) & set(Selection.model_fields)
    fields = {"base": "a/b", "instruct": "a/c", "method": "merge", "mu": 0.5, "layers": "0-3"}
    assert build_recipe(fields).selection.layers == "0-3"
    assert build_analyze_recipe({**fields, "families": ["ffn"]}).selection.families == ("ffn",)


def test_what_a_method_does_is_said_in_one_plain_sentence() -> None:
    for kind in METHODS.values():
        said = explanation(kind.model_construct())
        assert said.endswith(".")
        assert "`" not in said
        assert "\n" not in said
        assert len(said) < 150
    assert parameters_shown(Noise(of=Timber())) == {"seed": "0", "of": "timber:lam=0.2"}


def test_every_method_has_a_line_in_the_docs_with_its_source_and_an_example_that_works() -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if re.match(r"\| `[a-z-]+` \|", line)
    ]
    assert {row[0].strip("`") for row in rows} == set(METHODS)
    for name, _, _, source, example in rows:
        variant = parse_variant(example.strip("`"))
        assert variant.method == name.strip("`")
        assert source == type(variant).source
    for parameter in set(PARAMETERS) - {"method"}:
        assert f"`{parameter}`" in page or f"`{parameter}=" in page, parameter
