"""The paper's values beside ours: for its pairs, and only for these."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_analysis import made_analysis

from timberkit.report.paper import compare, paper_model
from timberkit.study.published import published


def of_pair(base: str, instruct: str) -> dict[str, object]:
    return {"base": base, "instruct": instruct}


@pytest.mark.parametrize("pair", published()["pairs"], ids=lambda pair: pair["instruct"])
def test_every_pair_of_the_paper_is_known_by_its_name(pair: dict[str, str]) -> None:
    model = paper_model(of_pair(pair["base"] + "@main", pair["instruct"]), published())
    assert model in published()["mean_at_k_table_2"]


@pytest.mark.parametrize(
    ("base", "instruct", "model"),
    [
        ("/data/Qwen3-8B-Base/", "/data/qwen3-8b", "Qwen3-8B"),
        ("Qwen/Qwen3-8B-Base", "Qwen/Qwen3-14B", None),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B-Base", None),
        ("", "", None),
    ],
)
def test_both_halves_of_the_pair_have_to_fit(base: str, instruct: str, model: str | None) -> None:
    assert paper_model(of_pair(base, instruct), published()) == model


def test_published_and_measured_values_stand_in_one_row() -> None:
    analysis = made_analysis(layers=2, facts=of_pair("Qwen/Qwen3-8B-Base", "Qwen/Qwen3-8B"))
    found = compare(analysis, published())
    rows = {what: (theirs, ours) for what, theirs, ours in found.rows}
    assert rows["Median effective rank over full rank (ours: Base / Instruct)"][0] == "0.861"
    assert rows["Energy of the delta that Timber keeps"][0] == "98.82 %"
    weight = analysis.weights[0]
    alone = compare(replace(analysis, weights=(weight,)), published())
    kept = {what: ours for what, _, ours in alone.rows}
    assert kept["Energy of the delta that Timber keeps"] == f"{weight.cut.head_energy:.2%}".replace(
        "%", " %"
    )
    leading = weight.delta.singular_values[: weight.cut.truncate_rank[1]]
    energy = sum(value**2 for value in leading) / weight.delta.norm**2
    assert kept["Energy that Truncate-R keeps at 0.9"] == f"{100 * energy:.2f} %"
    assert ("Timber", "74.84") in found.benchmarks


def test_the_papers_example_is_found_by_layer_and_module() -> None:
    facts = of_pair("Qwen/Qwen3-14B-Base", "Qwen/Qwen3-14B")
    analysis = made_analysis(layers=5, facts=facts)
    weight = next(w for w in analysis.weights if w.layer == 4 and "k_proj" in w.module)
    rows = {what: rest for what, *rest in compare(analysis, published()).rows}
    ours = f"{weight.base.effective_rank:.0f} / {weight.instruct.effective_rank:.0f}"
    assert rows["Effective rank of k_proj in layer 4 (Base / Instruct)"] == ["935 / 935", ours]
    assert len(compare(made_analysis(layers=1, facts=facts), published()).rows) == 1


def test_another_pair_gets_the_papers_medians_for_orientation() -> None:
    found = compare(made_analysis(layers=1), published())
    assert found.model is None
    assert ("Qwen3-8B", "0.861") in found.others


def test_parts_that_were_not_published_are_left_out() -> None:
    pairs = {"pairs": published()["pairs"]}
    facts = of_pair("Qwen/Qwen3-8B-Base", "Qwen/Qwen3-8B")
    found = compare(made_analysis(layers=1, facts=facts), pairs)
    assert (found.model, found.rows, found.benchmarks) == ("Qwen3-8B", (), ())
